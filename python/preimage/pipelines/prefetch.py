"""Work done ahead in threads, in order."""

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
    """Yield what `work` gives for each item, in the items' order, done ahead in threads.

    When the generator is closed, what has not begun is canceled and what has begun is waited for.

    Args:
        work: called in the threads.
        items: consumed as the work goes on.
        workers: number of threads.
        ahead: how many items are worked on, or wait for their use, at most; a function is asked each time.
        name: of the threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    waiting: deque[Future[R]] = deque()
    remaining = iter(items)
    try:
        while True:
            most = max(1, ahead if isinstance(ahead, int) else ahead())
            for item in itertools.islice(remaining, max(0, most - len(waiting))):
                waiting.append(pool.submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
