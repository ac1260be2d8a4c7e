"""Describe what is explored: photograph, inverter, and everything that is done to the features."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from preimage.opencv import quiet_opencv

MASK_SIDE = 64  # the photograph is divided into this many rows and columns for erasing
KEYPOINT_PARTS = ("all", "descriptors", "coordinates", "positions")

_MASK_DIGITS = MASK_SIDE * MASK_SIDE // 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the page. The features are changed in the order of the fields.

    Attributes:
        inverter: One of `Explorer.names`.
        photograph: Key of the photograph, from `Explorer.add`.
        other: Key of a second photograph; empty for none.
        position: Position on the path between the features of both, 0 at `photograph`, 1 at `other`.
        spherical: Whether the path is an arc instead of a line; ignored for sparse SIFT, which has no arc.
        perturbation: Perturbation of features other than sparse SIFT, as
            `preimage.studies.feature_perturbations.parse_perturbation` takes it; empty for none.
        kept: Percentage of the keypoints of sparse SIFT that are kept, above 0 and at most 100.
        parts: What is kept of each keypoint, one of `KEYPOINT_PARTS`.
        seed: Seed of random perturbations.
        erased: Erased regions, from `pack_mask`; empty for none. Features of vectors have no regions.
    """

    inverter: str
    photograph: str
    other: str = ""
    position: float = 0.0
    spherical: bool = False
    perturbation: str = ""
    kept: float = 100.0
    parts: str = "all"
    seed: int = 0
    erased: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.position <= 1:
            raise ValueError(f"position must be from 0 to 1, got {self.position:g}")
        if self.parts not in KEYPOINT_PARTS:
            raise ValueError(f"parts must be one of {', '.join(KEYPOINT_PARTS)}, got {self.parts!r:.40}")
        if not 0 < self.kept <= 100:
            raise ValueError(f"kept must be above 0 and at most 100, got {self.kept:g}")

    def only(self, *names: str) -> Settings:
        """Return the settings with the defaults for all fields but these, the inverter and the photograph."""
        return Settings(self.inverter, self.photograph, **{name: getattr(self, name) for name in names})


def pack_mask(mask: npt.NDArray[np.bool_]) -> str:
    """Return a mask (`MASK_SIDE`, `MASK_SIDE`), true where the features are erased, as hexadecimal digits.

    The digits are those of the rows from left to right, the leftmost cell in the highest bit; empty if nothing is
    erased.
    """
    if mask.shape != (MASK_SIDE, MASK_SIDE) or mask.dtype != bool:
        raise ValueError(f"a mask must be bool ({MASK_SIDE}, {MASK_SIDE}), got {mask.dtype} {mask.shape}")
    return np.packbits(mask).tobytes().hex() if mask.any() else ""


def unpack_mask(digits: str) -> npt.NDArray[np.bool_]:
    """Return the mask of `pack_mask`; ``ValueError`` for other text."""
    if not digits:
        return np.zeros((MASK_SIDE, MASK_SIDE), bool)
    try:
        if len(digits) != _MASK_DIGITS:
            raise ValueError
        packed = bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"erased must be {_MASK_DIGITS} hexadecimal digits, got {digits!r:.40}") from None
    return np.unpackbits(np.frombuffer(packed, np.uint8)).astype(bool).reshape(MASK_SIDE, MASK_SIDE)


@quiet_opencv
def erased_cells(
    mask: npt.NDArray[np.bool_], cells: tuple[int, int], margin: tuple[int, int] = (0, 0)
) -> npt.NDArray[np.bool_]:
    """Return which cells (h, w) of a map of features are erased: those of which at least half is in the mask.

    Args:
        mask: (`MASK_SIDE`, `MASK_SIDE`) over the photograph.
        cells: Size (h, w) of the map.
        margin: Cells of the photograph (before, after) the map along both axes that have no features.
    """
    whole = [side + sum(margin) for side in cells]
    share = cv2.resize(mask.astype(np.float32), (whole[1], whole[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= 0.5)[margin[0] : margin[0] + cells[0], margin[0] : margin[0] + cells[1]]
