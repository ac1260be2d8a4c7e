"""Interpolate between the features of images, and compare the decoded path with a cross-fade of its two ends."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from preimage.io.animation import encode_animation, write_animation
from preimage.io.folders import make_folders
from preimage.pipelines.image_loading import Images, at_once, batches, working_bytes
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation
from preimage.studies.base import ProgressCounter, StudySummary, check_at_least, study_images
from preimage.studies.inputs import evenly_spaced
from preimage.studies.interpolate_measurement import PairScore, PathMeasurement
from preimage.studies.interpolate_page import InterpolateStudy, animation_frames
from preimage.viz.html import EncodedImage
from preimage.viz.sheets import SMALLEST_TILE

ANIMATION = "animation.gif"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolateSummary(StudySummary):
    """Result of the study of interpolation.

    Attributes:
        animation: GIF of the decoded paths beside the cross-fades.
        inverter: Name or folder of the inverter.
        spherical: Whether features were interpolated along an arc.
        nonlinearity: Mean of `PairScore.nonlinearity`.
        pairs: Scores of every pair of consecutive images.
    """

    animation: Path
    inverter: str
    spherical: bool
    nonlinearity: float
    pairs: tuple[PairScore, ...]


def study_interpolate(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    representation: Representation | str | None = None,
    size: int | None = None,
    steps: int = 9,
    frames: int = 17,
    spherical: bool = False,
    seed: int = 0,
    show_count: int = 4,
    tile: int = 128,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study interpolate",
    progress: Callable[[int, int], None] | None = None,
) -> InterpolateSummary:
    """Decode features on the way between two images, and compare the result with a cross-fade in pixels.

    Each image is interpolated with the next one. The cross-fade is that of the two reconstructions, which is what a
    linear inverter would return. `preimage.studies.feature_paths` describes the paths, also that of sparse SIFT.

    Args:
        images: Path or paths (folders, files, tar shards), or sources, in the order of the path; at least two images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Inverter, its name or folder; ``None`` takes the pretrained one of the representation.
        representation: Representation that the inverter inverts, or its name; required for a layer of a network, and
            without an inverter.
        size: Side in pixels to which images are resized and center-cropped; ``None`` is the representation's only size,
            or 256.
        steps: Number of positions that are measured and shown on the film strip, both ends included; at least 3.
        frames: Number of positions of each pair in the animation, both ends included; at least 2.
        spherical: Whether features move along an arc between their directions, instead of a line. Features that have no
            arc between them (one is zero, or their directions are equal or opposite) move along the line.
        seed: Seed of the positions at which keypoints of sparse SIFT appear and disappear.
        show_count: Number of pairs on the film strip and in the animation, evenly spaced over all of them.
        tile: Side of an image on the film strip in pixels, at least 32.
        batch_size: Batch size.
        device: Device of the inverter and, where possible, of the representation, see `Reconstructor`.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (pairs done, number of pairs).

    Raises:
        ValueError: There are fewer than two images, only equal ones, or a bad one (named); features contain NaN or
            infinite values; an arc for sparse SIFT; the inverter is for other features; there is no such device,
            representation or inverter; a value is out of range.
        LookupError: There is no pretrained inverter for the representation.
    """
    start = time.perf_counter()
    check_at_least(("steps", steps, 3), ("frames", frames, 2), ("seed", seed, 0), ("show_count", show_count, 1))
    check_at_least(("batch_size", batch_size, 1), ("tile", tile, SMALLEST_TILE))
    folder = output_folder(output)
    reconstructor = Reconstructor(representation, inverter, device)
    side = reconstructor.side(size)
    listing = study_images(images, skip_bad=skip_bad)
    count = len(listing.sources) - 1
    shown = evenly_spaced(count, show_count)
    counter = ProgressCounter(count, progress)
    together = at_once(working_bytes(reconstructor.representation, side, side, inverted=True), batch_size)
    measurement = PathMeasurement(
        reconstructor, side, together, steps=steps, frames=frames, spherical=spherical, seed=seed
    )
    ends = (
        measurement.end(key, image)
        for keys, group in batches(listing.sources, side, together)
        for key, image in zip(keys, group, strict=True)
    )
    to_show = 0
    for index, (first, last) in enumerate(itertools.pairwise(ends)):
        to_show += index in shown
        if measurement.add(first, last, shown=to_show > 0):  # a pair of equal ends is replaced by the next pair
            to_show = max(0, to_show - 1)
        counter.add(1)
    if not measurement.pairs:
        raise ValueError(f"{measurement.notes[0]} The study needs two images that differ.")
    drawn, durations = animation_frames(measurement.clips, tile)
    encoded = EncodedImage(
        encode_animation(drawn, durations, ".webp"), "image/webp", drawn[0].shape[1], drawn[0].shape[0]
    )
    study = InterpolateStudy(
        measurement.pairs,
        measurement.rows,
        inverter=reconstructor.name,
        representation=reconstructor.representation.name,
        spherical=spherical,
        tile=tile,
        animation=encoded,
    )
    make_folders(folder)
    write_animation(folder / ANIMATION, drawn, durations)
    written = study.write(folder, start=start, listings=[listing], notes=measurement.notes, command=command)
    return InterpolateSummary(
        **vars(written),
        animation=folder / ANIMATION,
        inverter=reconstructor.name,
        spherical=spherical,
        nonlinearity=study.nonlinearity,
        pairs=study.pairs,
    )
