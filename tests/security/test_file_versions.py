"""Test files of other versions: newer ones are named as such, older ones are read or named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from own_files import OwnFile, change_config, own_files, write_decision, write_dictionary, write_inverter
from preimage.errors import FileFormatError

VERSION = re.compile(rb'("format_version": ?"?)(\d)')
KINDS = {name: kind for name, kind in own_files().items() if name not in ("decision about a cache",)}
VERSIONED = {name: kind for name, kind in KINDS.items() if not name.startswith(("weights", "shard"))}


def with_version(kind: OwnFile, folder: Path, digit: bytes) -> Path:
    path = kind.write(folder)
    data, count = VERSION.subn(rb"\g<1>" + digit, path.read_bytes(), count=1)
    assert count == 1
    path.write_bytes(data)
    if kind.seal is not None:
        kind.seal(path)
    return path


@pytest.mark.parametrize("name", VERSIONED)
def test_a_newer_version_is_named(tmp_path: Path, name: str) -> None:
    """Also where its checksum is unknown, because it may be computed in another way."""
    path = with_version(VERSIONED[name], tmp_path, b"9")
    with pytest.raises(FileFormatError, match=rf"{path.name}.*version '?9'?.*\d"):
        VERSIONED[name].read(tmp_path)


@pytest.mark.parametrize("name", VERSIONED)
def test_a_version_that_never_was_is_an_error(tmp_path: Path, name: str) -> None:
    path = with_version(VERSIONED[name], tmp_path, b"0")
    with pytest.raises(FileFormatError, match=path.name):
        VERSIONED[name].read(tmp_path)


def old_config(folder: Path) -> None:
    path = write_inverter(folder, "config.json")
    change_config(path.parent, {"format_version": 2, "sha256": ...})


def old_dictionary(folder: Path) -> None:
    path = write_dictionary(folder)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata | {"format_version": "1"})


def old_decision(folder: Path) -> None:
    path = write_decision(folder)
    fields = json.loads(path.read_text())
    del fields["sha256"]
    path.write_text(json.dumps(fields))


OLD: dict[str, tuple[Callable[[Path], object], str]] = {
    "features of version 1": (KINDS["single file, version 1"].write, "single file"),
    "inverter of version 2": (old_config, "config of an inverter"),
    "checkpoint of version 4": (KINDS["checkpoint, version 4"].write, "checkpoint"),
    "dictionary of version 1": (old_dictionary, "paired dictionary"),
    "decision of version 0.1": (old_decision, "decision about a cache"),
}


@pytest.mark.parametrize("name", OLD)
def test_older_versions_are_read(tmp_path: Path, name: str) -> None:
    write, kind = OLD[name]
    write(tmp_path)
    own_files()[kind].read(tmp_path)
