"""Present the scores of interpolation: film strips, animation, plot and findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from statistics import fmean

from preimage.pipelines.image_loading import Pixels
from preimage.studies.base import SheetRow, Study
from preimage.studies.interpolate_measurement import Clip, PairScore, PositionScore
from preimage.viz.html import EncodedImage, Figure, Section, Table
from preimage.viz.plots import Values, draw_by_name
from preimage.viz.sheets import draw_sheet

_FRAME, _REST = 80, 800  # milliseconds of a frame, and of the frames at both ends
_SAME = 0.05  # relative difference of errors that are not called different
_FAR = 1.5  # ratio of deviations from the mean above which a path leaves the features of images


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
        self.nonlinearity = fmean([pair.nonlinearity for pair in self.pairs])
        fields = [field.name for field in dataclasses.fields(PositionScore)]
        #: Means over the pairs.
        self.means = [
            PositionScore(*(fmean([getattr(score, name) for score in scores]) for name in fields))
            for scores in zip(*(pair.positions for pair in self.pairs), strict=True)
        ]

    @property
    def image_count(self) -> int:
        return len({key for pair in self.pairs for key in (pair.first, pair.last)})

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
            f"between the two reconstructions{among}"
            + ("." if self._spherical or self._representation == "sift" else "; a linear inverter has 0.")
        )
        middle = self.means[len(self.means) // 2]
        decoded, crossfade = middle.feature_error, middle.crossfade_feature_error
        if abs(decoded - crossfade) <= _SAME * crossfade:
            comparison = "about as far from the interpolated features as"
        else:
            comparison = f"{'closer to' if decoded < crossfade else 'farther from'} the interpolated features than"
        yield (
            f"At position {middle.position:.3g}, the features of the decoded image are {comparison} those of the "
            f"cross-fade: at {decoded:.2f} and {crossfade:.2f} of the distance between the two images' features."
        )
        ends = (self.means[0].feature_error + self.means[-1].feature_error) / 2
        yield f"At the ends, where the interpolated features are a photograph's, this distance is {ends:.2f}."
        yield from self._switch()
        deviations = [[score.largest_deviation for score in pair.positions] for pair in self.pairs]
        between = max(max(pair[1:-1]) for pair in deviations)
        at_ends = max(max(pair[0], pair[-1]) for pair in deviations)
        if between > _FAR * at_ends:
            yield (
                f"Between the ends some number of the features is {between:.1f} standard deviations from its mean, at "
                f"the ends at most {at_ends:.1f}: the path leaves the range of the photographs' features."
            )

    def _switch(self) -> Iterator[str]:
        """Yield the position from which on features are nearer to the last image's, on average over the pairs."""
        is_nearer = [score.feature_distance_last < score.feature_distance_first for score in self.means]
        switch = len(is_nearer) - is_nearer[::-1].index(False) if False in is_nearer else 0
        if is_nearer[0] or not is_nearer[-1]:
            yield (
                "The features of the reconstructions at the ends are not nearest to those of their own photographs, so "
                "that the features of decoded images say little about the path."
            )
        else:
            yield (
                "The features of the decoded image are nearer to the last image's than to the first's from position "
                f"{self.means[switch].position:.3g} on."
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
