"""Measure whether samples are calibrated: whether they differ from each other as the true images differ from them.

Values are averages over squares of several sizes, from the mean color of the image to single pixels, because samples
can have too little spread in colors and too much in texture, or the reverse.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from preimage.metrics import LUMA, luma

_BANDS = {"mean color": 0, "32 px": 32, "8 px": 8, "1 px": 1}  # side of the squares in pixels, 0 for the whole image
_GRID = 8  # pixels between those whose ranks are counted
_TIED = 1e-6  # difference of values that count as equal, as clamped ones do; a gray level is 4e-3
_LUMA = torch.tensor([LUMA], dtype=torch.float64)
# Linear maps from RGB to the planes of which variances are averaged.
_PLANES = {
    "all": torch.eye(3, dtype=torch.float64),
    "luminance": _LUMA,
    "chroma": torch.eye(3, dtype=torch.float64) - _LUMA,
}


@dataclasses.dataclass(frozen=True)
class SpreadSkill:
    """Spread of the draws and error of their mean, in one band.

    Attributes:
        band: ``"mean color"`` of the image, or averages over squares of ``"32 px"``, ``"8 px"`` or ``"1 px"``.
        planes: ``"all"`` three channels, their ``"luminance"`` (Rec. 601 luma), or ``"chroma"``, the channels minus it.
        spread: √(mean variance over the n draws · (1 + 1/n)), the error that the mean of the draws would have if the
            true image were one more draw.
        skill: Root mean square error of the mean of the draws.
        ratio: Spread divided by skill: 1 if the draws are calibrated, less if they differ too little. NaN without
            error.
    """

    band: str
    planes: str
    spread: float
    skill: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class RankHistogram:
    """Frequencies of the rank of the true value among the values of the draws, in one band.

    Attributes:
        band: See `SpreadSkill`. Of single pixels, one in eight by eight is counted.
        planes: ``"channels"``, the three channels together, or ``"luminance"`` (Rec. 601 luma).
        frequencies: Fraction of the true values with each of the n + 1 ranks, the first below all draws. All are
            1 / (n + 1) if the draws are calibrated, and the first and last ones are larger if they differ too little.
        reliability_index: Sum of the absolute differences of the frequencies from 1 / (n + 1), from 0 to 2 (Delle
            Monache et al., 2006).
        outside: Fraction of the true values below or above all draws; 2 / (n + 1) if the draws are calibrated.
    """

    band: str
    planes: str
    frequencies: tuple[float, ...]
    reliability_index: float
    outside: float


class Draws:
    """Statistics of the draws of one batch of images, collected draw by draw.

    Args:
        targets: The true images, (B, 3, H, W) float32 in [0, 1].

    Attributes:
        count: Number of draws so far.
    """

    def __init__(self, targets: torch.Tensor) -> None:
        self.count = 0
        shortest = min(targets.shape[2:])
        self._bands = {name: _Band(targets, side) for name, side in _BANDS.items() if side <= shortest}

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def mean(self) -> torch.Tensor:
        """The mean of the draws, (B, 3, H, W)."""
        return self._bands["1 px"].mean

    @property
    def deviation(self) -> torch.Tensor:
        """The root mean square standard deviation of the values of each image, (B,) float64; for two or more draws."""
        squares = self._bands["1 px"].squares.diagonal(dim1=1, dim2=2).sum(dim=1)
        return (squares / (self.mean[0].numel() * (self.count - 1))).sqrt()

    @property
    def bands(self) -> dict[str, _Band]:
        """Statistics by the name of the band; bands of squares larger than the images are left out."""
        return self._bands

    def add(self, images: torch.Tensor) -> None:
        """Add a draw for each image of the batch, (B, 3, H, W) like the true images and on their device."""
        self.count += 1
        for band in self._bands.values():
            band.add(images, self.count)


class Calibration:
    """Accumulate `Draws` over batches of images of one size.

    Args:
        count: Number of draws for each image, at least 2.
        seed: Seed for the rank of a true value among draws that are equal to it.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        if count < 2:
            raise ValueError(f"a spread needs at least 2 draws, got {count}")
        self._count, self._seed = count, seed
        self._totals: dict[str, _Total] = {}

    def add(self, draws: Draws, positions: Sequence[int]) -> None:
        """Add the draws of a batch.

        Args:
            draws: Statistics of as many draws as the calibration is for.
            positions: Position of each image among all images, so that ranks do not depend on the batches.
        """
        if (draws.count, len(draws)) != (self._count, len(positions)):
            raise ValueError(
                f"expected {self._count} draws for {len(positions)} images, got {draws.count} for {len(draws)}"
            )
        # The number of the draw is one that no noise is keyed by.
        generators = [np.random.default_rng([self._seed, position, self._count]) for position in positions]
        for name, band in draws.bands.items():
            total = self._totals.setdefault(name, _Total(self._count))
            total.values += band.mean[:, 0].numel()
            total.variance += band.squares.sum(dim=0).cpu() / (self._count - 1)
            total.error += _products(band.mean - band.truth).sum(dim=0).cpu()
            ranks = band.ranks(generators)
            for planes, part in (("channels", ranks[:, :3]), ("luminance", ranks[:, 3:])):
                total.ranks[planes] += torch.bincount(part.flatten(), minlength=self._count + 1)

    def spread_skill(self) -> tuple[SpreadSkill, ...]:
        """Return spread and skill of each band, of all channels, of luminance and of chroma."""
        found = []
        for band, total in self._totals.items():
            for planes, axes in _PLANES.items():
                spread = math.sqrt(total.mean_square(total.variance, axes) * (1 + 1 / self._count))
                skill = math.sqrt(total.mean_square(total.error, axes))
                found.append(SpreadSkill(band, planes, spread, skill, spread / skill if skill else math.nan))
        return tuple(found)

    def rank_histograms(self) -> tuple[RankHistogram, ...]:
        """Return the rank histograms of each band, of the channels and of luminance."""
        found = []
        for band, total in self._totals.items():
            for planes, counts in total.ranks.items():
                frequencies = (counts.double() / counts.sum()).tolist()
                index = sum(abs(frequency - 1 / len(frequencies)) for frequency in frequencies)
                outside = frequencies[0] + frequencies[-1]
                found.append(RankHistogram(band, planes, tuple(frequencies), index, outside))
        return tuple(found)


class _Band:
    """Statistics of one batch in one band.

    Attributes:
        truth: Averages of the true images, (B, 3, h, w).
        mean: Mean over the draws, (B, 3, h, w).
        squares: Products of two channels' deviations from the mean, summed over draws and squares, (B, 3, 3) float64.
    """

    def __init__(self, targets: torch.Tensor, side: int) -> None:
        self._side = side
        self.truth = _averaged(targets, side)
        self.mean = torch.zeros_like(self.truth)
        self.squares = targets.new_zeros(len(targets), 3, 3, dtype=torch.float64)
        self._ranked = self._ranked_values(self.truth)
        self._below = torch.zeros_like(self._ranked, dtype=torch.int64)
        self._tied = torch.zeros_like(self._below)

    def add(self, images: torch.Tensor, count: int) -> None:
        values = _averaged(images, self._side)
        difference = values - self.mean  # Welford's sums
        self.mean += difference / count
        self.squares += _products(difference) * ((count - 1) / count)
        above = self._ranked - self._ranked_values(values)
        self._below += above > _TIED
        self._tied += above.abs() <= _TIED

    def ranks(self, generators: Sequence[np.random.Generator]) -> torch.Tensor:
        """Return how many draws are below the true values of RGB and luma, (B, 4, h, w); of equal ones, any number."""
        tied = self._tied.cpu().numpy()
        broken = [generator.integers(one + 1) for generator, one in zip(generators, tied, strict=True)]
        return self._below.cpu() + torch.from_numpy(np.stack(broken))

    def _ranked_values(self, values: torch.Tensor) -> torch.Tensor:
        if self._side == 1:
            top, left = (min(_GRID, size) // 2 for size in values.shape[2:])
            values = values[:, :, top::_GRID, left::_GRID]
        return torch.cat([values, luma(values)[:, None]], dim=1)


class _Total:
    """Sums over all images in one band.

    Attributes:
        values: Number of squares of all images.
        variance: Covariance of the channels over the draws, summed over all squares, (3, 3) float64.
        error: Products of two channels' errors of the mean of the draws, summed likewise.
        ranks: Number of true values by rank.
    """

    def __init__(self, count: int) -> None:
        self.values = 0
        self.variance = torch.zeros(3, 3, dtype=torch.float64)
        self.error = torch.zeros(3, 3, dtype=torch.float64)
        self.ranks = {planes: torch.zeros(count + 1, dtype=torch.int64) for planes in ("channels", "luminance")}

    def mean_square(self, products: torch.Tensor, axes: torch.Tensor) -> float:
        """Return the mean over squares and planes of the squares whose products of channels are given."""
        return max(0.0, float((axes @ products @ axes.T).trace())) / (self.values * len(axes))


def _averaged(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return averages over squares; rows and columns that are left over are cropped on both sides."""
    if side == 0:
        return images.mean(dim=(2, 3), keepdim=True)
    if side == 1:
        return images
    top, left = (size % side // 2 for size in images.shape[2:])
    return F.avg_pool2d(images[:, :, top:, left:], side)


def _products(differences: torch.Tensor) -> torch.Tensor:
    """Return the products of two channels (B, 3, h, w), summed over each image, (B, 3, 3) float64."""
    flat = differences.flatten(2)
    return (flat @ flat.mT).double()
