"""Measure disclosure: what stored SIFT keypoints reveal about the photographs in which they were detected."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike

import torch

from preimage.io import ImageSource
from preimage.keypoints import Keypoints
from preimage.metrics import SMALLEST_FOR_SSIM, Originals, perceptual_distance
from preimage.pipelines.evaluate import Scores
from preimage.pipelines.image_loading import Images, Pixels, as_pixels, at_once, batches, inverting_bytes
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice, sift_inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations.sift import Sift
from preimage.studies.base import (
    NORMALIZED_ERROR,
    SAME_ERROR,
    ProgressCounter,
    SheetRow,
    Study,
    StudySummary,
    check_at_least,
    mean_scores,
    study_images,
)
from preimage.studies.inputs import evenly_spaced
from preimage.studies.keypoint_perturbations import coordinates_only, descriptors_only, keep_percentage, positions_only
from preimage.viz.html import Table
from preimage.viz.plots import Panel, draw_panels

PERCENTAGES = (5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)

_KEPT = "kept"
_MEAN_IMAGE = "mean-image"
_TITLES = {
    "coordinates-only": "coordinates only",
    "positions-only": "positions only",
    "descriptors-only": "descriptors only",
    _MEAN_IMAGE: "the mean image",
}
_TILE = 160  # side of an image on the sheet, pixels
_FEW = 20  # percent; the first finding is about the share closest to this


@dataclasses.dataclass(frozen=True)
class ConditionScore:
    """Mean scores of the reconstructions under one condition.

    Attributes:
        condition: ``kept``, ``coordinates-only``, ``positions-only``, ``descriptors-only``, or ``mean-image``, which
            returns the mean of all images for every image.
        percentage: Percentage of the keypoints; ``None`` for the mean image.
        images: Number of images.
        keypoints: Mean number of an image's cells with a keypoint; ``None`` for the mean image.
        error: Normalized error.
        psnr: PSNR in dB.
        ssim: SSIM, at most 1.
        lpips: LPIPS; ``None`` if it could not be computed.
    """

    condition: str
    percentage: float | None
    images: int
    keypoints: float | None
    error: float
    psnr: float
    ssim: float
    lpips: float | None

    @property
    def title(self) -> str:
        """Name of the condition in prose, such as ``20 % kept``."""
        return _TITLES.get(self.condition, f"{self.percentage or 0:g} % kept")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisclosureSummary(StudySummary):
    """Result of the study of disclosure.

    Attributes:
        inverter: Name or folder of the inverter.
        size: Side of the images in pixels.
        seed: Seed of the selection of keypoints.
        scores: Scores of every condition.
    """

    inverter: str
    size: int
    seed: int
    scores: tuple[ConditionScore, ...]


def study_disclosure(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    size: int = 256,
    percentages: Sequence[float] = PERCENTAGES,
    seed: int = 0,
    show_count: int = 4,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study disclosure",
    progress: Callable[[int, int], None] | None = None,
) -> DisclosureSummary:
    """Invert the keypoints of photographs, then fewer and fewer of them, then only parts of each.

    Keypoints are detected once for every image and kept in memory (about 0.2 MB for 256² pixels), as are the images in
    float16 (0.4 MB) for the normalized error; reconstructions are not.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Name or folder of an inverter for ``sift``; ``None`` takes a pretrained one.
        size: Side to which images are resized and center-cropped in pixels, at least 11.
        percentages: Percentages of the keypoints to keep, above 0 and at most 100.
        seed: Seed of the selection of keypoints.
        show_count: Number of photographs on the sheet, evenly spaced over all of them.
        batch_size: Batch size.
        device: Device of the inverter.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image under one condition.

    Raises:
        ValueError: There are fewer than two images, a bad one (named), or no keypoint in any; a value is out of range;
            the inverter is for other features; there is no such device or inverter.
        LookupError: `inverter` is ``None`` and there is no pretrained inverter for ``sift``.
    """
    start = time.perf_counter()
    percentages = _checked(size, percentages, seed, show_count, batch_size)
    folder = output_folder(output)
    network, name = sift_inverter(inverter, "vlfeat")
    reconstructor = Reconstructor(None, network, device)
    listing = study_images(images, skip_bad=skip_bad)
    sources = listing.sources
    sift = reconstructor.representation
    assert isinstance(sift, Sift)
    # Five more: detection, three ablations, the mean image.
    steps = ProgressCounter(len(sources) * (len(percentages) + 5), progress)
    batch_size = at_once(inverting_bytes(size, size), batch_size)
    detected = _detect(sources, size, batch_size, sift, steps)
    conditions = _conditions(percentages, seed, size, sift, detected.scale)
    shown = evenly_spaced(len(sources), show_count)
    measurement = _Measurement(reconstructor, sift, conditions, detected.mean_image, size, shown)
    for (keys, originals), keypoints in zip(batches(sources, size, batch_size), detected.keypoints, strict=True):
        measurement.add(keys, originals, keypoints, steps)
    scores = tuple(measurement.scores())
    study = DisclosureStudy(scores, measurement.rows(), inverter=name, size=size, seed=seed, drawn=bool(sift.drawing))
    notes = [measurement.missing] if measurement.missing else []
    written = study.write(folder, start=start, listings=[listing], notes=notes, command=command)
    return DisclosureSummary(**vars(written), inverter=name, size=size, seed=seed, scores=scores)


def _checked(size: int, percentages: Sequence[float], seed: int, show_count: int, batch_size: int) -> tuple[float, ...]:
    """Return the shares in ascending order without duplicates; ``ValueError`` if a value is out of range."""
    if not percentages or not all(0 < percentage <= 100 for percentage in percentages):
        listed = ", ".join(f"{percentage:g}" for percentage in percentages) or "none"
        raise ValueError(f"percentages must be above 0 and at most 100, got {listed}")
    check_at_least(("size", size, SMALLEST_FOR_SSIM), ("seed", seed, 0))
    check_at_least(("show_count", show_count, 1), ("batch_size", batch_size, 1))
    return tuple(sorted({float(percentage) for percentage in percentages}))


@dataclasses.dataclass(frozen=True)
class _Condition:
    """A perturbation: a function of the keypoints of a batch and the index of its first image."""

    name: str
    percentage: float
    perturb: Callable[[Keypoints, int], Keypoints]


@dataclasses.dataclass(frozen=True)
class _Detected:
    """Keypoints by batch, the median of their scales, and the mean image (3, H, W)."""

    keypoints: list[Keypoints]
    scale: float
    mean_image: torch.Tensor


def _detect(
    sources: Sequence[ImageSource], size: int, batch_size: int, sift: Sift, steps: ProgressCounter
) -> _Detected:
    """Detect the keypoints of all images; ``ValueError`` for a bad image, and if there is no keypoint in any."""
    found, total = [], torch.zeros(3, size, size, dtype=torch.float64)
    for _, originals in batches(sources, size, batch_size):
        found.append(sift.keypoints(originals))
        total += originals.double().sum(dim=0)
        steps.add(len(originals))
    scales = torch.cat([keypoints.scale for keypoints in found])
    if not len(scales):
        raise ValueError(f"there is no keypoint in any of the {len(sources)} images")
    return _Detected(found, float(scales.median()), (total / len(sources) / 255).float())


def _conditions(percentages: Sequence[float], seed: int, size: int, sift: Sift, scale: float) -> list[_Condition]:
    """Return the shares in the order given, then the ablations, in which a constant scale is `scale` pixels."""

    def kept(percentage: float, keypoints: Keypoints, first: int) -> Keypoints:
        return keep_percentage(keypoints, percentage, seed, first=first)

    def descriptors(keypoints: Keypoints, _: int) -> Keypoints:
        return descriptors_only(keypoints, (size, size), sift.cell_size, scale)

    return [
        *(_Condition(_KEPT, percentage, functools.partial(kept, percentage)) for percentage in percentages),
        _Condition("coordinates-only", 100, lambda keypoints, _: coordinates_only(keypoints)),
        _Condition("positions-only", 100, lambda keypoints, _: positions_only(keypoints, scale)),
        _Condition("descriptors-only", 100, descriptors),
    ]


class _Measurement:
    """Scores of the reconstructions under all conditions, batch by batch, and the rows of the sheet.

    Args:
        reconstructor: The inverter.
        sift: The representation.
        conditions: All conditions.
        mean_image: (3, H, W), the mean of all images.
        size: Side of the images, pixels.
        shown: Indices of the images on the sheet.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        sift: Sift,
        conditions: Sequence[_Condition],
        mean_image: torch.Tensor,
        size: int,
        shown: set[int],
    ) -> None:
        self._reconstructor, self._sift, self._conditions, self._size = reconstructor, sift, conditions, (size, size)
        self._mean_image, self._shown = mean_image, shown
        self._originals = Originals()
        distance, self.missing = perceptual_distance()
        self._scores = [Scores(self._originals, distance) for _ in (*conditions, _MEAN_IMAGE)]
        self._cells = [0 for _ in conditions]
        self._rows: dict[int, SheetRow] = {}
        self._images = 0

    def add(self, keys: Sequence[str], originals: torch.Tensor, keypoints: Keypoints, steps: ProgressCounter) -> None:
        """Add a batch of images (B, 3, H, W) uint8 with all of their keypoints."""
        images = originals.float() / 255
        self._originals.add(images)
        first, self._images = self._images, self._images + len(keys)
        shown = [index for index in range(len(keys)) if first + index in self._shown]
        for index in shown:
            cells = [originals[index].permute(1, 2, 0).contiguous().numpy(), *self._drawing(keypoints[index])]
            self._rows[first + index] = SheetRow(keys[index], cells)
        for index, reconstructions in enumerate(self._reconstructions(keypoints, first)):
            self._scores[index].add(keys, images, reconstructions)
            for row in shown:
                self._rows[first + row].cells.append(as_pixels(reconstructions[row]))
            steps.add(len(keys))
        self._scores[-1].add(keys, images, self._mean_image.expand_as(images))
        steps.add(len(keys))

    def scores(self) -> Iterator[ConditionScore]:
        """Yield the score of every condition, the mean image last."""
        for condition, cells, scores in zip(self._conditions, self._cells, self._scores, strict=False):
            yield _score(condition.name, condition.percentage, cells / self._images, scores)
        yield _score(_MEAN_IMAGE, None, None, self._scores[-1])

    def rows(self) -> list[SheetRow]:
        """Return the rows of the sheet."""
        return list(self._rows.values())

    def _reconstructions(self, keypoints: Keypoints, first: int) -> Iterator[torch.Tensor]:
        for index, condition in enumerate(self._conditions):
            features = self._sift.grid(condition.perturb(keypoints, first), self._size)
            # Sine and cosine of the angle are both 0 only in empty cells.
            self._cells[index] += int((features[:, 130:132] != 0).any(dim=1).sum())
            yield self._reconstructor.invert(features, self._size)

    def _drawing(self, keypoints: Keypoints) -> list[Pixels]:
        """Draw keypoints without the photograph, because a database of keypoints does not contain it."""
        drawing = self._sift.draw(self._sift.spec, self._sift.grid(keypoints, self._size)[0].numpy(), _TILE)
        return [] if drawing is None else [drawing]


def _score(name: str, percentage: float | None, cells: float | None, scores: Scores) -> ConditionScore:
    mean = mean_scores(scores)
    return ConditionScore(name, percentage, mean.images, cells, mean.error, mean.psnr, mean.ssim, mean.lpips)


class DisclosureStudy(Study):
    """Presentation of the scores by condition.

    Args:
        scores: Scores of the shares in ascending order, of the ablations, and of the mean image.
        sheet_rows: Rows of the sheet.
        inverter: Name or folder of the inverter.
        size: Side of the images, pixels.
        seed: Seed of the selection of keypoints.
        drawn: Whether the sheet contains drawings of the keypoints.
    """

    name = "disclosure"
    title = "What SIFT keypoints reveal"
    sheet_heading = "The same photographs under every condition"
    sheet_alt = "rows of photographs, their keypoints, and reconstructions from them"
    sheet_note = (
        "Coordinates only: no descriptors. Positions only: no scales and angles either. Descriptors only: scales, "
        "angles and positions within the cell are constants."
    )
    plot_heading = "By share"
    plot_alt = "error and SSIM by share of keypoints"
    tile = _TILE

    def __init__(
        self,
        scores: Sequence[ConditionScore],
        sheet_rows: Sequence[SheetRow] = (),
        *,
        inverter: str = "",
        size: int = 256,
        seed: int = 0,
        drawn: bool = True,
    ) -> None:
        self.scores, self.sheet_rows = scores, sheet_rows
        self._inverter, self._size, self._seed, self._drawn = inverter, size, seed, drawn
        self._by_name = {score.condition: score for score in scores}
        self._kept = [score for score in scores if score.condition == _KEPT]
        self._all, self._mean_image = self._kept[-1], self._by_name[_MEAN_IMAGE]
        self._has_lpips = all(score.lpips is not None for score in scores)

    @property
    def image_count(self) -> int:
        return self._all.images

    def table(self) -> Iterator[Sequence[object]]:
        header = ["condition", "percentage", "images", "keypoints_per_image", "normalized_error", "psnr_db", "ssim"]
        yield header + ["lpips"] * self._has_lpips
        for score in self.scores:
            percentage = "" if score.percentage is None else f"{score.percentage:g}"
            keypoints = "" if score.keypoints is None else f"{score.keypoints:.2f}"
            values = [f"{score.error:.6f}", f"{score.psnr:.4f}", f"{score.ssim:.6f}"]
            values += [] if score.lpips is None else [f"{score.lpips:.6f}"]
            yield [score.condition, percentage, score.images, keypoints, *values]

    def sheet_titles(self) -> list[str]:
        conditions = [score.title for score in self.scores if score.condition != _MEAN_IMAGE]
        return ["photograph", *["its keypoints"] * self._drawn, *conditions]

    def plot(self) -> Pixels:
        """Draw error and SSIM by share, with the other conditions as horizontal lines."""
        others = sorted(
            (score for score in self.scores if score.condition != _KEPT),
            key=lambda score: score is not self._mean_image,
        )
        panels = [
            Panel(
                heading,
                [score.percentage or 0 for score in self._kept],
                [getattr(score, name) for score in self._kept],
                {score.title: getattr(score, name) for score in others},
                least_span=0.1,
            )
            for heading, name in (("Normalized error (lower is closer)", "error"), ("SSIM (higher is closer)", "ssim"))
        ]
        return draw_panels(panels, "keypoints kept, %")

    def findings(self) -> Iterator[str]:
        yield from self._percentage_findings()
        first, last, floor = self._kept[0], self._all, self._mean_image
        yield (
            f"SSIM is {first.ssim:.2f} at {first.percentage:g} % and {last.ssim:.2f} at {last.percentage:g} %; "
            f"the mean image has {floor.ssim:.2f}."
            if self._kept[:-1]
            else f"SSIM is {last.ssim:.2f}; the mean image has {floor.ssim:.2f}."
        )
        coordinates, descriptors = self._by_name["coordinates-only"], self._by_name["descriptors-only"]
        yield (
            f"From coordinates, scales and angles without descriptors the error is {coordinates.error:.2f} (from "
            f"positions alone {self._by_name['positions-only'].error:.2f}); from descriptors without geometry, each in "
            f"its cell, {descriptors.error:.2f}."
        )
        difference = coordinates.error - descriptors.error
        if abs(difference) > SAME_ERROR and min(coordinates.error, descriptors.error) < floor.error - SAME_ERROR:
            more, less = ("descriptors", "geometry") if difference > 0 else ("geometry", "descriptors")
            yield f"By that measure this inverter recovers more from the {more} than from the {less}."

    def _percentage_findings(self) -> Iterator[str]:
        """Yield sentences about the shares of keypoints."""
        last, floor = self._all, self._mean_image
        recovers = last.error < floor.error - SAME_ERROR
        everything = "all of them" if last.percentage == 100 else f"{last.percentage:g} %"
        if self._kept[:-1]:
            few = min(self._kept[:-1], key=lambda score: abs((score.percentage or 0) - _FEW))
            yield (
                f"With {few.percentage:g} % of the keypoints ({few.keypoints:.0f} on an image's grid) the normalized "
                f"error is {few.error:.2f}, against {last.error:.2f} with {everything} ({last.keypoints:.0f}) and "
                f"{floor.error:.2f} for the mean image."
            )
            if recovers:
                yield self._halfway()
        elif recovers:
            yield (
                f"With {last.percentage:g} % of the keypoints ({last.keypoints:.0f} on an image's grid) the normalized "
                f"error is {last.error:.2f}, against {floor.error:.2f} for the mean image."
            )
        if not recovers:
            yield (
                f"With {everything} the error, {last.error:.3f}, is not at least {SAME_ERROR} below the mean image's, "
                f"{floor.error:.3f}: by this measure the inverter recovers nothing from these keypoints."
            )

    def _halfway(self) -> str:
        last = self._all
        which = "all keypoints" if last.percentage == 100 else f"{last.percentage:g} % of the keypoints"
        halfway = (last.error + self._mean_image.error) / 2
        enough = next(score for score in self._kept if score.error <= halfway)
        if enough is last:
            return f"No smaller share gets halfway from the mean image's error to the error with {which}."
        return (
            f"{enough.percentage:g} % is the smallest share that gets at least halfway from the mean image's error "
            f"to the error with {which}."
        )

    def lead(self) -> str:
        return (
            f"{self.image_count} photographs of {self._size} × {self._size} pixels were reduced to SIFT keypoints and "
            "reconstructed from nothing else. Then part of the keypoints, or of every keypoint, was removed."
        )

    def remarks(self) -> Iterator[str]:
        yield f"{NORMALIZED_ERROR}."
        yield f"Inverter: {self._inverter}. Seed of the selection of keypoints: {self._seed}."
        yield (
            "These are reconstructions by one inverter: another one, or one trained for a condition, may recover more."
        )

    def tables(self) -> list[Table]:
        header = ["condition", "keypoints per image", "normalized error", "PSNR, dB", "SSIM"]
        return [Table("Scores of the reconstructions", header + ["LPIPS"] * self._has_lpips, list(self._lines()))]

    def _lines(self) -> Iterator[list[str]]:
        """Yield the rows of the page's table."""
        for score in self.scores:
            keypoints = "" if score.keypoints is None else f"{score.keypoints:.1f}"
            line = [score.title, keypoints, f"{score.error:.3f}", f"{score.psnr:.1f}", f"{score.ssim:.3f}"]
            yield line if score.lpips is None else [*line, f"{score.lpips:.3f}"]
