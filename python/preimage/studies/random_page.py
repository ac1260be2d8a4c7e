"""Present the statistics of random features, and of the images decoded from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from preimage.pipelines.image_loading import Pixels
from preimage.studies.base import SheetRow, Study
from preimage.studies.feature_samples import FeatureDistribution
from preimage.studies.formatting import number, percent, whole_percent
from preimage.studies.random_measurement import SampleScore
from preimage.viz.html import Table
from preimage.viz.plots import Values, draw_by_name

_NOTHING = 0.05  # similarity below which nothing comes back
_LESS = 0.9  # ratio of similarities above which they are called the same


class RandomStudy(Study):
    """Presentation of the statistics.

    Args:
        scores: Statistics of real features, and of both kinds of samples.
        distribution: Distributions of the dimensions.
        sheet_rows: Rows of the sheet.
        inverter: Name or folder of the inverter.
        representation: Name of the representation.
        seed: Seed of the samples.
        tile: Side of an image on the sheet, pixels.
    """

    name = "random"
    title = "Random features"
    sheet_heading = "Decoded"
    sheet_alt = "rows of images decoded from real features and from random ones"
    plot_heading = "Relative to real features"
    plot_alt = "statistics of samples and of images decoded from them, relative to those of real features"

    def __init__(
        self,
        scores: Sequence[SampleScore],
        distribution: FeatureDistribution,
        sheet_rows: Sequence[SheetRow] = (),
        *,
        inverter: str = "",
        representation: str = "",
        seed: int = 0,
        tile: int = 128,
    ) -> None:
        self.scores, self.sheet_rows, self.tile = tuple(scores), sheet_rows, tile
        self._distribution, self._inverter = distribution, inverter
        self._representation, self._seed = representation, seed
        self._real, self._histogram, self._gaussian = self.scores

    @property
    def image_count(self) -> int:
        return self._distribution.images

    def table(self) -> Iterator[Sequence[object]]:
        yield [field.name for field in dataclasses.fields(SampleScore)]
        every = self._distribution
        statistics = [f"{value:.6f}" for value in (every.mean, every.deviation, every.sparsity)]
        yield ["all", every.images, *statistics, *[""] * 7]
        for score in self.scores:
            kind, samples, *values = dataclasses.astuple(score)
            yield [kind, samples, *("" if math.isnan(value) else f"{value:.6f}" for value in values)]

    def sheet_titles(self) -> list[str]:
        return [str(column + 1) for column in range(max(len(row.cells) for row in self.sheet_rows))]

    def plot(self) -> Pixels:
        """Draw each statistic of the samples, divided by that of real features."""
        names = {
            "mean": "mean",
            "deviation": "deviation",
            "sparsity": "zeros",
            "norm": "norm",
            "round_trip": "round trip",
            "similarity": "similarity",
            "contrast": "contrast",
            "fine_detail": "detail",
            "color": "color",
        }
        series = [Values(self._real.title, [1.0] * len(names), "level")]
        for score in (self._histogram, self._gaussian):
            ratios = [_ratio(getattr(score, name), getattr(self._real, name)) for name in names]
            series.append(Values(score.title, ratios, "points"))
        title = "Statistics of features, and of images decoded from them"
        groups = ["features"] * 6 + ["decoded images"] * 3
        return draw_by_name(title, list(names.values()), series, groups)

    def findings(self) -> Iterator[str]:
        real, histogram, gaussian = self.scores
        if not any(math.isnan(score.round_trip) for score in self.scores):  # features that are all zero have no error
            yield (
                "The round trip of features through the decoded image and back has an error of "
                f"{histogram.round_trip:.2f} for dimensions sampled one by one from their own values and "
                f"{gaussian.round_trip:.2f} for one Gaussian, against {real.round_trip:.2f} for real features."
            )
        if real.similarity < _NOTHING:
            conclusion = "so little of real features comes back that it says nothing about the samples."
        elif histogram.similarity < _LESS * real.similarity:
            conclusion = "independent dimensions do not make features of images."
        else:
            conclusion = "by this measure independent dimensions are as good as real features."
        yield (
            f"The similarity of the features before and after it is {number(histogram.similarity)} (every dimension "
            f"from its own values) and {number(gaussian.similarity)} (one Gaussian), against "
            f"{number(real.similarity)} for real features: {conclusion}"
        )
        yield (
            f"The decoded images have a contrast of {histogram.contrast:.3f} and {gaussian.contrast:.3f}, those of "
            f"real features {real.contrast:.3f}; fine detail of "
            f"{histogram.fine_detail:.3f} and {gaussian.fine_detail:.3f}, against {real.fine_detail:.3f}; and color of "
            f"{histogram.color:.3f} and {gaussian.color:.3f}, against {real.color:.3f}."
        )
        yield (
            f"{whole_percent(real.sparsity)} of the numbers in real features are 0, "
            f"{whole_percent(histogram.sparsity)} and {whole_percent(gaussian.sparsity)} of those in the samples."
        )

    def lead(self) -> str:
        shape = " × ".join(map(str, self._distribution.shape))
        return (
            f"Random {self._representation} features ({shape}) with the distributions of {self.image_count:,} images, "
            "decoded. Every number was sampled independently of the others, and as many numbers are 0 as in an image."
        )

    def remarks(self) -> Iterator[str]:
        yield (
            "Error: the distance between the features of the decoded image and the features that were decoded, divided "
            "by the norm of the latter; the mean over the samples. Similarity: the cosine of the angle between both, "
            "without the means of the dimensions."
        )
        yield (
            "Contrast: standard deviation of the luma. Detail: root mean square of the luma at frequencies above 1/8 "
            "cycle per pixel. Color: root mean square difference of the channels from their mean. Images are in [0, 1]."
        )
        if len(self._distribution.shape) > 1:
            yield "All positions of a channel share one distribution."
        yield f"Inverter: {self._inverter}. Seed: {self._seed}."

    def tables(self) -> list[Table]:
        header = [
            "",
            "samples",
            "mean",
            "deviation",
            "zeros",
            "norm",
            "round-trip error",
            "similarity",
            "contrast",
            "detail",
            "color",
        ]
        lines = [
            [
                score.title,
                str(score.samples),
                f"{score.mean:.4g}",
                f"{score.deviation:.4g}",
                percent(score.sparsity),
                f"{score.norm:.4g}",
                "" if math.isnan(score.round_trip) else f"{score.round_trip:.3f} ± {score.round_trip_deviation:.3f}",
                number(score.similarity),
                f"{score.contrast:.3f}",
                f"{score.fine_detail:.3f}",
                f"{score.color:.3f}",
            ]
            for score in self.scores
        ]
        return [Table("Features, and images decoded from them", header, lines)]


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference and math.isfinite(value / reference) and value / reference >= 0 else None
