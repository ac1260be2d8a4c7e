"""Compare predicted with true chroma: by wavelength, and by hue of the true color."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from preimage.studies.image_bands import GRAY_CHROMA, OctaveBands, dct, hue, to_opponent

# Sectors of 60° of the hue, from red at 0°; names of their middles.
SECTORS = ("orange", "chartreuse", "spring green", "azure", "violet", "rose")
TYPICAL = {"orange": "skin, wood, earth", "chartreuse": "grass, leaves", "azure": "sky, water"}
COLORED = 0.1  # minimum chroma of a region with color
REGIONS = 16  # regions along a side of an image
_NO_ENERGY = 1e-12  # mean square of chroma that is only rounding


@dataclasses.dataclass(frozen=True)
class BandChroma:
    """Predicted and true chroma in one band.

    Attributes:
        band: Name of the band, see `preimage.studies.image_bands.OctaveBands`; ``"all"`` for all together.
        energy: Share of the squared true chroma; of the mean color, of its squared distance to the constant prediction.
        correlation: Correlation of predicted and true coefficients; ``None`` where one of them is constant.
        slope: Slope of the regression of predicted on true coefficients: amplitude that is predicted.
        recovered: 1 − squared error / squared error of a constant color, the mean chroma of all images.
    """

    band: str
    energy: float
    correlation: float | None
    slope: float | None
    recovered: float | None


@dataclasses.dataclass(frozen=True)
class SectorChroma:
    """Predicted chroma of regions whose true hue is in one sector.

    Attributes:
        sector: Name of the sector.
        regions: Number of regions.
        images: Number of images with such a region.
        recall: Share of the regions whose predicted hue is in the sector; ``None`` without regions.
        constant_recall: The same for a constant color, the mean chroma of all images: 0 or 1.
        precision: Share of the regions predicted to be in the sector that are; ``None`` if none is.
        slope: Slope of the regression of predicted on true chroma: how much of the color is predicted.
        recovered: 1 − squared error / squared error of the constant color.
        predicted: Share of the regions by predicted sector, in the order of `SECTORS`.
    """

    sector: str
    regions: int
    images: int
    recall: float | None
    constant_recall: float
    precision: float | None
    slope: float | None
    recovered: float | None
    predicted: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ChromaScores:
    """Predicted and true chroma of a set of images.

    Attributes:
        images: Number of images.
        colored_images: Number of images with color.
        bands: Scores by band, the first of which is of all together.
        sectors: Scores by hue sector.
        accuracy: Share of the regions with color whose predicted hue is in the right sector; ``None`` without regions.
        constant_accuracy: The same for the constant color.
    """

    images: int
    colored_images: int
    bands: tuple[BandChroma, ...]
    sectors: tuple[SectorChroma, ...]
    accuracy: float | None
    constant_accuracy: float | None


class ChromaMeasurement:
    """Collect predicted and true chroma, batch by batch.

    Args:
        side: Side of the images in pixels, at least 16.
    """

    def __init__(self, side: int) -> None:
        if side < REGIONS:
            raise ValueError(f"images must have at least {REGIONS} pixels a side, got {side}")
        self._bands = OctaveBands(side, side)
        self._pixels = side * side
        # Squares of the true and of the predicted chroma, their products, and squared errors.
        self._band_sums = torch.zeros(4, len(self._bands)).double()
        self._means: list[torch.Tensor] = []  # (B, 2, 2): mean of the true and of the predicted chroma
        self._colored = 0
        sectors = len(SECTORS)
        self._counts = torch.zeros(sectors, sectors, dtype=torch.long)
        self._images = torch.zeros(sectors, dtype=torch.long)
        self._sum = torch.zeros(sectors, 2).double()
        # Squares of the true chroma, products with the predicted one, and squared errors, by true sector.
        self._region_sums = torch.zeros(sectors, 3).double()

    def add(self, target: torch.Tensor, reconstruction: torch.Tensor) -> None:
        """Add images and their reconstructions, both (B, 3, H, W) in [0, 1]."""
        true, made = (to_opponent(images.double())[:, 1:] for images in (target, reconstruction))
        self._means.append(torch.stack([true.mean(dim=(2, 3)), made.mean(dim=(2, 3))], dim=1))
        self._colored += int((true.square().sum(dim=1).mean(dim=(1, 2)).sqrt() >= GRAY_CHROMA).sum())
        x, y = dct(true), dct(made)
        products = torch.stack([x.square(), y.square(), x * y, (x - y).square()])
        self._band_sums += self._bands.sums(products).sum(dim=(1, 2))
        self._add_regions(true, made)

    def _add_regions(self, true: torch.Tensor, made: torch.Tensor) -> None:
        true, made = F.adaptive_avg_pool2d(true, REGIONS), F.adaptive_avg_pool2d(made, REGIONS)
        colored = true.norm(dim=1) >= COLORED
        sector, guess = ((hue(chroma) // 60).long().clamp(0, 5) for chroma in (true, made))
        count = len(SECTORS)
        self._counts += torch.bincount((sector * count + guess)[colored], minlength=count**2).view(count, count)
        for index in range(count):
            there = colored & (sector == index)
            self._images[index] += there.flatten(1).any(dim=1).sum()
            x, y = true.movedim(1, -1)[there], made.movedim(1, -1)[there]
            self._sum[index] += x.sum(dim=0)
            self._region_sums[index] += torch.stack([x.square().sum(), (x * y).sum(), (x - y).square().sum()])

    def scores(self) -> ChromaScores:
        """Return the scores; ``ValueError`` if no image has color."""
        means = torch.cat(self._means)
        images = len(means)
        if not self._colored:
            raise ValueError(f"the study needs images with color, but all of the {images} images are gray")
        true, made = means[:, 0], means[:, 1]
        constant = true.mean(dim=0)
        return ChromaScores(
            images,
            self._colored,
            self._band_scores(true, made),
            tuple(self._sector_score(index, constant) for index in range(len(SECTORS))),
            _ratio(float(self._counts.diagonal().sum()), float(self._counts.sum())),
            _ratio(float(self._counts[_sector(constant)].sum()), float(self._counts.sum())),
        )

    def _band_scores(self, true: torch.Tensor, made: torch.Tensor) -> tuple[BandChroma, ...]:
        """Return the scores by band, from the mean chroma (N, 2) of each image."""
        sums = self._band_sums.clone()
        x, y = true - true.mean(dim=0), made - made.mean(dim=0)
        # The mean colors are compared with their mean: a constant color is no achievement.
        sums[:3, 0] = self._pixels * torch.stack([x.square().sum(), y.square().sum(), (x * y).sum()])
        columns = torch.cat([sums.sum(dim=1, keepdim=True), sums], dim=1)
        least = _NO_ENERGY * len(true) * self._pixels
        whole = float(columns[0, 0])
        return tuple(
            _band(name, values, whole, least)
            for name, values in zip(("all", *self._bands.names), columns.T.tolist(), strict=True)
        )

    def _sector_score(self, index: int, constant: torch.Tensor) -> SectorChroma:
        row, column = self._counts[index], self._counts[:, index]
        count, right = int(row.sum()), int(row[index])
        squares, products, errors = self._region_sums[index].tolist()
        constant_errors = float(squares - 2 * constant @ self._sum[index] + count * constant.square().sum())
        return SectorChroma(
            SECTORS[index],
            count,
            int(self._images[index]),
            _ratio(right, count),
            float(_sector(constant) == index),
            _ratio(right, float(column.sum())),
            _ratio(products, squares),
            None if constant_errors <= 0 else 1 - errors / constant_errors,
            tuple(float(share) / max(1, count) for share in row),
        )


def _band(name: str, values: Sequence[float], whole: float, least: float) -> BandChroma:
    true, made, both, error = values
    if true <= least:
        return BandChroma(name, true / whole if whole else 0.0, None, None, None)
    correlation = both / math.sqrt(true * made) if made > least else None
    return BandChroma(name, true / whole, correlation, both / true, 1 - error / true)


def _sector(chroma: torch.Tensor) -> int:
    """Return the index of the sector of chroma (2,)."""
    return min(5, int(float(hue(chroma[:, None, None])) // 60))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
