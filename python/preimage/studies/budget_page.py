"""Present the squared error by part and by wavelength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from preimage.pipelines.image_loading import Pixels
from preimage.studies.base import SheetRow, Study
from preimage.studies.budget_measurement import GAIN, KINDS, PARTS, Budget
from preimage.studies.formatting import listed, percent
from preimage.viz.bars import Bars, draw_bars
from preimage.viz.html import Table

_SAME_SHARE = 0.01  # smallest share that a finding names


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
        f"{GAIN:g} times its contrast: brighter than gray where the reconstruction is too bright."
    )
    plot_heading = "By wavelength"
    plot_alt = "share of the squared error, and share of the images that is recovered, by wavelength"
    tile = 160

    def __init__(
        self, budget: Budget, sheet_rows: Sequence[SheetRow] = (), *, inverter: str = "", size: int = 256
    ) -> None:
        self.budget, self.sheet_rows = budget, sheet_rows
        self._inverter, self._size = inverter, size
        self._bands = {kind: budget.of(kind) for kind in KINDS}

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
        by_kind = [
            f"{1 - share:.0%} in {kind}" for kind in KINDS if (share := self.budget.recovered_of(kind)) is not None
        ]
        yield f"The squared error is {1 - self.budget.recovered:.0%} of that of the mean image: {listed(by_kind)}."
        for kind in KINDS:
            yield from self._recovered(kind)

    def _recovered(self, kind: str) -> Iterator[str]:
        known = {band.band: band.recovered for band in self.budget.of(kind) if band.recovered is not None}
        if not known:
            yield f"The photographs do not differ in {kind}."
            return
        where = max(known, key=lambda band: known[band])
        if known[where] < _SAME_SHARE:
            yield f"Of the {kind}, nothing is recovered at any wavelength."
        else:
            mean = f", and {known['mean']:.0%} of its mean" if where != "mean" and known.get("mean", 0.0) > 0 else ""
            yield f"Of the {kind}, at best {known[where]:.0%} is recovered ({where}){mean}."
        if lost := [band for band, recovered in known.items() if recovered < -_SAME_SHARE]:
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
            [bands[0].band, *(cell for band in bands for cell in _cells(band.error, band.energy, band.recovered))]
            for bands in zip(*self._bands.values(), strict=True)
        ]
        totals = [
            cell
            for kind, bands in self._bands.items()
            for cell in _cells(
                sum(band.error for band in bands), sum(band.energy for band in bands), self.budget.recovered_of(kind)
            )
        ]
        return [
            Table("Shares of the squared error", ["part", "share"], parts),
            Table("By wavelength", header, [*rows, ["all", *totals]]),
        ]

    def sheet_titles(self) -> list[str]:
        return ["photograph", "reconstruction", *PARTS]

    def plot(self) -> Pixels:
        """Draw the share of the error and the recovered share, by band."""
        names = [band.band for band in self._bands[KINDS[0]]]
        errors = {kind: [100 * band.error for band in bands] for kind, bands in self._bands.items()}
        recovered = {
            kind: [None if band.recovered is None else 100 * max(0.0, band.recovered) for band in bands]
            for kind, bands in self._bands.items()
        }
        return draw_bars(
            [
                Bars("Share of the squared error, %", names, errors, stacked=True),
                Bars("Recovered of each band, % (negative as 0)", names, recovered, limits=(0, 100)),
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


def _cells(error: float, energy: float, recovered: float | None) -> list[str]:
    return [percent(error), percent(energy), percent(recovered)]
