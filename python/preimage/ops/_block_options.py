"""Parameters of Dalal and Triggs's HOG. Does not import torch."""

from __future__ import annotations

import dataclasses

from preimage.ops._images import check_choice, check_positive_int

ORIENTATIONS = 9
MAX_ORIENTATIONS = 180
BLOCK_SIZE = 3
BLOCK_NORMS = ("L1", "L1-sqrt", "L2", "L2-Hys")
BLOCK_NORM = "L2-Hys"


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """Checked parameters of `preimage.hog` with ``variant="dalal-triggs"``.

    Attributes:
        cell_size: (height, width) of a cell in pixels.
        block_size: (height, width) of a block in cells.
    """

    cell_size: tuple[int, int] = (8, 8)
    color: str = "luma"
    orientations: int = ORIENTATIONS
    block_size: tuple[int, int] = (BLOCK_SIZE, BLOCK_SIZE)
    block_norm: str = BLOCK_NORM
    transform_sqrt: bool = False

    @classmethod
    def checked(
        cls,
        cell_size: int | tuple[int, int],
        color: str,
        orientations: int,
        block_size: int | tuple[int, int],
        block_norm: str,
        transform_sqrt: bool,
    ) -> BlockOptions:
        """Return the options with sizes as pairs; raise ``TypeError`` or ``ValueError`` for invalid ones."""
        cell, block = check_pair("cell_size", cell_size, "pixel"), check_pair("block_size", block_size, "cell")
        check_positive_int("orientations", orientations, "orientation")
        if orientations > MAX_ORIENTATIONS:
            raise ValueError(f"orientations must be at most {MAX_ORIENTATIONS}, got {orientations}")
        check_choice("block_norm", block_norm, BLOCK_NORMS)
        if type(transform_sqrt) is not bool:
            raise TypeError(f"transform_sqrt must be a bool, got {transform_sqrt!r}")
        return cls(cell, color, orientations, block, block_norm, transform_sqrt)

    def native(self) -> tuple[tuple[int, int], str, int, tuple[int, int], str, bool]:
        """Return the parameters in the order of the native functions and the torch ops."""
        return (
            self.cell_size,
            self.color,
            self.orientations,
            self.block_size,
            self.block_norm,
            self.transform_sqrt,
        )

    @property
    def channels(self) -> int:
        """Number of channels of the features."""
        return self.block_size[0] * self.block_size[1] * self.orientations

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) of the blocks of an image of this many pixels: one at every position in full cells."""
        cell, block = self.cell_size, self.block_size
        return height // cell[0] - block[0] + 1, width // cell[1] - block[1] + 1

    def check_size(self, height: int, width: int) -> None:
        """Raise ``ValueError`` unless an image of this many pixels has at least one block."""
        if min(self.grid(height, width)) < 1:
            rows, columns = (cell * block for cell, block in zip(self.cell_size, self.block_size, strict=True))
            raise ValueError(
                f"images must have at least {rows} x {columns} pixels for a cell_size of {self.cell_size} and a "
                f"block_size of {self.block_size}, got {height} x {width}"
            )


def check_pair(name: str, value: int | tuple[int, int], unit: str) -> tuple[int, int]:
    """Return a size as (height, width); raise ``TypeError`` or ``ValueError`` unless it is positive.

    Args:
        name: Name of the parameter.
        value: A positive int, or a pair of them.
        unit: Unit of the size.
    """
    if not isinstance(value, (tuple, list)):
        check_positive_int(name, value, unit)
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name} must be an int or a pair (height, width), got {value!r}")
    height, width = value
    check_positive_int(f"height in {name}", height, unit)
    check_positive_int(f"width in {name}", width, unit)
    return height, width


def check_unused(orientations: int, block_size: int | tuple[int, int], block_norm: str, transform_sqrt: bool) -> None:
    """Raise ``ValueError`` unless the parameters that vlfeat-uoctti does not have are at their defaults."""
    given = {
        "orientations": (orientations, ORIENTATIONS),
        "block_size": (block_size, BLOCK_SIZE),
        "block_norm": (block_norm, BLOCK_NORM),
        "transform_sqrt": (transform_sqrt, False),
    }
    for name, (value, default) in given.items():
        if type(value) is not type(default) or value != default:
            raise ValueError(f'{name} must be {default!r} unless variant is "dalal-triggs", got {value!r}')
