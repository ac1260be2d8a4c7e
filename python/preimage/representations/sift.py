"""Sparse SIFT on the paper's grid as a representation."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from preimage.keypoints import COLORS, DESCRIPTOR_NAMES, GRID_CHANNELS, Keypoints
from preimage.ops._images import Images, is_tensor, like_images
from preimage.ops.sift import VARIANTS, sift, sift_numpy
from preimage.ops.sift_grid import sift_grid, sift_grid_into
from preimage.representations.base import Presets, decoded, parameter
from preimage.representations.cells import CellRepresentation
from preimage.representations.registry import register
from preimage.spec import Spec

if TYPE_CHECKING:
    import torch

# Keypoint files come from many programs, and often contain only the keypoints that were matched. So that an inverter
# generalizes to both, these fractions of the training images have keypoints of the other variant, and a random subset
# of their keypoints, down to the fraction `_FEWEST`.
_OTHER_VARIANT = 0.25
_THINNED = 0.25
_FEWEST = 0.05
# Only keypoints that were matched are part of a 3D point, whose color a map contains. In training, up to this fraction
# of an image's keypoints have none, and in a few images none has one, as in those that are not part of the map.
_COLORLESS = 0.6
_COLORLESS_IMAGES = 0.05


@register
@dataclasses.dataclass(frozen=True)
class Sift(CellRepresentation):
    """Keypoints of `preimage.sift` on a grid, at most one in each cell, see `preimage.sift_grid`.

    With `color`, each keypoint has the color of the image at its position, in three more channels. The others are
    those of the same representation without color.
    """

    name = "sift"
    title = "SIFT"
    summary = "Sparse SIFT keypoints, at most one in each cell of a grid."
    channels = GRID_CHANNELS
    channel_names = (
        *DESCRIPTOR_NAMES,
        *("x in the cell", "y in the cell", "sine of the angle", "cosine of the angle", "logarithm of the scale"),
    )
    variants = VARIANTS
    drawing = "circles as large as the keypoints, with hands in their direction"
    keeps_color = False
    in_workers = True
    computes_arrays = True
    presets: ClassVar[Presets] = {
        "paper": {
            "architecture": "single-stream",
            "layers": [
                *("c5/2 256", "c3/2 512", "c3/2 1024", "c3/2 2048", "c3/1 2048", "c3/1 1024"),
                *("up 512", "up 256", "up 128", "up 64", "up 32", "up 3"),
            ],
        },
        "compact": {"architecture": "u-shaped", "entry": ["c3/2 80"], "splat_levels": 4},
    }

    cell_size: int = parameter(4, "Side of a cell in pixels.")
    variant: str = parameter("vlfeat", "Detector and descriptor, with their default parameters: vlfeat or opencv.")
    descriptor_scale: float = parameter(1.0, "Euclidean norm of a descriptor on the grid.")
    color: bool = parameter(False, "Whether keypoints have the color of the image at their position.")

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = self.descriptor_scale
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
            raise ValueError(f"descriptor_scale must be a number above 0, got {scale!r}")
        object.__setattr__(self, "descriptor_scale", float(scale))
        if not isinstance(self.color, bool):
            raise ValueError(f"color must be True or False, got {self.color!r}")
        if self.color:
            of_color = {
                "channels": GRID_CHANNELS + COLORS,
                "channel_names": (*self.channel_names, "red", "green", "blue"),
                "keeps_color": True,
            }
            for name, value in of_color.items():
                object.__setattr__(self, name, value)

    @property
    def spec(self) -> Spec:
        spec = super().spec
        return spec if self.color else _without_color(spec)

    @classmethod
    def first_channels(cls, spec: Spec) -> Spec | None:
        return _without_color(spec) if spec.parameters.get("color") is True else None

    def __call__(self, images: Images) -> Images:
        height, width = images.shape[-2], images.shape[-1]
        grid = self.grid(self.keypoints(images), (height, width))
        return like_images(grid.to(images.device) if is_tensor(images) else grid, images)

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        """Compute the features into an array, see `Representation.compute_into`.

        They are within the range of float16 if `cell_size` and `descriptor_scale` are at most 65504.
        """
        planes = decoded(images)
        height, width = planes.shape[2:]
        keypoints = sift_numpy(planes, self.variant, threads, color=self.color)
        scale = self.descriptor_scale
        sift_grid_into(keypoints, features, (height, width), self.cell_size, descriptor_scale=scale, threads=threads)

    def for_training(self, images: torch.Tensor, seed: tuple[int, ...]) -> torch.Tensor:
        """Return features of a training batch; some images have fewer keypoints, some have those of the other variant.

        With `color`, a random fraction of the keypoints of each image has none. The seed also determines which keypoint
        of a cell is kept.
        """
        import torch

        random = np.random.default_rng(seed)
        images = images.cpu()
        features = torch.empty(len(images), self.channels, *self.feature_size(images.shape[-2], images.shape[-1]))
        others = random.random(len(images)) < _OTHER_VARIANT
        for variant in VARIANTS:
            rows = np.flatnonzero(others == (variant != self.variant))
            found = sift(images[rows], variant=variant, color=self.color)
            fractions = np.where(random.random(len(rows)) < _THINNED, random.uniform(_FEWEST, 1, len(rows)), 1)
            kept = random.random(len(found.x)) < np.repeat(fractions, np.diff(found.offsets))
            draw = int(random.integers(2**63))
            found = found.select(kept)
            if self.color:
                found = _with_fewer_colors(found, random)
            features[rows] = self.grid(found, (images.shape[-2], images.shape[-1]), seed=draw)
        return features

    def keypoints(self, images: torch.Tensor | npt.NDArray[Any]) -> Keypoints:
        """Return the keypoints of images (..., 3, H, W) from which the features are computed."""
        return sift(images.cpu() if is_tensor(images) else images, variant=self.variant, color=self.color)

    def grid(self, keypoints: Keypoints, image_size: tuple[int, int], *, seed: int = 0) -> Any:
        """Return features (B, 133, h, w), or 136 channels with `color`, of keypoints in images of (H, W) pixels.

        The keypoints may be from any source. Their colors are not used without `color`; with it, keypoints without
        colors are like those whose color is unknown.
        """
        if self.color:
            keypoints = keypoints.with_colors()
        elif keypoints.colors is not None:
            keypoints = dataclasses.replace(keypoints, colors=None)
        return sift_grid(keypoints, image_size, self.cell_size, seed=seed, descriptor_scale=self.descriptor_scale)

    def cell_count(self, pixels: int) -> int:
        return -(-pixels // self.cell_size)

    @classmethod
    def draw(
        cls, spec: Spec, features: npt.NDArray[Any], tile: int, image: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.uint8]:
        from preimage.viz.glyphs.keypoints import keypoint_grid

        assert spec.stride is not None
        return keypoint_grid(features, spec.stride, image=image, tile=tile)

    @classmethod
    def explain(cls, spec: Spec, shape: tuple[int, ...]) -> str:
        color = ", and its color" if spec.parameters.get("color") else ""
        return (
            "a few hundred keypoints, each with its position, scale, direction and 128 numbers that describe gradients "
            f"around it{color}, at most one in a cell of {spec.stride} × {spec.stride} pixels; nothing about the "
            "pixels between them."
        )


def _without_color(spec: Spec) -> Spec:
    """Return the spec without color, which is that of versions before there was the parameter."""
    parameters = {name: value for name, value in spec.parameters.items() if name != "color"}
    return dataclasses.replace(spec, channels=GRID_CHANNELS, parameters=parameters)


def _with_fewer_colors(keypoints: Keypoints, random: np.random.Generator) -> Keypoints:
    """Return keypoints of which a random fraction has unknown colors, another in each image, and in some all."""
    import torch

    fractions = random.uniform(0, _COLORLESS, len(keypoints))
    fractions[random.random(len(keypoints)) < _COLORLESS_IMAGES] = 1
    lost = random.random(len(keypoints.x)) < np.repeat(fractions, np.diff(keypoints.offsets))
    colors = torch.where(torch.from_numpy(lost)[:, None], torch.nan, keypoints.colors)
    return dataclasses.replace(keypoints, colors=colors)
