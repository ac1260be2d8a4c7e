"""Sparse keypoints with SIFT descriptors, in one convention whoever computed them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

DESCRIPTOR = 128


@dataclasses.dataclass(frozen=True, eq=False)  # comparing tensors gives no truth value
class Keypoints:
    """Keypoints of a batch of B images, N in all: those of image i are `offsets[i]` up to `offsets[i + 1]`.

    The convention is that of VLFeat's C library, y down. A descriptor has 4×4 spatial bins of 8 orientations, in the
    keypoint's own frame: channel = orientation + 8 · column + 32 · row, where columns run along `angle`, rows at right
    angles to it (clockwise on the screen), and orientation k is along k · 45°, from columns towards rows.

    Attributes:
        x: [N] float32, pixels to the right of the centre of the upper left pixel.
        y: [N] float32, pixels below it.
        scale: [N] float32, σ of the keypoint, in pixels.
        angle: [N] float32, radians in [0, 2π), from +x towards +y.
        response: [N] float32, strength of the extremum in the detector's own unit; 0 where it is not known.
        descriptors: [N, 128] float32, ≥ 0, of length 1 (or all 0, where an image has no gradient).
        offsets: [B + 1] int64, from 0 to N.
    """

    x: torch.Tensor
    y: torch.Tensor
    scale: torch.Tensor
    angle: torch.Tensor
    response: torch.Tensor
    descriptors: torch.Tensor
    offsets: torch.Tensor

    def __post_init__(self) -> None:
        count = len(self.x)
        for name in ("x", "y", "scale", "angle", "response", "descriptors"):
            value = getattr(self, name)
            shape = (count, DESCRIPTOR) if name == "descriptors" else (count,)
            if value.dtype != torch.float32 or value.shape != shape or value.device.type != "cpu":
                raise ValueError(
                    f"{name} is float32 {shape} on the CPU, got {value.dtype} {tuple(value.shape)} on {value.device}"
                )
        offsets = self.offsets
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or len(offsets) < 1:
            raise ValueError(f"offsets is int64 (B + 1,), got {offsets.dtype} {tuple(offsets.shape)}")
        if offsets[0] != 0 or offsets[-1] != count or bool((offsets.diff() < 0).any()):
            raise ValueError(f"offsets rise from 0 to the number of keypoints, {count}, got {offsets.tolist()[:8]}")

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.offsets) - 1

    def __getitem__(self, image: int) -> Keypoints:
        """Those of one image, as a batch of one."""
        if not -len(self) <= image < len(self):
            raise IndexError(f"image {image} of {len(self)}")
        first, last = self.offsets[image % len(self)], self.offsets[image % len(self) + 1]
        fields = {name: getattr(self, name)[first:last] for name in _FIELDS}
        return Keypoints(**fields, offsets=torch.tensor([0, int(last - first)]))

    def select(self, keep: torch.Tensor) -> Keypoints:
        """Those whose entry in `keep` ([N] bool) is set, in their order."""
        if keep.dtype != torch.bool or keep.shape != self.x.shape:
            raise ValueError(f"keep is bool ({len(self.x)},), got {keep.dtype} {tuple(keep.shape)}")
        kept = torch.cat((torch.zeros(1, dtype=torch.int64), keep.cumsum(0)))
        return Keypoints(**{name: getattr(self, name)[keep] for name in _FIELDS}, offsets=kept[self.offsets])

    def mirrored(self, width: int) -> Keypoints:
        """Those of the images mirrored left to right, `width` pixels wide, as far as mirroring permits it.

        Exact for what a keypoint is. A detector that halves the image by dropping every second column keeps other
        columns of the mirrored one, so beyond its first octave it may find others.
        """
        descriptors = self.descriptors[:, _mirrored_channels()]
        angle = (math.pi - self.angle) % (2 * math.pi)
        return dataclasses.replace(self, x=width - 1 - self.x, angle=angle, descriptors=descriptors)

    @classmethod
    def cat(cls, parts: Sequence[Keypoints]) -> Keypoints:
        """Several batches as one; no part at all is a batch of no images."""
        if not parts:
            none = torch.zeros(0)
            fields = {name: torch.zeros(0, DESCRIPTOR) if name == "descriptors" else none for name in _FIELDS}
            return cls(**fields, offsets=torch.zeros(1, dtype=torch.int64))
        ends = torch.cat([part.offsets.diff() for part in parts]).cumsum(0)
        fields = {name: torch.cat([getattr(part, name) for part in parts]) for name in _FIELDS}
        return cls(**fields, offsets=torch.cat((torch.zeros(1, dtype=torch.int64), ends)))


_FIELDS = ("x", "y", "scale", "angle", "response", "descriptors")


def _mirrored_channels() -> torch.Tensor:
    """Where each channel of a mirrored descriptor comes from: rows and orientations run the other way round."""
    orientation, column, row = torch.meshgrid(torch.arange(8), torch.arange(4), torch.arange(4), indexing="ij")
    source = (-orientation) % 8 + 8 * column + 32 * (3 - row)
    return source.permute(2, 1, 0).reshape(-1)
