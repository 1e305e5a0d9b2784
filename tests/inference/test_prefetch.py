from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

import pytest

from ssd.inference.prefetch import prefetched


def numbers(count: int) -> Generator[int, None, None]:
    yield from range(count)


@pytest.mark.parametrize("count", [0, 1, 2, 50])
@pytest.mark.parametrize("depth", [1, 3])
def test_items_come_in_order(count: int, depth: int) -> None:
    assert list(prefetched(prefetched(numbers(count), depth=depth), depth=depth)) == list(range(count))


def test_error_comes_after_the_items_before_it() -> None:
    def breaks() -> Generator[int, None, None]:
        yield from (1, 2)
        raise KeyError("three")

    stage = prefetched(breaks(), depth=4)
    assert (next(stage), next(stage)) == (1, 2)
    with pytest.raises(KeyError, match="three"):
        next(stage)


def test_depth_limits_production() -> None:
    made = []

    def count() -> Generator[int, None, None]:
        for number in range(100):
            made.append(number)
            yield number

    with closing(prefetched(count(), depth=3)) as stage:
        next(stage)
        time.sleep(0.3)
        assert len(made) == 1 + 3 + 1  # consumed, queued, waiting for the queue


def test_closing_stops_all_stages_and_threads() -> None:
    closed = []

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.append("source")

    def through() -> Generator[int, None, None]:
        with closing(prefetched(endless(), depth=1)) as items:
            yield from items

    before = threading.active_count()
    stage = prefetched(through(), depth=1)
    next(stage)
    assert threading.active_count() == before + 2
    stage.close()
    assert closed == ["source"]
    assert threading.active_count() == before


def test_stages_run_in_parallel() -> None:
    """Each stage waits for the other two: the barrier breaks unless three items are in progress at once."""
    barrier = threading.Barrier(3, timeout=60)

    def waits(items: Generator[int, None, None], *, first: int) -> Generator[int, None, None]:
        for item in items:
            if first <= item < first + 10:  # the last stage has item 0 when the first has item 2
                barrier.wait()
            yield item

    stages = waits(numbers(20), first=2)
    for first in (1, 0):
        stages = waits(prefetched(stages, depth=1), first=first)
    assert list(stages) == list(range(20))
