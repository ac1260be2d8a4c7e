"""The way from the features of many images to a folder of pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from preimage.pipelines.loading import Pixels, as_pixels, at_once, in_budget, in_windows, inverting_bytes
from preimage.pipelines.pictures import PictureWriter, targets_of
from preimage.pipelines.reconstruct import Reconstructor

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Item:
    """The features of one image.

    Attributes:
        index: of the image in its file.
        features: (C, h, w) or (C,).
        size: (H, W) of the picture.
    """

    index: int
    features: torch.Tensor
    size: Size


class Work:
    """What an inversion has done so far, and how it goes about its images.

    Args:
        folder: of the pictures.
        skip_bad: whether images that cannot be inverted are listed instead of stopping.
        batch_size: images at once.
        progress: called with (images done, images in all).

    Attributes:
        images: pictures written.
        empty: images among them that have no keypoints.
        skipped: (key, problem) of the images left out.
    """

    def __init__(
        self, folder: Path, skip_bad: bool, batch_size: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self.folder, self.images, self.empty = folder, 0, 0
        self.skipped: list[tuple[str, str]] = []
        self._skip_bad, self._batch_size, self._progress = skip_bad, batch_size, progress
        self._total = 0
        self._remarks: dict[str, list[tuple[str, str]]] = {}

    def run(self, reconstructor: Reconstructor, keys: Sequence[str], items: Iterator[Item]) -> None:
        """Invert all items, and write the pictures while the next ones are computed.

        Args:
            reconstructor: has the inverter.
            keys: of all images; each names a picture.
            items: what of the images can be inverted.
        """
        targets = targets_of(self.folder, keys)
        self._total = len(keys)
        with PictureWriter(self._written, encode_ahead=reconstructor.device.type != "cpu") as writer:
            for batch, pictures in _inverted(reconstructor, items, self._batch_size):
                writer.write([targets[item.index] for item in batch], list(pictures))

    def skip(self, key: str, error: ValueError) -> None:
        """Note the image, or raise the error."""
        if not self._skip_bad:
            raise error
        self.skipped.append((key, str(error)))
        self._advance()

    def remark(self, key: str, found: Mapping[str, str]) -> None:
        """Keep what was remarked on an image, by kind."""
        for kind, sentence in found.items():
            self._remarks.setdefault(kind, []).append((key, sentence))

    def notes(self) -> tuple[str, ...]:
        """Return one line for each kind of remark: the first image's, and how many others there are."""
        lines = []
        for (key, sentence), *others in self._remarks.values():
            lines.append(f"{key!r}: {sentence}" + (f" (and {len(others)} more images likewise)" if others else ""))
        return tuple(lines)

    def _written(self) -> None:
        self.images += 1
        self._advance()

    def _advance(self) -> None:
        if self._progress is not None:
            self._progress(self.images + len(self.skipped), self._total)


def _inverted(
    reconstructor: Reconstructor, items: Iterator[Item], batch_size: int
) -> Iterator[tuple[list[Item], Pixels]]:
    """Yield batches of items with their pictures (B, H, W, 3) uint8; features of equal shapes go through together."""
    # The features of a window wait in memory, and take less than it takes to invert them.
    for window in in_budget(items, lambda item: inverting_bytes(*item.size) // 8, 8 * batch_size):
        groups: dict[tuple[object, ...], list[Item]] = {}
        for item in window:
            groups.setdefault((item.features.shape, item.size), []).append(item)
        for group in groups.values():
            for batch in in_windows(group, at_once(inverting_bytes(*group[0].size), batch_size)):
                features = torch.stack([item.features for item in batch])
                yield batch, as_pixels(reconstructor.invert(features, batch[0].size))
