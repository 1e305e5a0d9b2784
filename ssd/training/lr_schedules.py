"""Learning-rate schedules in fractions of the run's steps; each starts with a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssd.common.errors import ConfigError

_WARMUP_START = 0.01  # of the learning rate


def multistep(
    optimizer: Optimizer,
    *,
    total_steps: int,
    milestones: Sequence[float] = (0.6667, 0.8333),
    gamma: float = 0.1,
    warmup: float = 0.005,
) -> LambdaLR:
    """Multiplies the learning rate by `gamma` at each of `milestones`, fractions of `total_steps` like `warmup`.

    Source: SSD paper, section 3.1: 120,000 steps, a tenth at 80,000 and at 100,000.

    Raises:
        ConfigError: milestones that are no rising shares, such as numbers of epochs.
    """
    if not all(0 < milestone < 1 for milestone in milestones) or sorted(milestones) != list(milestones):
        raise ConfigError(
            f"scheduler.milestones={list(milestones)}: give rising shares of the run between 0 and 1, such as "
            "[0.6667, 0.8333], not epochs"
        )
    return _schedule(
        optimizer, total_steps, warmup, lambda done: gamma ** sum(done >= milestone for milestone in milestones)
    )


def cosine(optimizer: Optimizer, *, total_steps: int, final: float = 0.01, warmup: float = 0.05) -> LambdaLR:
    """Half a cosine from the full learning rate to `final` times it, after a `warmup` (fraction of `total_steps`).

    Source: SGDR (arXiv 1608.03983), one cycle.
    """

    def factor(done: float) -> float:
        progress = min(1.0, max(0.0, (done - warmup) / (1 - warmup)))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return _schedule(optimizer, total_steps, warmup, factor)


def _schedule(optimizer: Optimizer, total_steps: int, warmup: float, factor: Callable[[float], float]) -> LambdaLR:
    def factor_at(step: int) -> float:
        done = step / max(1, total_steps)
        if done < warmup:
            return _WARMUP_START + (1 - _WARMUP_START) * done / warmup
        return factor(done)

    return LambdaLR(optimizer, factor_at)
