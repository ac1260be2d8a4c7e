"""Representations on a grid of square cells."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from preimage.representations.base import Representation
from preimage.spec import Spec


@dataclasses.dataclass(frozen=True)
class CellRepresentation(Representation):
    """Representation with a feature vector for each square cell of a grid that starts at the image's upper left corner.

    All fields are part of the spec. Subclasses give the fields their defaults, and implement ``__call__``.

    Attributes:
        channels: Length of a feature vector.
        variants: Supported values of `variant`.
        cell_size: Side of a cell in pixels, at least 1.
        variant: Definition of the features.
    """

    channels: ClassVar[int]
    variants: ClassVar[tuple[str, ...]]
    cell_size: int
    variant: str

    def __post_init__(self) -> None:
        if not isinstance(self.cell_size, int) or isinstance(self.cell_size, bool) or self.cell_size < 1:
            raise ValueError(f"cell_size must be an integer of at least 1, got {self.cell_size!r}")
        if self.variant not in self.variants:
            raise ValueError(f"variant must be one of {', '.join(self.variants)}, got {self.variant!r}")

    @property
    def spec(self) -> Spec:
        parameters = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del parameters["variant"]
        return Spec(self.name, self.variant, self.channels, self.cell_size, parameters)

    def cell_count(self, pixels: int) -> int:
        """Return the number of cells along a side of the image: by default only full cells."""
        return pixels // self.cell_size

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.cell_count(height), self.cell_count(width)
        if rows < 1 or columns < 1:
            least = next(side for side in range(1, self.cell_size + 1) if self.cell_count(side))
            raise ValueError(
                f"an image of {height}×{width} pixels has no {self.title or self.name} cell of {self.cell_size} "
                f"pixels: both sides must be at least {least}"
            )
        return rows, columns

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.cell_size, width * self.cell_size
