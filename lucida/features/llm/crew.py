"""Several threads at work on a stream of items, which one can leave at any moment."""

from collections.abc import Callable, Generator, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_GLANCE = 0.2
"""Seconds between looks at Ctrl-C and at `stop`."""


def in_parallel(
    work: Callable[[Item], Result], items: Iterator[Item], *, workers: int, stop: Event
) -> Generator[Result, None, None]:
    """The results of `work` in the order in which they are ready, with at most `workers` items under way.

    An item is taken only when a thread is free for it. When `stop` is set no more are taken, what is ready is given,
    and what is under way is left behind: the threads are daemons, so a request that hangs holds up nobody.
    An exception of `work` is raised here.
    """
    todo: SimpleQueue = SimpleQueue()
    ready: SimpleQueue = SimpleQueue()

    def run() -> None:
        while (item := todo.get()) is not None:
            try:
                ready.put((work(item[0]), None))
            except BaseException as error:
                ready.put((None, error))

    under_way = 0
    try:
        for item in _while_not(stop, items, workers):
            Thread(target=run, daemon=True).start()
            todo.put((item,))
            under_way += 1
        while under_way:
            try:
                result, error = ready.get(timeout=0 if stop.is_set() else _GLANCE)
            except Empty:
                if stop.is_set():
                    return
                continue
            under_way -= 1
            if error is not None:
                raise error
            yield result
            for item in _while_not(stop, items, 1):
                todo.put((item,))
                under_way += 1
    finally:
        for _ in range(workers):
            todo.put(None)


def _while_not(stop: Event, items: Iterator[Item], count: int) -> Iterator[Item]:
    """Up to `count` of the items."""
    for _ in range(count):
        if stop.is_set():
            return
        try:
            yield next(items)
        except StopIteration:
            return
