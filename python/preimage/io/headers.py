"""What an encoded image says about itself, read before anything is decoded or allocated.

Every function raises ``ValueError``, ``IndexError`` or ``struct.error`` on bytes that break the format.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

_MOST_SEGMENTS = 100_000  # in a JPEG or PNG; more would only cost time
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # not a stuffed zero, nor a restart marker
_JPEG_FILL = re.compile(rb"\xff+")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the unsigned types, by their number in the file


@dataclass
class ImageHeader:
    """The facts the decoder cannot be trusted, or is not able, to act upon.

    Attributes:
        format: the name for messages.
        width: pixels, as stored (before rotation).
        height: pixels, as stored.
        orientation: EXIF's 1…8 that the caller has to undo; 1 for TIFF, which OpenCV turns itself.
        transparent_grey: the sample value a grey PNG declares transparent.
        premultiplied: whether colours were multiplied by alpha; ``None`` where alpha is always straight.
        inverted: TIFF in which 0 is white.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    transparent_grey: int | None = None
    premultiplied: bool | None = None
    inverted: bool = False


def read_header(data: bytes) -> ImageHeader:
    """The header of a PNG, JPEG, GIF, BMP, WebP or TIFF image, told by its first bytes."""
    if data.startswith(_PNG_SIGNATURE):
        return ImageHeader("PNG", *struct.unpack_from(">II", data, 16))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ImageHeader("GIF", *struct.unpack_from("<HH", data, 6))
    if data.startswith(b"BM"):
        return _bmp(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    raise ValueError("not an image in a known format (PNG, JPEG, GIF, BMP, WebP, TIFF)")


def check_complete(data: bytes, header: ImageHeader) -> None:
    """Complete `header` from what follows, and refuse a cut PNG or JPEG, which decoders show half grey."""
    if header.format == "PNG":
        _walk_png(data, header)
    elif header.format == "JPEG":
        _find_jpeg_end(data)


def _jpeg(data: bytes) -> ImageHeader:
    orientation, position = 1, 2
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
        if marker in (0xD9, 0xDA):
            raise ValueError("a JPEG without a frame header")
        position += 2 + length
    else:
        raise ValueError(f"a JPEG of more than {_MOST_SEGMENTS} segments")
    return ImageHeader("JPEG", width, height, orientation)


def _find_jpeg_end(data: bytes) -> None:
    # Thumbnails inside segments have end markers of their own, so segments are stepped over, never searched.
    position = 2
    for _ in range(_MOST_SEGMENTS):
        match = _JPEG_MARKER.search(data, position)
        if match is None:
            break
        position = match.end()
        marker = data[position - 1]
        if marker == 0xD9:
            return
        if marker != 0x01:  # the one other marker without a length
            (length,) = struct.unpack_from(">H", data, position)
            position += length
    raise ValueError("a truncated JPEG: it has no end marker")


def _walk_png(data: bytes, header: ImageHeader) -> None:
    position = len(_PNG_SIGNATURE)
    depth, colour = data[24], data[25]
    for _ in range(_MOST_SEGMENTS * 10):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"a damaged PNG: the checksum of chunk {kind!r} is wrong")
        if kind == b"eXIf":
            header.orientation = exif_orientation(body)
        elif kind == b"tRNS" and colour == 0:
            # OpenCV spreads 1, 2 and 4 bits over 0…255, so the value is spread likewise.
            header.transparent_grey = struct.unpack(">H", body)[0] * (1 if depth >= 8 else 255 // (2**depth - 1))
        elif kind == b"IEND":
            return
        position += 12 + length
    raise ValueError("a PNG of too many chunks")


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        return ImageHeader("BMP", *struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader("BMP", width, abs(height))  # negative: rows from top to bottom


def _webp(data: bytes) -> ImageHeader:
    kind, body = data[12:16], data[20:30]
    orientation = 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        orientation = _webp_orientation(data) if body[0] & 8 else 1
        body[9]  # IndexError if cut short
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    else:
        raise ValueError(f"a WebP file that begins with {kind!r}")
    return ImageHeader("WebP", width, height, orientation)


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
    tags = _tiff_tags(data, {256, 257, 262, 322, 323, 338})
    if 256 not in tags or 257 not in tags:
        raise ValueError("a TIFF without width and height")
    width, height = tags[256], tags[257]
    if tags.get(322, 1) > max(2 * width, 4096) or tags.get(323, 1) > max(2 * height, 4096):
        raise ValueError("a TIFF whose tiles are larger than itself")  # they would be allocated whole
    return ImageHeader("TIFF", width, height, premultiplied=tags.get(338) == 1, inverted=tags.get(262) == 0)


def exif_orientation(exif: bytes) -> int:
    """The orientation 1…8 in an EXIF block; 1 if it has none, or is damaged: no reason to refuse an image."""
    try:
        orientation = _tiff_tags(exif, {274}).get(274, 1)
    except (ValueError, IndexError, struct.error):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_tags(data: bytes, wanted: set[int]) -> dict[int, int]:
    """First values of the wanted tags in the first directory of a (Big)TIFF file."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("neither a little- nor a big-endian TIFF")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count_code, entry_size, value_at = ("Q", 20, 12) if big else ("H", 12, 8)
    count = struct.unpack_from(order + count_code, data, start)[0]
    position = start + struct.calcsize(order + count_code)
    tags: dict[int, int] = {}
    for entry in range(position, position + min(count, 4096) * entry_size, entry_size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag not in wanted or kind not in _TIFF_TYPES:
            continue
        (number,) = struct.unpack_from(order + ("Q" if big else "I"), data, entry + 4)
        code = order + _TIFF_TYPES[kind]
        at = entry + value_at
        if number * struct.calcsize(code) > entry_size - value_at:
            (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
        tags[tag] = struct.unpack_from(code, data, at)[0]
    return tags
