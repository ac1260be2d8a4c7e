"""Invert the features of many images batch by batch, and write the images to a folder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from preimage.pipelines.device_pipeline import DevicePipeline, Started
from preimage.pipelines.image_loading import Pixels, as_bytes, at_once, in_budget, in_windows, inverting_bytes
from preimage.pipelines.image_writer import ImageWriter, image_paths
from preimage.pipelines.reconstruct import Reconstructor

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
        dtype: Data type in which the network computes, ``torch.float32`` or ``torch.bfloat16``.
        progress: Called with (images done, total number of images).

    Attributes:
        images: Number of images written.
        empty: Number of these without keypoints.
        skipped: (key, problem) of the skipped images.
    """

    def __init__(
        self,
        folder: Path,
        skip_bad: bool,
        batch_size: int,
        dtype: torch.dtype,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.folder, self.images, self.empty = folder, 0, 0
        self.skipped: list[tuple[str, str]] = []
        self._skip_bad, self._batch_size, self._dtype, self._progress = skip_bad, batch_size, dtype, progress
        self._total = 0
        self._remarks: dict[str, list[tuple[str, str]]] = {}

    def run(self, reconstructor: Reconstructor, keys: Sequence[str], items: Iterator[Item]) -> None:
        """Invert all items, and write the images while the next ones are computed.

        Args:
            reconstructor: Reconstructor with the inverter.
            keys: Keys of all images, which name the files.
            items: Images that can be inverted.
        """
        paths = image_paths(self.folder, keys)
        self._total = len(keys)
        with (
            ImageWriter(self._written, encode_ahead=reconstructor.device.type != "cpu") as writer,
            contextlib.closing(_inverted(reconstructor, items, self._batch_size, self._dtype)) as inverted,
        ):
            for batch, images in inverted:
                writer.write([paths[item.index] for item in batch], list(images))

    def skip(self, key: str, error: ValueError) -> None:
        """List the image as skipped, or raise the error."""
        if not self._skip_bad:
            raise error
        self.skipped.append((key, str(error)))
        self._advance()

    def remark(self, key: str, found: Mapping[str, str]) -> None:
        """Record remarks about an image, one for each topic."""
        for topic, sentence in found.items():
            self._remarks.setdefault(topic, []).append((key, sentence))

    def notes(self) -> tuple[str, ...]:
        """Return one line for each topic: the remark about the first image, and the number of other images."""
        lines = []
        for (key, sentence), *others in self._remarks.values():
            lines.append(f"{key!r}: {sentence}" + (f" (and {len(others)} more images)" if others else ""))
        return tuple(lines)

    def _written(self) -> None:
        self.images += 1
        self._advance()

    def _advance(self) -> None:
        if self._progress is not None:
            self._progress(self.images + len(self.skipped), self._total)


def _inverted(
    reconstructor: Reconstructor, items: Iterable[Item], batch_size: int, dtype: torch.dtype
) -> Generator[tuple[list[Item], Pixels], None, None]:
    """Yield batches of items of equal shapes with their images (B, H, W, 3) uint8."""
    pipeline = DevicePipeline.of(reconstructor.device)

    def start(batch: list[Item]) -> Started:
        def compute(features: torch.Tensor) -> tuple[torch.Tensor]:
            with torch.autocast(features.device.type, dtype, enabled=dtype != torch.float32):
                images = reconstructor.invert(features, batch[0].size)
            return (as_bytes(images),)

        return pipeline.start([[item.features for item in batch]], compute)

    with contextlib.closing(pipeline.results(_batches(items, batch_size), start)) as inverted:
        for batch, ((images,),) in inverted:
            yield batch, images.numpy()


def _batches(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """Yield batches of items of equal shapes."""
    # The features of a window are kept in memory, which takes less than their inversion.
    for window in in_budget(items, lambda item: inverting_bytes(*item.size) // 8, 8 * batch_size):
        groups: dict[tuple[object, ...], list[Item]] = {}
        for item in window:
            groups.setdefault((item.features.shape, item.size), []).append(item)
        for group in groups.values():
            yield from in_windows(group, at_once(inverting_bytes(*group[0].size), batch_size))
