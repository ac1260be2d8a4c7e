"""Transfer batches to the device, overlapped with the computation on the previous batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from preimage.pipelines.device_queue import Mark, Queue

_HEADER = 256  # bytes reserved for the numbers before the images, so that the images are as aligned as an allocation
_ALIGNMENT = 256  # alignment in bytes of the features after the images


class BatchStream:
    """Copy batches, with a few scalars each, to fixed memory on the device.

    Two alternating host buffers → staging memory on the device, by the queue `side` → `images`, `numbers` and
    `features`, by the queue `main`, which computes. The first copy crosses the bus and may overlap with the computation
    on the batch before; the second one is within the device and a thousand times shorter.

    Args:
        shape: (B, 3, H, W) of the batches.
        device: Target device.
        main: Queue that computes on the batches.
        side: Queue of the copies from the host.
        features: (C, h, w) or (C,) of the features of every image, if the batches contain features.

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
            values = None if features is None else memory[start:].view(torch.float32).view(batch, *features)
            return images, memory[:_HEADER].view(torch.float32), values

        pinned = device.type == "cuda"
        self._buffers = [torch.zeros(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._split_buffers = [split(buffer) for buffer in self._buffers]
        self._staging, self._memory = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
        self.images, self.numbers, self.features = split(self._memory)
        self._sent: list[Mark | None] = [None, None]  # mark after the last copy from each buffer
        self._read = main.record()  # when passed, `main` has read the staging memory, which may then be overwritten
        self._next = 0

    def send(self, batch: torch.Tensor, numbers: Sequence[float], features: torch.Tensor | None = None) -> None:
        """Copy a batch; operations queued on `main` from here on use it.

        This blocks only until the batch before the last one has left the host.

        Args:
            batch: (B, 3, H, W) uint8.
            numbers: At most 64 scalars.
            features: (B, C, h, w) or (B, C), if the batches contain features.
        """
        which, self._next = self._next, 1 - self._next
        sent = self._sent[which]
        if sent is not None:
            sent.synchronize()
        images, head, values = self._split_buffers[which]
        assert (values is None) == (features is None)
        images.copy_(batch)
        if values is not None and features is not None:
            values.copy_(features)
        head[: len(numbers)] = torch.tensor(numbers, dtype=torch.float32)

        self._side.wait(self._read)
        self._side.copy(self._staging, self._buffers[which])
        self._sent[which] = arrived = self._side.record()
        self._main.wait(arrived)
        self._main.copy(self._memory, self._staging)
        self._read = self._main.record()
