"""Learning-rate schedules over the steps that a run really has; each starts with a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_WARMUP_START = 0.01


def multistep(
    optimizer: Optimizer, *, total_steps: int, milestones: Sequence[float], gamma: float, warmup: float
) -> LambdaLR:
    """Multiplies the learning rate by `gamma` at each of `milestones`, given as shares of `total_steps`.

    Source: SSD paper, section 3.1: 120,000 steps, a tenth at 80,000 and at 100,000.
    """
    return _schedule(
        optimizer, total_steps, warmup, lambda done: gamma ** sum(done >= milestone for milestone in milestones)
    )


def cosine(optimizer: Optimizer, *, total_steps: int, final: float, warmup: float) -> LambdaLR:
    """Half a cosine from the full learning rate to `final` of it. Source: SGDR (arXiv 1608.03983), one cycle."""

    def factor(done: float) -> float:
        progress = min(1.0, max(0.0, (done - warmup) / (1 - warmup)))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return _schedule(optimizer, total_steps, warmup, factor)


def _schedule(optimizer: Optimizer, total_steps: int, warmup: float, factor: Callable[[float], float]) -> LambdaLR:
    def of_step(step: int) -> float:
        done = step / max(1, total_steps)
        if done < warmup:
            return _WARMUP_START + (1 - _WARMUP_START) * done / warmup
        return factor(done)

    return LambdaLR(optimizer, of_step)
