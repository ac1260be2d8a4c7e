"""Check all chunks and the image data of PNG files, and reduce them to what decoding a still image needs.

Depending on its version, OpenCV decodes another frame of an animated PNG, shows damaged frames black, or crashes, and
libpng prints warnings to stderr. The files returned from here avoid both.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MOST_CHUNKS = 1_000_000
_PIECE = 1 << 20  # bytes of image data inflated at once
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# First column, first row, column step and row step of each pass of an interlaced image.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass
class Png:
    """Contents of a PNG file.

    Attributes:
        still: PNG file of the default image: header, palette, transparency and image data only.
        exif: EXIF block, or ``None``.
        transparent_gray: Gray value declared transparent, scaled to 8 bits as OpenCV scales the samples.
    """

    still: bytes
    exif: bytes | None = None
    transparent_gray: int | None = None


@dataclass
class _Chunks:
    palette: bytes = b""
    transparency: bytes = b""
    exif: bytes | None = None
    image: list[bytes] = field(default_factory=list)  # bodies


def read_png(data: bytes) -> Png:
    """Check a whole PNG file and return its default image as a separate PNG file.

    The default image is what viewers without animation show. Animation (``acTL``, ``fcTL``, ``fdAT``), text, color
    profiles and all other chunks that do not change it are left out.

    Raises:
        ValueError: A chunk has a wrong checksum, the header or palette is invalid, or the image data is not a zlib
            stream, is too short, or uses an unknown filter.
        IndexError, struct.error: The file is truncated.
    """
    header = struct.unpack_from(">IIBBBBB", data, 16)
    _, _, depth, color, packing, filtering, interlace = header
    if depth not in _DEPTHS.get(color, ()) or packing or filtering or interlace > 1:
        raise ValueError(f"a damaged PNG: {depth} bits of color type {color}, methods {packing}, {filtering}")
    chunks = _read_chunks(data)
    if color == 3 and not chunks.palette:
        raise ValueError("a damaged PNG: it has no palette")
    _check_image(chunks.image, header)
    transparency = _transparency(chunks, color)
    kept = [_chunk(b"IHDR", data[16:29])]
    if chunks.palette and color in (2, 3):
        kept.append(_chunk(b"PLTE", chunks.palette))
    if transparency:
        kept.append(_chunk(b"tRNS", transparency))
    kept += [_chunk(b"IDAT", body) for body in chunks.image]
    gray = None
    if color == 0 and transparency:
        gray = struct.unpack(">H", transparency)[0] * (1 if depth >= 8 else 255 // (2**depth - 1))
    return Png(b"".join((SIGNATURE, *kept, _chunk(b"IEND", b""))), chunks.exif, gray)


def _read_chunks(data: bytes) -> _Chunks:
    chunks, position = _Chunks(), len(SIGNATURE)
    for number in range(_MOST_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"a damaged PNG: the checksum of chunk {kind!r} is wrong")
        if (kind == b"IHDR") != (number == 0) or (kind == b"IHDR" and length != 13):
            raise ValueError("a damaged PNG: its header is not its first chunk, or of another length")
        if kind == b"PLTE":
            if chunks.image or chunks.palette or length % 3 or not 3 <= length <= 768:
                raise ValueError(f"a damaged PNG: a palette of {length} bytes, repeated or out of place")
            chunks.palette = body
        elif kind == b"IDAT":
            chunks.image.append(body)
        elif kind == b"tRNS" and not chunks.image:
            chunks.transparency = body
        elif kind == b"eXIf":
            chunks.exif = body
        elif kind == b"IEND":
            return chunks
        elif kind != b"IHDR" and not kind[0] & 32:
            # An uppercase first letter marks a critical chunk, such as CgBI in the PNGs of iPhone apps.
            raise ValueError(f"an unsupported PNG: it has an unknown critical chunk {kind!r}")
        position += 12 + length
    raise ValueError(f"a PNG with more than {_MOST_CHUNKS} chunks")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _transparency(chunks: _Chunks, color: int) -> bytes:
    """Return the transparency chunk, or nothing if its length does not match the color type, as in libpng."""
    length = len(chunks.transparency)
    fits = {0: length == 2, 2: length == 6, 3: 1 <= length <= len(chunks.palette) // 3}.get(color, False)
    return chunks.transparency if fits else b""


def _check_image(bodies: list[bytes], header: tuple[int, ...]) -> None:
    """Inflate the image data piece by piece, and check its length and the filter type of each row."""
    parts = _rows(header)
    needed = parts[-1][1]
    engine, there = zlib.decompressobj(), 0
    try:
        for body in bodies:
            packed = body
            while packed and not engine.eof and there < needed + _PIECE:
                piece = engine.decompress(packed, _PIECE)
                packed = engine.unconsumed_tail
                _check_filters(np.frombuffer(piece, np.uint8), there, parts)
                there += len(piece)
                if not piece:
                    break
    except zlib.error as error:
        raise ValueError(f"a damaged PNG: its image data cannot be decompressed ({error})") from error
    if there >= needed + _PIECE and not engine.eof:
        # libpng ignores what is too much, but inflates all of it, which may be a thousand times the file.
        raise ValueError(f"a damaged PNG: more than {needed} bytes of image data")
    if there < needed:
        raise ValueError(f"a damaged PNG: {there} of {needed} bytes of image data")


def _rows(header: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return start, end and bytes per row, filter byte included, of each pass over the image."""
    width, height, depth, color, _, _, interlace = header
    bits, parts, position = depth * _CHANNELS[color], [], 0
    for x, y, across, down in _PASSES if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            stride = 1 + -(-columns * bits // 8)
            parts.append((position, position + stride * rows, stride))
            position += stride * rows
    return parts


def _check_filters(piece: np.ndarray, start: int, parts: list[tuple[int, int, int]]) -> None:
    for begin, end, stride in parts:
        low, high = max(start, begin), min(start + len(piece), end)
        low += (begin - low) % stride
        if low < high and (worst := int(piece[low - start : high - start : stride].max())) > 4:
            raise ValueError(f"a damaged PNG: the filter of a row must be 0 to 4, got {worst}")
