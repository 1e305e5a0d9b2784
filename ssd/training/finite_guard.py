"""Stops a run at the first step whose loss or gradient is not finite, before the weights are damaged."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssd.common.errors import NonFiniteLossError

_MAX_PENDING = 8


@dataclass(frozen=True, slots=True)
class _Check:
    bad: Tensor
    copied: torch.cuda.Event | None
    step: int
    ids: tuple[str, ...]


class FiniteGuard:
    """Checks each step without making the host wait for a GPU.

    On the CPU a bad step raises at once. On a GPU the fused optimizer skips the update on the device (`found_inf`, the
    hook that gradient scalers use), the result is copied in the background, and the run stops when the copy has
    arrived, a few steps later. An optimizer that is not fused makes the host wait.
    """

    def __init__(self) -> None:
        self._pending: deque[_Check] = deque()

    def check(self, optimizer: Optimizer, values: list[Tensor], *, step: int, ids: tuple[str, ...]) -> None:
        """Call between backward and the optimizer's step.

        Raises:
            NonFiniteLossError: one of `values` is not finite.
        """
        bad = ~torch.stack([value.detach().float() for value in values]).isfinite().all()
        if bad.device.type == "cuda" and optimizer.defaults.get("fused"):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            host = bad.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._pending.append(_Check(host, copied, step, ids))
        else:
            self._pending.append(_Check(bad, None, step, ids))
        self.settle(max_pending=_MAX_PENDING)

    def settle(self, *, max_pending: int = 0) -> None:
        """Reads the results that have arrived, and waits for the oldest while more than `max_pending` have not.

        Raises:
            NonFiniteLossError: a step was not finite.
        """
        while self._pending:
            first = self._pending[0]
            if first.copied is not None and not first.copied.query():
                if len(self._pending) <= max_pending:
                    return
                first.copied.synchronize()
            self._pending.popleft()
            if bool(first.bad):
                raise NonFiniteLossError(
                    f"step {first.step}: the loss or a gradient is not finite; images {', '.join(first.ids)}. "
                    "The weights were not updated. Lower optimizer.lr, lengthen scheduler.warmup, or set "
                    "trainer.gradient_clip_val"
                )
