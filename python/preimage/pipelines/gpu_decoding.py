"""Decode JPEGs in batches on a CUDA device with nvImageCodec, and all other images on the CPU."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from preimage.io import ImageSource, decode_image
from preimage.io.images import simple_jpeg_size
from preimage.opencv import quiet_opencv
from preimage.ops._images import cpu_threads
from preimage.optional import import_optional
from preimage.pipelines.image_loading import AHEAD_BYTES, Loaded, Pixels, in_budget, in_windows, loaded, read
from preimage.pipelines.prefetch import in_order

if TYPE_CHECKING:
    import torch

_PACKAGE = "nvidia-nvimgcodec-cu13"
_BATCH = 32  # maximum number of images that are decoded in one call
_DECODED_BYTES = 64 << 20  # maximum size of these images


class BatchDecoder(Protocol):
    """A decoder of batches of JPEGs."""

    def __call__(self, encoded: Sequence[bytes]) -> list[Pixels | None]:
        """Return images (H, W, 3) uint8 RGB, not rotated; ``None`` for those that cannot be decoded."""


class JpegDecoder:
    """Decode JPEGs with nvImageCodec: a `BatchDecoder` that several threads may call.

    Chroma is interpolated as by libjpeg. Pixels may still differ from those of the CPU by a few levels, because the
    inverse cosine transform is rounded differently.

    Args:
        device: CUDA device. On the CPU nvImageCodec uses libjpeg-turbo.

    Raises:
        ImportError: nvImageCodec or nvJPEG is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        # What it cannot decode is decoded on the CPU: no reason for a warning.
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
        codec = import_optional(_PACKAGE)
        kinds, index = codec.BackendKind, device.index or 0
        allowed = [kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU]
        if device.type == "cpu":
            allowed, index = [kinds.CPU_ONLY], codec.NVIMGCODEC_DEVICE_CPU_ONLY
        backends = [codec.Backend(kind) for kind in allowed]
        self._stream = codec.CodeStream
        self._decoder = codec.Decoder(device_id=index, backends=backends, options=":fancy_upsampling=1")
        self._parameters = codec.DecodeParams(
            apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB, sample_format=codec.SampleFormat.I_RGB
        )
        self._lock = threading.Lock()  # a decoder runs one batch at a time
        with quiet_opencv:
            done, trial = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))
        assert done
        if self([trial.tobytes()])[0] is None:
            raise ImportError(
                f"nvImageCodec cannot decode JPEGs on {device}, probably because nvJPEG is missing: "
                "pip install 'preimage[gpu]'"
            )

    def __call__(self, encoded: Sequence[bytes]) -> list[Pixels | None]:
        with self._lock:
            images = self._decoder.decode([self._stream(data) for data in encoded], params=self._parameters)
            return [None if image is None else np.asarray(image.cpu()) for image in images]


def load_in_batches(
    sources: Sequence[ImageSource],
    size: int | None,
    decoder: BatchDecoder,
    *,
    place: Callable[[Pixels], Pixels] | None = None,
) -> Generator[Loaded, None, None]:
    """Load images as `preimage.pipelines.image_loading.load` does, but decode batches of simple JPEGs by a decoder.

    Rotated JPEGs, CMYK, other formats, damaged files, and what the decoder cannot decode are decoded on the CPU.

    Args:
        sources: The images.
        size: Side to which they are resized and center-cropped; ``None`` keeps their sizes.
        decoder: Decoder, called in several threads.
        place: Function called in the threads, which copies decoded pixels to other memory.
    """
    workers = cpu_threads()
    room = 2  # until the size of the images is known
    decoded = in_order(
        lambda batch: _load_batch(batch, size, decoder, place),
        in_windows(sources, _BATCH),
        workers=workers,
        ahead=lambda: room,
        name="decode",
    )
    with contextlib.closing(decoded):
        for items in decoded:
            total = sum(item.pixels.nbytes for item in items if item.pixels is not None)
            room = max(2, min(2 * workers, AHEAD_BYTES // max(1, total)))
            yield from items


def _load_batch(
    sources: Sequence[ImageSource],
    size: int | None,
    decoder: BatchDecoder,
    place: Callable[[Pixels], Pixels] | None,
) -> list[Loaded]:
    encoded: dict[int, bytes] = {}
    for position, source in enumerate(sources):
        with contextlib.suppress(OSError, ValueError):  # reported when it is read again
            encoded[position] = source.read()
    sizes = {position: found for position, data in encoded.items() if (found := simple_jpeg_size(data)) is not None}
    items: dict[int, Loaded] = {}

    def load(position: int, decode: Callable[[], Pixels]) -> None:
        items[position] = loaded(sources[position], size, decode, place)

    for window in in_budget(sizes, lambda position: 3 * math.prod(sizes[position]), _BATCH, _DECODED_BYTES):
        for position, pixels in zip(window, decoder([encoded[position] for position in window]), strict=True):
            if pixels is not None and pixels.shape[:2] == sizes[position]:
                load(position, functools.partial(np.ascontiguousarray, pixels))
    for position, source in enumerate(sources):
        if position not in encoded:
            items[position] = read(source, size, place)
        elif position not in items:
            load(position, functools.partial(decode_image, encoded[position], name=source.name))
    return [items[position] for position in range(len(sources))]
