"""Compute batches on a device while earlier ones are copied back from it and later ones are copied to it."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.pipelines.device_queue import CudaQueue, DirectQueue, Mark, Queue

T = TypeVar("T")

# Computes results from a batch (B, ...) on the device, without waiting for the device.
Compute = Callable[[torch.Tensor], Sequence[torch.Tensor]]

_BLOCK_BYTES = 4 << 20
_ALIGNMENT = 256  # of an image in a block, in bytes
_CUDA_DEPTH = 3  # batches at once: one is copied to the device, one is computed, one is copied back


def host_tensor(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return uninitialized memory of the host that the device copies from and to without waiting."""
    # Pinned memory that is no longer used is kept by torch, and reused after the copies from it are done.
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def host_copy(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a copy of a tensor on the host, with the same strides, in pinned memory for a CUDA device."""
    strides = tensor.stride()
    copy = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, pin_memory=device.type == "cuda")
    # Tensor.pin_memory would copy with all cores, in each of the threads that prepare batches.
    np.copyto(copy.numpy(), tensor.numpy())
    return copy


class HostMemory(threading.local):
    """Copy images to memory allocated by `host_tensor`. Several threads may call it.

    Each thread puts its images into blocks, because allocating pinned memory is slow. A block is freed when none of its
    images is used any more.

    Args:
        device: Device that copies from the memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._block: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a copy of an image (H, W, 3) uint8, C-contiguous."""
        if self._used + image.nbytes > len(self._block):
            self._block = host_tensor([max(image.nbytes, _BLOCK_BYTES)], torch.uint8, self._device).numpy()
            self._used = 0
        copied = self._block[self._used : self._used + image.nbytes].reshape(image.shape)
        self._used += -(-image.nbytes // _ALIGNMENT) * _ALIGNMENT
        np.copyto(copied, image)
        return copied


class Started:
    """A batch in progress.

    The tensors are kept until the last queue is done with them, because memory of the device belongs to the queue that
    allocated it.

    Attributes:
        groups: Input tensors on the host, for each group.
        inputs: The same on the device, stacked, for each group.
        outputs: Results of each group on the device.
        results: The same in the host's memory, valid after `done`.
        done: End of the downloads.
    """

    def __init__(self, groups: Sequence[Sequence[torch.Tensor]]) -> None:
        self.groups = groups
        self.inputs: list[torch.Tensor] = []
        self.outputs: list[Sequence[torch.Tensor]] = []
        self.results: list[list[torch.Tensor]] = []
        self.done: Mark


@dataclasses.dataclass(frozen=True)
class DevicePipeline:
    """Queues that upload, compute and download batches.

    Attributes:
        device: Device that computes.
        upload: Queue of the copies to the device.
        compute: Queue of the computations.
        download: Queue of the copies from the device.
        depth: Maximum number of batches that are on their way at once.
    """

    device: torch.device
    upload: Queue
    compute: Queue
    download: Queue
    depth: int

    @classmethod
    def of(cls, device: torch.device) -> DevicePipeline:
        """Return the pipeline of a device: three streams of a CUDA device; on the CPU one batch after the other."""
        if device.type != "cuda":
            direct = DirectQueue()
            return cls(device, direct, direct, direct, depth=1)
        streams = [torch.cuda.Stream(device) for _ in range(3)]
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream(device))  # for the weights of a network
        upload, compute, download = map(CudaQueue, streams)
        return cls(device, upload, compute, download, depth=_CUDA_DEPTH)

    def start(self, groups: Sequence[Sequence[torch.Tensor]], compute: Compute) -> Started:
        """Start the computation of a batch, and return without waiting for the device.

        Args:
            groups: For each group tensors of one shape and dtype on the host. They must not change until the batch is
                finished. For a CUDA device they are copied to pinned memory, unless the first one is there, see
                `host_tensor`.
            compute: Function called for each group with its tensors, stacked on the device.
        """
        if self.device.type == "cuda":
            groups = [group if group[0].is_pinned() else self._pinned(group) for group in groups]
        batch = Started(groups)

        def upload() -> None:
            for group in batch.groups:
                stacked = torch.empty((len(group), *group[0].shape), dtype=group[0].dtype, device=self.device)
                # One call: each call gives other threads the opportunity to take the interpreter lock.
                torch._foreach_copy_(list(stacked.unbind()), list(group), non_blocking=True)
                batch.inputs.append(stacked)

        def download() -> None:
            for outputs in batch.outputs:
                results = [host_tensor(output.shape, output.dtype, self.device) for output in outputs]
                for result, output in zip(results, outputs, strict=True):
                    result.copy_(output, non_blocking=True)
                batch.results.append(results)

        self.upload.run(upload)
        self.compute.wait(self.upload.record())
        self.compute.run(lambda: batch.outputs.extend(map(compute, batch.inputs)))
        self.download.wait(self.compute.record())
        self.download.run(download)
        batch.done = self.download.record()
        return batch

    def _pinned(self, group: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return copies of tensors, which follow each other in pinned memory."""
        stacked = host_tensor((len(group), *group[0].shape), group[0].dtype, self.device)
        return torch.stack(list(group), out=stacked).unbind()

    def results(
        self, batches: Iterable[T], start: Callable[[T], Started]
    ) -> Generator[tuple[T, list[list[torch.Tensor]]], None, None]:
        """Yield batches, in order, with the results of their groups, while later ones are computed.

        After an error in a batch the results of the earlier ones are yielded before it is raised.

        Args:
            batches: The batches.
            start: Function that starts a batch.
        """
        remaining = iter(batches)
        begun: deque[tuple[T, Started]] = deque()
        failure: Exception | None = None
        try:
            while True:
                try:
                    batch = next(remaining)
                    begun.append((batch, start(batch)))
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                if len(begun) >= self.depth:
                    yield _finished(*begun.popleft())
            while begun:
                yield _finished(*begun.popleft())
        finally:
            for _, left in begun:
                with contextlib.suppress(Exception):  # the first error is raised
                    left.done.synchronize()
        if failure is not None:
            raise failure


def _finished(batch: T, started: Started) -> tuple[T, list[list[torch.Tensor]]]:
    started.done.synchronize()
    return batch, started.results
