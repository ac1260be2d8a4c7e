"""Batches on their way to the device, the next one while the present one is computed with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

_HEADER = 256  # bytes of the numbers before the images: the images then start as aligned as an allocation
_ALIGNMENT = 256  # and so do the features after them


class Mark(Protocol):
    """A point in a queue."""

    def synchronize(self) -> None:
        """Holds the host until the queue has passed it."""


class Queue(Protocol):
    """Work that a device does in order, while the host and other queues go on: what a CUDA stream is."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None: ...

    def record(self) -> Mark: ...

    def wait(self, mark: Mark) -> None: ...


class CudaQueue:
    """A CUDA stream as a `Queue`."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        target.record_stream(self._stream)  # its memory goes to nobody else before the copy is done

    def record(self) -> torch.cuda.Event:
        return self._stream.record_event()

    def wait(self, mark: Mark) -> None:
        assert isinstance(mark, torch.cuda.Event)
        self._stream.wait_event(mark)


class _Passed:
    def synchronize(self) -> None:
        pass


class DirectQueue:
    """The CPU as a `Queue`: everything is done when the call returns."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def record(self) -> Mark:
        return _Passed()

    def wait(self, mark: Mark) -> None:
        pass


class BatchStream:
    """Brings batches, and a few numbers with each, to memory on the device that never moves.

    host, two slots in turn → staging memory on the device, by the queue `side` → `images` and `numbers`, by the queue
    `main` that computes. The first copy goes over the bus and may run beside the computation with the batch before;
    the second is within the device, a thousand times less.

    Args:
        shape: (B, 3, H, W) of the batches.
        device: where they go.
        main: the queue that computes with what `send` brought.
        side: the queue of the copies from the host.
        features: (C, h, w) or (C,) of the features that come with every image, if any do.

    Attributes:
        images: (B, 3, H, W) uint8, channels last.
        numbers: (64,) float32.
        features: (B, C, h, w) or (B, C) float32, or ``None``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        device: torch.device,
        main: Queue,
        side: Queue,
        features: tuple[int, ...] | None = None,
    ) -> None:
        self._main, self._side = main, side
        batch, channels, height, width = shape
        images_end = _HEADER + batch * channels * height * width
        start = -(-images_end // _ALIGNMENT) * _ALIGNMENT
        size = images_end if features is None else start + 4 * batch * math.prod(features)

        def split(memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            images = memory[_HEADER:images_end].view(batch, height, width, channels).permute(0, 3, 1, 2)
            given = None if features is None else memory[start:].view(torch.float32).view(batch, *features)
            return images, memory[:_HEADER].view(torch.float32), given

        pinned = device.type == "cuda"
        self._slots = [torch.zeros(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._split_slots = [split(slot) for slot in self._slots]
        self._staging, self._memory = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
        self.images, self.numbers, self.features = split(self._memory)
        self._left: list[Mark | None] = [None, None]
        self._taken = main.record()  # staging memory is written only after what `main` had to do with it before
        self._next = 0

    def send(self, batch: torch.Tensor, numbers: Sequence[float], features: torch.Tensor | None = None) -> None:
        """`main` computes with this batch (B, 3, H, W) uint8, these numbers, at most 64, and features from here on.

        It waits only while the batch before the last has not left the host.
        """
        which, self._next = self._next, 1 - self._next
        left = self._left[which]
        if left is not None:
            left.synchronize()
        images, head, given = self._split_slots[which]
        assert (given is None) == (features is None)
        images.copy_(batch)
        if given is not None and features is not None:
            given.copy_(features)
        head[: len(numbers)] = torch.tensor(numbers, dtype=torch.float32)

        self._side.wait(self._taken)
        self._side.copy(self._staging, self._slots[which])
        self._left[which] = arrived = self._side.record()
        self._main.wait(arrived)
        self._main.copy(self._memory, self._staging)
        self._taken = self._main.record()
