"""Measures the latency and throughput of several predictors side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssd.common.images import ImageArray
from ssd.common.structures import Predict

_WARM_UP_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds for one image (median, 95th percentile), and images per second in batches."""

    p50_ms: float
    p95_ms: float
    images_per_second: float


def time_interleaved(
    predictors: Mapping[str, Predict], images: Sequence[ImageArray], *, rounds: int, batch_size: int
) -> dict[str, Timing]:
    """Runs every predictor once per round, so that a change of the machine's load affects all of them.

    Latency takes `rounds` rounds; throughput, in batches, a fifth of them.
    """
    single = [[image] for image in images]
    batch = [images[position % len(images)] for position in range(batch_size)]
    latency = _seconds(predictors, single, rounds=rounds)
    batched = _seconds(predictors, [batch], rounds=-(-rounds // 5))
    return {
        name: Timing(
            p50_ms=1e3 * float(np.median(latency[name])),
            p95_ms=1e3 * float(np.quantile(latency[name], 0.95)),
            images_per_second=batch_size / float(np.median(batched[name])),
        )
        for name in predictors
    }


def _seconds(
    predictors: Mapping[str, Predict], inputs: Sequence[Sequence[ImageArray]], *, rounds: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for number in range(_WARM_UP_ROUNDS + rounds):
        for name, predict in predictors.items():
            start = time.perf_counter()
            predict(inputs[number % len(inputs)])
            if number >= _WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - start)
    return seconds
