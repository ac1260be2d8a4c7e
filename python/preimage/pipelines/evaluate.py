"""How well an inverter reconstructs a set of photographs."""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage.io import atomic_write
from preimage.metrics import SMALLEST_FOR_SSIM, ErrorReport, NormalizedError, Originals, PerceptualDistance, psnr, ssim
from preimage.pipelines.choosing import NamedInverter
from preimage.pipelines.loading import Images, as_listing, none_usable
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """One image's reconstruction.

    Attributes:
        key: of the image.
        error: normalized error, its share in the mean.
        psnr: peak signal-to-noise ratio in dB, peak 1.
        ssim: structural similarity, at most 1.
        lpips: perceptual distance, where there is one.
    """

    key: str
    error: float
    psnr: float
    ssim: float
    lpips: float | None = None


@dataclasses.dataclass(frozen=True)
class EvaluateSummary:
    """An inverter's scores over a set of images.

    Attributes:
        inverter: name or folder of the inverter.
        images: how many images.
        size: side in pixels of what is compared: of the images, or of what comes back of them.
        error: normalized reconstruction error (lower is better).
        mean_image_error: the same of answering every image with the set's mean image.
        normalizer: N, the average distance between two images of the set.
        psnr: mean over the images, dB.
        ssim: mean over the images.
        csv: the file with one line an image, if one was asked for.
        seconds: wall time.
        scores: one entry an image, in the order given.
        skipped: (name, problem) of the images left out.
        notes: sentences about what was not looked at: links to folders, files of other formats.
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


class Scores:
    """Collect originals and reconstructions, and score them.

    Args:
        originals: see `NormalizedError`.
        perceptual: a distance of reconstructions and originals, see `preimage.metrics`.
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
    progress: Callable[[int, int], None] | None = None,
) -> EvaluateSummary:
    """Extract, invert and compare, at the images' own size after `size`, or the output region of the inverter.

    Args:
        inverter: an inverter, a pretrained name or a folder (a training run's, too).
        images: a path or paths (folders, files, tar shards), or sources; at least two images.
        representation: what the inverter is for, where its spec alone does not make it.
        size: short side resized to this many pixels and the center square cut out; ``None`` takes the only size that
            the representation knows, or 256.
        batch_size: images at once, fewer where they are so large that they would take over a gigabyte.
        device: where the inverter runs, and the representation where it can, see `Reconstructor`.
        csv: write one line an image, and the mean, to this file.
        skip_bad: leave out images that cannot be listed or read, and list them, instead of stopping.
        progress: called with (images done, images in all).

    Raises:
        ValueError: fewer than two images, a bad image (named), no such device or inverter, a representation of another
            spec, or a size that it does not take or that is under 11.
    """
    start = time.perf_counter()
    reconstructor = Reconstructor(representation, inverter, device)
    side, region = reconstructor.side(size), reconstructor.inverter.output_region
    compared = side if region is None else region.size
    if compared < SMALLEST_FOR_SSIM or batch_size < 1:
        raise ValueError(f"size is at least 11 pixels and batch_size at least 1, got {compared} and {batch_size}")
    listing = as_listing(images, skip_bad=skip_bad)
    scores, done, bad = Scores(), 0, list(listing.skipped)
    skipped = bad if skip_bad else None
    for keys, comparison in reconstructor.compare_all(listing.sources, side, batch_size, skipped=skipped):
        scores.add(keys, comparison.target, comparison.reconstruction)
        done += len(keys)
        if progress is not None:
            progress(done + len(bad) - len(listing.skipped), len(listing.sources))
    if not done:
        raise none_usable(bad)
    report, each = scores.report()
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
    )
    if summary.csv is not None:
        write_scores(summary.csv, summary)
    return summary


def write_scores(path: Path, summary: EvaluateSummary) -> None:
    """One line an image, the mean, and the mean image's error, as CSV; atomic."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["key", "normalized_error", "psnr_db", "ssim"])
    for score in summary.scores:
        table.writerow([score.key, f"{score.error:.6f}", f"{score.psnr:.4f}", f"{score.ssim:.6f}"])
    table.writerow(["(mean)", f"{summary.error:.6f}", f"{summary.psnr:.4f}", f"{summary.ssim:.6f}"])
    table.writerow(["(mean image)", f"{summary.mean_image_error:.6f}", "", ""])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
