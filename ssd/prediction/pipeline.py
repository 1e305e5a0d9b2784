"""Stages that work at the same time, in threads, with a little ready between them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")

_WAKE_S = 0.1  # how soon a thread that waits notices that nobody wants more
_FAREWELL_S = 10.0


def prefetched(items: Generator[T, None, None], *, depth: int) -> Generator[T, None, None]:
    """Yields `items` in order, produced in a thread of its own, at most `depth` of them ahead.

    An error in `items` is raised here, after the items before it. Closing this generator closes `items`, too.
    """
    ready: Queue[tuple[T] | BaseException | None] = Queue(depth)
    enough = Event()

    def put(entry: tuple[T] | BaseException | None) -> None:
        while not enough.is_set():
            with suppress(Full):
                ready.put(entry, timeout=_WAKE_S)
                return

    def produce() -> None:
        try:
            for item in items:
                put((item,))
                if enough.is_set():
                    break
            items.close()
            put(None)
        except BaseException as error:  # a thread's error would only be printed
            put(error)

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while (entry := _next(ready)) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        enough.set()
        thread.join(_FAREWELL_S)


def _next(queue: Queue[T]) -> T:
    while True:  # without a time-out, Ctrl-C would not reach a waiting thread on Windows
        with suppress(Empty):
            return queue.get(timeout=_WAKE_S)
