"""Represent sparse keypoints with SIFT descriptors, in one convention for all detectors."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

DESCRIPTOR = 128
GRID_CHANNELS = DESCRIPTOR + 5  # of `preimage.sift_grid` without colors
COLORS = 3  # further channels with colors
GRAY = 0.5  # subtracted from colors in the grid, where 0 is no color
DESCRIPTOR_NAMES = tuple(
    f"row {row}, column {column}, {45 * k}°" for row in range(4) for column in range(4) for k in range(8)
)


@dataclasses.dataclass(frozen=True, eq=False)  # comparing tensors has no single truth value
class Keypoints:
    """Keypoints of a batch of B images, N in total; those of image i are ``offsets[i]`` to ``offsets[i + 1] - 1``.

    All fields are NumPy arrays, or all are torch tensors on the CPU: `preimage.sift` returns the type of its images.

    The convention is that of VLFeat's C library, y down. A descriptor has 4×4 spatial bins of 8 orientations, in the
    keypoint's frame: channel = orientation + 8 · column + 32 · row, where columns run along `angle`, rows at right
    angles to it (clockwise on the screen), and orientation k is along k · 45°, from columns towards rows.

    Attributes:
        x: [N] float32, pixels to the right of the center of the upper left pixel.
        y: [N] float32, pixels below it.
        scale: [N] float32, σ of the keypoint, in pixels.
        angle: [N] float32, radians in [0, 2π), from +x towards +y.
        response: [N] float32, strength of the extremum in the detector's unit; 0 if unknown.
        descriptors: [N, 128] float32, ≥ 0, of length 1 (or all 0, where an image has no gradient).
        offsets: [B + 1] int64, from 0 to N.
        colors: [N, 3] float32, red, green and blue in [0, 1] at each keypoint, a row with NaN where it is unknown; or
            ``None`` without colors. uint8 is converted (divided by 255).
    """

    x: Any
    y: Any
    scale: Any
    angle: Any
    response: Any
    descriptors: Any
    offsets: Any
    colors: Any = None

    def __post_init__(self) -> None:
        kinds = {_kind(getattr(self, name)) for name in (*self._fields(), "offsets")}
        if len(kinds) > 1 or None in kinds:
            found = ", ".join(sorted({_described(getattr(self, name)) for name in (*self._fields(), "offsets")}))
            raise TypeError(f"keypoints must be all NumPy arrays or all torch tensors on the CPU, got {found}")
        if self.colors is not None and _dtype(self.colors) == "uint8":
            as_float = self.colors / np.float32(255) if isinstance(self.x, np.ndarray) else self.colors.float() / 255
            object.__setattr__(self, "colors", as_float)
        count = len(self.x)
        for name in self._fields():
            value = getattr(self, name)
            shape = (count, *_ROWS[name]) if name in _ROWS else (count,)
            if _dtype(value) != "float32" or value.shape != shape:
                raise ValueError(f"{name} must be float32 {shape}, got {_dtype(value)} {tuple(value.shape)}")
        if self.colors is not None and bool((outside := (self.colors < 0) | (self.colors > 1)).any()):
            wrong = float(self.colors[outside][0])
            raise ValueError(f"colors must be in [0, 1], or NaN where they are unknown, got {wrong:g}")
        offsets = self.offsets
        if _dtype(offsets) != "int64" or offsets.ndim != 1 or len(offsets) < 1:
            raise ValueError(f"offsets must be int64 (B + 1,), got {_dtype(offsets)} {tuple(offsets.shape)}")
        if offsets[0] != 0 or offsets[-1] != count or bool((offsets[1:] < offsets[:-1]).any()):
            raise ValueError(f"offsets must rise from 0 to the {count} keypoints, got {offsets.tolist()[:8]}")

    def __repr__(self) -> str:
        return f"Keypoints(keypoints={len(self.x)}, images={len(self)}, type={type(self.x).__name__})"

    def to_numpy(self) -> Keypoints:
        """Return the same keypoints as NumPy arrays, which share the memory of the tensors."""
        if isinstance(self.x, np.ndarray):
            return self
        return Keypoints(**{name: getattr(self, name).numpy() for name in (*self._fields(), "offsets")})

    def to_torch(self) -> Keypoints:
        """Return the same keypoints as torch tensors, which share the memory of the arrays."""
        import torch

        if isinstance(self.x, torch.Tensor):
            return self
        return Keypoints(**{name: torch.from_numpy(getattr(self, name)) for name in (*self._fields(), "offsets")})

    def _fields(self) -> tuple[str, ...]:
        """Return the names of the fields with a value for each keypoint."""
        return _FIELDS if self.colors is None else (*_FIELDS, "colors")

    def _like(self, arrays: Keypoints) -> Keypoints:
        """Return keypoints in arrays as arrays or tensors, whichever these keypoints are."""
        return arrays if isinstance(self.x, np.ndarray) else arrays.to_torch()

    def __len__(self) -> int:
        """Return B, the number of images."""
        return len(self.offsets) - 1

    def __getitem__(self, image: int) -> Keypoints:
        """Return the keypoints of one image, as a batch of one."""
        if not -len(self) <= image < len(self):
            raise IndexError(f"image index must be below {len(self)}, got {image}")
        first, last = (int(self.offsets[image % len(self) + end]) for end in (0, 1))
        arrays = self.to_numpy()
        fields = {name: getattr(arrays, name)[first:last] for name in self._fields()}
        return self._like(Keypoints(**fields, offsets=np.array([0, last - first])))

    def select(self, keep: Any) -> Keypoints:
        """Return the keypoints for which `keep` ([N] bool, an array or a tensor) is true, in the same order."""
        if _dtype(keep) != "bool" or keep.shape != self.x.shape:
            raise ValueError(f"keep must be bool ({len(self.x)},), got {_dtype(keep)} {tuple(keep.shape)}")
        arrays, chosen = self.to_numpy(), np.asarray(keep)
        kept = np.concatenate(([0], chosen.cumsum(dtype=np.int64)))
        fields = {name: getattr(arrays, name)[chosen] for name in self._fields()}
        return self._like(Keypoints(**fields, offsets=kept[arrays.offsets]))

    def mirrored(self, width: int) -> Keypoints:
        """Return the keypoints of the images mirrored left to right, `width` pixels wide.

        Positions, angles and descriptors are exact. A detector may find other keypoints in mirrored images, except in
        the first octave, because it halves images by dropping every second column.
        """
        descriptors = self.descriptors[:, _mirrored_channels()]
        angle = (math.pi - self.angle) % (2 * math.pi)
        return dataclasses.replace(self, x=width - 1 - self.x, angle=angle, descriptors=descriptors)

    def with_colors(self) -> Keypoints:
        """Return the same keypoints, with unknown colors if they have none."""
        if self.colors is not None:
            return self
        unknown = np.full((len(self.x), COLORS), np.nan, np.float32)
        return self._like(dataclasses.replace(self.to_numpy(), colors=unknown))

    @classmethod
    def from_grid(cls, grid: Any, cell_size: int, *, descriptor_scale: float = 1.0) -> Keypoints:
        """Return the keypoints of the cells of a grid, the inverse of `preimage.sift_grid` but for their response, 0.

        Args:
            grid: (B, 133, h, w) of `preimage.sift_grid`, or (B, 136, h, w) with colors, any floating dtype, a NumPy
                array or a tensor on the CPU.
            cell_size: Side of a cell in pixels.
            descriptor_scale: Factor by which the descriptors were multiplied.

        Returns:
            Keypoints of the B images, by row and column of their cells; those whose values are not finite included.

        Raises:
            ValueError: The grid has another shape.
        """
        values = grid if isinstance(grid, np.ndarray) else grid.detach().float().numpy()
        if values.ndim != 4 or values.shape[1] not in (GRID_CHANNELS, GRID_CHANNELS + COLORS):
            raise ValueError(
                f"grid must be (B, {GRID_CHANNELS}, h, w), or have {GRID_CHANNELS + COLORS} channels with colors, got "
                f"shape {tuple(values.shape)}"
            )
        # Sine and cosine are both 0 only in empty cells.
        image, row, column = np.nonzero((values[:, 130] != 0) | (values[:, 131] != 0))
        found = values[image, :, row, column].astype(np.float32)  # [N, 133] or [N, 136]
        with np.errstate(over="ignore"):
            scale = np.exp(found[:, 132])
        angle = np.arctan2(found[:, 130], found[:, 131]) % np.float32(2 * math.pi)
        angle[angle >= 2 * math.pi] = 0  # angles just below zero are rounded up
        colors = None
        if found.shape[1] > GRID_CHANNELS:
            colors = np.clip(found[:, GRID_CHANNELS:] + np.float32(GRAY), 0, 1)
            colors[~found[:, GRID_CHANNELS:].any(axis=1)] = np.nan
        counts = np.bincount(image, minlength=len(values))
        keypoints = cls(
            x=column.astype(np.float32) * cell_size + found[:, 128] - np.float32(0.5),
            y=row.astype(np.float32) * cell_size + found[:, 129] - np.float32(0.5),
            scale=scale,
            angle=angle,
            response=np.zeros(len(found), np.float32),
            descriptors=found[:, :DESCRIPTOR] / np.float32(descriptor_scale),
            offsets=np.concatenate(([0], counts.cumsum(dtype=np.int64))),
            colors=colors,
        )
        return keypoints if isinstance(grid, np.ndarray) else keypoints.to_torch()

    @classmethod
    def cat(cls, parts: Sequence[Keypoints]) -> Keypoints:
        """Concatenate batches, in tensors if the first one is; without batches, return arrays of no images.

        If only some have colors, those of the others are unknown.
        """
        if not parts:
            none = np.zeros(0, np.float32)
            fields = {name: none.reshape(0, *_ROWS.get(name, ())) for name in _FIELDS}
            return cls(**fields, offsets=np.zeros(1, np.int64))
        arrays = [part.to_numpy() for part in parts]
        if any(part.colors is not None for part in arrays):
            arrays = [part.with_colors() for part in arrays]
        counts = np.concatenate([np.diff(part.offsets) for part in arrays])
        fields = {name: np.concatenate([getattr(part, name) for part in arrays]) for name in arrays[0]._fields()}
        return parts[0]._like(cls(**fields, offsets=np.concatenate(([0], counts.cumsum(dtype=np.int64)))))


_FIELDS = ("x", "y", "scale", "angle", "response", "descriptors")
_ROWS = {"descriptors": (DESCRIPTOR,), "colors": (COLORS,)}  # shapes of the values of one keypoint


def _kind(value: object) -> str | None:
    """Return ``"numpy"`` or ``"torch"``, or ``None`` if it is neither an array nor a tensor on the CPU."""
    if isinstance(value, np.ndarray):
        return "numpy"
    torch = sys.modules.get("torch")  # if torch is not imported, there are no tensors
    return "torch" if torch is not None and isinstance(value, torch.Tensor) and value.is_cpu else None


def _described(value: object) -> str:
    """Return the type of a value for a message, with the device of a tensor."""
    return type(value).__name__ + (f" on {device}" if (device := getattr(value, "device", None)) is not None else "")


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _mirrored_channels() -> list[int]:
    """Return the channel that each channel of a mirrored descriptor is taken from: rows and orientations reverse."""
    return [-k % 8 + 8 * column + 32 * (3 - row) for row in range(4) for column in range(4) for k in range(8)]
