"""What is measured: the descriptors, the images they are given, and the real VLFeat's rows beside ours."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch

import preimage
from _timing import Runner
from preimage.ops import _native

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import tolerances
import vlfeat


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one size, as each contender wants them; made once, never inside a measurement."""

    name: str
    pixels: np.ndarray  # (B, H, W, 3) uint8

    @functools.cached_property
    def bytes_grey(self) -> list[np.ndarray]:
        """B times (H, W) uint8."""
        return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in self.pixels]

    @functools.cached_property
    def grey(self) -> torch.Tensor:
        """(B, 1, H, W) float32 in [0, 1]."""
        return torch.from_numpy(np.stack(self.bytes_grey).astype(np.float32) / 255)[:, None]

    @functools.cached_property
    def planar(self) -> torch.Tensor:
        """(B, 3, H, W) uint8."""
        return self.interleaved.contiguous()

    @functools.cached_property
    def interleaved(self) -> torch.Tensor:
        """(B, 3, H, W) uint8, channels side by side in memory."""
        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2)

    def form(self, name: str) -> torch.Tensor:
        """The images as one of the properties above gives them."""
        tensor: torch.Tensor = getattr(self, name)
        return tensor


def image_sets(quick: bool) -> list[ImageSet]:
    """One photograph, large and small and in pieces; with `quick` only the first."""
    photograph = skimage.data.astronaut()
    sets = [ImageSet("512x512", photograph[None])]
    if not quick:
        large = cv2.resize(photograph, (1920, 1080), interpolation=cv2.INTER_CUBIC)
        crops = [photograph[4 * i : 4 * i + 256, 256 - 4 * i : 512 - 4 * i] for i in range(64)]
        sets += [ImageSet("1920x1080", large[None]), ImageSet("64 x 256x256", np.stack(crops))]
    return sets


Variant = tuple[str, str, dict[str, Any]]  # label, form of the images, further options

GREY: Variant = ("grey f32", "grey", {})
RGB: Variant = ("RGB u8", "planar", {})
INTERLEAVED: Variant = ("RGB u8 interleaved", "interleaved", {})


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A row of the table: a function of `preimage` with its options, and the same in VLFeat."""

    name: str
    function: str
    options: dict[str, Any]
    variants: tuple[Variant, ...]
    vlfeat_driver: str  # a class of tests/vlfeat.py
    vlfeat_make: Callable[[Any, int, int], Callable[[np.ndarray], object]]  # of that class, an image's height and width
    cuda_limit: float  # largest difference between CUDA and CPU

    def present(self) -> bool:
        """Is it in this version of the package?"""
        return hasattr(preimage, self.function)

    def compute(self, images: torch.Tensor | np.ndarray, **options: Any) -> torch.Tensor:
        """The features."""
        features: torch.Tensor = getattr(preimage, self.function)(images, **self.options, **options)
        return features

    def runners(self, images: ImageSet, instruction_set: str) -> dict[str, Runner]:
        """Ours with one instruction set, every variant."""
        return {
            f"preimage {instruction_set} {label}": functools.partial(
                self._forced, instruction_set, images.form(form), options
            )
            for label, form, options in self.variants
        }

    def _forced(self, instruction_set: str, images: torch.Tensor, options: dict[str, Any]) -> object:
        os.environ["PREIMAGE_ISA"] = instruction_set
        try:
            return self.compute(images, **options)
        finally:
            del os.environ["PREIMAGE_ISA"]

    def bytes_moved(self, images: torch.Tensor) -> int:
        """The fewest there are: every image read once, every feature written once."""
        features = self.compute(images[:1])
        return images.nbytes + len(images) * features.nbytes


def _dense_sift(window: str) -> Descriptor:
    return Descriptor(
        name=f"dense_sift {window}",
        function="dense_sift",
        options={"step": 4, "bin_size": 4, "window": window},
        variants=(GREY, RGB),
        vlfeat_driver="DenseSift",
        vlfeat_make=lambda driver, height, width: driver(height, width, step=4, bin_size=4, window=window).process,
        cuda_limit=tolerances.CUDA,
    )


DESCRIPTORS = (
    Descriptor(
        name="hog",
        function="hog",
        options={},
        variants=(GREY, RGB, INTERLEAVED, ("RGB u8 strongest", "planar", {"colour": "strongest"})),
        vlfeat_driver="Hog",
        vlfeat_make=lambda driver, height, width: driver(),
        cuda_limit=tolerances.CUDA,
    ),
    Descriptor(
        name="lbp",
        function="lbp",
        options={},
        variants=(GREY, RGB),
        vlfeat_driver="Lbp",
        vlfeat_make=lambda driver, height, width: driver(),
        cuda_limit=0.0,  # sums of integers: to the bit
    ),
    _dense_sift("flat"),
    _dense_sift("gaussian"),
)


SPARSE = ("sift", "sift_grid")  # functions of and on keypoints, on the CPU alone; see _sparse.py


def chosen(only: str) -> tuple[list[Descriptor], list[str]]:
    """Those that a comma-separated list of functions names, and of `SPARSE`; all for an empty one."""
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    known = {*SPARSE, *(descriptor.function for descriptor in DESCRIPTORS)}
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"--only takes {', '.join(sorted(known))}, got {', '.join(unknown)}")
    descriptors = [descriptor for descriptor in DESCRIPTORS if not wanted or descriptor.function in wanted]
    return descriptors, [name for name in SPARSE if not wanted or name in wanted]


def vlfeat_runners(descriptor: Descriptor, images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    """The real VLFeat, one image after the other on one object; says in `absent` why there is none."""
    if vlfeat.library() is None:
        absent.add("VLFeat: libvl.so.1 (package libvlfeat1) is not installed, so there is nothing to compare with")
        return {}
    if not hasattr(vlfeat, descriptor.vlfeat_driver):
        absent.add(f"VLFeat's {descriptor.name}: tests/vlfeat.py has no {descriptor.vlfeat_driver}")
        return {}
    grey = images.grey[:, 0].numpy()
    call = descriptor.vlfeat_make(getattr(vlfeat, descriptor.vlfeat_driver), *grey.shape[1:])
    runners: dict[str, Runner] = {"VLFeat grey": lambda: [call(image) for image in grey]}
    if any("colour" in options for _, _, options in descriptor.variants):
        colour = images.planar.numpy().astype(np.float32) / 255
        runners["VLFeat colour"] = lambda: [call(image) for image in colour]
    return runners


def rival(row: str) -> str:
    """Whose time a row's ratio is taken of."""
    return "VLFeat colour" if "strongest" in row or "colour" in row else "VLFeat grey"


def instruction_sets() -> list[str]:
    """Those of this build that this processor has, best first."""
    return list(_native.instruction_sets())
