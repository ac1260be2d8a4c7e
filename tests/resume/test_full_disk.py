"""Test full disks, exhausted quotas and inodes, and broken disks: one line names the file, what was written before is
unchanged, nothing temporary is left, and the repeated command ends as if nothing had happened.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import small_disk
from conftest import Run
from faults import TRIALS, WORK, FaultServer, spread
from paths import HELPERS
from preimage.io import atomic, atomic_write


@pytest.mark.parametrize("work", spread(WORK, "extract", "train", "inverter", "invert", "extract.h5"))
def test_full_from_an_operation_on(faults: FaultServer, photo_folder: Path, tmp_path: Path, work: str) -> None:
    result = faults.interrupt(work, "full", photo_folder, tmp_path, 0 if TRIALS >= 50 else TRIALS)
    assert result["problems"] == []
    assert result["interrupted"] >= min(TRIALS, 2)


@pytest.mark.parametrize("mode", ["quota", "broken"])
@pytest.mark.parametrize("work", spread(WORK, "convert"))
def test_other_failures_of_writing(
    faults: FaultServer, photo_folder: Path, tmp_path: Path, work: str, mode: str
) -> None:
    result = faults.interrupt(work, mode, photo_folder, tmp_path, min(TRIALS, 10))
    assert result["problems"] == []
    assert result["interrupted"] >= min(TRIALS, 2)


@pytest.mark.parametrize(
    "names",
    [["convert"], pytest.param([*small_disk.COMMANDS], marks=pytest.mark.nightly)],
    ids=["one", "all"],
)
def test_commands_on_a_small_disk(photo_folder: Path, tmp_path: Path, names: list[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("camera-0.jpg", "camera-1.jpg", "coffee-0.jpg", "coffee-1.jpg"):
        shutil.copyfile(photo_folder / name, images / name)
    for outcome in _on_small_disk(tmp_path, images, names):
        errors = [line for line in outcome.error.splitlines() if line.startswith("error: ")]
        if outcome.code == 0:
            assert outcome.room > 0, outcome  # enough room for what was different
        else:
            assert (outcome.code, len(errors)) == (1, 1), outcome
            assert errors[0].startswith(f"error: {tmp_path / 'disk' / 'out'}"), outcome
            assert ".tmp" not in errors[0] and "Traceback" not in outcome.error, outcome
            # A feature store that is written anew is deleted first.
            assert not [name for name in outcome.changed if "photographs.hog" not in name], outcome
        assert (outcome.left, outcome.repeated) == ([], 0), outcome


def _on_small_disk(folder: Path, images: Path, names: list[str]) -> list[small_disk.Outcome]:
    """Run `small_disk` where anyone may mount a disk, or skip the test."""
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs unshare -rm and mount")
    command = ["unshare", "-rm", sys.executable, str(HELPERS / "small_disk.py"), str(folder), str(images), *names]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [small_disk.Outcome(**fields) for fields in json.loads(done.stdout.splitlines()[-1])]


def test_the_largest_file_is_limited(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # Python ignores the signal
    try:
        for name in ("f", "f.npz"):
            code, _, err = run("extract", "hog", photo_folder, "-o", tmp_path / name, "--size", 64)
            assert (code, err.count("\n"), err.startswith(f"error: {tmp_path / name}")) == (1, 1, True), err
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for name in ("f", "f.npz"):
        assert run("extract", "hog", photo_folder, "-o", tmp_path / name, "--size", 64)[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["f", "f.npz"]


class _BrokenFile(io.FileIO):
    def write(self, data: Any, /) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Replace the operating system's path, which is that of the temporary file or missing."""

    def fails(*arguments: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", *(["temporary"] if call in ("open", "replace") else []))

    path = tmp_path / "f"
    path.write_bytes(b"old")
    if call == "write":
        kind = type("BrokenTemporaryFile", (atomic._TemporaryFile, _BrokenFile), {})
        monkeypatch.setattr(atomic, "_TemporaryFile", kind)
    elif call == "open":
        monkeypatch.setattr(atomic, "_TemporaryFile", fails)
    else:
        monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="Input/output") as caught, atomic_write(path) as file:
        file.write(bytes(1 << 21))
    monkeypatch.undo()
    assert (caught.value.errno, caught.value.filename, caught.value.filename2) == (errno.EIO, str(path), None)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]
