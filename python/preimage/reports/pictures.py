"""Show reconstructions from the best to the worst, and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from preimage.io import ImageSource
from preimage.pipelines.image_loading import Pixels, as_pixels
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sampling import pixel_deviation
from preimage.pipelines.sheet import sample_titles, title_of
from preimage.reports.options import Options
from preimage.representations.registry import class_of
from preimage.spec import Spec
from preimage.viz.deviation_map import MEANING, TITLE, draw_deviation, draw_scale
from preimage.viz.html import Comparison, Figure, Section
from preimage.viz.sheets import fit_into

DRAWING_SIDE = 384  # longest side of an image on the page, pixels
_SAMPLE_SIDE = 256
_SAMPLED = 3  # photographs with samples
_SHOWN_SAMPLES = 3
_SCALE_WIDTH, _SCALE_TILE = 640, 224


class Picture(NamedTuple):
    """A photograph with the drawing of its features and its reconstruction."""

    photograph: Pixels
    drawing: Pixels | None
    reconstruction: Pixels


class Scored(Protocol):
    """Scores of the reconstruction of an image."""

    @property
    def key(self) -> str:
        """Key of the image."""

    @property
    def error(self) -> float:
        """Normalized error."""

    @property
    def psnr(self) -> float:
        """PSNR in dB."""

    @property
    def ssim(self) -> float:
        """SSIM."""


def ranked_sections(
    scores: Sequence[Scored], count: int, spec: Spec, pictures: Callable[[list[int]], Iterable[Picture]]
) -> Iterator[Section]:
    """Yield sections with the best, middle and worst reconstructions; all of them if there are at most `count`.

    Args:
        scores: Score of each image.
        count: Number of images to show.
        spec: Spec of the features.
        pictures: Function that returns the pictures of the images at some positions.
    """
    order = sorted(range(len(scores)), key=lambda index: scores[index].error)
    groups = _groups(order, count)
    shown = [index for group in groups.values() for index in group]
    drawn = dict(zip(shown, pictures(shown), strict=True))
    rank = {index: position for position, index in enumerate(order, 1)}
    what = "all of them" if len(shown) == len(order) else f"{len(shown)} of {len(order):,}"
    heading = "From the best to the worst reconstruction"
    yield Section(heading, text=[f"Photographs sorted by their error, {what}."], kind="subsection")
    for title, group in groups.items():
        rows = []
        for index in group:
            one = scores[index]
            measures = f"error {one.error:.3f} · PSNR {one.psnr:.1f} dB · SSIM {one.ssim:.3f}"
            note = f"{rank[index]} of {len(order):,} · {measures}"
            rows.append(comparison(one.key, note, drawn[index], spec))
        yield Section(title, comparisons=rows, kind="group")


def _groups(order: Sequence[int], count: int) -> dict[str, Sequence[int]]:
    """Return the first, middle and last of sorted indices by title, `count` in all; one group if all are shown."""
    if len(order) <= count:
        return {"": order}
    few = count // 3
    most = count - 2 * few
    middle = (len(order) - few) // 2
    return {"Best": order[:few], "Middle": order[middle : middle + few], "Worst": order[len(order) - most :]}


def drawn_pictures(reconstructor: Reconstructor, images: Sequence[ImageSource], side: int) -> list[Picture]:
    """Return the pictures of images, in order."""
    representation = reconstructor.representation
    found = []
    for _, batch in reconstructor.compare_all(images, side):
        targets, made = as_pixels(batch.target), as_pixels(batch.reconstruction)
        for target, again, features in zip(targets, made, batch.features.cpu().numpy(), strict=True):
            drawing = representation.draw(representation.spec, features, DRAWING_SIDE, target)
            found.append(Picture(target, drawing, again))
    return found


def comparison(key: str, note: str, picture: Picture, spec: Spec) -> Comparison:
    """Return the photograph, the features (if they can be drawn) and the reconstruction, captioned."""
    between = [] if picture.drawing is None else [drawing_figure(key, picture.drawing, spec)]
    photograph = Figure(_small(picture.photograph), "Photograph", f"{key}, the photograph")
    return Comparison(photograph, reconstruction_figure(key, picture.reconstruction, spec), between, key, note)


def drawing_figure(key: str, drawing: Pixels, spec: Spec) -> Figure:
    """Return the drawing of an image's features, captioned."""
    name, how = title_of(spec), class_of(spec.representation).drawing
    return Figure(_small(drawing), f"{name} features", f"{key}, its {name} features, drawn as {how}")


def reconstruction_figure(key: str, made: Pixels, spec: Spec) -> Figure:
    """Return the reconstruction of an image, captioned."""
    return Figure(_small(made), "Reconstruction", f"{key}, reconstructed from its {title_of(spec)} features")


def _small(image: Pixels) -> Pixels:
    return fit_into(image, DRAWING_SIDE) if max(image.shape[:2]) > DRAWING_SIDE else image


def sample_sections(
    reconstructor: Reconstructor, images: Sequence[ImageSource], side: int, options: Options, notes: list[str]
) -> Iterator[Section]:
    """Yield the section with samples and the map of their deviation; or say in `notes` why there are none."""
    if not options.samples:
        notes.append("Samples are left out: none were asked for.")
        return
    if not reconstructor.inverter.can_sample:
        notes.append("Samples are left out: the inverter returns one image for the same features.")
        return
    spaced = sorted({round(place) for place in np.linspace(0, len(images) - 1, _SAMPLED)})
    shown = min(_SHOWN_SAMPLES, options.samples)
    titles = ["Photograph", "Reconstruction", *sample_titles(shown)[:-1], "Map"]
    columns: list[list[Figure]] = [[] for _ in titles]
    whole = None if reconstructor.inverter.output_region is not None else (side, side)
    sources = [images[place] for place in spaced]
    for place, (keys, batch) in zip(spaced, reconstructor.compare_all(sources, side, 1), strict=True):
        drawn = reconstructor.sample(batch.features, options.samples, options.seed, size=whole, positions=[place])[0]
        made = as_pixels(batch.reconstruction)[0]
        deviation = draw_deviation(made, pixel_deviation(drawn).cpu().numpy())
        cells = [as_pixels(batch.target)[0], made, *as_pixels(drawn[:shown]), deviation]
        for column, cell, title in zip(columns, cells, titles, strict=True):
            small = fit_into(cell, min(_SAMPLE_SIDE, max(cell.shape[:2])))
            column.append(Figure(small, title, f"{keys[0]}: {title[0].lower()}{title[1:]}"))
    scale = Figure(draw_scale(_SCALE_WIDTH, _SCALE_TILE), "", f"Scale of the map. {' '.join(MEANING)}")
    yield Section(
        TITLE,
        [scale],
        f"The map shows the standard deviation of {options.samples} samples.",
        span="page",
        columns=columns,
        kind="subsection",
        text=[
            "Many images have the same features, and samples are some of them, drawn at random. Where they agree, the "
            "features determine the image; where they differ, the inverter guesses."
        ],
    )
