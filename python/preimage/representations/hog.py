"""HOG as a representation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.ops._images import Images
from preimage.ops._output_sizes import cell_count
from preimage.ops.hog import COLORS, VARIANTS, hog, hog_into
from preimage.representations.base import Presets, decoded, parameter
from preimage.representations.cells import CellRepresentation
from preimage.representations.registry import register
from preimage.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@register
@dataclasses.dataclass(frozen=True)
class Hog(CellRepresentation):
    """Histograms of oriented gradients, see `preimage.hog`."""

    name = "hog"
    title = "HOG"
    summary = "Histograms of oriented gradients in square cells (VLFeat's vl_hog)."
    channels = 31
    channel_names = (
        *(f"gradient {20 * k}°" for k in range(18)),
        *(f"undirected gradient {20 * k}°" for k in range(9)),
        *(f"texture, {corner} cells" for corner in ("upper left", "upper right", "lower left", "lower right")),
    )
    variants = VARIANTS
    drawing = "edge strokes"
    keeps_color = False
    computes_arrays = True
    presets: ClassVar[Presets] = {"paper": {"architecture": "two-stream"}, "compact": {"architecture": "u-shaped"}}

    cell_size: int = parameter(8, "Side of a cell in pixels.")
    variant: str = parameter("vlfeat-uoctti", "Definition of the features: vlfeat-uoctti.")
    color: str = parameter("luma", "Gradient of a color image: of its luma, or of its strongest channel (strongest).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.color not in COLORS:
            raise ValueError(f"color must be luma or strongest, got {self.color!r}")

    def __call__(self, images: Images) -> Images:
        return hog(images, cell_size=self.cell_size, variant=self.variant, color=self.color)

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        planes = decoded(images)
        self.feature_size(*planes.shape[2:])
        hog_into(planes, features, cell_size=self.cell_size, color=self.color, threads=threads)

    def cell_count(self, pixels: int) -> int:
        return cell_count(pixels, self.cell_size)

    @classmethod
    def draw(
        cls, spec: Spec, features: npt.NDArray[Any], tile: int, image: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.uint8]:
        from preimage.viz.glyphs.hog import hog_glyphs

        return hog_glyphs(features, max(6, round(tile / max(features.shape[1:]))))

    @classmethod
    def explain(cls, spec: Spec, shape: tuple[int, ...]) -> str:
        return (
            f"the strength of the edges in each direction in each cell of {spec.stride} × {spec.stride} pixels: "
            f"{shape[1]} × {shape[2]} cells of {shape[0]} numbers."
        )
