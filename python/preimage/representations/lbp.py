"""LBP as a representation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.ops._images import Images
from preimage.ops.lbp import VARIANTS, lbp, lbp_into
from preimage.representations.base import Presets, decoded, parameter
from preimage.representations.cells import CellRepresentation
from preimage.representations.registry import register
from preimage.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@register
@dataclasses.dataclass(frozen=True)
class Lbp(CellRepresentation):
    """Histograms of uniform local binary patterns, see `preimage.lbp`."""

    name = "lbp"
    title = "LBP"
    summary = "Histograms of local binary patterns in square cells (VLFeat's vl_lbp)."
    channels = 58
    channel_names = (
        *(f"{length} brighter neighbors from {45 * bit}°" for bit in range(8) for length in range(1, 8)),
        "none or all brighter",
        "several runs",
    )
    variants = VARIANTS
    drawing = "edges colored by their brighter side"
    keeps_color = False
    computes_arrays = True
    presets: ClassVar[Presets] = {
        "paper": {
            "architecture": "two-stream",
            "context": ["c5/2 256", "c5/2 512", "c3/1 1024", "up 512", "up 256"],
            "joint": ["c3/1 256", "c3/1 128", "up 128", "up 64", "up 32", "up 3"],
        },
        "compact": {"architecture": "u-shaped", "entry": ["c3/1 64", "up 48"]},
    }

    cell_size: int = parameter(16, "Side of a cell in pixels.")
    variant: str = parameter("vlfeat-uniform", "Definition of the features: vlfeat-uniform.")

    def __call__(self, images: Images) -> Images:
        return lbp(images, cell_size=self.cell_size, variant=self.variant)

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        planes = decoded(images)
        self.feature_size(*planes.shape[2:])
        lbp_into(planes, features, cell_size=self.cell_size, threads=threads)

    @classmethod
    def draw(
        cls, spec: Spec, features: npt.NDArray[Any], tile: int, image: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.uint8]:
        from preimage.viz.glyphs.lbp import lbp_map

        return lbp_map(features, max(6, round(tile / max(features.shape[1:]))))

    @classmethod
    def explain(cls, spec: Spec, shape: tuple[int, ...]) -> str:
        return (
            f"the frequency of {shape[0]} patterns of brighter neighbors, regardless of how much brighter they are, "
            f"in each cell of {spec.stride} × {spec.stride} pixels: {shape[1]} × {shape[2]} cells."
        )
