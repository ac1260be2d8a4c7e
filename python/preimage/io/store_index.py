"""The index of a feature store: what the features are, and which shards are complete."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.feature_file import DTYPES
from preimage.io.shards import SUFFIX, ZEROS, parse_spec
from preimage.old_names import CACHE_SOURCE, renamed
from preimage.spec import Spec

INDEX = "index.json"

_FORMAT = "preimage-feature-store"
_VERSION = 1
_MAX_INDEX_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """Describe one shard in the index.

    Attributes:
        number: of the shard; the first is 0.
        images: features in it; 0 where every image was skipped, then there is no file.
        bytes: of the file.
        digest: SHA-256 of the file's header, which holds those of the rest.
        source: identifies what the features were computed from; empty if it was not given.
        skipped: (name, problem) of the images left out.
        nonfinite: (name, count) of the images with NaN or infinite features.
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
    """Describe a store: the contents of ``index.json``.

    Attributes:
        spec: what the features are of.
        dtype: ``"float32"`` or ``"float16"``, as stored.
        count: positions in the list of images, skipped ones included.
        shard_length: positions in each shard but the last.
        source: what else decides the features: plain JSON values, by name.
        part: (i, n) of a store that takes every n-th shard only, the first being number i.
        shards: those that are complete, by number.
        complete: the store is as whoever wrote it wanted it, and can be read.
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
        """Numbers of all shards that the store is to have."""
        return range(self.part[0], -(-self.count // self.shard_length), self.part[1])

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not complete yet."""
        there = {entry.number for entry in self.shards}
        return [number for number in self.wanted if number not in there]

    def positions(self, number: int) -> range:
        """Return the positions of a shard's images in the list."""
        first = number * self.shard_length
        return range(first, min(first + self.shard_length, self.count))

    def differences(self, earlier: Index, hint: str = "") -> list[str]:
        """Return where an earlier index is of other features, one phrase each (earlier first).

        Args:
            earlier: the other index.
            hint: how the lists of images differ.
        """
        phrases = [f"spec {phrase}" for phrase in earlier.spec.differences(self.spec)]
        if earlier.count != self.count or earlier.source.get("images") != self.source.get("images"):
            more = f"; {hint}" if hint else ""
            phrases.append(f"the list of images ({earlier.count} images, now {self.count}{more})")
        ours, theirs = (
            {"dtype": one.dtype, "part": one.part, "shard_length": one.shard_length, **one.source}
            for one in (self, earlier)
        )
        names = [name for name in ours | theirs if name != "images" and ours.get(name) != theirs.get(name)]
        return phrases + [f"{name}: {theirs.get(name)} != {ours.get(name)}" for name in names]

    def to_bytes(self) -> bytes:
        """Return the file's contents, its own checksum included."""
        fields = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "sha256": ZEROS,
            "spec": self.spec.to_dict(),
            "dtype": self.dtype,
            "count": self.count,
            "shard_length": self.shard_length,
            "part": self.part,
            "complete": self.complete,
            "source": self.source,
            "shards": [dataclasses.asdict(entry) for entry in self.shards],
        }
        text = json.dumps(fields, indent=1).encode() + b"\n"
        return text.replace(ZEROS.encode(), hashlib.sha256(text).hexdigest().encode(), 1)


def read_index(folder: StrPath) -> Index:
    """Read a store's index.

    Raises:
        FileNotFoundError: the folder has no index.
        FileFormatError: damaged, no index, or of a newer version.
    """
    path = Path(folder) / INDEX
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"has {path.stat().st_size} bytes; at most {_MAX_INDEX_BYTES} are right")
        text = path.read_bytes()
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise ValueError("is not the index of a feature store")
        version = fields.get("format_version")
        if not isinstance(version, int) or version > _VERSION:
            raise ValueError(f"format version {version} is newer than {_VERSION}: update preimage to read it")
        stored = str(fields.get("sha256"))
        if hashlib.sha256(text.replace(stored.encode(), ZEROS.encode(), 1)).hexdigest() != stored:
            raise ValueError("damaged: its checksum does not match it")
        return _index(fields)
    except RecursionError:
        raise FileFormatError(path, "nested too deeply") from None
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
    if not _is_sound(index):
        raise ValueError("contradicts itself")
    return index


def _is_sound(index: Index) -> bool:
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
