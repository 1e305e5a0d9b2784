"""Runs the stages of a pipeline in parallel threads."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.1  # how often a waiting thread checks whether it should stop
_JOIN_TIMEOUT_S = 10.0


def prefetched(items: Generator[T, None, None], *, depth: int) -> Generator[T, None, None]:
    """Yields `items` in order, produced by a separate thread, at most `depth` of them ahead.

    An error in `items` is raised here, after the items before it. Closing this generator closes `items` as well.
    """
    queue: Queue[tuple[T] | BaseException | None] = Queue(depth)
    stop = Event()

    def put(entry: tuple[T] | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(Full):
                queue.put(entry, timeout=_POLL_S)
                return

    def produce() -> None:
        try:
            for item in items:
                put((item,))
                if stop.is_set():
                    break
            items.close()
            put(None)
        except BaseException as error:  # in a thread it would only be printed
            put(error)

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while (entry := _get(queue)) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        stop.set()
        thread.join(_JOIN_TIMEOUT_S)


def _get(queue: Queue[T]) -> T:
    while True:  # without a timeout, Ctrl-C would not reach a waiting thread on Windows
        with suppress(Empty):
            return queue.get(timeout=_POLL_S)
