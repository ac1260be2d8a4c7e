"""Prepare batches, and transfer them to the device, overlapped with the computation on those before."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

import torch

from preimage.pipelines.device_pipeline import host_copy
from preimage.pipelines.device_queue import Mark, Queue
from preimage.pipelines.prefetch import in_order
from preimage.training.dataset import Batch, Dataset

_NUMBERS = 64  # number of scalars of a step


def batches_ahead(
    dataset: Dataset, steps: Iterable[int], device: torch.device, *, workers: int
) -> Generator[Batch, None, None]:
    """Yield the batches of some steps, prepared ahead in threads.

    Args:
        dataset: Source of the batches.
        steps: The steps.
        device: Device that computes on the batches. For a GPU they are in pinned memory.
        workers: Number of threads.
    """

    def prepared(step: int) -> Batch:
        batch = dataset.batch(step)
        if device.type != "cuda":
            return batch
        images, features = batch
        return Batch(host_copy(images, device), None if features is None else host_copy(features, device))

    return in_order(prepared, steps, workers=workers, ahead=workers + 2, name="batch")


class BatchStream:
    """Copy batches, with a few scalars each, to fixed memory on the device.

    Host → staging memory on the device, by the queue `side` → `batch`, `numbers` and `features`, by the queue `main`,
    which computes. The first copy crosses the bus and may overlap with the computation on the batch before; the second
    one is within the device and much faster.

    Args:
        example: A batch; others have its shape, dtype and strides.
        device: Target device.
        main: Queue that computes on the batches.
        side: Queue of the copies from the host.
        features: (C, h, w) or (C,) of the features of every image, if the batches contain features.

    Attributes:
        batch: A batch on the device.
        numbers: (64,) float32.
        features: (B, C, h, w) or (B, C) float32, or ``None``.
    """

    def __init__(
        self,
        example: torch.Tensor,
        device: torch.device,
        main: Queue,
        side: Queue,
        features: tuple[int, ...] | None = None,
    ) -> None:
        self._main, self._side = main, side
        pinned = device.type == "cuda"
        self._numbers = [torch.zeros(_NUMBERS, pin_memory=pinned) for _ in range(2)]
        parts = [self._numbers[0], example]
        if features is not None:
            parts.append(torch.zeros(len(example), *features))
        self._staging, self._memory = ([torch.zeros_like(part, device=device) for part in parts] for _ in range(2))
        self.numbers, self.batch = self._memory[:2]
        self.features = None if features is None else self._memory[2]
        self._sent: list[Mark | None] = [None, None]  # mark after the last copy from each buffer of numbers
        self._read = main.record()  # when passed, `main` has read the staging memory, which may then be overwritten
        self._next = 0

    def send(self, batch: torch.Tensor, numbers: Sequence[float], features: torch.Tensor | None = None) -> None:
        """Copy a batch; operations queued on `main` from here on use it.

        This blocks only until the batch before the last one has left the host. Batches and features in pinned memory
        must not be modified afterwards; freeing them is safe.

        Args:
            batch: The batch.
            numbers: At most 64 scalars.
            features: (B, C, h, w) or (B, C), if the batches contain features.
        """
        assert (features is None) == (self.features is None)
        which, self._next = self._next, 1 - self._next
        sent = self._sent[which]
        if sent is not None:
            sent.synchronize()
        self._numbers[which][: len(numbers)] = torch.tensor(numbers, dtype=torch.float32)
        parts = [self._numbers[which], batch] + ([] if features is None else [features])

        self._side.wait(self._read)
        for staging, part in zip(self._staging, parts, strict=True):
            self._side.copy(staging, part)
        self._sent[which] = arrived = self._side.record()
        self._main.wait(arrived)
        for memory, staging in zip(self._memory, self._staging, strict=True):
            self._main.copy(memory, staging)
        self._read = self._main.record()
