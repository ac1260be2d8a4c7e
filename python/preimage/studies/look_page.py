"""The page of a look: reconstructions, errors, learning curves, and how to load the inverters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from preimage.pipelines.image_loading import Pixels
from preimage.studies.base import NORMALIZED_ERROR, SAME_ERROR, SheetRow, Study
from preimage.studies.formatting import listed, two_digits
from preimage.studies.inputs import evenly_spaced
from preimage.studies.look_training import LookLayer
from preimage.viz.curves import Curve, draw_curves
from preimage.viz.dots import Dots, draw_dots
from preimage.viz.html import Figure, Section, Table
from preimage.viz.plots import MOST_SERIES
from preimage.viz.sheets import draw_sheet

_ON_PAGE = 12  # rows of the sheet on the page
_SPACE = "\u00a0"  # at which lines do not break on a phone


class LookStudy(Study):
    """Presentation of a look.

    Args:
        encoder: Name of the network, or of the features.
        layers: The layers with their scores, in the order of the forward pass.
        sheet_rows: Rows of the sheet.
        side: Side of the network's images in pixels.
        minutes: Time limit.
        random: Whether the network's weights are known to be random.
        tile: Side of an image on the sheet, pixels.
    """

    name = "look"
    sheet_heading = "From each layer alone"
    sheet_alt = "rows of held-out photographs and their reconstructions from each layer"
    plot_heading = "Error by layer"
    plot_alt = "normalized error of each layer with its interval, that of the mean image, and SSIM of each layer"

    def __init__(
        self,
        encoder: str,
        layers: Sequence[LookLayer],
        sheet_rows: Sequence[SheetRow] = (),
        *,
        side: int,
        minutes: float,
        random: bool = False,
        tile: int = 144,
    ) -> None:
        self.encoder, self.layers, self.sheet_rows, self.tile = encoder, list(layers), sheet_rows, tile
        self.side, self.minutes, self.random = side, minutes, random
        self.title = f"A look into {encoder}"
        self.sheet_span = "page" if len(layers) < 6 else "window"

        shown = min(_ON_PAGE, len(sheet_rows))
        self.sheet_note = "" if shown == len(sheet_rows) else f"{shown} of {len(sheet_rows)}; all are in sheet.png."

    @property
    def image_count(self) -> int:
        return self.layers[0].images

    @property
    def mean_image_error(self) -> float:
        """Normalized error of the mean image, averaged over the layers, whose images may differ in size."""
        return sum(layer.mean_image_error for layer in self.layers) / len(self.layers)

    def lead(self) -> str:
        count = f"each of {len(self.layers)} layers" if len(self.layers) > 1 else "one layer"
        what = f"Photographs reconstructed from {count} of {self.encoder}, by inverters trained for this page"
        fact = " Its weights are random: nothing has trained this network." if self.random else ""
        return f"{what}, with a limit of {self.minutes:g} minutes for everything.{fact}"

    def findings(self) -> Iterator[str]:
        for layer in self.layers:
            interval = f"{layer.error_low:.3f} to {layer.error_high:.3f}"
            yield f"{layer.label}: error {layer.error:.3f} ({interval}), mean image {layer.mean_image_error:.3f}."
        if nothing := [one.label for one in self.layers if one.error > one.mean_image_error - SAME_ERROR]:
            yield (
                f"The inverter of {listed(nothing)} recovers no more than the mean image shows: its error is not at "
                f"least {SAME_ERROR} below. That is a limit of this run, and does not mean that the layer keeps "
                "nothing: with few photographs an inverter learns them by heart. More photographs, and more minutes "
                "to prepare them, help."
            )

    def table(self) -> Iterator[Sequence[object]]:
        yield [
            *("layer", "features", "output_size", "normalized_error", "error_low", "error_high", "mean_image_error"),
            *("psnr_db", "ssim", "images", "steps", "images_seen", "seconds", "parameters", "inverter"),
        ]
        for one in self.layers:
            scores = (one.error, one.error_low, one.error_high, one.mean_image_error)
            yield [
                *(one.label, "x".join(map(str, one.features)), one.output_size, *(f"{value:.6f}" for value in scores)),
                *(f"{one.psnr:.4f}", f"{one.ssim:.6f}", one.images, one.run.steps, one.run.images_seen),
                *(f"{one.run.seconds:.1f}", one.run.parameters, one.folder),
            ]

    def further_tables(self) -> dict[str, Iterator[Sequence[object]]]:
        return {"images": self._image_rows()}

    def _image_rows(self) -> Iterator[Sequence[object]]:
        yield ["layer", "key", "normalized_error", "psnr_db", "ssim"]
        for one in self.layers:
            for score in one.scores:
                yield [one.label, score.key, f"{score.error:.6f}", f"{score.psnr:.4f}", f"{score.ssim:.6f}"]

    def page(self, sheet: Pixels, plot: Pixels | None, notes: Sequence[str], command: str) -> str:
        """Return the page, with some of the rows of the sheet if it is long."""
        if len(self.sheet_rows) > _ON_PAGE:
            rows = [self.sheet_rows[index] for index in sorted(evenly_spaced(len(self.sheet_rows), _ON_PAGE))]
            sheet = draw_sheet(
                [row.cells for row in rows], self.sheet_titles(), [row.key for row in rows], tile=self.tile
            )
        return super().page(sheet, plot, notes, command)

    def tables(self) -> list[Table]:
        scores = [
            [
                one.label,
                f"{_SPACE}×{_SPACE}".join(map(str, one.features)),
                f"{one.error:.3f}",
                f"{one.error_low:.3f}{_SPACE}to{_SPACE}{one.error_high:.3f}",
                f"{one.mean_image_error:.3f}",
                f"{one.psnr:.1f}",
                f"{one.ssim:.3f}",
            ]
            for one in self.layers
        ]
        runs = [
            [
                one.label,
                f"{one.output_size}{_SPACE}px",
                f"{one.run.parameters:,}",
                f"{one.run.photographs:,}",
                f"{one.run.steps:,}",
                f"{one.run.images_seen:,}",
                f"{two_digits(one.run.seconds)}{_SPACE}s",
            ]
            for one in self.layers
        ]
        code = [[one.label, f'preimage.load_inverter("{one.folder.as_posix()}")'] for one in self.layers]
        header = ["layer", "features", "normalized error", "95 % interval", "mean image", "PSNR, dB", "SSIM"]
        return [
            Table("Scores on the held-out photographs", header, scores),
            Table("Inverters", ["layer", "output", "parameters", "photographs", "steps", "images seen", "time"], runs),
            Table("To use an inverter in Python", ["layer", "code"], code),
        ]

    def sheet_titles(self) -> list[str]:
        return ["photograph", *(f"{one.label}\nerror {one.error:.2f}" for one in self.layers)]

    def plot(self) -> Pixels:
        """Draw the error of each layer with its interval, and SSIM."""
        errors = Dots(
            "Normalized error (lower is closer)",
            [one.error for one in self.layers],
            [(one.error_low, one.error_high) for one in self.layers],
            [f"{one.error:.2f}" for one in self.layers],
            level=self.mean_image_error,
            level_label=f"mean image {self.mean_image_error:.2f}",
        )
        similarities = Dots(
            "SSIM (higher is closer)", [one.ssim for one in self.layers], (), [f"{one.ssim:.2f}" for one in self.layers]
        )
        return draw_dots([one.label for one in self.layers], [errors, similarities])

    def sections(self) -> list[Section]:
        curves = [
            Curve(one.label, [x for x, _ in one.run.curve], [y for _, y in one.run.curve])
            for one in self.layers[:MOST_SERIES]
        ]
        end = max(curve.x[-1] for curve in curves)
        level = Curve("mean image", (0, end), (self.mean_image_error,) * 2, level=True)
        title = "Normalized error on the held-out photographs"
        try:
            drawn = draw_curves(title, [*curves, level], "seconds of training")
        except ImportError:
            return []  # a note says that matplotlib is missing
        note = "" if len(self.layers) <= MOST_SERIES else f"The first {MOST_SERIES} layers."
        figure = Figure(drawn, "", "learning curve of each inverter", on_white=True)
        return [Section("Learning curves", [figure], note=note, span="page")]

    def remarks(self) -> Iterator[str]:
        most = max((one.run for one in self.layers), key=lambda run: run.squares)
        versions = "" if most.squares == most.photographs else f", as {most.squares:,} squares of them"
        yield f"Trained on {most.photographs:,} photographs{versions}; measured on {self.image_count} others."
        yield f"All are {self.side}×{self.side} pixels for the network; the inverters return smaller images."
        yield f"{NORMALIZED_ERROR}, both at the inverter's output size."
        yield (
            "The mean image is that of the held-out photographs themselves; the mean of others, which is what "
            "an inverter can learn without features, has a slightly larger error."
        )
        yield "Intervals contain 95 % of the errors of resampled photographs (bootstrap)."
        yield "The inverters are small and trained for minutes: longer training recovers more."
