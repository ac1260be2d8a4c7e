"""LBP as a representation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.ops._images import Images
from preimage.ops.lbp import VARIANTS, lbp, lbp_into
from preimage.representations.base import Representation, decoded, register
from preimage.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@register
@dataclasses.dataclass(frozen=True)
class Lbp(Representation):
    """Histograms of uniform local binary patterns, see `preimage.ops.lbp.lbp`.

    Attributes:
        cell_size: side of a cell in pixels, at least 1.
        variant: the definition followed; only ``"vlfeat-uniform"``.
    """

    name: ClassVar[str] = "lbp"
    computes_arrays: ClassVar[bool] = True
    cell_size: int = 16
    variant: str = "vlfeat-uniform"

    def __post_init__(self) -> None:
        if not isinstance(self.cell_size, int) or isinstance(self.cell_size, bool) or self.cell_size < 1:
            raise ValueError(f"cell_size is a whole number of pixels >= 1, got {self.cell_size!r}")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown LBP variant {self.variant!r}; known is 'vlfeat-uniform'")

    @property
    def spec(self) -> Spec:
        return Spec(self.name, self.variant, 58, self.cell_size, {"cell_size": self.cell_size})

    def __call__(self, images: Images) -> Images:
        return lbp(images, cell_size=self.cell_size, variant=self.variant)

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        planes = decoded(images)
        self.feature_size(*planes.shape[2:])
        lbp_into(planes, features, cell_size=self.cell_size, threads=threads)

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = height // self.cell_size, width // self.cell_size
        if rows < 1 or columns < 1:
            raise ValueError(
                f"an image of {height}×{width} pixels has no LBP cell of {self.cell_size}: "
                f"both sides must be at least {self.cell_size}"
            )
        return rows, columns

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.cell_size, width * self.cell_size
