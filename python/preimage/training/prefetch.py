"""Work done ahead in threads, in order."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prepared(prepare: Callable[[int], T], first: int, last: int, workers: int) -> Generator[T, None, None]:
    """Yield what `prepare` gives for `first` up to but without `last`, in order, prepared ahead in threads."""
    with ThreadPoolExecutor(workers, thread_name_prefix="preimage-batch") as pool:

        def submit(index: int) -> Future[T]:
            return pool.submit(prepare, index)

        ahead = [submit(index) for index in range(first, min(first + workers + 1, last))]
        try:
            for index in range(first, last):
                ready = ahead.pop(0).result()
                if index + workers + 1 < last:
                    ahead.append(submit(index + workers + 1))
                yield ready
        finally:
            for future in ahead:
                future.cancel()
