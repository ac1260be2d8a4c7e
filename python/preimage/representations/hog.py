"""HOG as a representation."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.ops._block_options import BlockOptions, check_unused
from preimage.ops._images import Images, check_positive_int
from preimage.ops._output_sizes import cell_count
from preimage.ops.hog import COLORS, VARIANTS, hog, hog_into
from preimage.ops.hog_dalal_triggs import dalal_triggs_into
from preimage.representations.base import Presets, decoded, parameter
from preimage.representations.cells import CellRepresentation
from preimage.representations.registry import register
from preimage.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DALAL_TRIGGS = "dalal-triggs"
# Parameters of this variant, which the spec of the other variant does not contain.
_OF_BLOCKS = ("orientations", "block_size", "block_norm", "transform_sqrt")


@register
@dataclasses.dataclass(frozen=True)
class Hog(CellRepresentation):
    """Histograms of oriented gradients, see `preimage.hog`.

    The variant ``dalal-triggs`` has a feature vector for each block of cells. Blocks overlap, and the first one is in
    the image's upper left corner.
    """

    name = "hog"
    title = "HOG"
    summary = "Histograms of oriented gradients in square cells (VLFeat's vl_hog, or scikit-image's hog)."
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
    variant: str = parameter("vlfeat-uoctti", "Definition: vlfeat-uoctti, or dalal-triggs (scikit-image's).")
    color: str = parameter("luma", "Gradient of a color image: of its luma, or of its strongest channel (strongest).")
    orientations: int = parameter(9, "Undirected orientations of gradients; for dalal-triggs.")
    block_size: int = parameter(3, "Side of a block in cells; for dalal-triggs.")
    block_norm: str = parameter("L2-Hys", "Normalization of a block: L1, L1-sqrt, L2 or L2-Hys; for dalal-triggs.")
    transform_sqrt: bool = parameter(False, "Whether to take the square root of pixels first; for dalal-triggs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.color not in COLORS:
            raise ValueError(f"color must be luma or strongest, got {self.color!r}")
        try:
            if self.has_blocks:
                check_positive_int("block_size", self.block_size, "cell")  # not a pair: blocks are square
                self._set_channels(self._options())
            else:
                check_unused(self.orientations, self.block_size, self.block_norm, self.transform_sqrt)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def _set_channels(self, options: BlockOptions) -> None:
        names = tuple(_block_channel_names(self.orientations, self.block_size))
        for name, value in (("channels", options.channels), ("channel_names", names)):
            object.__setattr__(self, name, value)

    def _options(self) -> BlockOptions:
        """Return the checked parameters of the variant with blocks."""
        return BlockOptions.checked(*(getattr(self, name) for name in ("cell_size", "color", *_OF_BLOCKS)))

    @property
    def has_blocks(self) -> bool:
        """Return whether a feature vector is that of a block of cells, not of a cell."""
        return self.variant == DALAL_TRIGGS

    @property
    def spec(self) -> Spec:
        spec = super().spec
        if self.has_blocks:
            return spec
        parameters = {name: value for name, value in spec.parameters.items() if name not in _OF_BLOCKS}
        return dataclasses.replace(spec, parameters=parameters)

    @classmethod
    def presets_of(cls, spec: Spec) -> Presets:
        block = _block_size(spec)
        if block is None:
            return cls.presets
        # The first block's center is at block / 2 cells, so that maps are extended to all cells of the image. With an
        # even number of cells the network learns to move them by the remaining half cell.
        before = (block - 1) // 2
        return {name: {**fields, "margin": [before, block - 1 - before]} for name, fields in cls.presets.items()}

    def __call__(self, images: Images) -> Images:
        return hog(images, **self._settings())

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        planes = decoded(images)
        self.feature_size(*planes.shape[2:])
        if self.has_blocks:
            dalal_triggs_into(planes, features, self._options(), threads=threads)
            return
        hog_into(planes, features, cell_size=self.cell_size, color=self.color, threads=threads)

    def cell_count(self, pixels: int) -> int:
        """Return the number of cells, or of blocks, along a side of the image."""
        if self.has_blocks:
            return max(0, self._options().grid(pixels, pixels)[0])
        return cell_count(pixels, self.cell_size)

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        if self.has_blocks and not (self.cell_count(height) and self.cell_count(width)):
            raise ValueError(
                f"an image of {height}×{width} pixels has no block of {self.block_size}×{self.block_size} HOG cells of "
                f"{self.cell_size} pixels: both sides must be at least {self.block_size * self.cell_size}"
            )
        return super().feature_size(height, width)

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        more = self.block_size - 1 if self.has_blocks else 0
        return super().image_size(height + more, width + more)

    @classmethod
    def draw(
        cls, spec: Spec, features: npt.NDArray[Any], tile: int, image: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.uint8]:
        from preimage.viz.glyphs.hog import hog_block_glyphs, hog_glyphs

        block = _block_size(spec)
        cells = max(features.shape[1:]) + (0 if block is None else block - 1)
        pixels = max(6, round(tile / cells))
        return hog_glyphs(features, pixels) if block is None else hog_block_glyphs(features, block, pixels)

    @classmethod
    def explain(cls, spec: Spec, shape: tuple[int, ...]) -> str:
        block, side = _block_size(spec), f"{spec.stride} × {spec.stride} pixels"
        if block is None:
            return (
                f"the strength of the edges in each direction in each cell of {side}: "
                f"{shape[1]} × {shape[2]} cells of {shape[0]} numbers."
            )
        return (
            f"the strength of the edges in {spec.parameters['orientations']} orientations in each cell of {side}, "
            f"relative to its block of {block} × {block} cells: {shape[1]} × {shape[2]} overlapping blocks of "
            f"{shape[0]} numbers."
        )

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `preimage.hog`."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return settings if self.has_blocks else {name: settings[name] for name in settings if name not in _OF_BLOCKS}


def _block_size(spec: Spec) -> int | None:
    """Return the number of cells along a side of a block; ``None`` if features are those of cells."""
    return int(spec.parameters["block_size"] or 1) if spec.variant == DALAL_TRIGGS else None


def _block_channel_names(orientations: int, block_size: int) -> list[str]:
    """Return the names of a block's channels; a direction is the middle of its bin."""
    directions = [f"{180 * (k + 0.5) / orientations:g}°" for k in range(orientations)]
    cells = itertools.product(range(block_size), repeat=2)
    return [f"cell ({row}, {column}), gradient {direction}" for row, column in cells for direction in directions]
