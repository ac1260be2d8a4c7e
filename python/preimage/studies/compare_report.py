"""Present a comparison of methods: table, plot, sheet, and the sentences that its scores allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from preimage.pipelines.image_loading import Pixels
from preimage.studies.base import SAME_ERROR, SheetRow, Study
from preimage.studies.bootstrap import Interval
from preimage.studies.formatting import listed, number, two_digits
from preimage.viz.dots import Dots, draw_dots
from preimage.viz.html import Table

_SAME = "not distinguishable from"


@dataclasses.dataclass(frozen=True)
class ImageResult:
    """Scores of one reconstruction by one method.

    Attributes:
        key: Key of the image.
        error: Normalized error.
        psnr: PSNR in dB; infinite for equal images.
        ssim: SSIM, at most 1.
        gray_error: Normalized error of the luminance.
        feature_error: ‖φ(f(φ(x))) − φ(x)‖ / ‖φ(x)‖; ``None`` if ‖φ(x)‖ is zero.
    """

    key: str
    error: float
    psnr: float
    ssim: float
    gray_error: float
    feature_error: float | None


@dataclasses.dataclass(frozen=True)
class MethodScore:
    """Scores of one method: means over the images with bootstrap intervals of 95 %.

    Attributes:
        name: Name of the method.
        title: Name in prose.
        reference: Publication of the method; empty if there is none.
        error: Normalized error, with the average distance between two of the images as a constant.
        psnr: PSNR in dB.
        ssim: SSIM.
        gray_error: Normalized error of the luminance, so that a method without colors is not judged by colors.
        feature_error: Feature-space error of the images that the method returned; ``None`` if the features of all
            images are zero.
        difference: Mean paired difference of the reference method's error to this one's (negative: the reference
            method's is lower); ``None`` for the reference method, which is ``ours`` or else the first.
        gray_difference: The same for `gray_error`.
        seconds: Wall time of the inversion per image.
        learning_seconds: Wall time in which the method learned from photographs; ``None`` if it did not learn here.
        each: Scores of each image, in the order given.
    """

    name: str
    title: str
    reference: str
    error: Interval
    psnr: Interval
    ssim: Interval
    gray_error: Interval
    feature_error: Interval | None
    difference: Interval | None
    gray_difference: Interval | None
    seconds: float
    learning_seconds: float | None
    each: tuple[ImageResult, ...]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings that all methods of a comparison share.

    Attributes:
        representation: Representation in prose.
        side: Side of the images in pixels.
        crop: Side of the center square on which images are compared, in pixels.
        size: Side to which that square is resized for the comparison.
        batch_size: Number of images that a method inverts at once.
        mean_image_error: Normalized error of the mean of the compared images.
        learned_from: What methods learned from, as a sentence; empty if none learned.
    """

    representation: str
    side: int
    crop: int
    size: int
    batch_size: int
    mean_image_error: float
    learned_from: str = ""


class CompareStudy(Study):
    """Presentation of the scores by method.

    Args:
        scores: Scores of every method.
        setting: What the methods have in common.
        sheet_rows: Rows of the sheet.
        drawn: Whether the sheet contains drawings of the features.
        tile: Side of an image on the sheet, pixels.
    """

    name = "compare"
    title = "Methods of inversion compared"
    sheet_heading = "Reconstructions"
    sheet_alt = "rows of photographs, their features, and reconstructions by each method"
    sheet_note = "Errors are means over all photographs."
    plot_heading = "Error and time by method"
    plot_alt = "normalized error of each method with its interval, and seconds per image"

    def __init__(
        self,
        scores: Sequence[MethodScore],
        setting: Setting,
        sheet_rows: Sequence[SheetRow] = (),
        *,
        drawn: bool = False,
        tile: int = 192,
    ) -> None:
        self.scores, self.setting, self.sheet_rows, self.drawn, self.tile = scores, setting, sheet_rows, drawn, tile
        self._ours = next((score for score in scores if score.difference is None), scores[0])
        self._others = [score for score in scores if score is not self._ours]

    @property
    def image_count(self) -> int:
        return len(self.scores[0].each)

    def lead(self) -> str:
        count = f"{len(self.scores)} methods" if self._others else self._ours.title
        return (
            f"{self.image_count} photographs of {self.setting.side} × {self.setting.side} pixels, reconstructed by "
            f"{count} from their {self.setting.representation} features."
        )

    def findings(self) -> Iterator[str]:
        ours = self._ours
        yield (
            f"The normalized error of {ours.title} is {_with_interval(ours.error)}; the mean of these photographs has "
            f"{number(self.setting.mean_image_error)}."
        )
        if not self._others:
            return
        yield "The normalized error of " + self._ranking([(other, other.difference) for other in self._others])
        yield "The error of the luminance alone of " + self._ranking(
            [(other, other.gray_difference) for other in self._others]
        )
        times = [f"{two_digits(other.seconds)} s with {self._title_and_ratio(other)}" for other in self._others]
        yield f"An image takes {listed([f'{two_digits(ours.seconds)} s with {ours.title}', *times])}."
        yield from self._feature_finding()

    def _title_and_ratio(self, other: MethodScore) -> str:
        ratio = two_digits(other.seconds / self._ours.seconds)
        return other.title if other.seconds < 1.05 * self._ours.seconds else f"{other.title} ({ratio} times as long)"

    def _ranking(self, differences: Sequence[tuple[MethodScore, Interval | None]]) -> str:
        """Return which methods have a higher error than the reference method, a lower one, or possibly the same."""
        places: dict[str, list[tuple[str, Interval]]] = {"lower than": [], "higher than": [], _SAME: []}
        for other, difference in differences:
            assert difference is not None
            is_clear = abs(difference.mean) >= SAME_ERROR and (difference.high < 0 or difference.low > 0)
            place = _SAME if not is_clear else "lower than" if difference.mean < 0 else "higher than"
            places[place].append((other.title, difference))
        parts = [f"{place} that of {listed([title for title, _ in found])}" for place, found in places.items() if found]
        if len(parts) > 1 or places[_SAME]:
            return f"{self._ours.title} is {', '.join(parts)}."
        ((place, found),) = ((place, found) for place, found in places.items() if found)
        title, difference = min(found, key=lambda one: abs(one[1].mean))
        every, which = ("every other method", f" to the next, {title},") if len(found) > 1 else (title, "")
        return f"{self._ours.title} is {place} that of {every}; the difference{which} is {_length(difference)}."

    def _feature_finding(self) -> Iterator[str]:
        """Yield a sentence if the method with the closest features is not the one with the closest images."""
        measured = [(score, score.feature_error) for score in self.scores if score.feature_error is not None]
        if not measured:
            return
        closest = min(self.scores, key=lambda score: score.error.mean)
        matching, error = min(measured, key=lambda one: one[1].mean)
        # Above 1, an image without any features would be closer.
        if closest.feature_error is None or error.mean >= 1:
            return
        apart = matching.error.mean - closest.error.mean, closest.feature_error.mean - error.mean
        if min(apart) >= SAME_ERROR:
            yield (
                f"The images of {matching.title} have the features closest to the given ones (feature error "
                f"{error.mean:.3f}), but those of {closest.title} (feature error {closest.feature_error.mean:.3f}) are "
                "closest to the photographs."
            )

    def table(self) -> Iterator[Sequence[object]]:
        names = ("normalized_error", "psnr_db", "ssim", "gray_error", "feature_error", "difference")
        columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
        yield ["method", "title", "images", *columns, "seconds_per_image", "learning_seconds"]
        for score in self.scores:
            values: list[str] = []
            for interval in (
                *(score.error, score.psnr, score.ssim, score.gray_error),
                *(score.feature_error, score.difference),
            ):
                ends = () if interval is None else (interval.mean, interval.low, interval.high)
                values += [f"{end:.6f}" for end in ends] or [""] * 3
            learning = "" if score.learning_seconds is None else f"{score.learning_seconds:.3f}"
            yield [score.name, score.title, len(score.each), *values, f"{score.seconds:.6f}", learning]

    def further_tables(self) -> dict[str, Iterator[Sequence[object]]]:
        return {"images": self._image_table()}

    def _image_table(self) -> Iterator[Sequence[object]]:
        yield ["method", "key", "normalized_error", "psnr_db", "ssim", "gray_error", "feature_error"]
        for score in self.scores:
            for one in score.each:
                values = [f"{one.error:.6f}", f"{one.psnr:.4f}", f"{one.ssim:.6f}", f"{one.gray_error:.6f}"]
                values.append("" if one.feature_error is None else f"{one.feature_error:.6f}")
                yield [score.name, one.key, *values]

    def tables(self) -> list[Table]:
        header = ["method", "normalized error", "95 % interval", "of luminance", "PSNR, dB", "SSIM", "feature error"]
        lines = [
            [
                score.title,
                f"{score.error.mean:.3f}",
                f"{score.error.low:.3f} to {score.error.high:.3f}",
                f"{score.gray_error.mean:.3f}",
                f"{score.psnr.mean:.1f}",
                f"{score.ssim.mean:.3f}",
                "" if score.feature_error is None else f"{score.feature_error.mean:.3f}",
                two_digits(score.seconds),
                "" if score.learning_seconds is None else two_digits(score.learning_seconds),
            ]
            for score in self.scores
        ]
        return [Table("Scores of the reconstructions", [*header, "seconds per image", "learning, s"], lines)]

    def sheet_titles(self) -> list[str]:
        columns = [f"{score.title}\nerror {score.error.mean:.2f}" for score in self.scores]
        return ["photograph", *["its features"] * self.drawn, *columns]

    def plot(self) -> Pixels:
        """Draw the error with its interval, and the time on a logarithmic axis beside it."""
        scores = self.scores
        errors = Dots(
            "Normalized error (lower is closer)",
            [score.error.mean for score in scores],
            [(score.error.low, score.error.high) for score in scores],
            [f"{score.error.mean:.2f}" for score in scores],
            level=self.setting.mean_image_error,
            level_label=f"mean of these photographs, {self.setting.mean_image_error:.2f}",
        )
        seconds = [score.seconds for score in scores]
        times = Dots("Seconds per image", seconds, labels=[two_digits(one) for one in seconds], log=True)
        return draw_dots([score.title for score in scores], [errors, times])

    def remarks(self) -> Iterator[str]:
        setting = self.setting
        if setting.crop < setting.side or setting.size < setting.side:
            yield (
                f"Images are compared on the part that all methods return: the center {setting.crop} of {setting.side} "
                f"pixels, at {setting.size} × {setting.size}. For the feature error, an image of a part is enlarged to "
                "that part and its edges are continued."
            )
        yield (
            "Normalized error: mean Euclidean distance between photograph and reconstruction, divided by the average "
            "distance between two of the photographs; of luminance: the same of 0.299 R + 0.587 G + 0.114 B. Feature "
            "error: distance between the features of reconstruction and photograph, divided by the norm of the latter."
        )
        yield (
            "Intervals are bootstrap percentile intervals of 95 % over the images, and for differences between two "
            f"methods over the differences of each image. Differences below {SAME_ERROR:g}, and those whose interval "
            "contains zero, are not ranked."
        )
        yield (
            f"Times are wall times of the inversion alone, in batches of {setting.batch_size} images, without the time "
            "in which a method learned."
        )
        yield setting.learned_from
        yield from (f"{score.title}: {score.reference}." for score in self.scores if score.reference)


def _with_interval(interval: Interval) -> str:
    return f"{number(interval.mean)} (95 % interval {number(interval.low)} to {number(interval.high)})"


def _length(difference: Interval) -> str:
    """Return a difference that is not zero without its sign."""
    if difference.mean < 0:
        difference = Interval(-difference.mean, -difference.high, -difference.low)
    return _with_interval(difference)
