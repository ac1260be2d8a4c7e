"""Read and describe the index of a feature store: the spec of its features and the list of complete shards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError, parse_json
from preimage.io.atomic import StrPath
from preimage.io.checksum import CHECKSUM, ZEROS, check_text, with_checksum
from preimage.io.feature_file import DTYPES
from preimage.io.shards import SUFFIX, parse_spec
from preimage.old_names import CACHE_SOURCE, renamed
from preimage.spec import Spec

INDEX = "index.json"

_FORMAT = "preimage-feature-store"
_VERSION = 1
_MAX_INDEX_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One shard in the index.

    Attributes:
        number: Number of the shard, from 0.
        images: Number of images in the shard; if 0, because all were skipped, there is no file.
        bytes: Size of the file.
        digest: SHA-256 of the file's header, which contains the digests of the rest.
        source: Identifier of what the features were computed from, or empty.
        skipped: Name and problem of every skipped image.
        nonfinite: Name of every image with NaN or infinite features, and their number.
    """

    number: int
    images: int
    bytes: int
    digest: str
    source: str = ""
    skipped: tuple[tuple[str, str], ...] = ()
    nonfinite: tuple[tuple[str, int], ...] = ()

    @property
    def file(self) -> str:
        return f"shard-{self.number:05d}{SUFFIX}"


@dataclasses.dataclass(frozen=True)
class Index:
    """Contents of ``index.json``.

    Attributes:
        spec: Spec of the features.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``.
        count: Length of the list of images, including skipped ones.
        shard_length: Number of images in the list for each shard but the last.
        source: Other settings that determine the features, as JSON values by name.
        part: (i, n) if the store contains only every n-th shard, beginning with number i.
        shards: Complete shards, sorted by number.
        complete: Whether writing was finished, so that the store can be read.
    """

    spec: Spec
    dtype: str
    count: int
    shard_length: int
    source: Mapping[str, Any]
    part: tuple[int, int] = (0, 1)
    shards: tuple[ShardEntry, ...] = ()
    complete: bool = False

    @property
    def wanted(self) -> range:
        """Numbers of all shards of the finished store."""
        return range(self.part[0], -(-self.count // self.shard_length), self.part[1])

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not complete yet."""
        complete = {entry.number for entry in self.shards}
        return [number for number in self.wanted if number not in complete]

    def positions(self, number: int) -> range:
        """Return the positions of a shard's images in the list of images."""
        first = number * self.shard_length
        return range(first, min(first + self.shard_length, self.count))

    def differences(self, earlier: Index, hint: str = "") -> list[str]:
        """Return the differences from an earlier index, one phrase each with the earlier value first.

        Args:
            earlier: Index to compare with.
            hint: Description of how the lists of images differ.
        """
        phrases = [f"spec {phrase}" for phrase in earlier.spec.differences(self.spec)]
        if earlier.count != self.count or earlier.source.get("images") != self.source.get("images"):
            more = f"; {hint}" if hint else ""
            phrases.append(f"the list of images ({earlier.count} images, now {self.count}{more})")
        new, old = (
            {"dtype": one.dtype, "part": one.part, "shard_length": one.shard_length, **one.source}
            for one in (self, earlier)
        )
        names = [name for name in new | old if name != "images" and new.get(name) != old.get(name)]
        return phrases + [f"{name}: {old.get(name)} != {new.get(name)}" for name in names]

    def to_bytes(self) -> bytes:
        """Return the contents of the file, including its checksum."""
        fields = {
            "format": _FORMAT,
            "format_version": _VERSION,
            CHECKSUM: ZEROS,
            "spec": self.spec.to_dict(),
            "dtype": self.dtype,
            "count": self.count,
            "shard_length": self.shard_length,
            "part": self.part,
            "complete": self.complete,
            "source": self.source,
        }
        # One line for each shard: json without indentation is five times as fast, and every shard rewrites the index.
        shards = ",\n".join(json.dumps(vars(entry)) for entry in self.shards)
        return with_checksum(f'{json.dumps(fields, indent=1)[:-2]},\n "shards": [\n{shards}\n]}}\n'.encode())


def read_index(folder: StrPath) -> Index:
    """Read the index of a store.

    Raises:
        FileNotFoundError: The folder has no index.
        FileFormatError: The index is damaged, is something else, or has a newer version.
    """
    path = Path(folder) / INDEX
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"an index must have at most {_MAX_INDEX_BYTES} bytes, got {path.stat().st_size}")
        text = path.read_bytes()
        fields = parse_json(text)
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise ValueError("is not the index of a feature store")
        version = fields.get("format_version")
        if not isinstance(version, int) or version > _VERSION:
            raise ValueError(f"format version {version} is newer than {_VERSION}: update preimage to read it")
        if version < 1:
            raise ValueError(f"format version must be at least 1, got {version}")
        check_text(text, fields.get(CHECKSUM))
        return _index(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(path, str(error)) from error


def _index(fields: Mapping[str, Any]) -> Index:
    first, of = map(int, fields["part"])
    entries = tuple(
        ShardEntry(
            number=int(entry["number"]),
            images=int(entry["images"]),
            bytes=int(entry["bytes"]),
            digest=str(entry["digest"]),
            source=str(entry["source"]),
            skipped=tuple((str(name), str(problem)) for name, problem in entry["skipped"]),
            nonfinite=tuple((str(name), int(count)) for name, count in entry["nonfinite"]),
        )
        for entry in fields["shards"]
    )
    index = Index(
        spec=parse_spec(json.dumps(fields["spec"])),
        dtype=str(fields["dtype"]),
        count=int(fields["count"]),
        shard_length=int(fields["shard_length"]),
        source=renamed(fields["source"], CACHE_SOURCE),
        part=(first, of),
        shards=entries,
        complete=fields["complete"] is True,
    )
    if not _is_consistent(index):
        raise ValueError("damaged: its fields are inconsistent")
    return index


def _is_consistent(index: Index) -> bool:
    numbers = [entry.number for entry in index.shards]
    first, of = index.part
    return (
        index.dtype in DTYPES
        and index.shard_length > 0
        and 0 <= index.count < 1 << 40
        and 0 <= first < of
        and sorted(set(numbers)) == numbers
        and all(number in index.wanted for number in numbers)
        and (not index.complete or len(index.wanted) == len(numbers))
    )
