"""HOG as a representation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.ops._images import Images
from preimage.ops._sizes import cell_count
from preimage.ops.hog import COLORS, VARIANTS, hog, hog_into
from preimage.representations.base import Representation, decoded, register
from preimage.spec import Scalar, Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@register
@dataclasses.dataclass(frozen=True)
class Hog(Representation):
    """Histograms of oriented gradients, see `preimage.hog`."""

    name: ClassVar[str] = "hog"
    computes_arrays: ClassVar[bool] = True
    cell_size: int = 8
    variant: str = "vlfeat-uoctti"
    color: str = "luma"

    def __post_init__(self) -> None:
        if not isinstance(self.cell_size, int) or isinstance(self.cell_size, bool) or self.cell_size < 1:
            raise ValueError(f"cell_size is a whole number of pixels >= 1, got {self.cell_size!r}")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown HOG variant {self.variant!r}; known is 'vlfeat-uoctti'")
        if self.color not in COLORS:
            raise ValueError(f"color is 'luma' or 'strongest', got {self.color!r}")

    @property
    def spec(self) -> Spec:
        parameters: dict[str, Scalar] = {"cell_size": self.cell_size, "color": self.color}
        return Spec(self.name, self.variant, channels=31, stride=self.cell_size, parameters=parameters)

    def __call__(self, images: Images) -> Images:
        return hog(images, cell_size=self.cell_size, variant=self.variant, color=self.color)

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        planes = decoded(images)
        self.feature_size(*planes.shape[2:])
        hog_into(planes, features, cell_size=self.cell_size, color=self.color, threads=threads)

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = (cell_count(side, self.cell_size) for side in (height, width))
        if rows < 1 or columns < 1:
            least = self.cell_size - self.cell_size // 2
            raise ValueError(
                f"an image of {height}×{width} pixels has no HOG cell of {self.cell_size}: "
                f"both sides must be at least {least}"
            )
        return rows, columns

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.cell_size, width * self.cell_size
