"""Decode, read, resize and write images. Decoding behaves the same for all formats and is safe on any bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath, atomic_write
from preimage.io.headers import ImageHeader, check_complete, read_header
from preimage.io.image_source import ImageSource
from preimage.opencv import quiet_opencv, resize

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]

MAX_PIXELS = 178_956_970  # width × height; half a gigabyte of RGB

_TO_8_BIT = ((np.arange(65536) + 128) // 257).astype(np.uint8)  # rounds x / 257; 257 is odd, so there are no ties


# Paeth makes files of photographs a fifth smaller than SUB, OpenCV's default. Huffman-only compression skips the
# search for repetitions, which photographs do not have, and is a quarter faster.
_PAETH = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH, cv2.IMWRITE_PNG_STRATEGY)
_PNG = (*_PAETH, cv2.IMWRITE_PNG_STRATEGY_RLE)
_PNG_OF_PHOTOGRAPH = (*_PAETH, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)

_OPENCV = tuple(map(int, cv2.__version__.split(".")[:2]))


def decode_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image to upright 8-bit RGB.

    - The EXIF orientation (for TIFF, the orientation tag) is applied.
    - Samples of 16 bits are divided by 257 and rounded; floating-point samples are rejected.
    - Gray images of 1 to 16 bits become three equal channels.
    - Alpha, and the transparent color of PNG, is composited over white. Alpha of gray TIFF and of BMP is ignored.
    - Palettes are expanded; CMYK is converted without a color profile.
    - Color profiles and gamma tags are ignored; samples are taken as sRGB.
    - The first page (TIFF) or frame (GIF, WebP) is used; for animated PNG the default image, whether or not it is one
      of the frames.
    - TIFF: gray (with alpha), RGB and RGBA of 8 or 16 bits, palettes of 4 or 8 bits, gray of 1 bit, CMYK and YCbCr of
      8 bits; planar configuration 2 with 8 bits only. A fourth channel is alpha only if the file marks it so. Other
      variants are rejected, because OpenCV decodes some of them wrongly.
    - Truncated files are rejected, even a JPEG that lacks only its end marker, and so is damage that checksums and
      lengths reveal (PNG; TIFF without compression or with Deflate). Damage inside the data of JPEG, lossy WebP, and
      LZW or PackBits TIFF can go unnoticed, because these have no checksum.

    Args:
        data: Encoded image: PNG, JPEG, BMP, WebP or TIFF; GIF with OpenCV 4.12 or later, animated WebP with 4.11.
        name: Name of the image in error messages.
        max_pixels: Largest accepted width × height, checked in the header before anything is allocated.

    Returns:
        (H, W, 3) uint8, RGB, contiguous.

    Raises:
        FileFormatError: The data is not an image, is truncated or damaged, or the image is too large.
    """
    header, still = _checked(data, name, max_pixels)
    samples = _decode(still, header, name)
    if header.inverted and samples.dtype == np.uint16:
        samples = 65535 - samples  # OpenCV inverts white-is-zero for 8 bits only
    rgb = _to_rgb(samples, header)
    return np.ascontiguousarray(_upright(rgb, header.orientation))


def check_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of an encoded image and check that the file is complete, without decoding it.

    Args:
        data: Encoded image.
        name: Name of the image in error messages.
        max_pixels: Largest accepted width × height.

    Raises:
        FileFormatError: The data is not an image, is truncated, or the image is too large. Other damage is found only
            by decoding.
    """
    return _checked(data, name, max_pixels)[0]


def simple_jpeg_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """Return (height, width) of a complete, upright, Huffman-coded JPEG of 8 bits in gray or YCbCr; else ``None``."""
    try:
        header = check_image(data, name="", max_pixels=max_pixels)
    except FileFormatError:
        return None
    return (header.height, header.width) if header.simple and header.orientation == 1 else None


def _checked(data: bytes, name: str, max_pixels: int) -> tuple[ImageHeader, bytes]:
    """Return the header, and the bytes of a still image to decode."""
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
        raise ValueError(f"{header.width} × {header.height} pixels; at most {max_pixels} are allowed (max_pixels)")


def _decode(data: bytes, header: ImageHeader, name: str) -> NDArray[Any]:
    try:
        with quiet_opencv:
            samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise FileFormatError(name, f"this {header.format} cannot be decoded: {error}") from error
    if samples is None and header.opencv > _OPENCV:
        needed = ".".join(map(str, header.opencv))
        raise FileFormatError(name, f"this {header.format} needs OpenCV {needed} or later, got {cv2.__version__}")
    if samples is None:
        raise FileFormatError(name, f"a truncated, damaged or unsupported {header.format}")
    if samples.dtype not in (np.uint8, np.uint16):
        raise FileFormatError(name, f"samples must have 8 or 16 bits, got {samples.dtype}")
    if samples.shape[0] * samples.shape[1] != header.width * header.height:
        raise FileFormatError(name, f"a damaged {header.format}: its header states another size than its data")
    if samples.ndim == 3 and samples.shape[2] not in (1, 3, 4):
        raise FileFormatError(name, f"an image must have 1, 3 or 4 channels, got {samples.shape[2]}")
    return np.asarray(samples)


def _to_rgb(samples: NDArray[Any], header: ImageHeader) -> Image:
    """Convert OpenCV's (H, W), (H, W, 3) BGR or (H, W, 4) BGRA of 8 or 16 bits to (H, W, 3) 8-bit RGB."""
    alpha: NDArray[Any] | None = None
    top = np.iinfo(samples.dtype).max
    if samples.ndim == 2 or samples.shape[2] == 1:
        gray = samples.reshape(samples.shape[:2])
        if header.transparent_gray is not None:
            alpha = np.where(gray == header.transparent_gray, 0, top).astype(samples.dtype)
        color = _converted(gray, cv2.COLOR_GRAY2RGB)
    else:
        color = _converted(samples, cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGB)
        alpha = samples[..., 3] if samples.shape[2] == 4 and header.alpha else None
    if alpha is not None and alpha.min() < top:
        # libtiff always multiplies 8-bit colors by alpha while reading.
        multiplied = header.premultiplied is not None and (header.premultiplied or top == 255)
        color = _over_white(color, alpha[..., None], multiplied=multiplied)
    return _TO_8_BIT[color] if top == 65535 else color


@quiet_opencv
def _converted(samples: NDArray[Any], conversion: int) -> NDArray[Any]:
    # Indexing in NumPy would take as long as the decoding of a JPEG.
    return np.asarray(cv2.cvtColor(samples, conversion))


def _over_white(color: NDArray[Any], alpha: NDArray[Any], *, multiplied: bool) -> NDArray[Any]:
    kind = color.dtype
    top = int(np.iinfo(kind).max)
    # Widen all arrays before any arithmetic, so that type promotion does not matter. top² + top / 2 just fits.
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
    """Read an image file as a tensor (3, H, W) uint8 RGB, as `torchvision.io.read_image` does.

    Images are rotated upright and composited over white where they are transparent, see `decode_image`, which also
    lists the errors raised. `decode_file` returns a NumPy array.

    Args:
        path: Image file in one of the formats of `decode_image`.
        max_pixels: Largest number of pixels of an image, width times height.
    """
    import torch

    return torch.from_numpy(np.ascontiguousarray(decode_file(path, max_pixels=max_pixels).transpose(2, 0, 1)))


def decode_file(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image file as an array (H, W, 3) uint8 RGB, see `decode_image`."""
    source = ImageSource(Path(path).stem, str(path))
    return decode_image(source.read(), name=source.name, max_pixels=max_pixels)


def resize_and_center_crop(image: Image, size: int | None) -> Image:
    """Crop the center square of an image and resize it.

    The square is cropped before it is resized, with area averaging to shrink and bicubic interpolation to enlarge.

    Args:
        image: (H, W, 3) uint8.
        size: Side of the result in pixels, at least 1; ``None`` returns the image unchanged.

    Returns:
        (size, size, 3) uint8, contiguous.
    """
    _check_image(image)
    if size is None:
        return image
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a positive integer or None, got {size!r}")
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    # Resizing first would enlarge an image of 1 × 1,000,000 pixels to 256 × 256,000,000.
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    return square if side == size else resize(square, size, size)


def write_png(path: StrPath, image: Image) -> None:
    """Write an image (H, W, 3) uint8 RGB as PNG, atomically.

    Raises:
        TypeError, ValueError: The image is not an array of this dtype and shape.
    """
    encoded = encode_png(image)
    with atomic_write(path) as file:
        file.write(encoded)


def encode_png(image: Image, *, photograph: bool = False) -> memoryview:
    """Encode an image as PNG.

    Args:
        image: (H, W, 3) uint8, RGB; or (H, W) uint8, gray.
        photograph: Use faster compression, which makes larger files of images with flat areas.

    Raises:
        TypeError, ValueError: The image is not an array of this dtype and shape.
    """
    _check_image(image, ranks=(2, 3))
    options = _PNG_OF_PHOTOGRAPH if photograph else _PNG
    with quiet_opencv:
        stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, encoded = cv2.imencode(".png", stored, options)
    if not done:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape} as PNG")
    return encoded.data


def _check_image(image: object, ranks: tuple[int, ...] = (3,)) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        what = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"image must be a NumPy array of uint8, got {what}")
    if image.ndim not in ranks or image.shape[2:] not in ((), (3,)) or min(image.shape) < 1:
        raise ValueError(f"image must have shape (H, W, 3){' or (H, W)' * (2 in ranks)}, got {image.shape}")
