"""Interpolate between the features of images, and compare the decoded path with a cross-fade of its two ends."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from preimage.inverters import Inverter
from preimage.io.animation import encode_animation, write_animation
from preimage.pipelines.image_loading import Images, Pixels, as_pixels, at_once, batches, working_bytes
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation
from preimage.studies.base import ProgressCounter, SheetRow, Study, StudySummary, check_at_least, study_images
from preimage.studies.feature_paths import feature_path, has_arc
from preimage.studies.reextraction import reextracted
from preimage.viz.html import EncodedImage, Figure, Section, Table
from preimage.viz.plots import Values, draw_by_name
from preimage.viz.sheets import SMALLEST_TILE, draw_sheet

ANIMATION = "animation.gif"

_FRAME, _REST = 80, 800  # milliseconds of a frame, and of the frames at both ends
_SAME = 0.05  # relative difference of errors that are not called different
_FAR = 1.5  # ratio of deviations from the mean above which a path leaves the features of images
_EQUAL = 1e-6  # distance of two ends, relative to their norms, below which they are equal


@dataclasses.dataclass(frozen=True)
class PositionScore:
    """Distances at one position of a path.

    Distances of features are relative to the distance between the features of the two images, distances of images to
    that between their reconstructions.

    Attributes:
        position: 0 at the first image, 1 at the last.
        feature_distance_first: Distance of the decoded image's features from those of the first image.
        feature_distance_last: Distance of the decoded image's features from those of the last image.
        image_distance_first: Distance of the decoded image from the reconstruction of the first image.
        image_distance_last: Distance of the decoded image from the reconstruction of the last image.
        crossfade_distance: Distance of the decoded image from the cross-fade of the two reconstructions.
        feature_error: Distance of the decoded image's features from the features that were decoded.
        crossfade_feature_error: Distance of the cross-fade's features from the features that were decoded.
        largest_deviation: Largest distance of a number of the interpolated features from its mean, in the standard
            deviations that the inverter was trained with.
    """

    position: float
    feature_distance_first: float
    feature_distance_last: float
    image_distance_first: float
    image_distance_last: float
    crossfade_distance: float
    feature_error: float
    crossfade_feature_error: float
    largest_deviation: float


@dataclasses.dataclass(frozen=True)
class PairScore:
    """Scores of the path between two images.

    Attributes:
        first: Key of the first image.
        last: Key of the last image.
        nonlinearity: Mean of `PositionScore.crossfade_distance` between the ends: 0 if the inverter is linear.
        positions: Distances at every position.
    """

    first: str
    last: str
    nonlinearity: float
    positions: tuple[PositionScore, ...]


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
    shown = {round(index * (count - 1) / max(1, show_count - 1)) for index in range(show_count)}
    counter = ProgressCounter(count, progress)
    together = at_once(working_bytes(reconstructor.representation, side, side, inverted=True), batch_size)
    measurement = _Measurement(
        reconstructor, side, together, steps=steps, frames=frames, spherical=spherical, seed=seed
    )
    keyed = (
        (key, image[None])
        for keys, group in batches(listing.sources, side, together)
        for key, image in zip(keys, group, strict=True)
    )
    ends = (_End(key, image, measurement.features(key, image)) for key, image in keyed)
    for index, (first, last) in enumerate(itertools.pairwise(ends)):
        measurement.add(first, last, shown=index in shown)
        counter.add(1)
    if not measurement.pairs:
        raise ValueError(f"{measurement.notes[0]} The study needs two images that differ.")
    frame_images, durations = animation_frames(measurement.clips, tile)
    study = InterpolateStudy(
        measurement.pairs,
        measurement.rows,
        inverter=reconstructor.name,
        representation=reconstructor.representation.name,
        spherical=spherical,
        tile=tile,
        animation=_encoded(frame_images, durations),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_animation(folder / ANIMATION, frame_images, durations)
    written = study.write(folder, start=start, listings=[listing], notes=measurement.notes, command=command)
    return InterpolateSummary(
        **vars(written),
        animation=folder / ANIMATION,
        inverter=reconstructor.name,
        spherical=spherical,
        nonlinearity=study.nonlinearity,
        pairs=study.pairs,
    )


@dataclasses.dataclass(frozen=True)
class _End:
    """An end of a path: key, image (1, 3, H, W) uint8, and features (1, C, h, w) or (1, C)."""

    key: str
    image: torch.Tensor
    features: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames of one pair, decoded and cross-faded, (H, W, 3) uint8 each."""

    decoded: list[Pixels]
    crossfade: list[Pixels]


class _Measurement:
    """Scores of all pairs, the rows of the film strip, and the clips of the animation.

    Args:
        reconstructor: Representation and inverter.
        side: Side of the images, pixels.
        batch_size: Number of positions decoded at once.
        steps: Number of positions measured.
        frames: Number of positions in a clip.
        spherical: Whether to interpolate along an arc.
        seed: Seed of `feature_path`.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        side: int,
        batch_size: int,
        *,
        steps: int,
        frames: int,
        spherical: bool,
        seed: int,
    ) -> None:
        self._reconstructor, self._batch_size = reconstructor, batch_size
        self._size = None if reconstructor.inverter.output_region is not None else (side, side)
        self._steps, self._frames, self._spherical, self._seed = steps, frames, spherical, seed
        self.pairs: list[PairScore] = []
        self.rows: list[SheetRow] = []
        self.clips: list[Clip] = []
        self.notes: list[str] = []

    def features(self, key: str, image: torch.Tensor) -> torch.Tensor:
        """Return the features of an image (1, 3, H, W); ``ValueError`` if they are not finite."""
        features = self._reconstructor.features(image)
        if not features.isfinite().all():
            raise ValueError(f"{key}: the features contain NaN or infinite values, which cannot be interpolated")
        return features

    def add(self, first: _End, last: _End, *, shown: bool) -> None:
        """Measure a pair, or add a note if its ends are equal."""
        positions = torch.linspace(0, 1, self._steps, dtype=torch.float64)
        path, decoded = self._decoded(first, last, positions)
        crossfade = _crossfade(decoded, positions)
        features, images = _distance(first.features[0], last.features[0]), _distance(decoded[0], decoded[-1])
        if _are_equal(features, first.features, last.features) or _are_equal(images, decoded[0], decoded[-1]):
            what = "features" if _are_equal(features, first.features, last.features) else "reconstructions"
            self.notes.append(f"{first.key} and {last.key} have equal {what}: there is nothing between them.")
            return
        if self._spherical and not has_arc(first.features[0], last.features[0]):
            self.notes.append(
                f"There is no arc between the features of {first.key} and {last.key}, which are zero or have equal or "
                "opposite directions: a line was taken."
            )
        again, faded = (self._reextracted(batch) for batch in (decoded, crossfade))
        deviations = _deviations(self._reconstructor.inverter, path)
        scores = tuple(
            PositionScore(
                position=float(positions[step]),
                feature_distance_first=_distance(again[step], first.features[0]) / features,
                feature_distance_last=_distance(again[step], last.features[0]) / features,
                image_distance_first=_distance(decoded[step], decoded[0]) / images,
                image_distance_last=_distance(decoded[step], decoded[-1]) / images,
                crossfade_distance=_distance(decoded[step], crossfade[step]) / images,
                feature_error=_distance(again[step], path[step]) / features,
                crossfade_feature_error=_distance(faded[step], path[step]) / features,
                largest_deviation=float(deviations[step]),
            )
            for step in range(self._steps)
        )
        nonlinearity = _mean([score.crossfade_distance for score in scores[1:-1]])
        self.pairs.append(PairScore(first.key, last.key, nonlinearity, scores))
        if shown:
            self._show(first, last, decoded, crossfade)

    def _decoded(self, first: _End, last: _End, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features at the positions, and the images (P, 3, H, W) decoded from them."""
        spec = self._reconstructor.inverter.spec
        path = feature_path(
            spec, first.features[0], last.features[0], positions, spherical=self._spherical, seed=self._seed
        )
        images = [self._reconstructor.invert(part, self._size).cpu() for part in path.split(self._batch_size)]
        return path, torch.cat(images).clamp(0, 1)

    def _reextracted(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([reextracted(self._reconstructor, part) for part in images.split(self._batch_size)])

    def _show(self, first: _End, last: _End, decoded: torch.Tensor, crossfade: torch.Tensor) -> None:
        photographs = as_pixels(self._reconstructor.target(torch.cat((first.image, last.image))))
        blank = np.full_like(photographs[0], 255)  # the sheet's background
        title = f"{first.key} to {last.key}"
        self.rows += [
            SheetRow(f"{title}, features interpolated", [photographs[0], *as_pixels(decoded), photographs[1]]),
            SheetRow(f"{title}, their reconstructions cross-faded", [blank, *as_pixels(crossfade), blank]),
        ]
        positions = torch.linspace(0, 1, self._frames, dtype=torch.float64)
        _, images = self._decoded(first, last, positions)
        self.clips.append(Clip(list(as_pixels(images)), list(as_pixels(_crossfade(images, positions)))))


def animation_frames(clips: Sequence[Clip], tile: int) -> tuple[list[Pixels], list[int]]:
    """Return the frames of the animation, decoded images beside cross-faded ones, and how long each is shown in ms.

    A single clip is played forwards and backwards, several one after the other; their ends are shown longer.
    """
    titles = ["features", "pixels"]
    frames, durations = [], []
    for clip in clips:
        drawn = [draw_sheet([pair], titles, tile=tile) for pair in zip(clip.decoded, clip.crossfade, strict=True)]
        frames += drawn
        durations += [_REST, *[_FRAME] * (len(drawn) - 2), _REST]
        if len(clips) == 1:
            frames += drawn[-2:0:-1]
            durations += [_FRAME] * (len(drawn) - 2)
    return frames, durations


def _encoded(frames: Sequence[Pixels], durations: Sequence[int]) -> EncodedImage:
    data = encode_animation(frames, durations, ".webp")
    return EncodedImage(data, "image/webp", frames[0].shape[1], frames[0].shape[0])


def _crossfade(decoded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the cross-fade of the first and the last image of a path (P, 3, H, W)."""
    t = positions.to(decoded).view(-1, 1, 1, 1)
    return (1 - t) * decoded[0] + t * decoded[-1]


def _deviations(inverter: Inverter, features: torch.Tensor) -> torch.Tensor:
    """Return the largest number of the standardized features (B, ...) of each image, without sign, (B,)."""
    shape = (-1, 1, 1)[: features.dim() - 1]
    mean, deviation = inverter.feature_mean.cpu().view(shape), inverter.feature_deviation.cpu().view(shape)
    return ((inverter.measured(features.cpu()) - mean) / deviation).abs().flatten(1).amax(dim=1)


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm())


def _are_equal(distance: float, one: torch.Tensor, other: torch.Tensor) -> bool:
    return distance <= _EQUAL * float(one.double().norm() + other.double().norm())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class InterpolateStudy(Study):
    """Presentation of the scores by position.

    Args:
        pairs: Scores of every pair, at least one.
        sheet_rows: Rows of the film strip.
        inverter: Name or folder of the inverter.
        representation: Name of the representation.
        spherical: Whether features were interpolated along an arc.
        tile: Side of an image on the film strip, pixels.
        animation: Animation to embed in the page; ``None`` for none.
    """

    name = "interpolate"
    title = "Between two images"
    sheet_heading = "Film strips"
    sheet_alt = "rows of images decoded on the way from one photograph to the next, each above a cross-fade"
    sheet_note = (
        "Upper rows: photograph, reconstructions from features on the way to the other photograph's, and that "
        "photograph. Lower rows: the first and the last reconstruction, cross-faded."
    )
    plot_heading = "By position"
    plot_alt = "distances by position on the path"

    def __init__(
        self,
        pairs: Sequence[PairScore],
        sheet_rows: Sequence[SheetRow] = (),
        *,
        inverter: str = "",
        representation: str = "",
        spherical: bool = False,
        tile: int = 128,
        animation: EncodedImage | None = None,
    ) -> None:
        self.pairs, self.sheet_rows, self.tile = tuple(pairs), sheet_rows, tile
        self._inverter, self._representation = inverter, representation
        self._spherical, self._animation = spherical, animation
        self.nonlinearity = _mean([pair.nonlinearity for pair in self.pairs])
        fields = [field.name for field in dataclasses.fields(PositionScore)]
        #: Means over the pairs.
        self.means = [
            PositionScore(*(_mean([getattr(score, name) for score in scores]) for name in fields))
            for scores in zip(*(pair.positions for pair in self.pairs), strict=True)
        ]

    @property
    def image_count(self) -> int:
        return len(self.pairs) + 1

    def table(self) -> Iterator[Sequence[object]]:
        yield ["first", "last", *(field.name for field in dataclasses.fields(PositionScore))]
        for pair in self.pairs:
            for score in pair.positions:
                yield [pair.first, pair.last, *(f"{value:.6f}" for value in dataclasses.astuple(score))]

    def sheet_titles(self) -> list[str]:
        return ["photograph", *(f"{score.position:.3g}" for score in self.means), "photograph"]

    def plot(self) -> Pixels:
        """Draw the distances of features from both ends, and those of images from the cross-fade."""
        positions = [f"{score.position:.3g}" for score in self.means]
        series = [
            Values("features, from the first image's", [score.feature_distance_first for score in self.means]),
            Values("features, from the last image's", [score.feature_distance_last for score in self.means], "points"),
            Values("images, from the cross-fade", [score.crossfade_distance for score in self.means], "points"),
            Values("features on a line, from the first image's", [score.position for score in self.means], "level"),
        ]
        return draw_by_name("Distances of the decoded images, relative to that between the ends", positions, series)

    def sections(self) -> list[Section]:
        if self._animation is None:
            return []
        figure = Figure(self._animation, "", "animation of the decoded path beside the cross-fade")
        return [Section("Animation", [figure], note="Left: features interpolated. Right: pixels cross-faded.")]

    def findings(self) -> Iterator[str]:
        each = [pair.nonlinearity for pair in self.pairs]
        among = f" ({min(each):.2f} to {max(each):.2f} among the pairs)" if len(each) > 1 else ""
        yield (
            f"Between the ends, a decoded image differs from the cross-fade by {self.nonlinearity:.2f} of the distance "
            f"between the two reconstructions{among}; a linear inverter has 0."
        )
        middle = min(self.means, key=lambda score: abs(score.position - 0.5))
        decoded, crossfade = middle.feature_error, middle.crossfade_feature_error
        if abs(decoded - crossfade) <= _SAME * crossfade:
            comparison = "as far from the interpolated features as"
        else:
            comparison = f"{'closer to' if decoded < crossfade else 'farther from'} the interpolated features than"
        yield (
            f"In the middle, the features of the decoded image are {comparison} those of the cross-fade: at "
            f"{decoded:.2f} and {crossfade:.2f} of the distance between the two images' features."
        )
        ends = (self.means[0].feature_error + self.means[-1].feature_error) / 2
        yield f"At the ends, where the interpolated features are a photograph's, this distance is {ends:.2f}."
        yield from self._switch()
        between = max(score.largest_deviation for score in self.means[1:-1])
        at_ends = max(self.means[0].largest_deviation, self.means[-1].largest_deviation)
        if between > _FAR * at_ends:
            yield (
                f"Between the ends some number of the features is {between:.0f} standard deviations from its mean, at "
                f"the ends at most {at_ends:.0f}: the path leaves the features that the inverter was trained on."
            )

    def _switch(self) -> Iterator[str]:
        """Yield the position from which on features are nearer to the last image's."""
        is_nearer = [score.feature_distance_last < score.feature_distance_first for score in self.means]
        if is_nearer[0] or not is_nearer[-1]:
            yield (
                "The features of the reconstructions at the ends are not nearest to those of their own photographs, so "
                "that the features of decoded images say little about the path."
            )
        else:
            yield (
                "The features of the decoded image are nearer to the last image's than to the first's from position "
                f"{self.means[is_nearer.index(True)].position:.3g} on."
            )

    def lead(self) -> str:
        count = "a pair" if len(self.pairs) == 1 else f"{len(self.pairs)} pairs"
        way = "along an arc" if self._spherical else "on a line"
        return (
            f"The {self._representation} features of {count} of photographs were interpolated {way} and decoded at "
            f"{len(self.means)} positions."
        )

    def remarks(self) -> Iterator[str]:
        yield (
            "Distances are Euclidean. Those of features are relative to the distance between the features of the two "
            "photographs, those of images to the distance between the two reconstructions."
        )
        if self._spherical:
            yield "On an arc the direction of the features turns evenly, and their norm changes linearly."
        yield f"Inverter: {self._inverter}."

    def tables(self) -> list[Table]:
        header = [
            "position",
            "features: from first",
            "from last",
            "images: from first",
            "from last",
            "from cross-fade",
            "features: error",
            "of the cross-fade",
            "deviations",
        ]
        lines = [
            [f"{score.position:.3g}", *(f"{value:.3g}" for value in dataclasses.astuple(score)[1:])]
            for score in self.means
        ]
        title = "Relative distances" if len(self.pairs) == 1 else "Relative distances, means over the pairs"
        return [Table(title, header, lines)]
