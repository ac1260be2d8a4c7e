"""Compare the layers of a network: reconstructions from each layer side by side, and the error by layer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

from preimage.pipelines.image_loading import Images, Pixels
from preimage.pipelines.image_writer import output_folder
from preimage.studies.base import SAME_ERROR, SheetRow, Study, StudySummary
from preimage.studies.formatting import listed
from preimage.studies.layers_rows import Inverters, Networks
from preimage.studies.measure import (
    INTACT,
    LayerScore,
    csv_rows,
    layer_table,
    measure_layers,
    measuring_remarks,
    range_text,
)
from preimage.studies.published import GRADIENT_DESCENT, PUBLISHED
from preimage.viz.html import Table
from preimage.viz.plots import Values, draw_by_name

_PUBLISHED_NOTE = (
    "The published figures are of CaffeNet on ImageNet's validation set, quoted from memory: Dosovitskiy & Brox (CVPR "
    "2016), and there Mahendran & Vedaldi's gradient descent (CVPR 2015). Unless those weights and that set were "
    "measured here, they are of another network and of other images."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersSummary(StudySummary):
    """Result of the study of layers.

    Attributes:
        shown: Keys of the images on the sheet.
        scores: Scores of every layer, in the order given.
    """

    shown: tuple[str, ...]
    scores: tuple[LayerScore, ...]


def study_layers(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: Inverters,
    network: Networks = (),
    show: Images | None = None,
    show_count: int = 5,
    size: int = 256,
    tile: int = 192,
    batch_size: int = 16,
    device: str = "auto",
    csv: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    command: str = "preimage study layers",
    progress: Callable[[int, int], None] | None = None,
) -> LayersSummary:
    """Invert photographs from each of several layers, and measure and show the reconstructions.

    Images are center-cropped and resized to the input size of a layer's network. Layers of one network are computed in
    one forward pass. Errors are measured against the part of the image that a layer's inverter reconstructs
    (`Inverter.target`), at its size.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Folders, pretrained names, or inverters, one for each layer, in the order of the columns; also a
            single one.
        network: Networks, or single representations, for inverters of layers that cannot be created by name: any
            `preimage.Network`, or any representation with the spec of an inverter; also a single one.
        show: Images on the sheet; ``None`` takes the first `show_count` of `images`.
        show_count: Number of images on the sheet without `show`.
        size: Side of the images in pixels for representations that take any size, at least 11.
        tile: Side of an image on the sheet in pixels, at least 32.
        batch_size: Batch size.
        device: Device of the inverters, and of the networks if they support it, see `Reconstructor`.
        csv: File of the table; ``None`` is ``layers.csv`` in `output`.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image from one layer.

    Raises:
        ValueError: There are fewer than two images, only equal ones, or a bad one (named), or one with features that
            are not finite; there is no inverter, two for the same layer, one whose representation is unknown or not a
            layer of any network, or one that returns images under 11 pixels; there is no such device; a value is out of
            range.
        OSError: A network's weights are missing.
    """
    start = time.perf_counter()
    folder = output_folder(output)
    measured = measure_layers(
        images,
        inverter=inverter,
        network=network,
        show=show,
        show_count=show_count,
        size=size,
        tile=tile,
        batch_size=batch_size,
        device=device,
        skip_bad=skip_bad,
        progress=progress,
    )
    scores = measured.scores
    rows = [
        SheetRow(one.key, [one.original, *(one.reconstructions[score.label, INTACT] for score in scores)])
        for one in measured.shown
    ]
    study = LayersStudy(scores, rows, tile=tile)
    table = None if csv is None else Path(csv)
    written = study.write(folder, start=start, listings=measured.listings, csv=table, command=command)
    return LayersSummary(**vars(written), shown=tuple(row.key for row in rows), scores=scores)


def published(score: LayerScore) -> tuple[float, float] | None:
    """Return the errors in the paper, of its inverters and of gradient descent, for layers of CaffeNet."""
    # torchvision's AlexNet is another network.
    return None if score.variant == "torchvision" else _caffenet().get(score.representation)


def _caffenet() -> dict[str, tuple[float, float]]:
    """Return the published errors of CaffeNet's layers, of the paper's inverters and of gradient descent."""
    return {
        name: (one.error, one.others[GRADIENT_DESCENT])
        for name, one in PUBLISHED.items()
        if name.startswith("alexnet-")
    }


class LayersStudy(Study):
    """Presentation of the scores by layer.

    Args:
        scores: Scores of every layer.
        sheet_rows: Rows of the sheet.
        tile: Side of an image on the sheet, pixels.
    """

    name = "layers"
    title = "Layer by layer"
    sheet_heading = "From each layer alone"
    sheet_alt = "rows of photographs and their reconstructions from each layer"
    sheet_note = (
        "Images are of one size here; the table contains the size of the reconstructions, and how much of the "
        "photograph they show."
    )
    plot_heading = "Error by layer"
    plot_alt = "normalized error of each layer"

    def __init__(self, scores: Sequence[LayerScore], sheet_rows: Sequence[SheetRow] = (), *, tile: int = 192) -> None:
        self.scores, self.sheet_rows, self.tile = scores, sheet_rows, tile

    @property
    def image_count(self) -> int:
        return self.scores[0].images

    def table(self) -> Iterator[Sequence[object]]:
        return csv_rows(self.scores, perturbed=False)

    def sheet_titles(self) -> list[str]:
        return ["photograph", *(f"{score.label}\nerror {score.error:.2f}" for score in self.scores)]

    def plot(self) -> Pixels:
        """Draw the error by layer, with the published errors as points."""
        scores = self.scores
        series = [
            Values("normalized error", [score.error for score in scores]),
            Values("mean image", [score.mean_image_error for score in scores], "level"),
        ]
        figures = [published(score) for score in scores]
        if any(figures):
            inverters, descent = "published (CaffeNet, ImageNet)", "published, gradient descent (CaffeNet, ImageNet)"
            series += [
                Values(inverters, [None if errors is None else errors[0] for errors in figures], "points"),
                Values(descent, [None if errors is None else errors[1] for errors in figures], "points"),
            ]
        title = "Normalized error by layer (lower is closer)"
        return draw_by_name(title, [score.label for score in scores], series, [score.network for score in scores])

    def findings(self) -> Iterator[str]:
        scores = self.scores
        best, worst = min(scores, key=lambda score: score.error), max(scores, key=lambda score: score.error)
        mean_image = range_text([score.mean_image_error for score in scores])
        if worst.error - best.error > SAME_ERROR:
            yield (
                f"The normalized error is lowest for {best.label}, {best.error:.2f}, and highest for {worst.label}, "
                f"{worst.error:.2f}; the mean image has {mean_image}."
            )
        else:
            errors = range_text([score.error for score in scores])
            yield f"The normalized error is {errors}; the mean image has {mean_image}."
        if nothing := [score.label for score in scores if not score.below_mean_image]:
            yield (
                f"By this measure nothing is recovered from {listed(nothing)}: the error is not at least "
                f"{SAME_ERROR} below that of the mean image."
            )

    def lead(self) -> str:
        which = f"each of {len(self.scores)} layers" if len(self.scores) > 1 else self.scores[0].label
        return f"Photographs reconstructed from {which}, by an inverter trained for that layer."

    def remarks(self) -> Iterator[str]:
        yield from measuring_remarks(self.image_count)
        yield "These are reconstructions by these inverters: others may recover more."
        yield _PUBLISHED_NOTE

    def tables(self) -> list[Table]:
        return [layer_table(self.scores), _published_table()]


def _published_table() -> Table:
    lines = [
        [name.removeprefix("alexnet-").upper(), f"{inverters:.2f}", f"{descent:.2f}"]
        for name, (inverters, descent) in _caffenet().items()
    ]
    header = ["AlexNet's layer", "paper's inverters", "gradient descent"]
    return Table("Published, of CaffeNet on ImageNet's validation set", header, lines)
