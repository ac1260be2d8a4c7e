"""Measure the squared error of reconstructions in parts: luminance and chroma, by wavelength."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from preimage.pipelines.image_loading import as_pixels
from preimage.pipelines.reconstruct import Comparison
from preimage.studies.base import SheetRow
from preimage.studies.image_bands import OctaveBands, dct, from_opponent, inverse_dct, to_opponent

_PLANES = {"luminance": slice(0, 1), "chroma": slice(1, 3)}
KINDS = tuple(_PLANES)
PARTS = ("mean brightness", "coarse luminance", "fine luminance", "coarse chroma", "fine chroma")
GAIN = 2.0  # contrast of the parts on the sheet
# Squared distance to the mean image, of one image, that is only rounding; one level in one pixel has 1.5e-5.
_NO_ENERGY = 1e-6


@dataclasses.dataclass(frozen=True)
class BandError:
    """Squared error in one band.

    Attributes:
        band: Name of the band, see `preimage.studies.image_bands.OctaveBands`.
        kind: ``"luminance"`` or ``"chroma"``.
        error: Share of the whole squared error; all bands of both kinds add up to 1.
        energy: Share of the squared distance of the images to their mean image; adds up to 1 as well.
        recovered: 1 − squared error / squared distance of the images to their mean image, in this band: 1 for perfect
            reconstructions, 0 for the mean image; ``None`` if the images do not differ in this band.
    """

    band: str
    kind: str
    error: float
    energy: float
    recovered: float | None


class Budget(NamedTuple):
    """Squared error by part and by band, see `BudgetSummary`."""

    images: int
    coarse: int
    mean_squared_error: float
    mean_image_squared_error: float
    parts: dict[str, float]
    bands: tuple[BandError, ...]

    @property
    def recovered(self) -> float:
        """1 − squared error / squared distance of the images to their mean image."""
        return 1 - self.mean_squared_error / self.mean_image_squared_error

    def recovered_of(self, kind: str) -> float | None:
        """Return `recovered` of the luminance or the chroma; ``None`` if the images do not differ in it."""
        bands = self.of(kind)
        if all(band.recovered is None for band in bands):
            return None
        error = self.mean_squared_error * sum(band.error for band in bands)
        return 1 - error / (self.mean_image_squared_error * sum(band.energy for band in bands))

    def of(self, kind: str) -> list[BandError]:
        """Return the bands of one kind, from long to short wavelengths."""
        return [band for band in self.bands if band.kind == kind]


class BudgetMeasurement:
    """Sums of squared coefficients of the images and of the differences, and the rows of the sheet.

    Args:
        bands: Bands of the coefficients.
        coarse: Wavelength in pixels from which on a band is coarse.
        shown: Indices of the images on the sheet.
    """

    def __init__(self, bands: OctaveBands, coarse: int, shown: set[int]) -> None:
        self._bands, self._coarse, self._shown = bands, coarse, shown
        fine, last = 1 + bands.shortest.index(coarse), len(bands)
        luminance, chroma = _PLANES.values()
        self._selections = (  # planes and bands of `PARTS`
            (luminance, range(1)),
            (luminance, range(1, fine)),
            (luminance, range(fine, last)),
            (chroma, range(fine)),
            (chroma, range(fine, last)),
        )
        self._errors = torch.zeros(3, len(bands), dtype=torch.float64)
        self._squares = torch.zeros(3, len(bands), dtype=torch.float64)
        self._total: torch.Tensor | float = 0.0  # of the coefficients (3, H, W), for the mean image
        self._images = 0
        self._pixels = 0
        self.rows: list[SheetRow] = []

    def add(self, keys: Sequence[str], comparison: Comparison) -> None:
        """Add a batch."""
        target = dct(to_opponent(comparison.target.double()))
        difference = dct(to_opponent(comparison.reconstruction.double() - comparison.target.double()))
        errors = self._bands.sums(difference.square())
        self._errors += errors.sum(dim=0)
        self._squares += self._bands.sums(target.square()).sum(dim=0)
        self._total = self._total + target.sum(dim=0)
        for index, key in enumerate(keys):
            if self._images + index in self._shown:
                self.rows.append(self._row(key, comparison, difference[index], errors[index], index))
        self._images += len(keys)
        self._pixels = math.prod(target.shape[1:])

    def budget(self) -> Budget:
        """Return the shares; ``ValueError`` if all images are equal."""
        assert isinstance(self._total, torch.Tensor)
        energy = (self._squares - self._bands.sums(self._total.square()) / self._images).clamp_min(0)
        values = self._images * self._pixels
        least = _NO_ENERGY * self._images
        if energy.sum() <= least:
            raise ValueError(f"the study needs images that differ, got {self._images} equal ones")
        whole = max(float(self._errors.sum()), 1e-300)  # reconstructions may be perfect
        bands = []
        for kind, planes in _PLANES.items():
            for index, band in enumerate(self._bands.names):
                error, own = float(self._errors[planes, index].sum()), float(energy[planes, index].sum())
                recovered = 1 - error / own if own > least else None
                bands.append(BandError(band, kind, error / whole, own / float(energy.sum()), recovered))
        parts = dict(zip(PARTS, (part / whole for part in self._parts(self._errors)), strict=True))
        errors = float(self._errors.sum()) / values
        return Budget(self._images, self._coarse, errors, float(energy.sum()) / values, parts, tuple(bands))

    def _parts(self, errors: torch.Tensor) -> list[float]:
        """Return the squared errors of `PARTS` from those by plane and band (3, bands)."""
        return [float(errors[planes, bands.start : bands.stop].sum()) for planes, bands in self._selections]

    def _row(
        self, key: str, comparison: Comparison, difference: torch.Tensor, errors: torch.Tensor, index: int
    ) -> SheetRow:
        cells = [as_pixels(comparison.target[index]), as_pixels(comparison.reconstruction[index])]
        for planes, bands in self._selections:
            kept = torch.zeros_like(difference)
            kept[planes] = difference[planes] * self._bands.mask(bands)
            cells.append(as_pixels((0.5 + GAIN * from_opponent(inverse_dct(kept))).clamp(0, 1)))
        whole = max(float(errors.sum()), 1e-300)
        shares = [f"{part / whole:.0%} of its error" for part in self._parts(errors)]
        captions = [key, f"RMS error {math.sqrt(whole / difference.numel()):.3f}", *shares]
        return SheetRow(key, cells, captions)
