"""Queues of a device, such as CUDA streams: work in order, asynchronous to the host and to other queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Mark(Protocol):
    """A point in a queue."""

    def synchronize(self) -> None:
        """Block the host until the queue has passed this point."""


class Queue(Protocol):
    """A sequence of operations on a device."""

    def run(self, work: Callable[[], None]) -> None:
        """Queue the operations on the device that a function starts; the function may be called later."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy; on a CUDA device the memory of the host must be pinned for it to be asynchronous."""

    def record(self) -> Mark:
        """Return the present end of the queue."""

    def wait(self, mark: Mark) -> None:
        """Let what is queued from here on wait until another queue has passed a mark."""


class CudaQueue:
    """A CUDA stream as a `Queue`."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def run(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream):
            work()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        target.record_stream(self._stream)  # its memory is not reused before the copy is done

    def record(self) -> torch.cuda.Event:
        # While the host waits for the event it sleeps, and leaves its core to the threads that prepare batches.
        return self._stream.record_event(torch.cuda.Event(blocking=True))

    def wait(self, mark: Mark) -> None:
        assert isinstance(mark, torch.cuda.Event)
        self._stream.wait_event(mark)


class _Passed:
    def synchronize(self) -> None:
        pass


class DirectQueue:
    """The CPU as a `Queue`: operations are done when the call returns."""

    def run(self, work: Callable[[], None]) -> None:
        work()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def record(self) -> Mark:
        return _Passed()

    def wait(self, mark: Mark) -> None:
        pass
