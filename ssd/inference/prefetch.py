"""Runs the stages of a pipeline in parallel threads."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.1
_JOIN_TIMEOUT_S = 10.0


def prefetched(items: Generator[T, None, None], *, depth: int) -> Generator[T, None, None]:
    """Yields `items` in order, produced by a separate thread, at most `depth` of them ahead.

    An error in `items` is raised here, after the items before it. Closing this generator closes `items` as well.
    """
    queue: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    free = Semaphore(depth)
    stop = Event()

    def produce() -> None:
        try:
            for item in items:
                queue.put((item,))
                free.acquire()
                if stop.is_set():
                    break
            items.close()
            queue.put(None)
        except BaseException as error:  # in a thread it would only be printed
            queue.put(error)

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while (entry := _get(queue)) is not None:
            if isinstance(entry, BaseException):
                raise entry
            free.release()
            yield entry[0]
    finally:
        stop.set()
        free.release()
        thread.join(_JOIN_TIMEOUT_S)


def _get(queue: SimpleQueue[T]) -> T:
    while True:  # without a timeout, Ctrl-C would not reach a waiting thread on Windows
        with suppress(Empty):
            return queue.get(timeout=_POLL_S)
