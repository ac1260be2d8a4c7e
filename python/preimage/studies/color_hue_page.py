"""Present shifts of the hue: table, plot, sheets and findings, beside those of the chroma."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from preimage.studies.base import SheetRow
from preimage.studies.color_chroma import ChromaScores
from preimage.studies.color_page import CHROMA_TITLES, ColorStudy, measures
from preimage.studies.color_shift import HueScores, ShiftScore, wrapped
from preimage.studies.formatting import degrees, listed, number, percent, whole_percent
from preimage.viz.bars import Bars
from preimage.viz.html import Figure, Section, Table
from preimage.viz.sheets import draw_sheet

_FOLLOWS = 0.5  # minimum correlation of colors that follow


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
        values = [f"the {name} is {number(value)}" for name, value in overall.items() if value is not None]
        yield (
            f"A shift by {opposite.degrees:g}° rotates the reconstructions by {degrees(opposite.rotation)} on average, "
            f"with a concentration of {number(opposite.concentration)}"
            + (f"; over all shifts {listed(values)}." if values else ".")
        )

    def table(self) -> Iterator[Sequence[object]]:
        yield from super().table()
        for shift in self.hue.shifts:
            yield from measures("shift", f"{shift.degrees:g}", shift, ("degrees",))
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
            CHROMA_TITLES,
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
            "gets less chroma, at the same hue. Rotation: angle that best fits the chroma of a photograph's "
            "reconstruction to that of the shifted photograph's, circular mean over the photographs with color; "
            "concentration: 1 if it is the same for all. Chroma: root mean square, of shifted photographs as a share "
            "of that of the photographs, of reconstructions as a share of that of the shifted photographs. Circular "
            "correlation: Fisher and Lee (1983), of the mean hues of photographs and reconstructions at all shifts."
        )
        if self._has_classes:
            yield "Confidence: mean probability of the most probable class; scores become probabilities by a softmax."
        yield from super().remarks()


def _toward(shift: ShiftScore) -> float:
    """Return the rotation of the reconstruction, as close as possible to the shift."""
    given = wrapped(shift.degrees)
    return given + wrapped(shift.rotation - given)
