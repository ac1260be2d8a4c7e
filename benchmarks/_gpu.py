"""The GPU's part: batches that lie in the device's memory, against its own speed of copying; and what must hold there.

`rehearse` runs all of it on the CPU, small, so that the code has run before it meets a GPU.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch

from _clock import CpuClock, CudaClock
from _descriptors import Descriptor
from _others import kornia_sift
from _timing import Table, load, processor
from torch_hog import torch_hog

COLUMNS = (
    *("descriptor", "images", "implementation", "milliseconds", "ratio"),
    *("gigabytes_per_second", "share_of_copy_speed", "remark"),
)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is."""

    height: int
    width: int
    frames: int
    small: int  # side of the small images
    batches: tuple[int, ...]  # of small images
    rival_frames: int  # the others keep whole stacks of planes in memory
    repeats: int
    identical: int  # repetitions that must agree to the bit


FULL = Scale(1080, 1920, 64, 256, (1, 16, 64), 16, 20, 1000)
QUICK = dataclasses.replace(FULL, repeats=7)
REHEARSAL = Scale(108, 192, 3, 40, (1, 2), 2, 2, 5)


class GpuPart:
    """Measures descriptors on one device."""

    def __init__(self, device: torch.device, scale: Scale, results: Path) -> None:
        self.device = device
        self.scale = scale
        self.clock = CudaClock(device) if device.type == "cuda" else CpuClock()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"none, rehearsed on {processor()}"
        self.table = Table(results / "descriptors-gpu.csv", {"gpu": name, "load": load()}, COLUMNS)
        self.failures: list[str] = []
        self.absent: set[str] = set()
        self.copying = self._copy_speed()

    def _copy_speed(self) -> float:
        """Bytes a millisecond, read and written, of one large copy in the device's memory."""
        size = min(2 << 30, self.clock.free_memory() // 8) if self.device.type == "cuda" else 1 << 24
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        target = torch.ones_like(source)
        milliseconds = self.clock.median(lambda: target.copy_(source), 10)
        self._add("copy", f"{size >> 20} MiB", "torch's copy_", milliseconds, bytes_moved=2 * size, copying=None)
        return 2 * size / milliseconds

    def _add(
        self,
        descriptor: str,
        images: str,
        implementation: str,
        milliseconds: float | None,
        *,
        ratio: float | None = None,
        bytes_moved: int | None = None,
        copying: float | None = None,
        remark: str = "",
    ) -> None:
        speed = bytes_moved / milliseconds if bytes_moved and milliseconds else None
        self.table.add(
            descriptor=descriptor,
            images=images,
            implementation=implementation,
            milliseconds=milliseconds,
            ratio=ratio,
            gigabytes_per_second=speed / 1e6 if speed else None,
            share_of_copy_speed=speed / copying if speed and copying else None,
            remark=remark,
        )

    def frames(self, count: int, height: int, width: int, form: str) -> torch.Tensor:
        """Photographs that differ from frame to frame, on the device: float32 (B, 1, H, W) or uint8 (B, 3, H, W)."""
        photograph = cv2.resize(skimage.data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC)
        rolled = np.stack([np.roll(photograph, (7 * i, 11 * i), (0, 1)) for i in range(min(count, 8))])
        colour = torch.from_numpy(rolled).to(self.device)  # [B, H, W, 3]
        if form == "grey":
            weights = torch.tensor([0.299, 0.587, 0.114], device=self.device) / 255
            colour = (colour * weights).sum(-1, keepdim=True)
        images = colour.repeat(-(-count // len(colour)), 1, 1, 1)[:count].permute(0, 3, 1, 2)
        return images if form == "interleaved" else images.contiguous()

    def measure(self, descriptor: Descriptor) -> None:
        """All rows of a descriptor; what cannot be had is said in `absent`."""
        rival = self._rival(descriptor)
        if not descriptor.present():
            self.absent.add(f"preimage.{descriptor.function}: not in this version")
        elif self._accepts(descriptor):
            self._large(descriptor, rival)
            self._small(descriptor)
            self._checks(descriptor)

    def _large(self, descriptor: Descriptor, rival: float | None) -> None:
        """Batches of large frames, several times what the caches hold."""
        scale = self.scale
        for label, form, options in descriptor.variants:
            count = self._affordable(descriptor, form)
            images = self.frames(count, scale.height, scale.width, form)
            run = functools.partial(descriptor.compute, images, **options)
            milliseconds = self.clock.median(run, scale.repeats)
            self._add(
                descriptor.name,
                f"{count} x {scale.width}x{scale.height}",
                f"preimage {label}",
                milliseconds,
                ratio=rival * count / milliseconds if rival else None,
                bytes_moved=descriptor.bytes_moved(images),
                copying=self.copying,
            )

    def _accepts(self, descriptor: Descriptor) -> bool:
        try:
            descriptor.compute(torch.rand(1, 1, 64, 64, device=self.device))
        except (ValueError, RuntimeError) as error:
            self.absent.add(f"{descriptor.name} on {self.device}: {str(error).splitlines()[0]}")
            return False
        return True

    def _affordable(self, descriptor: Descriptor, form: str) -> int:
        """As many frames as wanted, or as fit with their features into a third of the memory that is free."""
        one = descriptor.bytes_moved(self.frames(1, self.scale.height, self.scale.width, form))
        return max(1, min(self.scale.frames, self.clock.free_memory() // (3 * one)))

    def _rival(self, descriptor: Descriptor) -> float | None:
        """What else computes something like it on this device: a row, and its milliseconds a frame."""
        run: Callable[[torch.Tensor], object] | str
        if descriptor.function == "hog":
            name, run = "plain torch", torch_hog
        elif descriptor.name == "dense_sift flat":
            name, run = "kornia DenseSIFTDescriptor", kornia_sift(self.device)
        else:
            return None
        scale = self.scale
        images = self.frames(scale.rival_frames, scale.height, scale.width, "grey")
        if isinstance(run, str):
            self.absent.add(f"{name}: {run}")
            return None
        try:
            milliseconds = self.clock.median(functools.partial(run, images), scale.repeats)
        except torch.cuda.OutOfMemoryError:
            self.absent.add(f"{name}: {len(images)} frames do not fit into the device's memory")
            return None
        size = f"{len(images)} x {scale.width}x{scale.height}"
        self._add(descriptor.name, size, f"{name} grey f32", milliseconds, ratio=1.0)
        return milliseconds / len(images)

    def _small(self, descriptor: Descriptor) -> None:
        """Small images, where launching costs more than the work: one call after the other, and as a CUDA graph."""
        side = self.scale.small
        for count in self.scale.batches:
            images = self.frames(count, side, side, "grey")
            name = f"{count} x {side}x{side}"
            run = functools.partial(descriptor.compute, images)
            self._add(descriptor.name, name, "preimage grey f32, calls in a row", self.clock.in_a_row(run, 100))
            graph = self.clock.graph(run)
            if isinstance(graph, str):
                self.absent.add(f"{descriptor.name} in a CUDA graph: {graph}")
            else:
                milliseconds = self.clock.in_a_row(graph, 100)
                self._add(descriptor.name, name, "preimage grey f32, CUDA graph", milliseconds)

    def _checks(self, descriptor: Descriptor) -> None:
        scale = self.scale
        worst = 0.0
        for form in ("grey", "planar"):
            images = self.frames(2, scale.height, scale.width, form)
            difference = descriptor.compute(images).cpu() - descriptor.compute(images.cpu())
            worst = max(worst, difference.abs().nan_to_num(float("inf")).max().item())
        self._judge(
            descriptor,
            f"2 x {scale.width}x{scale.height}",
            worst <= descriptor.cuda_limit,
            f"largest difference from the CPU's {worst:.1e}, at most {descriptor.cuda_limit:.0e}",
        )
        height, width = (250, 333) if scale is not REHEARSAL else (50, 67)
        images = self.frames(4, height, width, "grey")
        first = descriptor.compute(images)
        changed = torch.zeros((), dtype=torch.bool, device=self.device)
        begin = time.perf_counter()
        for _ in range(scale.identical):
            changed |= (descriptor.compute(images) != first).any()
        same = not changed.item()
        self._judge(
            descriptor,
            f"4 x {width}x{height}",
            same,
            f"{scale.identical} repetitions {'equal' if same else 'NOT equal'} to the bit "
            f"({time.perf_counter() - begin:.1f} s)",
        )

    def _judge(self, descriptor: Descriptor, images: str, holds: bool, finding: str) -> None:
        remark = finding if holds else f"FAILED: {finding}"
        self._add(descriptor.name, images, "check", None, remark=remark)
        if not holds:
            self.failures.append(f"{descriptor.name} {images}: {finding}")
