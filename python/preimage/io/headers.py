"""Read the headers of encoded images, before anything is decoded or allocated.

Every function raises ``ValueError``, ``IndexError`` or ``struct.error`` for invalid files.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from preimage.io import jpeg, png, tiff
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature

_MOST_SEGMENTS = 100_000  # maximum number in a JPEG or WebP, to limit the time
_FORMATS = "PNG, JPEG, GIF, BMP, WebP and TIFF"
_JPEG_FILL = re.compile(rb"\xff+")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_HUFFMAN = (0xC0, 0xC1, 0xC2)  # sequential or progressive


@dataclass
class ImageHeader:
    """Properties of an encoded image that OpenCV ignores or handles wrongly.

    Attributes:
        format: Name of the format.
        width: Stored width in pixels, before rotation.
        height: Stored height in pixels, before rotation.
        orientation: EXIF orientation 1 to 8 that the caller must undo; 1 for TIFF, which OpenCV rotates.
        transparent_gray: Gray value that a PNG declares transparent, or ``None``.
        alpha: Whether a fourth channel is alpha; in TIFF it can be anything.
        premultiplied: Whether colors are multiplied by alpha; ``None`` for formats where they never are.
        inverted: Whether 0 is white (TIFF).
        opencv: First version of OpenCV that reads the file.
        simple: Whether this is a Huffman-coded JPEG of 8 bits, in gray or YCbCr.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    transparent_gray: int | None = None
    alpha: bool = True
    premultiplied: bool | None = None
    inverted: bool = False
    opencv: tuple[int, int] = (4, 8)
    simple: bool = False


def read_header(data: bytes) -> ImageHeader:
    """Return the header of a PNG, JPEG, GIF, BMP, WebP or TIFF image, recognized by its first bytes."""
    if not data:
        raise ValueError("an empty file, not an image")
    if data.startswith(png.SIGNATURE):
        return ImageHeader("PNG", *struct.unpack_from(">II", data, 16))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    if what := describe_signature(data[:SIGNATURE_BYTES]):
        raise ValueError(f"{what}; supported image formats are {_FORMATS}")
    raise ValueError(f"not an image in a known format ({_FORMATS})")


def check_complete(data: bytes, header: ImageHeader) -> bytes:
    """Check the rest of a file, complete `header` from it, and return the bytes to decode.

    Truncated or damaged files that decoders would show partly gray, black or as noise are rejected. A PNG is reduced
    to its default image, see `preimage.io.png`.
    """
    if header.format == "PNG":
        image = png.read_png(data)
        header.transparent_gray = image.transparent_gray
        if image.exif is not None:
            header.orientation = exif_orientation(image.exif)
        return image.still
    if header.format == "JPEG":
        jpeg.check_jpeg(data)
    elif header.format == "TIFF":
        tiff.check_samples(data)
    return data


def _jpeg(data: bytes) -> ImageHeader:
    orientation, position, transform = 1, 2, 1
    for _ in range(_MOST_SEGMENTS):
        fill = _JPEG_FILL.match(data, position)
        if fill is None:
            raise IndexError if position >= len(data) else ValueError(f"no JPEG marker at byte {position}")
        position = fill.end() - 1
        marker = data[position + 1]
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = position + 4
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, body + 1)
            break
        if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0" and orientation == 1:
            orientation = exif_orientation(data[body + 6 : position + 2 + length])
        if marker == 0xEE and data[body : body + 5] == b"Adobe" and length >= 14:
            transform = data[body + 11]  # 0: the channels are RGB or CMYK
        if marker in (0xD9, 0xDA):
            raise ValueError("a JPEG without a frame header")
        position += 2 + length
    else:
        raise ValueError(f"a JPEG of more than {_MOST_SEGMENTS} segments")
    channels, names = data[body + 5 : body + 6], data[body + 6 : body + 15 : 3]
    gray_or_ycbcr = channels == b"\1" or (channels == b"\3" and transform != 0 and names != b"RGB")
    simple = marker in _JPEG_HUFFMAN and data[body] == 8 and gray_or_ycbcr
    return ImageHeader("JPEG", width, height, orientation, simple=simple)


def _gif(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageHeader("GIF", width, height, opencv=(4, 12))


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        return ImageHeader("BMP", *struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader("BMP", width, abs(height))  # negative: rows from top to bottom


def _webp(data: bytes) -> ImageHeader:
    kind, body = data[12:16], data[20:30]
    orientation, animated = 1, False
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        orientation = _webp_orientation(data) if body[0] & 8 else 1
        body[9]  # IndexError if truncated
        animated = bool(body[0] & 2)
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    else:
        raise ValueError(f"a WebP file that begins with {kind!r}")
    return ImageHeader("WebP", width, height, orientation, opencv=(4, 11 if animated else 8))


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(_MOST_SEGMENTS):
        if position + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return exif_orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    return 1


def _tiff(data: bytes) -> ImageHeader:
    tags = tiff.read_image_tags(data)
    extra = tags.get(tiff.EXTRA, (0,))[0]
    return ImageHeader(
        "TIFF",
        tags[tiff.WIDTH][0],
        tags[tiff.HEIGHT][0],
        alpha=extra in (1, 2),
        premultiplied=extra == 1,
        inverted=tags.get(tiff.PHOTOMETRIC) == (0,),
    )


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in an EXIF block; 1 if it is missing or the block is damaged."""
    try:
        (orientation, *_) = tiff.read_tags(exif, {tiff.ORIENTATION}).get(tiff.ORIENTATION, (1,))
    except (ValueError, IndexError, struct.error):
        return 1
    return orientation if 1 <= orientation <= 8 else 1
