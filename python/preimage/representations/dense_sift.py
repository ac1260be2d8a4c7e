"""Dense SIFT as a representation."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.ops._images import Images
from preimage.ops.dense_sift import dense_sift, dense_sift_into
from preimage.representations.base import Representation, decoded, register
from preimage.spec import Scalar, Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# The definitions, and the window that each has over the 4×4 bins of a descriptor.
WINDOWS = {"vlfeat-dsift": "gaussian", "vlfeat-dsift-flat": "flat"}


@register
@dataclasses.dataclass(frozen=True)
class DenseSift(Representation):
    """SIFT descriptors on a grid, see `preimage.ops.dense_sift.dense_sift`.

    Attributes:
        step: pixels between neighboring descriptors, at least 1.
        bin_size: side of a bin in pixels, at least 1; a descriptor has 4×4 of them.
        window_size: standard deviation of the window in bins, above 0.
        variant: ``"vlfeat-dsift"`` (Gaussian window) or ``"vlfeat-dsift-flat"`` (VLFeat's fast one).
    """

    name: ClassVar[str] = "dense-sift"
    computes_arrays: ClassVar[bool] = True
    step: int = 4
    bin_size: int = 4
    window_size: float = 2.0
    variant: str = "vlfeat-dsift"

    def __post_init__(self) -> None:
        for name in ("step", "bin_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a whole number of pixels >= 1, got {value!r}")
        size = self.window_size
        if not isinstance(size, int | float) or isinstance(size, bool) or not 0 < size < math.inf:
            raise ValueError(f"window_size is a number of bins above 0, got {size!r}")
        object.__setattr__(self, "window_size", float(size))
        if self.variant not in WINDOWS:
            raise ValueError(f"unknown dense SIFT variant {self.variant!r}; known are {', '.join(WINDOWS)}")

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
                f"an image of {height}×{width} pixels has no room for a descriptor with bins of {self.bin_size}: "
                f"both sides must be at least {least}"
            )
        return (height - least) // self.step + 1, (width - least) // self.step + 1

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        least = 3 * self.bin_size + 1
        return (height - 1) * self.step + least, (width - 1) * self.step + least
