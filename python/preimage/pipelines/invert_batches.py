"""Invert the features of many images batch by batch, and write the images to a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from preimage.inverters.precision import choose_dtype
from preimage.pipelines.device_pipeline import DevicePipeline, Started
from preimage.pipelines.image_loading import Pixels, as_bytes, at_once, in_budget, in_windows, inverting_bytes
from preimage.pipelines.image_writer import ImageWriter, image_paths, samples_beside
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sampling import Sampling, gray_levels, pixel_deviation

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Item:
    """The features of one image.

    Attributes:
        index: Index of the image in its file.
        features: Features (C, h, w) or (C,).
        size: Size (H, W) of the reconstructed image in pixels.
    """

    index: int
    features: torch.Tensor
    size: Size


class Inversion:
    """An inversion of many images into a folder, with its results so far.

    Args:
        folder: Folder for the images.
        skip_bad: Whether images that cannot be inverted are skipped and listed, instead of stopping.
        batch_size: Number of images at once.
        precision: Data type in which the network computes: ``"float32"``, ``"bfloat16"`` or ``"auto"``.
        progress: Called with (images done, total number of images).
        sampling: Samples to draw for each image.

    Attributes:
        folder: Folder for the images.
        batch_size: Number of images at once.
        sampling: Samples to draw for each image.
        images: Number of images written, not counting samples.
        empty: Number of these without keypoints.
        colored: Number of keypoints whose color is used.
        skipped: (key, problem) of the skipped images.
        total: Number of images to invert.
    """

    def __init__(
        self,
        folder: Path,
        skip_bad: bool,
        batch_size: int,
        precision: str,
        progress: Callable[[int, int], None] | None,
        sampling: Sampling,
    ) -> None:
        self.folder, self.images, self.empty, self.colored = folder, 0, 0, 0
        self.skipped: list[tuple[str, str]] = []
        self._skip_bad, self._precision, self._progress = skip_bad, precision, progress
        self.batch_size, self.sampling = batch_size, sampling
        self.total = self._files = 0
        self._remarks: dict[str, list[tuple[str, str]]] = {}

    def restarted(self) -> Inversion:
        """Return an inversion with the same settings, without results and without a callback."""
        folder, sampling = self.folder.absolute(), self.sampling
        return Inversion(folder, self._skip_bad, self.batch_size, self._precision, None, sampling)

    def run(self, reconstructor: Reconstructor, keys: Mapping[int, str], items: Iterator[Item]) -> None:
        """Invert all items, and write the images while the next ones are computed.

        Args:
            reconstructor: Reconstructor with the inverter.
            keys: Keys of all images to invert, which name the files, by their indices.
            items: Images that can be inverted.
        """
        paths = dict(zip(keys, image_paths(self.folder, list(keys.values()), self.sampling), strict=True))
        self.total = len(keys)
        dtype = choose_dtype(self._precision, reconstructor.device)
        with (
            ImageWriter(self._written, encode_ahead=reconstructor.device.type != "cpu") as writer,
            contextlib.closing(_inverted(reconstructor, items, self.batch_size, dtype, self.sampling)) as inverted,
        ):
            for batch, images, finite in inverted:
                files: list[tuple[Path, Pixels]] = []
                for item, contents, is_finite in zip(batch, images, finite, strict=True):
                    if is_finite:
                        files += zip(paths[item.index], contents, strict=True)
                    else:
                        self.skip(keys[item.index], _not_finite(keys[item.index]))
                writer.write([path for path, _ in files], [image for _, image in files])

    def skip(self, key: str, error: ValueError) -> None:
        """List the image as skipped, or raise the error."""
        if not self._skip_bad:
            raise error
        self.skipped.append((key, str(error)))
        self._advance()

    def add(self, images: int, skipped: Sequence[tuple[str, str]]) -> None:
        """Count images that another process wrote or skipped."""
        self.images += images
        self.skipped += skipped
        self._advance()

    def remark(self, key: str, found: Mapping[str, str]) -> None:
        """Record remarks about an image, one for each topic."""
        for topic, sentence in found.items():
            self._remarks.setdefault(topic, []).append((key, sentence))

    def remark_old_samples(self, keys: Sequence[str]) -> None:
        """Record remarks about samples of an earlier inversion that remain beside the images of some keys."""
        for key, names in samples_beside(self.folder, keys, self.sampling).items():
            self.remark(key, {"old samples": f"{', '.join(names)} of an earlier inversion remain in {self.folder}"})

    def notes(self) -> tuple[str, ...]:
        """Return one line for each topic: the remark about the first image, and the number of other images."""
        lines = []
        for (key, sentence), *others in self._remarks.values():
            lines.append(f"{key!r}: {sentence}" + (f" (and {len(others)} more images)" if others else ""))
        return tuple(lines)

    def _written(self) -> None:
        self._files += 1
        if self._files % self.sampling.files == 0:  # the files of an image follow each other
            self.images += 1
            self._advance()

    def _advance(self) -> None:
        if self._progress is not None:
            self._progress(self.images + len(self.skipped), self.total)


def _inverted(
    reconstructor: Reconstructor, items: Iterable[Item], batch_size: int, dtype: torch.dtype, sampling: Sampling
) -> Generator[tuple[list[Item], list[tuple[Pixels, ...]], list[bool]], None, None]:
    """Yield batches of items of equal shapes, the contents of the files of each item, and whether they are finite.

    These are images (H, W, 3) uint8: the reconstruction and the samples; and the deviation of the samples (H, W) uint8.
    """
    pipeline = DevicePipeline.of(reconstructor.device)

    def start(batch: list[Item]) -> Started:
        size, positions = batch[0].size, [item.index for item in batch]

        def compute(features: torch.Tensor) -> list[torch.Tensor]:
            with torch.autocast(features.device.type, dtype, enabled=dtype != torch.float32):
                images = reconstructor.invert(features, size)
                results = [images.isfinite().flatten(1).all(dim=1), as_bytes(images)]
                if not sampling.count:
                    return results
                samples = reconstructor.sample(
                    features, sampling.count, sampling.seed, sampling.spread, size, positions=positions
                )
            results += as_bytes(samples).unbind(1)
            return [*results, gray_levels(pixel_deviation(samples))] if sampling.has_deviation else results

        return pipeline.start([[item.features for item in batch]], compute)

    with contextlib.closing(pipeline.results(_batches(items, batch_size, sampling.count), start)) as inverted:
        for batch, ((finite, *results),) in inverted:
            yield batch, list(zip(*(result.numpy() for result in results), strict=True)), finite.tolist()


def _not_finite(key: str) -> ValueError:
    return ValueError(
        f"the reconstruction from the features of {key!r} is not finite: are their values on the scale of those that "
        "the inverter was trained on?"
    )


def index_ranges(count: int, batch_size: int) -> list[range]:
    """Return consecutive ranges of the indices of `count` images, none of which shares a batch with another."""
    length = _range_length(batch_size)
    return [range(first, min(first + length, count)) for first in range(0, count, length)]


def _range_length(batch_size: int) -> int:
    return 8 * batch_size  # images of several sizes still fill their batches


def _windows(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """Yield items of one range each, whose features are kept in memory, which takes less than their inversion."""
    length = _range_length(batch_size)
    for _, group in itertools.groupby(items, lambda item: item.index // length):
        yield from in_budget(group, lambda item: inverting_bytes(*item.size) // 8, length)


def _batches(items: Iterable[Item], batch_size: int, samples: int) -> Iterator[list[Item]]:
    """Yield batches of items of equal shapes, which do not depend on the items of other ranges."""
    for window in _windows(items, batch_size):
        groups: dict[tuple[object, ...], list[Item]] = {}
        for item in window:
            groups.setdefault((item.features.shape, item.size), []).append(item)
        for group in groups.values():
            yield from in_windows(group, at_once(inverting_bytes(*group[0].size, samples), batch_size))
