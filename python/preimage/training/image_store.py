"""Keep the training images, decoded, in the memory of the device, where the steps cut their crops."""

from __future__ import annotations

import math
import threading
import time
from contextlib import closing

import numpy as np
import torch

from preimage.opencv import resize
from preimage.ops._images import cpu_threads
from preimage.ops.crop_resize import crop_resize
from preimage.pipelines.image_loading import Pixels
from preimage.pipelines.prefetch import in_order
from preimage.training.images import NOTE_EVERY, ImageSet, Note, size_text
from preimage.training.sampling import Crops, Integers

_FRACTION = 0.5  # fraction of the device's free memory that images may take; the network needs the rest
_MAX_SCALE = 3  # maximum side of a crop relative to its result, for which 4 × 4 pixels are read for each pixel


class ImageStore:
    """Training images in the memory of a device.

    Crops of images that are not shrunk equal those that the host cuts, up to a level. If an image is shrunk, its crops
    are resized twice, and thus a little less sharp.

    Args:
        images: The training images.
        size: Side of the resized crops in pixels.
        limit: Shorter side to which larger images are shrunk, in pixels.
        device: The device.

    Attributes:
        shapes: (H, W) of the images before they were shrunk, in which crops are drawn, (N, 2); 0 for bad images.
        nbytes: Size of all images in memory.
    """

    def __init__(self, images: ImageSet, size: int, limit: int, device: torch.device) -> None:
        self._images, self._size, self._limit, self._device = images, size, limit, device
        self.shapes = np.zeros((len(images), 2), np.int64)
        self._stored = np.array([self._shrunk(height, width) for height, width in images.shapes])
        ends = np.cumsum(3 * self._stored.prod(axis=1))
        self._starts = np.concatenate(([0], ends[:-1]))
        self.nbytes = int(ends[-1])

    def load(self, note: Note, interrupted: threading.Event) -> None:
        """Decode all images and copy them to the device.

        Raises:
            FileFormatError: An image is bad, and bad images are not left out.
            ValueError: All images are bad.
            KeyboardInterrupt: `interrupted` was set.
        """
        count, workers = len(self._images), cpu_threads()
        self._pixels = torch.empty(self.nbytes, dtype=torch.uint8, device=self._device)
        noted = time.monotonic()
        results = in_order(self._decoded, range(count), workers=workers, ahead=workers + 2, name="store")
        with closing(results):
            for index, result in enumerate(results):
                if interrupted.is_set():
                    raise KeyboardInterrupt
                if time.monotonic() - noted > NOTE_EVERY:
                    noted = time.monotonic()
                    note(f"{index} of {count} training images are in the device's memory")
                if result is not None:
                    pixels, self.shapes[index] = result
                    self._stored[index] = pixels.shape[:2]
                    start = self._starts[index]
                    self._pixels[start : start + pixels.size].copy_(torch.from_numpy(pixels).view(-1))
        if len(self._images.bad) == count:
            raise self._images.none_usable()
        self._offsets = torch.from_numpy(self._starts).to(self._device)
        self._sizes = torch.from_numpy(self._stored.astype(np.int32)).to(self._device)

    def _decoded(self, index: int) -> tuple[Pixels, tuple[int, int]] | None:
        """Return an image as it is stored, and its original height and width; ``None`` if it is bad."""
        image = self._images.usable(index, keep=False)
        if image is None:
            return None
        height, width = image.shape[:2]
        rows, columns = self._shrunk(height, width)
        if (rows, columns) != (height, width):
            image = resize(image, rows, columns)
        return np.ascontiguousarray(image), (height, width)

    def _shrunk(self, height: int, width: int) -> tuple[int, int]:
        scale = self._limit / min(height, width)
        return (height, width) if scale >= 1 else (round(height * scale), round(width * scale))

    def numbers(self, images: Integers, crops: Crops) -> torch.Tensor:
        """Return crops, given in pixels of the original images, as the numbers that `cut` reads.

        Args:
            images: Index of each crop's image, (B,).
            crops: The crops.

        Returns:
            (B, 7) float32, see `preimage.ops.crop_resize.crop_resize`.
        """
        scale_y, scale_x = (self._stored[images] / self.shapes[images]).T
        sides = crops.side * scale_y, crops.side * scale_x
        columns = (
            *(images, crops.top * scale_y, crops.left * scale_x, *sides),
            *(crops.mirrored, crops.side < self._size),
        )
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))

    def example(self, batch_size: int) -> torch.Tensor:
        """Return the numbers of a batch of equal crops."""
        image = np.full(batch_size, np.flatnonzero(self.shapes[:, 0])[0])
        zero = np.zeros(batch_size, np.int64)
        return self.numbers(image, Crops(zero, zero, self.shapes[image].min(axis=1), zero.astype(np.bool_)))

    def cut(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the crops with these numbers, (B, 7) float32 on the device, as (B, 3, size, size) uint8."""
        shrink = self._limit / self._size
        return crop_resize(self._pixels, self._offsets, self._sizes, numbers, self._size, shrink)


def store_images(
    images: ImageSet,
    size: int,
    min_crop: float,
    device: torch.device,
    *,
    crops: float,
    note: Note,
    interrupted: threading.Event,
) -> ImageStore | None:
    """Return the images in the memory of a GPU if they fit and are used often enough; otherwise, ``None``.

    Images are shrunk to three times `size`, and if they do not fit, until the smallest crop has as many pixels as its
    result.

    Args:
        images: The training images.
        size: Side of the resized crops in pixels.
        min_crop: Minimum area of a crop, as a fraction of the largest square in its image.
        device: The device of the run.
        crops: Number of crops that the run needs; fewer than the images are decoded one by one.
        note: Called with the decision and progress.
        interrupted: Event that stops with a ``KeyboardInterrupt``.
    """
    free, smallest = free_bytes(device), math.ceil(size / math.sqrt(min_crop))
    if not free or crops < len(images) or smallest > _MAX_SCALE * size:
        return None
    room = int(_FRACTION * free)
    for limit in (_MAX_SCALE * size, smallest):
        store = ImageStore(images, size, limit, device)
        if store.nbytes <= room:
            note(f"the training images are decoded once and kept in the GPU's memory: {size_text(store.nbytes)}")
            store.load(note, interrupted)
            return store
    note(
        f"the training images are streamed to the GPU: {size_text(store.nbytes)} do not fit into half of its free "
        f"memory, {size_text(room)}"
    )
    return None


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes; 0 for a CPU, where `ImageSet` keeps decoded images."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
