"""Test the order in which files reach the disk, which decides what a loss of power leaves, and that all writing goes
through the one writer that keeps it.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import preimage
from cache_runs import toy_config
from preimage import training
from preimage.inverters import Inverter
from preimage.pipelines.convert import convert
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.representations import create_representation
from preimage.store import merge

pytestmark = pytest.mark.skipif(os.name != "posix", reason="folders are synchronized on POSIX systems only")

Inode = tuple[int, int]


class _Disk:
    """Record what would survive a power failure: synchronized files whose names are in synchronized folders."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.renamed = 0
        self._synced: set[Inode] = set()  # files
        self._unsynced: dict[Inode, list[Path]] = {}  # new names by folder

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsync, replace, mkdir, link = os.fsync, os.replace, os.mkdir, os.link

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            inode = _inode(os.fstat(descriptor))
            self._synced.add(inode)
            self._unsynced.pop(inode, None)

        def replaced(source: Any, target: Any) -> None:
            self.renamed += 1
            if _inode(os.stat(source)) not in self._synced:
                self.problems.append(f"{target} is renamed before it is on disk")
            # An index promises the other files.
            if Path(target).name in ("index.json", "config.json") and (names := self.unsynced(Path(target).parent)):
                self.problems.append(f"{target} is written before {names}")
            replace(source, target)
            self._name(Path(target))

        def made(path: Any, *arguments: Any) -> None:
            mkdir(path, *arguments)
            self._name(Path(path))

        def linked(source: Any, target: Any) -> None:
            link(source, target)
            self._name(Path(target))

        for name, function in (("fsync", synced), ("replace", replaced), ("mkdir", made), ("link", linked)):
            monkeypatch.setattr(os, name, function)

    def _name(self, path: Path) -> None:
        self._unsynced.setdefault(_inode(os.stat(path.parent)), []).append(path)

    def unsynced(self, folder: Path | None = None) -> list[str]:
        """Return the names in a folder, or all names, that would be lost."""
        found = self._unsynced.items() if folder is None else [(0, self._unsynced.get(_inode(os.stat(folder)), []))]
        return [path.name for _, paths in found for path in paths if path.exists()]


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


@pytest.mark.usefixtures("toys")
def test_files_are_on_disk_before_their_names_and_names_before_the_index(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    hog = create_representation("hog")
    for part in range(2):
        extract(hog, photo_folder, tmp_path / f"{part}", size=64, shard=(part, 2))
    inverter = Inverter.load(tiny)
    work: dict[str, Callable[[], object]] = {
        "extract": lambda: extract(hog, photo_folder, tmp_path / "a" / "f", size=64),
        "extract to a file": lambda: extract(hog, photo_folder, tmp_path / "b" / "f.npz", size=64),
        "convert": lambda: convert(tmp_path / "a" / "f", tmp_path / "g"),
        "merge": lambda: merge([tmp_path / "0", tmp_path / "1"], tmp_path / "merged"),
        "invert": lambda: invert(tmp_path / "a" / "f", tmp_path / "c" / "images", inverter=tiny),
        "save": lambda: inverter.save(tmp_path / "d" / "inverter"),
        "save again": lambda: inverter.save(tmp_path / "d" / "inverter"),
        "train": lambda: training.run(toy_config(photo_folder, tmp_path / "e" / "run", steps=6, eval_every=3)),
    }
    for name, function in work.items():
        with monkeypatch.context() as patched:
            disk = _Disk()
            disk.patch(patched)
            function()
        assert disk.renamed > 0, name
        assert disk.problems == [], name
        assert disk.unsynced() == [], name


# The log of a run is appended to, one line at a time, and half a line at its end is dropped when the run is resumed.
_ALLOWED = {
    ("io/atomic.py", "open"),
    ("io/locks.py", "open"),
    ("io/locks.py", "TemporaryDirectory"),
    ("training/display.py", "open"),
    # Temporary files of the system, of which nothing is kept, or a copy that is written atomically.
    ("app/server.py", "TemporaryDirectory"),
    ("io/video.py", "TemporaryDirectory"),
    ("reports/about_inverter.py", "TemporaryDirectory"),
}
_WRITERS = {"write_text", "write_bytes", "savefig", "imwrite", "tofile", "save_file", "savez", "savez_compressed"}
_WRITERS |= {"NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp", "copyfile", "copy2", "move"}


def test_all_writing_goes_through_one_writer() -> None:
    root, found = Path(preimage.__file__).parent, set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in _WRITERS or (name == "open" and _writes(node)):
                    found.add((path.relative_to(root).as_posix(), name))
    assert found - _ALLOWED == set()


def _writes(call: ast.Call) -> bool:
    """Return whether a call of `open` has a mode that writes; members of archives are written into such files."""
    if isinstance(call.func, ast.Attribute):
        return False
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and {*str(mode.value)} & {*"wax+"} for mode in modes)
