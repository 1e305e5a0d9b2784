"""Latency and throughput of predictors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.export.timing import time_interleaved


def test_predictors_take_turns_on_single_images_then_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def takes(name: str, seconds: float) -> Callable[[Sequence[ImageArray]], list[Detections]]:
        def predict(images: Sequence[ImageArray]) -> list[Detections]:
            calls.append((name, len(images)))
            clock[0] += seconds
            return []

        return predict

    images = [np.zeros((2, 2, 3), np.uint8)] * 3
    timings = time_interleaved({"a": takes("a", 0.01), "b": takes("b", 0.5)}, images, rounds=10, batch_size=4)
    warm_up = 3
    assert calls == [("a", 1), ("b", 1)] * (warm_up + 10) + [("a", 4), ("b", 4)] * (warm_up + 2)
    for name, seconds in (("a", 0.01), ("b", 0.5)):
        assert timings[name].p50_ms == pytest.approx(1e3 * seconds)
        assert timings[name].p95_ms == pytest.approx(1e3 * seconds)
        assert timings[name].images_per_second == pytest.approx(4 / seconds)
