"""Times predictors against each other, so that their ratios hold on a machine that does other things as well."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssd.deployment.parity import Predict
from ssd.images import Picture

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one predictor: milliseconds for one picture, pictures a second in batches."""

    p50_ms: float
    p95_ms: float
    pictures_per_second: float


def race(
    predictors: Mapping[str, Predict], pictures: Sequence[Picture], *, rounds: int, batch_size: int
) -> dict[str, Timing]:
    """Lets all take their turn in each round; a fifth of the rounds is enough for the batches."""
    alone = [[picture] for picture in pictures]
    batch = [pictures[position % len(pictures)] for position in range(batch_size)]
    latency = _take_turns(predictors, alone, rounds=rounds)
    batched = _take_turns(predictors, [batch], rounds=-(-rounds // 5))
    return {
        name: Timing(
            p50_ms=1e3 * float(np.median(latency[name])),
            p95_ms=1e3 * float(np.quantile(latency[name], 0.95)),
            pictures_per_second=batch_size / float(np.median(batched[name])),
        )
        for name in predictors
    }


def _take_turns(
    predictors: Mapping[str, Predict], inputs: Sequence[Sequence[Picture]], *, rounds: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for turn in range(_WARM_UP + rounds):
        for name, predict in predictors.items():
            start = time.perf_counter()
            predict(inputs[turn % len(inputs)])
            if turn >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds
