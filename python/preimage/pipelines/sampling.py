"""Settings of the samples that are drawn beside a reconstruction, and their deviation in each pixel."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from preimage.inverters.sampler import check_noise

if TYPE_CHECKING:
    import torch

MOST_SAMPLES = 1000  # per image; more would fill the memory
WHITE_DEVIATION = 0.5  # standard deviation drawn white: half black and half white have no larger one


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Samples to draw for each image.

    Attributes:
        count: Number of samples, at most `MOST_SAMPLES`; 0 for none.
        seed: Seed of their noise, from 0 to 2^32 - 1; 0 without samples.
        spread: Factor of their noise, from 0 to 10; 1 without samples.

    Raises:
        ValueError: A value outside these ranges.
    """

    count: int = 0
    seed: int = 0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MOST_SAMPLES:
            raise ValueError(f"samples must be from 0 to {MOST_SAMPLES}, got {self.count}")
        check_noise(self.seed, self.spread)
        if not self.count and (self.seed, self.spread) != (0, 1.0):
            raise ValueError(f"seed and spread are for samples, got {self.seed} and {self.spread} without samples")

    @property
    def has_deviation(self) -> bool:
        """Return whether there are enough samples for a standard deviation."""
        return self.count > 1

    @property
    def files(self) -> int:
        """Number of files of an image: its reconstruction, its samples, and their deviation."""
        return 1 + self.count + self.has_deviation


def pixel_deviation(
    samples: torch.Tensor,  # [..., n, 3, H, W]
) -> torch.Tensor:  # [..., H, W]
    """Return the standard deviation of n samples, the root mean square of those of the three channels."""
    return samples.var(dim=-4).mean(dim=-3).sqrt()


def from_gray_levels(
    levels: npt.NDArray[np.uint8],  # [...]
) -> npt.NDArray[np.float32]:  # [...]
    """Return the deviations of `gray_levels`, up to rounding."""
    return levels.astype(np.float32) * np.float32(WHITE_DEVIATION / 255)


def gray_levels(
    deviation: torch.Tensor,  # [..., H, W]
) -> torch.Tensor:  # [..., H, W] uint8
    """Return deviations as gray levels: 0 for 0, 255 for `WHITE_DEVIATION` and more."""
    return (deviation * (255 / WHITE_DEVIATION)).round().clamp(0, 255).byte()
