"""Read the tags of TIFF files, reject unsupported variants, and check that all samples are present.

OpenCV decodes some variants of TIFF to wrong colors, or returns uninitialized memory, without an error. Only variants
that every OpenCV from 4.10 to 5.0 decodes correctly are accepted. Functions raise ``ValueError``, ``IndexError`` or
``struct.error`` for invalid files.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

Tags = dict[int, tuple[int, ...]]

_SUBFILE, WIDTH, HEIGHT, _BITS, _COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_OFFSETS, ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, EXTRA, _FORMAT, _DNG = 322, 323, 324, 325, 338, 339, 50706

_TYPES = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}  # unsigned integer types, by their code in the file
_PIECE = 1 << 20  # bytes inflated at once
_LONGEST_TAG = 1 << 24  # values; more strips than any image has rows
_IMAGE_TAGS = {_SUBFILE, WIDTH, HEIGHT, _BITS, PHOTOMETRIC, _SAMPLES, _PLANAR, TILE_WIDTH, TILE_HEIGHT, EXTRA}
_IMAGE_TAGS |= {_FORMAT, _DNG}
_STRIP_TAGS = {WIDTH, HEIGHT, _BITS, _COMPRESSION, PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR}
_STRIP_TAGS |= {TILE_WIDTH, TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS}

_WHITE_IS_ZERO, _GRAY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLORS = {
    _WHITE_IS_ZERO: "gray",
    _GRAY: "gray",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "a mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    8: "CIELab",
    9: "CIELab",
    10: "CIELab",
    32803: "camera raw samples",
    32844: "LogLuv",
    32845: "LogLuv",
    34892: "camera raw samples",
}
_FORMATS = {1: "uint", 2: "int", 3: "float", 5: "complex int", 6: "complex"}
_NOT_COMPRESSED, _DEFLATE = 1, (8, 32946)

# Supported bits per sample, by color, number of color samples, and number of extra samples.
_SUPPORTED_BITS: dict[tuple[int, int, int], frozenset[int]] = {
    (_WHITE_IS_ZERO, 1, 0): frozenset({1, 8, 10, 12, 14, 16}),
    (_GRAY, 1, 0): frozenset({1, 8, 10, 12, 14, 16}),
    (_GRAY, 1, 1): frozenset({8, 16}),
    (_RGB, 3, 0): frozenset({8, 10, 12, 14, 16}),
    (_RGB, 3, 1): frozenset({8, 16}),
    (_PALETTE, 1, 0): frozenset({4, 8}),
    (_CMYK, 4, 0): frozenset({8}),
    (_YCBCR, 3, 0): frozenset({8}),
}


def read_tags(data: bytes, wanted: set[int]) -> Tags:
    """Return the values of the wanted tags in the first directory of a (Big)TIFF file or EXIF block.

    Only tags of unsigned integers are read. The first of repeated tags is used, as in libtiff.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("neither a little- nor a big-endian TIFF")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    if start > len(data):
        raise IndexError("the directory is beyond the end of the file")
    count_code, entry_size, value_at = ("Q", 20, 12) if big else ("H", 12, 8)
    count = struct.unpack_from(order + count_code, data, start)[0]
    position = start + struct.calcsize(order + count_code)
    tags: Tags = {}
    for entry in range(position, position + min(count, 4096) * entry_size, entry_size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag not in wanted or tag in tags or kind not in _TYPES:
            continue
        (number,) = struct.unpack_from(order + ("Q" if big else "I"), data, entry + 4)
        dtype = np.dtype(order + _TYPES[kind])
        at = entry + value_at
        if number * dtype.itemsize > entry_size - value_at:
            (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
        if not 1 <= number <= _LONGEST_TAG:
            raise ValueError(f"a TIFF whose tag {tag} has {number} values")
        if at + number * dtype.itemsize > len(data):
            raise IndexError(f"tag {tag} is beyond the end of the file")
        tags[tag] = tuple(np.frombuffer(data, dtype, number, at).tolist())
    return tags


def read_image_tags(data: bytes) -> Tags:
    """Return the tags that describe how the first image is stored.

    Raises:
        ValueError: The variant of TIFF is not supported.
    """
    if data[8:10] == b"CR":
        raise ValueError("a camera raw file (Canon CR2); convert it to an image")
    tags = read_tags(data, _IMAGE_TAGS)
    if WIDTH not in tags or HEIGHT not in tags:
        raise ValueError("a TIFF without width and height")
    width, height = tags[WIDTH][0], tags[HEIGHT][0]
    if _first(tags, TILE_WIDTH, 1) > max(2 * width, 4096) or _first(tags, TILE_HEIGHT, 1) > max(2 * height, 4096):
        raise ValueError("a TIFF with tiles larger than the image")  # tiles would be allocated whole
    if problem := _unsupported(tags):
        raise ValueError(f"an unsupported TIFF: {problem}")
    return tags


def _unsupported(tags: Tags) -> str | None:
    samples, bits, color = _first(tags, _SAMPLES, 1), tags.get(_BITS, (1,)), _first(tags, PHOTOMETRIC, _GRAY)
    if _DNG in tags or _first(tags, _SUBFILE, 0) & 1:
        return "its first image is a small preview (a camera raw file?); convert it to a full image"
    if len(set(bits)) > 1:
        return f"its channels must have equal bits, got {', '.join(map(str, bits[:8]))}"
    kinds = tags.get(_FORMAT, (1,))
    if set(kinds) != {1} or bits[0] > 16:
        kind = next((_FORMATS.get(kind, "undefined ") for kind in kinds if kind != 1), "uint")
        return f"samples must have 8 or 16 bits, got {kind}{bits[0]}"
    extra = len(tags.get(EXTRA, ()))
    if color == _RGB and samples == 4 and not extra:
        extra = 1
    channels, named = (color, samples - extra, extra), _COLORS.get(color, f"color {color}")
    if bits[0] not in _SUPPORTED_BITS.get(channels, frozenset()):
        return (
            f"{named} with {samples} channels of {bits[0]} bits; supported are gray (with alpha), RGB and RGBA of 8 or "
            "16 bits, palettes, and CMYK of 8 bits"
        )
    return _unsupported_storage(tags, channels, bits[0], named)


def _unsupported_storage(tags: Tags, channels: tuple[int, int, int], bits: int, named: str) -> str | None:
    color, count, extra = channels
    if _first(tags, _PLANAR, 1) == 2 and count + extra > 1 and (bits > 8 or color in (_GRAY, _YCBCR)):
        return (
            f"its {count + extra} channels of {bits} bits ({named}) are planar (planar configuration 2); they must be "
            "interleaved (1)"
        )
    if channels == (_GRAY, 1, 1) and TILE_WIDTH in tags:
        return "gray with alpha must be in strips, got tiles"
    return None


def check_samples(data: bytes) -> None:
    """Check that no strip or tile of the first image is missing or too short.

    OpenCV leaves such parts black or uninitialized. Of LZW, PackBits, JPEG and fax data only the compressed length is
    checked.

    Raises:
        ValueError: A strip or tile is missing or too short.
    """
    tags = read_tags(data, _STRIP_TAGS)
    width, height, samples = tags[WIDTH][0], tags[HEIGHT][0], _first(tags, _SAMPLES, 1)
    planes, inside = (samples, 1) if _first(tags, _PLANAR, 1) == 2 else (1, samples)
    if TILE_WIDTH in tags:
        across, down = tags[TILE_WIDTH][0], _first(tags, TILE_HEIGHT, 0)
        offsets, counts = tags.get(_TILE_OFFSETS, ()), tags.get(_TILE_COUNTS, ())
    else:
        across, down = width, min(_first(tags, _ROWS, height), height)
        offsets, counts = tags.get(_OFFSETS, ()), tags.get(_COUNTS, ())
    if across < 1 or down < 1:
        raise ValueError(f"a TIFF with strips or tiles of {across} × {down} pixels")
    rows = -(-height // down)
    parts = rows * -(-width // across) * planes
    if len(offsets) < parts or len(counts) < parts:
        raise ValueError(f"a damaged TIFF: it lists {min(len(offsets), len(counts))} of {parts} strips or tiles")
    line = -(-across * inside * _first(tags, _BITS, 1) // 8)
    compression = _first(tags, _COMPRESSION, 1)
    # Subsampled YCbCr has fewer samples than pixels × channels.
    countable = _first(tags, PHOTOMETRIC, _GRAY) != _YCBCR
    for part, (offset, count) in enumerate(zip(offsets[:parts], counts[:parts], strict=True)):
        last = TILE_WIDTH not in tags and part % rows == rows - 1
        needed = line * (height - down * (rows - 1) if last else down) if countable else 1
        if offset == 0 or count == 0 or offset + count > len(data):
            raise ValueError(f"a damaged or truncated TIFF: strip or tile {part + 1} of {parts} is not in the file")
        there = count
        if compression in _DEFLATE and countable:
            there = _inflated(data[offset : offset + count], needed)
        if (compression == _NOT_COMPRESSED or compression in _DEFLATE) and there < needed:
            raise ValueError(f"a damaged TIFF: strip or tile {part + 1} of {parts} has {there} of {needed} bytes")


def _inflated(packed: bytes, needed: int) -> int:
    """Return the length of the decompressed data, at most a little more than `needed`; 0 if it is damaged."""
    engine, there = zlib.decompressobj(), 0
    try:
        # Read up to the end of the stream: its checksum is the only sign of some damage.
        while not engine.eof and there < needed + _PIECE and (piece := engine.decompress(packed, _PIECE)):
            there += len(piece)
            packed = engine.unconsumed_tail
    except zlib.error:
        return 0
    return there


def _first(tags: Tags, tag: int, default: int) -> int:
    return tags[tag][0] if tag in tags else default
