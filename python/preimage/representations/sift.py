"""Sparse SIFT on the paper's grid as a representation."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from preimage.keypoints import Keypoints
from preimage.ops._images import Images, is_tensor, like_images
from preimage.ops.sift import VARIANTS, sift, sift_of_arrays
from preimage.ops.sift_grid import CHANNELS, sift_grid, sift_grid_into
from preimage.representations.base import Representation, decoded, register
from preimage.spec import Scalar, Spec

if TYPE_CHECKING:
    import torch

# Keypoint files come from many programs, and keep what was matched, not all that was detected: an inverter should not
# be surprised by either. So in training these shares of the images have the other variant's keypoints, and have lost
# some, down to `_FEWEST` of them.
_OTHER_VARIANT = 0.25
_THINNED = 0.25
_FEWEST = 0.05


@register
@dataclasses.dataclass(frozen=True)
class Sift(Representation):
    """Keypoints of `preimage.sift`, at most one in each cell of a grid, see `preimage.sift_grid`.

    Attributes:
        cell_size: side of a cell in pixels, at least 1.
        descriptor_scale: length that descriptors have on the grid, above 0.
        variant: whose detector and descriptors: ``"vlfeat"`` or ``"opencv"``, with their default parameters.
    """

    name: ClassVar[str] = "sift"
    in_workers: ClassVar[bool] = True
    computes_arrays: ClassVar[bool] = True
    cell_size: int = 4
    descriptor_scale: float = 1.0
    variant: str = "vlfeat"

    def __post_init__(self) -> None:
        if not isinstance(self.cell_size, int) or isinstance(self.cell_size, bool) or self.cell_size < 1:
            raise ValueError(f"cell_size is a whole number of pixels >= 1, got {self.cell_size!r}")
        scale = self.descriptor_scale
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
            raise ValueError(f"descriptor_scale is a number above 0, got {scale!r}")
        object.__setattr__(self, "descriptor_scale", float(scale))
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown SIFT variant {self.variant!r}; known are {', '.join(VARIANTS)}")

    @property
    def spec(self) -> Spec:
        parameters: dict[str, Scalar] = {"cell_size": self.cell_size, "descriptor_scale": self.descriptor_scale}
        return Spec(self.name, self.variant, channels=CHANNELS, stride=self.cell_size, parameters=parameters)

    def __call__(self, images: Images) -> Images:
        height, width = images.shape[-2], images.shape[-1]
        grid = self.grid(self.keypoints(images), (height, width))
        return like_images(grid.to(images.device) if is_tensor(images) else grid, images)

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        """Write the features in place, see `Representation.compute_into`.

        They stay within float16's range as long as `cell_size` and `descriptor_scale` are at most 65504.
        """
        planes = decoded(images)
        height, width = planes.shape[2:]
        keypoints = sift_of_arrays(planes, self.variant, threads)
        scale = self.descriptor_scale
        sift_grid_into(keypoints, features, (height, width), self.cell_size, descriptor_scale=scale, threads=threads)

    def for_training(self, images: torch.Tensor, seed: tuple[int, ...]) -> torch.Tensor:
        """Some images thinned at random, some with another's keypoints; the draw within a cell by the seed too."""
        import torch

        random = np.random.default_rng(seed)
        images = images.cpu()
        features = torch.empty(len(images), CHANNELS, *self.feature_size(images.shape[-2], images.shape[-1]))
        others = random.random(len(images)) < _OTHER_VARIANT
        for variant in VARIANTS:
            rows = np.flatnonzero(others == (variant != self.variant))
            found = sift(images[rows], variant=variant)
            shares = np.where(random.random(len(rows)) < _THINNED, random.uniform(_FEWEST, 1, len(rows)), 1)
            kept = random.random(len(found.x)) < np.repeat(shares, np.diff(found.offsets))
            draw = int(random.integers(2**63))
            found = found.select(kept)
            features[rows] = self.grid(found, (images.shape[-2], images.shape[-1]), seed=draw)
        return features

    def keypoints(self, images: torch.Tensor | npt.NDArray[Any]) -> Keypoints:
        """The keypoints that the features of images (..., 3, H, W) are made of."""
        return sift(images.cpu() if is_tensor(images) else images, variant=self.variant)

    def grid(self, keypoints: Keypoints, image_size: tuple[int, int], *, seed: int = 0) -> Any:
        """Features (B, 133, h, w) of keypoints, whoever found them, in images of (H, W) pixels."""
        return sift_grid(keypoints, image_size, self.cell_size, seed=seed, descriptor_scale=self.descriptor_scale)

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height}×{width} pixels has no cell: both sides must be at least 1")
        return -(-height // self.cell_size), -(-width // self.cell_size)

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.cell_size, width * self.cell_size
