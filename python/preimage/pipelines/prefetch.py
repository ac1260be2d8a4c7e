"""Process items ahead of their use in threads, in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: Callable[[], int] | int, name: str
) -> Generator[R, None, None]:
    """Yield the results of a function for each item, in order, computed ahead in threads.

    Closing the generator cancels the items that have not been started and waits for the others.

    Args:
        work: Function that processes an item, called in the threads.
        items: Items, consumed as needed.
        workers: Number of threads.
        ahead: Maximum number of items in progress or waiting to be yielded; a function is called before each item.
        name: Prefix of the threads' names.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    pending: deque[Future[R]] = deque()
    remaining = iter(items)
    try:
        while True:
            most = max(1, ahead if isinstance(ahead, int) else ahead())
            for item in itertools.islice(remaining, max(0, most - len(pending))):
                pending.append(pool.submit(work, item))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
