"""Stops a run at the first step whose loss or gradient is not finite, before the weights are damaged."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssd.common.errors import NonFiniteLossError

_MAX_PENDING = 8


class FiniteGuard:
    """Checks each step without making the host wait for a GPU.

    On the CPU a bad step raises at once. On a GPU the fused optimizer skips the update on the device (`found_inf`, the
    hook that gradient scalers use), the result is copied in the background, and the run stops when the copy has
    arrived, a few steps later. An optimizer that is not fused makes the host wait.
    """

    def __init__(self) -> None:
        # of each step: whether it is bad, the end of the copy from the GPU, number, image ids
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None, int, tuple[str, ...]]] = deque()

    def check(self, optimizer: Optimizer, values: list[Tensor], *, step: int, ids: tuple[str, ...]) -> None:
        """Call between backward and the optimizer's step.

        Raises:
            NonFiniteLossError: one of `values` is not finite.
        """
        bad = ~torch.stack([value.detach().float() for value in values]).isfinite().all()
        copied = None
        if bad.device.type == "cuda" and optimizer.defaults.get("fused"):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            bad = bad.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._pending.append((bad, copied, step, ids))
        self.settle(max_pending=_MAX_PENDING)

    def settle(self, *, max_pending: int = 0) -> None:
        """Reads the results that have arrived, and waits for the oldest while more than `max_pending` have not.

        Raises:
            NonFiniteLossError: a step was not finite.
        """
        while self._pending:
            bad, copied, step, ids = self._pending[0]
            if copied is not None and not copied.query():
                if len(self._pending) <= max_pending:
                    return
                copied.synchronize()
            self._pending.popleft()
            if bad:
                raise NonFiniteLossError(
                    f"step {step}: the loss or a gradient is not finite; images {', '.join(ids)}. "
                    "The weights were not updated. Lower optimizer.lr, lengthen scheduler.warmup, or set "
                    "trainer.gradient_clip_val"
                )
