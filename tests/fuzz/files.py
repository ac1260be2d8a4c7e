"""Targets: files of all formats, and those that the package writes for itself, with correct checksums."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from file_formats import FORMATS, PACKAGES
from fuzz.target import Target, folder
from own_files import OwnFile, own_files
from preimage.errors import FileFormatError


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


def words(name: str) -> str:
    """Return a name as a word of a command line."""
    return re.sub(r"\W+", "-", name).lower()


FILES = {
    f"file-{words(name)}": file_target(folder() / f"file-{words(name)}" / f"f{form.suffix}", form.read, form.writers)
    for name, form in FORMATS.items()
    if form.suffix not in PACKAGES or importlib.util.find_spec(PACKAGES[form.suffix])
}
OWN = {
    f"own-{words(name)}": own_target(folder() / f"own-{words(name)}", kind, kind.seal)
    for name, kind in own_files().items()
    if kind.seal
}
TARGETS = FILES | OWN
