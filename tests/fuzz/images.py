"""Targets: what is read of an encoded image before OpenCV decodes it, and the footer of a Parquet file, in memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from fuzz.files import FILES
from fuzz.target import Target
from preimage.io import headers, jpeg, png, tiff
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature
from preimage.io.images import simple_jpeg_size
from preimage.io.parquet_footer import read_row_groups

INVALID = (ValueError, IndexError, struct.error)  # `preimage.io.images` converts them to `FileFormatError`
EXIF = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, tiff.ORIENTATION, 3, 1, 6)
STARTS = (
    b"\x89HDF\r\n\x1a\n",
    b"\0\0\0\x1cftypheic",
    b"PK\3\4" + bytes(22) + b"\3\0\0\0a.b",
    b'\x50\0\0\0\0\0\0\0{"a"',
)


def seeds(*formats: str) -> Callable[[], list[bytes]]:
    """Return a function that returns the files of some formats of `file_formats`."""
    return lambda: [seed for name in formats for seed in FILES[f"file-{name}"].seeds()]


def sealed_png(data: bytes) -> bytes:
    """Return a PNG with correct checksums, so that what is behind them is read."""
    sealed, position = data[:8], 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        sealed += data[position:end] + struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return sealed + data[position:]


def read_tiff(data: bytes) -> None:
    tiff.read_image_tags(data)
    tiff.check_samples(data)


def read_header(data: bytes) -> None:
    """Read the header, and check the rest if it is small, as `decode_image` does."""
    header = headers.read_header(data)
    if 1 <= header.width * header.height <= 1_000_000:
        headers.check_complete(data, header)


def read_footer(data: bytes) -> None:
    read_row_groups(io.BytesIO(data + len(data).to_bytes(4, "little") + b"PAR1"))


def footers() -> list[bytes]:
    """Return the footers of the Parquet files of `file_formats`."""
    return [file[-8 - int.from_bytes(file[-8:-4], "little") : -8] for file in FILES["file-parquet"].seeds()]


def image(read: Callable[[bytes], Any], *formats: str) -> Target:
    return Target(read, seeds(*formats), INVALID)


TARGETS = {
    "jpeg": image(jpeg.check_jpeg, "jpg"),
    "png": image(lambda data: png.read_png(sealed_png(data)), "png", "png-with-a-palette"),
    "tiff": image(read_tiff, "tif"),
    "image-header": image(read_header, "png", "jpg", "gif", "bmp", "webp", "tif"),
    "jpeg-size": Target(lambda data: simple_jpeg_size(data, max_pixels=1_000_000), seeds("jpg"), ()),
    "exif": Target(headers.exif_orientation, lambda: [EXIF], ()),
    **(
        {"parquet-footer": Target(read_footer, footers, (ValueError, IndexError, RecursionError))}
        if "file-parquet" in FILES
        else {}
    ),
    "file-type": Target(lambda data: describe_signature(data[:SIGNATURE_BYTES]), lambda: STARTS, ()),
}
