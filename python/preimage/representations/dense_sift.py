"""Dense SIFT as a representation."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.keypoints import DESCRIPTOR_NAMES
from preimage.ops._images import Images
from preimage.ops.dense_sift import dense_sift, dense_sift_into
from preimage.representations.base import Presets, Representation, decoded, parameter
from preimage.representations.registry import register
from preimage.spec import Scalar, Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Window over the 4×4 bins of a descriptor, by variant.
WINDOWS = {"vlfeat-dsift": "gaussian", "vlfeat-dsift-flat": "flat"}


@register
@dataclasses.dataclass(frozen=True)
class DenseSift(Representation):
    """SIFT descriptors on a dense grid, see `preimage.dense_sift`."""

    name = "dense-sift"
    title = "dense SIFT"
    summary = "SIFT descriptors on a dense grid (VLFeat's vl_dsift)."
    channel_names = DESCRIPTOR_NAMES
    drawing = "stars of gradients"
    keeps_color = False
    computes_arrays = True
    # A descriptor extends 6 pixels to each side of its center, so the first center is one cell inside the image.
    presets: ClassVar[Presets] = {"compact": {"architecture": "u-shaped", "entry": ["c3/2 64"], "margin": [1, 2]}}

    step: int = parameter(4, "Pixels between neighboring descriptors.")
    bin_size: int = parameter(4, "Side of a spatial bin in pixels; a descriptor has 4×4 bins.")
    window_size: float = parameter(2.0, "Standard deviation of the Gaussian window in bins.")
    variant: str = parameter(
        "vlfeat-dsift", "Window: vlfeat-dsift (Gaussian) or vlfeat-dsift-flat (VLFeat's fast approximation)."
    )

    def __post_init__(self) -> None:
        for name in ("step", "bin_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        size = self.window_size
        if not isinstance(size, int | float) or isinstance(size, bool) or not 0 < size < math.inf:
            raise ValueError(f"window_size must be a number above 0, got {size!r}")
        object.__setattr__(self, "window_size", float(size))
        if self.variant not in WINDOWS:
            raise ValueError(f"variant must be one of {', '.join(WINDOWS)}, got {self.variant!r}")

    @property
    def spec(self) -> Spec:
        parameters: dict[str, Scalar] = {
            "step": self.step,
            "bin_size": self.bin_size,
            "window_size": self.window_size,
        }
        return Spec(self.name, self.variant, channels=128, stride=self.step, parameters=parameters)

    def __call__(self, images: Images) -> Images:
        return dense_sift(
            images,
            step=self.step,
            bin_size=self.bin_size,
            window=WINDOWS[self.variant],
            window_size=self.window_size,
        )

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        planes = decoded(images)
        self.feature_size(*planes.shape[2:])
        dense_sift_into(
            planes,
            features,
            step=self.step,
            bin_size=self.bin_size,
            window=WINDOWS[self.variant],
            window_size=self.window_size,
            threads=threads,
        )

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        least = 3 * self.bin_size + 1
        if height < least or width < least:
            raise ValueError(
                f"an image of {height}×{width} pixels is too small for a descriptor with bin_size {self.bin_size}: "
                f"both sides must be at least {least}"
            )
        return (height - least) // self.step + 1, (width - least) // self.step + 1

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        least = 3 * self.bin_size + 1
        return (height - 1) * self.step + least, (width - 1) * self.step + least

    @classmethod
    def draw(
        cls, spec: Spec, features: npt.NDArray[Any], tile: int, image: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.uint8]:
        from preimage.viz.glyphs.dense_sift import sift_glyphs

        return sift_glyphs(features, tile)

    @classmethod
    def explain(cls, spec: Spec, shape: tuple[int, ...]) -> str:
        size = spec.parameters["bin_size"]
        return (
            f"the strength of the gradients in 8 directions in 4 × 4 bins of {size} × {size} pixels, every "
            f"{spec.stride} pixels: {shape[1]} × {shape[2]} descriptors of {shape[0]} numbers."
        )
