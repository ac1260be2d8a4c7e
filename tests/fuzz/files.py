"""Targets: files of all formats, and those that the package writes for itself, with correct checksums."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fuzz.target import Target, folder
from own_files import OwnFile, reseal
from preimage.errors import FileFormatError
from test_mutations import FORMATS, OWN_FILES, PACKAGES


def file_target(path: Path, read: Callable[[Path], Any], writers: Iterable[Callable[[Path], Any]]) -> Target:
    """Return a target that writes its input to a file for a reader whose errors must name the file."""

    def read_bytes(data: bytes) -> Any:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        try:
            return read(path)
        except FileFormatError as error:
            assert str(path.parent) in str(error), f"an error without the file's name: {error}"
            raise

    def seeds() -> list[bytes]:
        path.parent.mkdir(exist_ok=True)
        contents = []
        for write in writers:
            path.unlink(missing_ok=True)
            write(path)
            contents.append(path.read_bytes())
        return contents

    return Target(read_bytes, seeds)


def own_target(place: Path, kind: OwnFile, seal: Callable[[Path], object]) -> Target:
    """Return a target for a file of the package, which is sealed before it is read, so that its contents are read."""

    @functools.cache
    def path() -> Path:
        place.mkdir()
        return kind.write(place)

    def read(data: bytes) -> Any:
        path().write_bytes(data)
        seal(path())
        return kind.read(place)

    return Target(read, lambda: [kind.write(place).read_bytes()] if path() else [])


def seal_shard(path: Path) -> None:
    """Correct the digests in a file of features, of either version, after a change."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = data[:end], data[end:]
    if b'"format_version":"1"' in header:
        reseal(path)
        return
    # Where the header divides the body into features and columns.
    match = re.search(rb'"original_sizes":\{"dtype":"I32","shape":\[[^]]*\],"data_offsets":\[(\d{1,9}),', header)
    middle = int(match[1]) if match else 0
    for name, part in (("features_sha256", body[:middle]), ("columns_sha256", body[middle:])):
        digest = f'"{name}":"{hashlib.sha256(part).hexdigest()}"'.encode()
        header = re.sub(rf'"{name}":"[0-9a-f]{{64}}"'.encode(), digest, header, count=1)
    if stored := re.search(rb'"sha256":"([0-9a-f]{64})"', header):
        blank = header[: stored.start(1)] + b"0" * 64 + header[stored.end(1) :]
        header = header[: stored.start(1)] + hashlib.sha256(blank[8:]).hexdigest().encode() + header[stored.end(1) :]
    path.write_bytes(header + body)


def words(name: str) -> str:
    """Return a name as a word of a command line."""
    return re.sub(r"\W+", "-", name).lower()


FILES = {
    f"file-{words(name)}": file_target(folder() / f"file-{words(name)}" / f"f{form.suffix}", form.read, form.writers)
    for name, form in FORMATS.items()
    if form.suffix not in PACKAGES or importlib.util.find_spec(PACKAGES[form.suffix])
}
# Of a shard in a store, the index contains a digest, too: only single files are sealed.
SEALS = {"single file": seal_shard, "single file, float16": seal_shard, "single file, version 1": reseal}
OWN = {
    f"own-{words(name)}": own_target(folder() / f"own-{words(name)}", kind, kind.seal or SEALS[name])
    for name, kind in OWN_FILES.items()
    if kind.seal or name in SEALS
}
TARGETS = FILES | OWN
