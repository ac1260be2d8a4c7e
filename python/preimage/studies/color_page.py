"""Present predicted against true chroma: tables, plot, sheet and findings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from preimage.pipelines.image_loading import Pixels
from preimage.studies.base import SheetRow, Study
from preimage.studies.color_chroma import (
    COLORED,
    REGIONS,
    SECTORS,
    TYPICAL,
    BandChroma,
    ChromaScores,
    SectorChroma,
)
from preimage.studies.formatting import listed, number, percent, whole_percent
from preimage.viz.bars import Bars, draw_bars
from preimage.viz.html import Table

CHROMA_GAIN = 2.0  # saturation of drawn chroma
_FEW = 100  # minimum number of regions of a sector in a finding
_OFTEN, _SELDOM = 0.25, 0.1  # shares of a sector's regions
_RECOVERED = 0.02  # minimum share that a finding calls recovered
CHROMA_TITLES = ["photograph", "its chroma", "predicted chroma", "reconstruction"]


class ColorStudy(Study):
    """Presentation of predicted against true chroma.

    Args:
        chroma: Scores by wavelength and by hue.
        sheet_rows: Rows of the sheet.
        inverter: Name or folder of the inverter.
        size: Side of the compared images in pixels.
    """

    name = "color"
    title = "What colors an inverter predicts"
    sheet_heading = "Predicted chroma"
    sheet_alt = "rows of a photograph, its chroma, the predicted chroma, and the reconstruction"
    sheet_note = f"Chroma is drawn about gray, with {CHROMA_GAIN:g} times its saturation in both columns."
    plot_heading = "By wavelength and by hue"
    plot_alt = "correlation and recovered share of chroma by wavelength, and share of right hues by hue"
    tile = 192

    def __init__(
        self, chroma: ChromaScores, sheet_rows: Sequence[SheetRow] = (), inverter: str = "", size: int = 256
    ) -> None:
        self.chroma, self.sheet_rows = chroma, sheet_rows
        self._inverter, self._size = inverter, size

    @property
    def image_count(self) -> int:
        return self.chroma.images

    def lead(self) -> str:
        return (
            f"The features that {self._inverter} inverts contain no color. Its colors are what such features have most "
            f"often in the training images: here they are compared with those of {self.image_count} photographs."
        )

    def findings(self) -> Iterator[str]:
        whole, *bands = self.chroma.bands
        known = [band for band in bands if band.recovered is not None]
        if whole.correlation is not None and whole.slope is not None and whole.recovered is not None:
            yield (
                f"Predicted and true chroma have a correlation of {number(whole.correlation)}. "
                f"{whole_percent(whole.slope)} of the amplitude is predicted, and the squared error is "
                f"{whole_percent(1 - whole.recovered)} of that of a constant color."
            )
        if recovered := [band for band in known if (band.recovered or 0) >= _RECOVERED]:
            best = max(recovered, key=lambda band: band.recovered or 0)
            rest = [_band_name(band) for band in known if band not in recovered]
            yield (
                f"Most is recovered of {_band_name(best)}: {whole_percent(best.recovered or 0)}"
                + (f"; less than {_RECOVERED:.0%} of {listed(rest)}." if rest else ".")
            )
        elif known:
            yield f"Less than {_RECOVERED:.0%} of the chroma is recovered at any wavelength."
        yield from self._sector_findings()

    def _sector_findings(self) -> Iterator[str]:
        chroma = self.chroma
        if chroma.accuracy is None or chroma.constant_accuracy is None:
            return
        yield (
            f"Of the regions with color, {whole_percent(chroma.accuracy)} get a hue in the right sixth of the circle; "
            f"a constant color would get {whole_percent(chroma.constant_accuracy)} right."
        )
        enough = [sector for sector in chroma.sectors if sector.regions >= _FEW]
        often = [sector for sector in enough if (sector.recall or 0) >= _OFTEN]
        seldom = [sector for sector in enough if (sector.recall or 0) < _SELDOM]
        if often:
            yield f"Often the right hue: {listed([_recalled(sector) for sector in often])} of the regions."
        if seldom:
            yield f"Seldom the right hue: {listed([_recalled(sector) for sector in seldom])}."
        if wrong := [_typical(sector.sector) for sector in enough if (sector.recovered or 0) <= -_RECOVERED]:
            yield f"Further from the true chroma than a constant color: {listed(wrong)}."

    def table(self) -> Iterator[Sequence[object]]:
        yield ["kind", "name", "measure", "value"]
        for band in self.chroma.bands:
            yield from measures("band", band.band, band, ("band",))
        for sector in self.chroma.sectors:
            yield from measures("sector", sector.sector, sector, ("sector", "predicted"))
            for name, share in zip(SECTORS, sector.predicted, strict=True):
                yield ["sector", sector.sector, f"predicted {name}", f"{share:.6f}"]

    def tables(self) -> list[Table]:
        chroma = self.chroma
        bands = [
            [
                band.band,
                percent(band.energy),
                number(band.correlation),
                number(band.slope),
                percent(band.recovered),
            ]
            for band in chroma.bands
        ]
        sectors = [
            [
                _typical(sector.sector),
                f"{sector.regions:,}",
                str(sector.images),
                percent(sector.recall),
                percent(sector.constant_recall),
                percent(sector.precision),
                number(sector.slope),
                percent(sector.recovered),
            ]
            for sector in chroma.sectors
        ]
        confusion = [
            [sector.sector, *(percent(share) if sector.regions else "" for share in sector.predicted)]
            for sector in chroma.sectors
        ]
        header = ["true hue", "regions", "images", "recall", "constant", "precision", "slope", "recovered"]
        return [
            Table("Chroma by wavelength", ["wavelength", "energy", "correlation", "slope", "recovered"], bands),
            Table("Regions by true hue", header, sectors),
            Table("Predicted hue by true hue", ["true hue", *SECTORS], confusion),
        ]

    def sheet_titles(self) -> list[str]:
        return CHROMA_TITLES

    def plot(self) -> Pixels:
        return draw_bars(self._panels())

    def _panels(self) -> list[Bars]:
        bands, sectors = self.chroma.bands[1:], self.chroma.sectors
        by_band = {
            "correlation": [_percents(band.correlation) for band in bands],
            "recovered": [_percents(band.recovered) for band in bands],
        }
        by_hue = {
            "this inverter": [_percents(sector.recall) for sector in sectors],
            "a constant color": [_percents(sector.constant_recall) for sector in sectors],
        }
        names = [f"{sector.sector} ({sector.regions:,})" for sector in sectors]
        return [
            Bars("Chroma by wavelength, %", [band.band for band in bands], by_band),
            Bars("Regions with the right hue, %, by true hue", names, by_hue, limits=(0, 100)),
        ]

    def remarks(self) -> Iterator[str]:
        chroma = self.chroma
        yield (
            f"Images of {self._size} × {self._size} pixels; {chroma.colored_images} of {chroma.images} have color. "
            "Chroma is the two axes of RGB orthogonal to gray, on which distances are those in RGB; hue is the angle, "
            "red 0°, green 120°, blue 240°."
        )
        yield (
            "Bands are octaves of the wavelength of an orthonormal discrete cosine transform. Slope: regression of "
            "predicted on true chroma. Recovered: 1 − squared error / squared error of a constant color, the mean "
            "chroma of these photographs."
        )
        yield (
            f"A region is one of {REGIONS} × {REGIONS} of the image; those with a true chroma of at least "
            f"{COLORED:g} (pure red has {math.sqrt(2 / 3):.2f}) are counted. Recall: share of them whose predicted hue "
            "is in the same sector of 60°, however small the predicted chroma. The objects named are typical, not "
            "recognized."
        )


def measures(kind: str, name: str, score: object, left_out: Sequence[str]) -> Iterator[Sequence[object]]:
    """Yield a row of the table for each field of a score, a dataclass, except those to leave out."""
    assert dataclasses.is_dataclass(score)
    for field in dataclasses.fields(score):
        if field.name not in left_out:
            value = getattr(score, field.name)
            text = "" if value is None else f"{value:.6f}" if isinstance(value, float) else value
            yield [kind, name, field.name, text]


def _band_name(band: BandChroma) -> str:
    return "the mean color" if band.band == "mean" else band.band


def _recalled(sector: SectorChroma) -> str:
    return f"{_typical(sector.sector)} {whole_percent(sector.recall or 0)}"


def _typical(sector: str) -> str:
    return f"{sector} ({TYPICAL[sector]})" if sector in TYPICAL else sector


def _percents(share: float | None) -> float | None:
    return None if share is None else 100 * share
