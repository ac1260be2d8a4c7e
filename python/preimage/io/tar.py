"""List the images in a tar file from its headers."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from preimage.errors import FileFormatError
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature
from preimage.io.image_source import IMAGE_SUFFIXES, MAX_ENCODED_BYTES, ImageSource
from preimage.io.remote import open_file
from preimage.io.urls import masked

_LONGEST_TAR_READ = 1 << 20  # bytes; tar headers are 512, long names a few thousand


class _HeaderReader:
    """File for `tarfile` that rejects huge reads, which only a malicious header requests."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_TAR_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self._file.read(size)


def list_tar(path: str) -> Iterator[ImageSource | FileFormatError]:
    """Yield the images in a tar file and the errors of single members; raise if the rest cannot be read."""
    with open_file(path) as (file, size):
        try:
            # tarfile raises ValueError and others for malformed extended headers.
            with tarfile.open(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r:") as archive:
                yield from _list_members(archive, path, size)
                # tarfile stops at a damaged header without an error; a valid archive ends with zeros or the file.
                file.seek(archive.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError("a damaged header hides the rest")
        except FileFormatError:
            raise
        except (tarfile.TarError, ValueError, TypeError, OverflowError, IndexError, RecursionError) as error:
            file.seek(0)
            what = describe_signature(file.read(SIGNATURE_BYTES))
            problem = str(error) if what in (None, "a tar archive") else f"it is {what}"
            raise FileFormatError(masked(path), f"not a valid uncompressed tar file: {problem}") from error


def _list_members(archive: tarfile.TarFile, path: str, size: int) -> Iterator[ImageSource | FileFormatError]:
    position = -1
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined] # else tarfile keeps every member in memory
        if member.offset <= position or member.size < 0:
            raise FileFormatError(masked(path), f"member {member.name!r} points backwards")  # would loop forever
        position = member.offset
        name = PurePosixPath(member.name)
        if not member.isreg() or name.suffix.lower() not in IMAGE_SUFFIXES or name.name.startswith("."):
            continue
        if not _fits(member, size):
            raise FileFormatError(masked(path), f"member {member.name!r} ({member.size} bytes) is truncated")
        if member.sparse is not None:
            yield FileFormatError(masked(path), f"member {member.name!r} is sparse")
        else:
            yield ImageSource(str(name.with_suffix("")), path, member.name, member.offset_data, member.size)


def _fits(member: tarfile.TarInfo, size: int) -> bool:
    return member.size <= MAX_ENCODED_BYTES and member.offset_data + member.size <= size
