"""Images in and out: one decoding function, the same for every format, safe on any bytes."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath, atomic_write
from preimage.io.headers import ImageHeader, check_complete, read_header
from preimage.io.sources import ImageSource

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]

MAX_PIXELS = 178_956_970  # width × height; half a gigabyte of RGB

_TO_8_BIT = ((np.arange(65536) + 128) // 257).astype(np.uint8)  # rounds x / 257; 257 is odd, so there are no ties


# On photographs a fifth smaller than with OpenCV's own choice, the filter SUB. Without a search for repetitions, which
# photographs do not have, the encoder is a quarter faster.
_PAETH = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH, cv2.IMWRITE_PNG_STRATEGY)
_PNG = (*_PAETH, cv2.IMWRITE_PNG_STRATEGY_RLE)
_PNG_OF_PHOTOGRAPH = (*_PAETH, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)

_log: Any = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 and OpenCV 4 keep get- and setLogLevel
_SILENT = 0
_OPENCV = tuple(map(int, cv2.__version__.split(".")[:2]))


class _QuietOpenCV:
    """OpenCV with one thread and no messages on stderr, for as long as any thread of ours is inside.

    Both are settings of the whole process, so they are put back when the last one leaves. One thread, because
    callers decode many images side by side; no messages, because every failure becomes an exception.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._found = (0, 0)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._found = cv2.getNumThreads(), _log.getLogLevel()
                cv2.setNumThreads(1)
                _log.setLogLevel(_SILENT)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    cv2.setNumThreads(self._found[0])
                    _log.setLogLevel(self._found[1])


_quiet_opencv = _QuietOpenCV()


def decode_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image to 8-bit RGB, upright.

    - Rotation: EXIF's orientation (all 8; of TIFF its own tag) is applied.
    - 16 bits a sample: divided by 257 and rounded. Other than 8 or 16 bits (floating point): refused.
    - Gray, with 1 to 16 bits: three equal channels.
    - Alpha, and a PNG's transparent color: composited over white. A gray TIFF's alpha is ignored, as is BMP's.
    - Palettes are looked up; CMYK is converted without a color profile.
    - Color profiles and gamma tags are ignored: the samples count as sRGB.
    - Of several pages (TIFF) or frames (GIF, WebP) the first is taken; of an animated PNG the default image, which
      programs without animation show, whether it is one of the frames or not.
    - TIFF: gray (with alpha), RGB and RGBA of 8 or 16 bits, palettes of 4 or 8 bits, gray of 1 bit, CMYK and YCbCr of
      8 bits; channels stored one after the other (planar configuration 2) of 8 bits only. A fourth channel counts as
      alpha where the file says so. Other layouts are refused: OpenCV decodes some of them wrongly.
    - Damage: what checksums and lengths show (PNG; TIFF without compression or with Deflate) and every cut file is
      refused, also a JPEG that lacks only its end marker. Damage inside a JPEG's or lossy WebP's data, or in a TIFF's
      LZW or PackBits data, can go unnoticed: these have no checksum.

    Args:
        data: the encoded bytes: PNG, JPEG, BMP, WebP or TIFF, and GIF from OpenCV 4.12 on (animated WebP from 4.11).
        name: what error messages call the image.
        max_pixels: largest width × height; checked in the header, before anything is allocated.

    Returns:
        (H, W, 3) uint8, RGB, contiguous.

    Raises:
        FileFormatError: not an image, truncated, damaged, or too large.
    """
    header, sound = _checked(data, name, max_pixels)
    samples = _decode(sound, header, name)
    if header.inverted and samples.dtype == np.uint16:
        samples = 65535 - samples  # OpenCV turns white-is-zero round for 8 bits only
    rgb = _to_rgb(samples, header)
    return np.ascontiguousarray(_upright(rgb, header.orientation))


def check_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of an encoded image and look for its end, without decoding it.

    Args:
        data: the encoded bytes.
        name: what error messages call the image.
        max_pixels: largest width × height.

    Raises:
        FileFormatError: not an image, cut short, or too large. Damage in between shows only when it is decoded.
    """
    return _checked(data, name, max_pixels)[0]


def _checked(data: bytes, name: str, max_pixels: int) -> tuple[ImageHeader, bytes]:
    """Return the header, and the bytes to decode: those of a still image."""
    try:
        header = read_header(data)
        _check_size(header, max_pixels)
        return header, check_complete(data, header)
    except (struct.error, IndexError) as error:
        raise FileFormatError(name, "a truncated image") from error
    except ValueError as error:
        raise FileFormatError(name, str(error)) from error


def _check_size(header: ImageHeader, max_pixels: int) -> None:
    if header.width < 1 or header.height < 1:
        raise ValueError(f"a {header.format} of {header.width} × {header.height} pixels")
    if header.width * header.height > max_pixels:
        raise ValueError(f"{header.width} × {header.height} pixels are more than the {max_pixels} allowed (max_pixels)")


def _decode(data: bytes, header: ImageHeader, name: str) -> NDArray[Any]:
    try:
        with _quiet_opencv():
            samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise FileFormatError(name, f"this {header.format} cannot be decoded: {error}") from error
    if samples is None and header.opencv > _OPENCV:
        needed = ".".join(map(str, header.opencv))
        raise FileFormatError(name, f"this {header.format} needs OpenCV {needed} or later, here is {cv2.__version__}")
    if samples is None:
        raise FileFormatError(name, f"a truncated, damaged or unsupported {header.format}")
    if samples.dtype not in (np.uint8, np.uint16):
        raise FileFormatError(name, f"samples are {samples.dtype}; images of 8 or 16 bits are right")
    if samples.shape[0] * samples.shape[1] != header.width * header.height:
        raise FileFormatError(name, f"a {header.format} that contradicts itself about its size")
    if samples.ndim == 3 and samples.shape[2] not in (1, 3, 4):
        raise FileFormatError(name, f"{samples.shape[2]} channels; 1, 3 or 4 are right")
    return np.asarray(samples)


def _to_rgb(samples: NDArray[Any], header: ImageHeader) -> Image:
    """OpenCV's (H, W), (H, W, 3) BGR or (H, W, 4) BGRA, 8 or 16 bits, to (H, W, 3) RGB of 8 bits."""
    alpha: NDArray[Any] | None = None
    top = np.iinfo(samples.dtype).max
    if samples.ndim == 2 or samples.shape[2] == 1:
        gray = samples.reshape(samples.shape[:2])
        if header.transparent_gray is not None:
            alpha = np.where(gray == header.transparent_gray, 0, top).astype(samples.dtype)
        color = np.repeat(gray[..., None], 3, axis=2)
    else:
        color = samples[..., 2::-1]
        alpha = samples[..., 3] if samples.shape[2] == 4 and header.alpha else None
    if alpha is not None and alpha.min() < top:
        # libtiff multiplies 8-bit colors by alpha while reading, whatever the file said.
        multiplied = header.premultiplied is not None and (header.premultiplied or top == 255)
        color = _over_white(color, alpha[..., None], multiplied=multiplied)
    return _TO_8_BIT[color] if top == 65535 else color


def _over_white(color: NDArray[Any], alpha: NDArray[Any], *, multiplied: bool) -> NDArray[Any]:
    kind = color.dtype
    top = int(np.iinfo(kind).max)
    # Every array is widened before any arithmetic, so that no rule for the type of mixed operands matters. The square
    # of `top` plus its half just fits.
    wide = np.uint16 if top == 255 else np.uint32
    samples: NDArray[Any] = color.astype(wide)
    opaque: NDArray[Any] = alpha.astype(wide)
    white = top - opaque
    mixed = np.minimum(samples + white, top) if multiplied else (samples * opaque + white * top + top // 2) // top
    whitened: NDArray[Any] = mixed.astype(kind)
    return whitened


def _upright(image: Image, orientation: int) -> Image:
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def read_image(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Read an image file as a tensor (3, H, W) uint8 RGB, as torchvision's `read_image` does; errors as `decode_image`.

    Images are turned upright and laid over white where they are transparent; `decode_file` gives the NumPy array.
    """
    import torch

    return torch.from_numpy(np.ascontiguousarray(decode_file(path, max_pixels=max_pixels).transpose(2, 0, 1)))


def decode_file(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file to (H, W, 3) uint8 RGB, as `decode_image` does and with its errors."""
    source = ImageSource(Path(path).stem, str(path))
    return decode_image(source.read(), name=source.name, max_pixels=max_pixels)


def resize_and_center_crop(image: Image, size: int | None) -> Image:
    """The center square of an image, size × size pixels; ``None`` leaves the image as it is.

    The square is cut first, then resized: by area averaging when that shrinks it, bicubically when it enlarges.

    Args:
        image: (H, W, 3) uint8.
        size: pixels, >= 1, or ``None``.

    Returns:
        (size, size, 3) uint8, contiguous.
    """
    _check_image(image)
    if size is None:
        return image
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size is a whole number of pixels >= 1 or None, got {size!r}")
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    # Cut before resizing: a strip of 1 × 1,000,000 pixels would become 256 times that first.
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side == size:
        return square
    with _quiet_opencv():
        interpolation = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(square, (size, size), interpolation=interpolation), np.uint8)


def write_png(path: StrPath, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, atomically; ``TypeError`` / ``ValueError`` for another array."""
    encoded = encode_png(image)
    with atomic_write(path) as file:
        file.write(encoded)


def encode_png(image: Image, *, photograph: bool = False) -> memoryview:
    """Return (H, W, 3) uint8 RGB as the bytes of a PNG file; ``TypeError`` / ``ValueError`` for another array.

    Args:
        image: the picture.
        photograph: it has no flat areas, which then would take more space than needed.
    """
    _check_image(image)
    options = _PNG_OF_PHOTOGRAPH if photograph else _PNG
    with _quiet_opencv():
        done, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape} as PNG")
    return encoded.data


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        what = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"an image is a NumPy array of uint8, got {what}")
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape) < 1:
        raise ValueError(f"an image has shape (H, W, 3), got {image.shape}")
