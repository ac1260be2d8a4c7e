"""A device on the CPU whose queues are threads, so that operations are as asynchronous as on a CUDA device."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from preimage.pipelines.device_pipeline import DevicePipeline


class ThreadMark:
    def __init__(self, passed: Future[None]) -> None:
        self.passed = passed

    def synchronize(self) -> None:
        self.passed.result(60)


class ThreadQueue:
    """Queue that runs its operations in a thread, each after a random delay of up to 2 ms.

    After an error the remaining operations are skipped, and marks raise the error, as after an error of CUDA.
    """

    def __init__(self, seed: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="queue")
        self._random = random.Random(seed)
        self._error: BaseException | None = None

    def _do(self, work: Callable[[], object]) -> Future[None]:
        delay = 0.002 * self._random.random()

        def run() -> None:
            if self._error is not None:
                raise self._error
            time.sleep(delay)
            try:
                work()
            except BaseException as error:
                self._error = error
                raise

        return self._pool.submit(run)

    def run(self, work: Callable[[], None]) -> None:
        self._do(work)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self._do(lambda: target.copy_(source))

    def record(self) -> ThreadMark:
        return ThreadMark(self._do(lambda: None))

    def wait(self, mark: ThreadMark) -> None:
        self._do(mark.synchronize)

    def shutdown(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def threaded_pipeline(seed: int = 0, depth: int = 3) -> Iterator[DevicePipeline]:
    """Yield a pipeline of three thread queues that computes on the CPU."""
    queues = [ThreadQueue(3 * seed + number) for number in range(3)]
    try:
        yield DevicePipeline(torch.device("cpu"), *queues, depth=depth)
    finally:
        for queue in queues:
            queue.shutdown()
