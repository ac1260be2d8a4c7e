"""Present the scores of color: tables, plots, sheets and findings."""

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
from preimage.studies.color_shift import HueScores, ShiftScore, wrapped
from preimage.studies.formatting import degrees, listed, number, percent, whole_percent
from preimage.viz.bars import Bars, draw_bars
from preimage.viz.html import Figure, Section, Table
from preimage.viz.sheets import draw_sheet

CHROMA_GAIN = 2.0  # saturation of drawn chroma
_FEW = 100  # minimum number of regions of a sector in a finding
_OFTEN, _SELDOM = 0.25, 0.1  # shares of a sector's regions
_RECOVERED = 0.02  # minimum share that a finding calls recovered
_FOLLOWS = 0.5  # minimum correlation of colors that follow
_CHROMA_TITLES = ["photograph", "its chroma", "predicted chroma", "reconstruction"]


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
            yield from _measures("band", band.band, band, ("band",))
        for sector in self.chroma.sectors:
            yield from _measures("sector", sector.sector, sector, ("sector", "predicted"))
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
        return _CHROMA_TITLES

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


class HueStudy(ColorStudy):
    """Presentation of shifts of the hue, and of predicted against true chroma.

    Args:
        chroma: Scores by wavelength and by hue.
        chroma_rows: Rows of the sheet of chroma.
        hue: Scores by shift.
        sheet_rows: Rows of the sheet of shifts, two for each photograph.
        inverter: Name or folder of the inverter.
        size: Side of the compared images in pixels.
    """

    title = "What becomes of colors"
    sheet_heading = "Photographs with shifted hues, and their reconstructions"
    sheet_alt = "pairs of rows: a photograph with its hue shifted by several angles, and the reconstruction of each"
    sheet_note = (
        "Below a reconstruction: by how much its hue is rotated, compared with the reconstruction of the photograph as "
        "it is."
    )
    plot_heading = "By shift, by wavelength and by hue"
    plot_alt = "rotation of the reconstruction by shift, chroma by wavelength, and share of right hues by hue"
    tile = 160

    def __init__(
        self,
        chroma: ChromaScores,
        chroma_rows: Sequence[SheetRow],
        hue: HueScores,
        sheet_rows: Sequence[SheetRow] = (),
        inverter: str = "",
        size: int = 256,
    ) -> None:
        super().__init__(chroma, sheet_rows, inverter, size)
        self.hue, self._chroma_rows = hue, chroma_rows
        self._shifted = hue.shifts[1:]
        self._has_classes = hue.shifts[0].same_class is not None

    def lead(self) -> str:
        return (
            f"The hue of {self.image_count} photographs is shifted, their features are computed and inverted by "
            f"{self._inverter}: do the reconstructions follow"
            + (", and what do the class scores say?" if self._has_classes else "?")
        )

    def findings(self) -> Iterator[str]:
        hue = self.hue
        if self._shifted:
            yield from self._following()
        original, opposite = hue.shifts[0], min(hue.shifts, key=lambda shift: abs(shift.degrees - 180))
        yield (
            f"The chroma of the reconstructions is {whole_percent(original.chroma)} of the photographs'"
            + (f", and {whole_percent(opposite.chroma)} at a shift of {opposite.degrees:g}°." if self._shifted else ".")
        )
        if self._shifted and self._has_classes:
            worst = min(self._shifted, key=lambda shift: shift.same_class or 0)
            yield (
                f"At {worst.degrees:g}° {whole_percent(worst.same_class or 0)} of the photographs keep their most "
                f"probable class; its mean probability goes from {whole_percent(original.confidence or 0)} to "
                f"{whole_percent(worst.original_confidence or 0)}, and the most probable class has "
                f"{whole_percent(worst.confidence or 0)}."
            )
        yield from super().findings()

    def _following(self) -> Iterator[str]:
        """Yield sentences about whether the reconstructions follow."""
        axes = {"orange and azure": self.hue.warm_correlation, "green and magenta": self.hue.green_correlation}
        known = {
            f"between {axis} (correlation {number(value)})": value >= _FOLLOWS
            for axis, value in axes.items()
            if value is not None
        }
        subject = "The mean color of the reconstructions"
        if follows := [axis for axis, enough in known.items() if enough]:
            yield f"{subject} follows that of the photographs {listed(follows)}."
        if hardly := [axis for axis, enough in known.items() if not enough]:
            yield f"{'It' if follows else subject} hardly follows that of the photographs {listed(hardly)}."
        opposite = min(self._shifted, key=lambda shift: abs(shift.degrees - 180))
        overall = {"slope": self.hue.slope, "circular correlation": self.hue.correlation}
        values = [f"the {name} {number(value)}" for name, value in overall.items() if value is not None]
        yield (
            f"A shift by {opposite.degrees:g}° rotates the reconstructions by {degrees(opposite.rotation)} on average, "
            f"with a concentration of {number(opposite.concentration)}"
            + (f"; over all shifts {listed(values)}." if values else ".")
        )

    def table(self) -> Iterator[Sequence[object]]:
        yield from super().table()
        for shift in self.hue.shifts:
            yield from _measures("shift", f"{shift.degrees:g}", shift, ("degrees",))
        for name in ("correlation", "slope", "warm_correlation", "green_correlation"):
            value = getattr(self.hue, name)
            yield ["hue", "all", name, "" if value is None else f"{value:.6f}"]

    def tables(self) -> list[Table]:
        header = ["shift", "rotation", "concentration", "photographs' chroma", "chroma"]
        header += ["same class", "confidence", "in the original class"] if self._has_classes else []
        return [
            Table("Reconstructions by shift of the hue", header, [self._cells(shift) for shift in self.hue.shifts]),
            *super().tables(),
        ]

    def _cells(self, shift: ShiftScore) -> list[str]:
        cells = [f"{shift.degrees:g}°", degrees(shift.rotation), f"{shift.concentration:.2f}"]
        cells += [percent(shift.image_chroma), percent(shift.chroma)]
        classes = [shift.same_class, shift.confidence, shift.original_confidence]
        return cells + [percent(value) for value in classes] if self._has_classes else cells

    def sheet_titles(self) -> list[str]:
        return [f"{shift.degrees:g} degrees" for shift in self.hue.shifts]  # fonts of sheets are ASCII

    def sections(self) -> list[Section]:
        sheet = draw_sheet(
            [row.cells for row in self._chroma_rows],
            _CHROMA_TITLES,
            [row.key for row in self._chroma_rows],
            tile=self.tile,
        )
        heading, alt, note = ColorStudy.sheet_heading, ColorStudy.sheet_alt, ColorStudy.sheet_note
        return [Section(heading, [Figure(sheet, "", alt)], note=note, span="page")]

    def _panels(self) -> list[Bars]:
        if not self._shifted:
            return super()._panels()
        names = [f"{shift.degrees:g}°" for shift in self._shifted]
        series: dict[str, list[float | None]] = {
            "photographs": [wrapped(shift.degrees) for shift in self._shifted],
            "reconstructions": [_toward(shift) for shift in self._shifted],
        }
        return [Bars("Rotation of the hue, degrees, by shift", names, series), *super()._panels()]

    def remarks(self) -> Iterator[str]:
        yield (
            "A shift rotates colors about the gray axis of RGB and keeps R + G + B; a color that would leave [0, 1] "
            "gets less chroma, at the same hue. Rotation: angle by which the chroma of the reconstruction of the "
            "photograph fits that of the shifted photograph best, circular mean over the photographs with color; "
            "concentration: 1 if it is the same for all. Chroma: root mean square, of shifted photographs as a share "
            "of that of the photographs, of reconstructions as a share of that of the shifted photographs. Circular "
            "correlation: Fisher and Lee (1983), of the mean hues of photographs and reconstructions at all shifts."
        )
        if self._has_classes:
            yield "Confidence: mean probability of the most probable class, by a softmax of the scores."
        yield from super().remarks()


def _toward(shift: ShiftScore) -> float:
    """Return the rotation of the reconstruction, as close as possible to the shift."""
    given = wrapped(shift.degrees)
    return given + wrapped(shift.rotation - given)


def _measures(kind: str, name: str, score: object, left_out: Sequence[str]) -> Iterator[Sequence[object]]:
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
