"""Define an encoded image in a file, local or remote, and read it."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass

from preimage.errors import FileFormatError
from preimage.io import parquet, remote
from preimage.io.urls import is_url, masked

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_ENCODED_BYTES = 1 << 30  # maximum size of an encoded image


@dataclass(frozen=True, slots=True, repr=False)
class ImageSource:
    """One encoded image: a whole file, a member of a tar file, or a row of a Parquet file.

    Attributes:
        key: Relative path without suffix, ``/`` between parts; made longer where needed to be unique within a list.
        path: Path of the file on disk, or its URL.
        member: Name of the member in a tar file, or of the row in a Parquet file; else ``None``.
        offset: Offset of the image in the file, in bytes.
        length: Number of bytes of the image; ``None`` means up to the end of the file. For a row of a Parquet file, the
            number of bytes of its row group, which is read as a whole.
        row: Number of the row in a Parquet file, or ``None``.
    """

    key: str
    path: str
    member: str | None = None
    offset: int = 0
    length: int | None = None
    row: int | None = None

    @property
    def name(self) -> str:
        """Name of the image in messages: ``photos/a.jpg`` or ``shard.tar:a.jpg``; credentials in a URL are masked."""
        member = self.row if self.member is None else self.member
        return self.file_name if member is None else f"{self.file_name}:{member}"

    @property
    def file_name(self) -> str:
        """Name of the file in messages; credentials in a URL are masked."""
        return masked(self.path) if is_url(self.path) else self.path

    def __repr__(self) -> str:
        return f"ImageSource({self.key!r}, {self.name!r})"

    def read(self) -> bytes:
        """Read the encoded bytes; of a tar file no others, of a Parquet file the row group.

        Raises:
            FileFormatError: The file is damaged or truncated, or the image is larger than 1 GiB.
            OSError: The file cannot be read; ``ConnectionError`` if a server does not answer properly three times.
        """
        if self.row is not None:
            return parquet.read_row(self.path, self.row)
        limit = MAX_ENCODED_BYTES if self.length is None else self.length
        if limit > MAX_ENCODED_BYTES:  # the length of a whole file at a URL, from the listing of its folder
            raise FileFormatError(self.name, f"larger than the {MAX_ENCODED_BYTES} bytes allowed for one image")
        if is_url(self.path):
            data = remote.read_range(self.path, self.offset, self.length, limit)
        else:
            with open(self.path, "rb", buffering=0) as file:
                if self.length is None and os.fstat(file.fileno()).st_size > limit:
                    raise FileFormatError(self.name, f"larger than the {limit} bytes allowed for one image")
                file.seek(self.offset)
                data = _read_up_to(file, limit)
        if self.length is not None and len(data) < self.length:
            raise FileFormatError(self.name, f"truncated: {len(data)} of {self.length} bytes")
        return data

    def sha256(self) -> bytes:
        """Return the SHA-256 of the encoded bytes; raises the errors of `read`."""
        return hashlib.sha256(self.read()).digest()


def _read_up_to(file: io.FileIO, limit: int) -> bytes:
    pieces = []
    while limit > 0 and (piece := file.read(min(limit, 1 << 24))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)
