"""Evaluate an inverter on a set of images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage.io.csv_file import write_csv
from preimage.io.folders import check_output_file
from preimage.metrics import SMALLEST_FOR_SSIM, ErrorReport, NormalizedError, Originals, PerceptualDistance, psnr, ssim
from preimage.pipelines.image_loading import Images, as_listing, none_usable
from preimage.pipelines.inverter_choice import NamedInverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sample_scores import ImageSampleScore, SampleScorer, SampleScores
from preimage.pipelines.sampling import Sampling
from preimage.representations import Representation


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """Scores of one reconstruction.

    Attributes:
        key: Key of the image.
        error: Normalized error; the mean over the images is the error of the set.
        psnr: Peak signal-to-noise ratio in dB, peak 1.
        ssim: Structural similarity, at most 1.
        lpips: Perceptual distance, if it was computed.
        samples: Scores of the samples for the image, if they were drawn.
    """

    key: str
    error: float
    psnr: float
    ssim: float
    lpips: float | None = None
    samples: ImageSampleScore | None = None


@dataclasses.dataclass(frozen=True)
class EvaluateSummary:
    """Scores of an inverter over a set of images.

    Attributes:
        inverter: Name or folder of the inverter.
        images: Number of images.
        size: Side in pixels of the compared images: the images, or the region that the inverter reconstructs.
        error: Normalized reconstruction error (lower is better).
        mean_image_error: Normalized error of the set's mean image as the reconstruction of every image.
        normalizer: Average distance between two images of the set, N in the paper.
        psnr: Mean PSNR in dB.
        ssim: Mean SSIM.
        csv: CSV file with the scores, if written.
        seconds: Wall time.
        scores: Scores of each image, in the order given.
        skipped: (name, problem) of the skipped images.
        notes: Sentences about inputs that were not read: links to folders, files of other formats.
        samples: Scores of the inverter's samples, if they were drawn.
    """

    inverter: str
    images: int
    size: int
    error: float
    mean_image_error: float
    normalizer: float
    psnr: float
    ssim: float
    csv: Path | None
    seconds: float
    scores: tuple[ImageScore, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    samples: SampleScores | None = None


class Scores:
    """Accumulate the scores of reconstructions.

    Args:
        originals: Statistics of the original images, see `NormalizedError`.
        perceptual: Perceptual distance, see `preimage.metrics`; ``None`` computes none.
    """

    def __init__(self, originals: Originals | None = None, perceptual: PerceptualDistance | None = None) -> None:
        self._error = NormalizedError(originals)
        self._perceptual = perceptual
        self._keys: list[str] = []
        self._psnr: list[float] = []
        self._ssim: list[float] = []
        self._lpips: list[float | None] = []

    def add(self, keys: Sequence[str], images: torch.Tensor, reconstructions: torch.Tensor) -> None:
        """Add a batch; both (B, 3, H, W) float in [0, 1], at least 11 pixels a side."""
        self._error.update(images, reconstructions)
        self._keys += keys
        self._psnr += psnr(reconstructions, images).tolist()
        self._ssim += ssim(reconstructions, images).tolist()
        self._lpips += self._perceptual(reconstructions, images) if self._perceptual else [None] * len(keys)

    def report(self) -> tuple[ErrorReport, tuple[ImageScore, ...]]:
        """Return the error over the set, and each image's scores; ``ValueError`` with fewer than two images."""
        report = self._error.report()
        columns = zip(self._keys, report.per_image, self._psnr, self._ssim, self._lpips, strict=True)
        return report, tuple(ImageScore(*values) for values in columns)


def evaluate(
    inverter: NamedInverter,
    images: Images,
    *,
    representation: Representation | str | None = None,
    size: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
    csv: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    samples: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluateSummary:
    """Extract the features of images, invert them and compare the reconstructions with the images.

    Args:
        inverter: Inverter, its folder (also that of a training run), or the name of a pretrained one.
        images: Path or paths (folders, image files, tar shards), or image sources; at least two images.
        representation: Representation that the inverter inverts, or its name; required for a layer of a network, which
            cannot be created from the inverter's spec alone.
        size: Side in pixels to which images are resized (short side) and center-cropped. ``None`` is the
            representation's only size, or 256.
        batch_size: Number of images at once; fewer for images so large that a batch would need over a gigabyte.
        device: Device of the inverter and, where possible, of the representation, see `Reconstructor`.
        csv: File to write the scores of each image and their mean to.
        skip_bad: Skip and list images that cannot be listed or read, instead of stopping.
        samples: Number of samples to draw and score for each image, at least 2; 0 scores none.
        seed: Seed of the samples, whose noise is also keyed by the position of the image among those that are used.
        progress: Called with (images done, total number of images).

    Raises:
        ValueError: Fewer than two images, an image that cannot be used (named), an unknown device or inverter, a
            representation with another spec, a size under 11 or that the representation does not take, a single sample
            or more than 1000, a negative seed, or samples of an inverter that cannot sample.
    """
    start = time.perf_counter()
    reconstructor = Reconstructor(representation, inverter, device)
    side, region = reconstructor.side(size), reconstructor.inverter.output_region
    compared = side if region is None else region.size
    if compared < SMALLEST_FOR_SSIM:
        raise ValueError(f"size must be at least {SMALLEST_FOR_SSIM} pixels, got {compared}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if Sampling(samples, seed).count == 1:
        raise ValueError("samples must be at least 2, or 0 for none, got 1")
    if csv is not None:
        check_output_file(csv)
    listing = as_listing(images, skip_bad=skip_bad)
    originals = Originals()
    scores, done, bad = Scores(originals), 0, list(listing.skipped)
    scorer = SampleScorer(reconstructor, originals, samples, seed) if samples else None
    skipped = bad if skip_bad else None
    for keys, comparison in reconstructor.compare_all(listing.sources, side, batch_size, skipped=skipped):
        originals.add(comparison.target)
        scores.add(keys, comparison.target, comparison.reconstruction)
        if scorer is not None:
            scorer.add(comparison)
        done += len(keys)
        if progress is not None:
            progress(done + len(bad) - len(listing.skipped), len(listing.sources))
    if not done:
        raise none_usable(bad)
    report, each = scores.report()
    sample_scores = None
    if scorer is not None:
        sample_scores, of_images = scorer.report(report.error)
        each = tuple(dataclasses.replace(score, samples=one) for score, one in zip(each, of_images, strict=True))
    summary = EvaluateSummary(
        inverter=reconstructor.name,
        images=len(each),
        size=compared,
        error=report.error,
        mean_image_error=report.mean_image,
        normalizer=report.normalizer,
        psnr=_mean([score.psnr for score in each]),
        ssim=_mean([score.ssim for score in each]),
        csv=None if csv is None else Path(csv),
        seconds=time.perf_counter() - start,
        scores=each,
        skipped=tuple(bad),
        notes=listing.notes,
        samples=sample_scores,
    )
    if summary.csv is not None:
        write_scores(summary.csv, summary)
    return summary


def write_scores(path: Path, summary: EvaluateSummary) -> None:
    """Write the scores of each image, their mean and the mean image's error as CSV, atomically.

    If samples were drawn, further columns have their scores.
    """
    header = ["key", "normalized_error", "psnr_db", "ssim"]
    rows = [header + ["draw_error", "mean_of_draws_error", "deviation"] * (summary.samples is not None)]
    for score in summary.scores:
        rows.append(_row(score.key, score.error, score.psnr, score.ssim, score.samples))
    rows.append(_row("(mean)", summary.error, summary.psnr, summary.ssim, summary.samples))
    rows.append(["(mean image)", f"{summary.mean_image_error:.6f}"])
    rows[-1] += [""] * (len(rows[0]) - 2)
    write_csv(path, rows)


def _row(
    key: str, error: float, psnr_db: float, similarity: float, samples: ImageSampleScore | SampleScores | None
) -> list[str]:
    drawn = () if samples is None else (samples.draw_error, samples.mean_error, samples.deviation)
    return [key, f"{error:.6f}", f"{psnr_db:.4f}", f"{similarity:.6f}", *(f"{value:.6f}" for value in drawn)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
