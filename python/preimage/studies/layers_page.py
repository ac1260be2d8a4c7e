"""The numbers and pictures of the study of layers as CSV, plot, sheet, sentences and page."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from preimage.io import atomic_write
from preimage.pipelines.loading import Pixels
from preimage.viz.html import Figure, Section, Table, html_page
from preimage.viz.plots import Values, draw_by_name
from preimage.viz.sheets import picture_sheet

_SAME = 0.005  # errors closer than this are not ranked
_MEAN_IMAGE = "the mean image as answer"

# Dosovitskiy & Brox, CVPR 2016: by gradient descent on the features (Mahendran & Vedaldi, CVPR 2015), and by theirs.
PUBLISHED = {
    "alexnet-conv5": (0.35, 0.71),
    "alexnet-fc6": (0.51, 0.80),
    "alexnet-fc7": (0.56, 0.82),
    "alexnet-fc8": (0.58, 0.84),
}
PUBLISHED_NOTE = (
    "The published figures are of CaffeNet on ImageNet's validation set, quoted from memory: Dosovitskiy & Brox (CVPR "
    "2016), and there Mahendran & Vedaldi's gradient descent (CVPR 2015). Unless those weights and that set were "
    "measured here, they are of another network and of other images."
)


@dataclasses.dataclass(frozen=True)
class LayerScore:
    """How much comes back of one layer: means over the images, of what its inverter returns.

    Attributes:
        label: of its row.
        network: that it is of.
        layer: its name there.
        representation: of its spec.
        variant: of its spec.
        features: (C, h, w), or (C,) of vectors.
        input_size: side of the images, pixels.
        crop: side of their center square that comes back, pixels.
        output_size: side of what comes back, pixels.
        error: normalized error; the distances between two images are of what the inverter should return, too.
        mean_image_error: the same of always answering with the mean of that.
        normalizer: average distance between two images.
        psnr: dB.
        ssim: at most 1.
        images: how many.
        inverter: its folder or name.
    """

    label: str
    network: str
    layer: str
    representation: str
    variant: str
    features: tuple[int, ...]
    input_size: int
    crop: int
    output_size: int
    error: float
    mean_image_error: float
    normalizer: float
    psnr: float
    ssim: float
    images: int
    inverter: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """A row of the sheet: the image's key, the image, and what came back from each layer."""

    key: str
    pictures: list[Pixels]


def write_table(path: Path, scores: Sequence[LayerScore]) -> None:
    """One row a layer, as CSV; atomic."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = ["label", "network", "layer", "features", "output_size", "normalized_error", "mean_image_error"]
    table.writerow([*columns, "psnr_db", "ssim", "images", "inverter"])
    for score in scores:
        errors = [f"{score.error:.6f}", f"{score.mean_image_error:.6f}", f"{score.psnr:.4f}", f"{score.ssim:.6f}"]
        names = [score.label, score.network, score.layer, _shape(score, "x"), score.output_size]
        table.writerow([*names, *errors, score.images, score.inverter])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def sheet(rows: Sequence[Shown], scores: Sequence[LayerScore], tile: int) -> Pixels:
    """One row an image; the image and a column for each layer, with its error under its name."""
    titles = ["photograph", *(f"{score.label}\nerror {score.error:.2f}" for score in scores)]
    return picture_sheet([row.pictures for row in rows], titles, [row.key for row in rows], tile=tile)


def plot(scores: Sequence[LayerScore]) -> Pixels:
    """Error by layer; ``ImportError`` without matplotlib."""
    series = [
        Values("normalized error", [score.error for score in scores]),
        Values(_MEAN_IMAGE, [score.mean_image_error for score in scores], "level"),
    ]
    known = [published(score) for score in scores]
    if any(known):
        ours, descent = "published (CaffeNet, ImageNet)", "published, gradient descent (CaffeNet, ImageNet)"
        series += [
            Values(ours, [None if pair is None else pair[0] for pair in known], "points"),
            Values(descent, [None if pair is None else pair[1] for pair in known], "points"),
        ]
    title = "Normalized error by layer (lower is closer)"
    return draw_by_name(title, [score.label for score in scores], series, [score.network for score in scores])


def published(score: LayerScore) -> tuple[float, float] | None:
    """The paper's error and gradient descent's, where the layer is AlexNet's as Caffe has it."""
    # torchvision's AlexNet is another network.
    return None if score.variant == "torchvision" else PUBLISHED.get(score.representation)


def findings(scores: Sequence[LayerScore]) -> Iterator[str]:
    """Sentences that say what the numbers say, and nothing else."""
    best, worst = min(scores, key=lambda score: score.error), max(scores, key=lambda score: score.error)
    if worst.error - best.error > _SAME:
        yield (
            f"{best.label} gives the most back, with a normalized error of {best.error:.2f}, and {worst.label} the "
            f"least, with {worst.error:.2f}; always answering with the mean image has "
            f"{_range([score.mean_image_error for score in scores])}."
        )
    else:
        yield (
            f"The normalized error is {_range([score.error for score in scores])}; always answering with the mean "
            f"image has {_range([score.mean_image_error for score in scores])}."
        )
    if nothing := [score.label for score in scores if score.error > score.mean_image_error - _SAME]:
        yield (
            f"By this measure nothing comes back from {', '.join(nothing)}: the error is less than {_SAME} below that "
            "of the mean image, or above it."
        )


def page(
    scores: Sequence[LayerScore],
    pictures: Pixels,
    curve: Pixels | None,
    *,
    notes: Sequence[str],
    command: str,
) -> str:
    """The self-contained HTML page."""
    count = scores[0].images
    sections = [
        Section(
            "From each layer alone",
            [Figure(pictures, "", "rows of photographs and what is reconstructed from each layer")],
            note="Pictures are of one size here; how large an inverter's are, and of how much of the photograph, is in "
            "the table.",
            span="window",
        )
    ]
    if curve is not None:
        sections.append(Section("Error by layer", [Figure(curve, "", "normalized error of each layer")], span="page"))
    return html_page(
        title="Layer by layer",
        lead=(
            f"What comes back of a photograph from each of {len(scores)} layers, by an inverter trained for that layer."
            if len(scores) > 1
            else f"What comes back of a photograph from {scores[0].label}, by an inverter trained for that layer."
        ),
        points=findings(scores),
        sections=sections,
        tables=[_measured(scores), _published()],
        command=command,
        footer=" ".join(
            [
                f"Measured on {count} photographs, cut to their center square and resized to the network's input.",
                "Normalized error: mean Euclidean distance between what an inverter should return and what it returns, "
                "divided by the average distance between two photographs, both at the inverter's output size.",
                "These are these inverters' reconstructions: others may recover more.",
                PUBLISHED_NOTE,
                *notes,
            ]
        ),
    )


def _measured(scores: Sequence[LayerScore]) -> Table:
    header = ["layer", "network", "features", "comes back", "normalized error", "mean image", "PSNR, dB", "SSIM"]
    lines = [
        [
            score.label,
            score.network,
            _shape(score, " × "),
            f"{score.crop} of {score.input_size} px at {score.output_size}",
            f"{score.error:.3f}",
            f"{score.mean_image_error:.3f}",
            f"{score.psnr:.1f}",
            f"{score.ssim:.3f}",
        ]
        for score in scores
    ]
    return Table("How much comes back", header, lines)


def _published() -> Table:
    lines = [
        [name.removeprefix("alexnet-").upper(), f"{ours:.2f}", f"{descent:.2f}"]
        for name, (ours, descent) in PUBLISHED.items()
    ]
    header = ["AlexNet's layer", "paper's inverters", "gradient descent"]
    return Table("Published, of CaffeNet on ImageNet's validation set", header, lines)


def _shape(score: LayerScore, times: str) -> str:
    return times.join(map(str, score.features))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
