"""Measure where the error of an inverter is: in the mean brightness, in coarse or fine luminance, or in the chroma."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import NamedTuple

import torch

from preimage.pipelines.image_loading import Images, Pixels, as_pixels
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.representations import Representation
from preimage.studies.base import ProgressCounter, SheetRow, Study, StudySummary, check_at_least, study_images
from preimage.studies.formatting import listed, percent, whole_percent
from preimage.studies.image_bands import OctaveBands, check_finite, dct, from_opponent, inverse_dct, to_opponent
from preimage.viz.bars import Bars, draw_bars
from preimage.viz.html import Table

KINDS = ("luminance", "chroma")
PARTS = ("mean brightness", "coarse luminance", "fine luminance", "coarse chroma", "fine chroma")
_GAIN = 2.0  # contrast of the parts on the sheet
_NO_ENERGY = 1e-6  # mean square of a pixel value, below which there is nothing to recover
_SAME_SHARE = 0.01  # smallest share of the error that a finding names


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetSummary(StudySummary):
    """Result of the study of an inverter's error.

    Attributes:
        inverter: Name or folder of the inverter.
        size: Side of the compared images in pixels.
        coarse: Wavelength in pixels from which on a band is coarse.
        mean_squared_error: Mean square of the difference between reconstruction and image, of values in [0, 1].
        recovered: 1 − squared error / squared distance of the images to their mean image.
        parts: Shares of the squared error by part, which add up to 1: mean brightness, other coarse luminance, fine
            luminance, coarse chroma (mean color included), and fine chroma.
        bands: Shares by band, from the mean to the shortest wavelengths, luminance before chroma.
    """

    inverter: str
    size: int
    coarse: int
    mean_squared_error: float
    recovered: float
    parts: dict[str, float]
    bands: tuple[BandError, ...]


def study_budget(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    representation: Representation | str | None = None,
    size: int | None = None,
    coarse: int = 64,
    show_count: int = 4,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study budget",
    progress: Callable[[int, int], None] | None = None,
) -> BudgetSummary:
    """Split the squared error of an inverter by color and by wavelength.

    The difference between reconstruction and image is transformed to luminance and chroma, on orthonormal axes, and
    then by a discrete cosine transform. Both keep squared distances (Parseval), so that the squared errors of the parts
    add up to that of the images.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Inverter, its folder or name; ``None`` takes the pretrained one of the representation.
        representation: Representation that the inverter inverts, or its name; ``None`` for that of the inverter's spec.
        size: Side to which images are resized and center-cropped in pixels. ``None`` is the representation's only size,
            or 256.
        coarse: Wavelength in pixels from which on a band is coarse; a power of two, from 4 to the side of the images.
        show_count: Number of photographs on the sheet, evenly spaced over all of them.
        batch_size: Batch size.
        device: Device of the inverter.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (images done, total number of images).

    Raises:
        ValueError: There are fewer than two images, a bad one (named), or only equal ones; features that are not
            finite; a value is out of range; the inverter is for other features; there is no such device or inverter.
        LookupError: There is no pretrained inverter for the representation.
    """
    start = time.perf_counter()
    check_at_least(("show_count", show_count, 1), ("batch_size", batch_size, 1))
    folder = output_folder(output)
    reconstructor = Reconstructor(representation, inverter, device)
    side, region = reconstructor.side(size), reconstructor.inverter.output_region
    compared = side if region is None else region.size
    bands = OctaveBands(compared, compared)
    if coarse not in bands.shortest:
        limits = ", ".join(f"{limit:.0f}" for limit in sorted(bands.shortest) if 0 < limit < math.inf)
        raise ValueError(f"coarse must be one of {limits} for images of {compared} pixels, got {coarse}")
    listing = study_images(images, skip_bad=skip_bad)
    sources = listing.sources
    shown = {round(index * (len(sources) - 1) / max(1, show_count - 1)) for index in range(show_count)}
    steps = ProgressCounter(len(sources), progress)
    measurement = _Measurement(bands, coarse, shown)
    for keys, comparison in reconstructor.compare_all(sources, side, batch_size):
        check_finite(keys, comparison.features)
        measurement.add(keys, comparison)
        steps.add(len(keys))
    study = BudgetStudy(measurement.budget(), measurement.rows, inverter=reconstructor.name, size=compared)
    written = study.write(folder, start=start, listings=[listing], command=command)
    budget = study.budget
    return BudgetSummary(
        **{field.name: getattr(written, field.name) for field in dataclasses.fields(written)},
        inverter=reconstructor.name,
        size=compared,
        coarse=coarse,
        mean_squared_error=budget.mean_squared_error,
        recovered=budget.recovered,
        parts=budget.parts,
        bands=budget.bands,
    )


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
        known = [band for band in self.of(kind) if band.recovered is not None]
        if not known:
            return None
        error = self.mean_squared_error * sum(band.error for band in known)
        return 1 - error / (self.mean_image_squared_error * sum(band.energy for band in known))

    def of(self, kind: str) -> list[BandError]:
        """Return the bands of one kind, from long to short wavelengths."""
        return [band for band in self.bands if band.kind == kind]


class _Measurement:
    """Sums of squared coefficients of the images and of the differences, and the rows of the sheet.

    Args:
        bands: Bands of the coefficients.
        coarse: Wavelength in pixels from which on a band is coarse.
        shown: Indices of the images on the sheet.
    """

    def __init__(self, bands: OctaveBands, coarse: int, shown: set[int]) -> None:
        self._bands, self._coarse, self._shown = bands, coarse, shown
        fine, last = 1 + bands.shortest.index(coarse), len(bands)
        luminance, chroma = slice(0, 1), slice(1, 3)
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
        if energy.sum() < _NO_ENERGY * values:
            raise ValueError(f"the study needs images that differ, got {self._images} equal ones")
        whole = max(float(self._errors.sum()), 1e-300)  # reconstructions may be perfect
        bands = []
        for kind, planes in zip(KINDS, (slice(0, 1), slice(1, 3)), strict=True):
            for index, band in enumerate(self._bands.names):
                error, own = float(self._errors[planes, index].sum()), float(energy[planes, index].sum())
                recovered = 1 - error / own if own > _NO_ENERGY * self._images else None
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
            cells.append(as_pixels((0.5 + _GAIN * from_opponent(inverse_dct(kept))).clamp(0, 1)))
        whole = max(float(errors.sum()), 1e-300)
        shares = [f"{part / whole:.0%} of its error" for part in self._parts(errors)]
        captions = [key, f"RMS error {math.sqrt(whole / difference.numel()):.3f}", *shares]
        return SheetRow(key, cells, captions)


class BudgetStudy(Study):
    """Presentation of the squared error by part and band.

    Args:
        budget: Shares of the squared error.
        sheet_rows: Rows of the sheet.
        inverter: Name or folder of the inverter.
        size: Side of the compared images in pixels.
    """

    name = "budget"
    title = "Where the error of an inverter is"
    sheet_heading = "The error of single photographs, in parts"
    sheet_alt = "rows of a photograph, its reconstruction, and five parts of the difference between them, about gray"
    sheet_note = (
        "The parts add up to reconstruction minus photograph. Each is drawn about gray, with "
        f"{_GAIN:g} times its contrast: brighter than gray where the reconstruction is too bright."
    )
    plot_heading = "By wavelength"
    plot_alt = "share of the squared error, and share of the images that is recovered, by wavelength"
    tile = 160

    def __init__(
        self, budget: Budget, sheet_rows: Sequence[SheetRow] = (), *, inverter: str = "", size: int = 256
    ) -> None:
        self.budget, self.sheet_rows = budget, sheet_rows
        self._inverter, self._size = inverter, size
        self._luminance, self._chroma = budget.of("luminance"), budget.of("chroma")

    @property
    def image_count(self) -> int:
        return self.budget.images

    def lead(self) -> str:
        return (
            f"The squared error of {self._inverter} on {self.image_count} photographs, split by color and by "
            "wavelength. The parts add up to the whole."
        )

    def findings(self) -> Iterator[str]:
        parts = sorted(self.budget.parts.items(), key=lambda part: -part[1])
        named = [f"{part} {share:.0%}" for part, share in parts if share >= _SAME_SHARE]
        yield (
            f"Of the squared error, {listed(named)}; coarse means wavelengths from {self.budget.coarse} pixels on."
            if self.budget.mean_squared_error
            else "The reconstructions are exact: there is no error to split."
        )
        recovered = [
            f"{whole_percent(share)} of the {kind}"
            for kind in KINDS
            if (share := self.budget.recovered_of(kind)) is not None
        ]
        yield (
            f"The squared error is {1 - self.budget.recovered:.0%} of that of the mean image, so {listed(recovered)} "
            "is recovered."
        )
        yield from self._recovered("luminance", self._luminance)
        yield from self._recovered("chroma", self._chroma)

    def _recovered(self, kind: str, bands: Sequence[BandError]) -> Iterator[str]:
        known = [(band.recovered, band.band) for band in bands if band.recovered is not None]
        if not known:
            yield f"The photographs have no {kind} to recover."
            return
        best, where = max(known)
        mean = f", and {whole_percent(known[0][0])} of its mean" if where != "mean" == known[0][1] else ""
        yield f"Of the {kind}, at best {whole_percent(best)} is recovered ({where}){mean}."
        if lost := [band for recovered, band in known if recovered < -_SAME_SHARE]:
            yield f"The {kind} is further from the photographs than that of the mean image is: {listed(lost)}."

    def table(self) -> Iterator[Sequence[object]]:
        yield ["band", "kind", "error_share", "energy_share", "recovered"]
        for band in self.budget.bands:
            recovered = "" if band.recovered is None else f"{band.recovered:.6f}"
            yield [band.band, band.kind, f"{band.error:.8f}", f"{band.energy:.8f}", recovered]

    def tables(self) -> list[Table]:
        parts = [[part, percent(share)] for part, share in self.budget.parts.items()]
        header = ["wavelength", *(f"{name}, {kind}" for kind in KINDS for name in ("error", "energy", "recovered"))]
        rows = [
            [luminance.band, *_cells(luminance), *_cells(chroma)]
            for luminance, chroma in zip(self._luminance, self._chroma, strict=True)
        ]
        totals = [
            cell
            for bands in (self._luminance, self._chroma)
            for cell in (percent(sum(b.error for b in bands)), percent(sum(b.energy for b in bands)), "")
        ]
        return [
            Table("Shares of the squared error", ["part", "share"], parts),
            Table("By wavelength", header, [*rows, ["sum", *totals]]),
        ]

    def sheet_titles(self) -> list[str]:
        return ["photograph", "reconstruction", *PARTS]

    def plot(self) -> Pixels:
        """Draw the share of the error and the recovered share, by band."""
        names = [band.band for band in self._luminance]
        by_kind = {"luminance": self._luminance, "chroma": self._chroma}
        errors = {kind: [100 * band.error for band in bands] for kind, bands in by_kind.items()}
        recovered = {
            kind: [None if band.recovered is None else 100 * max(0.0, band.recovered) for band in bands]
            for kind, bands in by_kind.items()
        }
        return draw_bars(
            [
                Bars("Share of the squared error, %", names, errors, stacked=True),
                Bars("Recovered of each band, %", names, recovered, limits=(0, 100)),
            ]
        )

    def remarks(self) -> Iterator[str]:
        yield f"Images of {self._size} × {self._size} pixels with values in [0, 1]."
        yield (
            "Luminance is (R + G + B) / √3, chroma the two axes orthogonal to it: squared errors on these axes add up "
            "to those in RGB, which those of Rec. 601 luma and chroma do not."
        )
        yield (
            "The mean is that of each image (mean brightness, mean color); bands are octaves of the wavelength of an "
            "orthonormal discrete cosine transform."
        )
        yield (
            "Energy: share of the squared distance of the images to their mean image. Recovered: 1 − squared error / "
            "that squared distance, which is 0 for the mean image and negative for reconstructions that are worse."
        )


def _cells(band: BandError) -> list[str]:
    recovered = "" if band.recovered is None else percent(band.recovered)
    return [percent(band.error), percent(band.energy), recovered]
