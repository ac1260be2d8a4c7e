"""Test folders that cannot be written, lose their permission or disappear, and outputs that are not plain files."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Run
from faults import TRIALS, WORK, FaultServer, spread
from preimage import training
from preimage.inverters import Inverter
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.representations import create_representation
from preimage.training import Display
from training_runs import small_config, weights

_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
_NOBODY = 65534


@pytest.mark.parametrize("work", spread(WORK, "extract", "inverter", "invert"))
def test_permission_lost_at_an_operation(faults: FaultServer, photo_folder: Path, tmp_path: Path, work: str) -> None:
    """Temporary files cannot be deleted then, but the repeated command deletes them."""
    result = faults.interrupt(work, "denied", photo_folder, tmp_path, 0 if TRIALS >= 50 else TRIALS)
    assert result["problems"] == []
    assert result["interrupted"] >= min(TRIALS, 2)


_COMMANDS = """
import json, os, sys
from preimage import cli

def codes(folder):
    for command in json.loads(sys.argv[2]):
        sys.argv[:] = ["preimage", *(word.replace("OUT", folder) for word in command)]
        try:
            cli.main()
        except SystemExit as stopped:
            yield stopped.code or 0

arguments = list(sys.argv)
assert not any(codes("writable"))  # imports what another user might not be able to read
sys.argv[:] = arguments
if os.geteuid() == 0:  # permissions do not apply to root
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
print(json.dumps(list(codes("read-only"))))
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a folder that all users can read, unlike the temporary folders of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@_posix
def test_a_folder_that_only_others_may_write(public: Path) -> None:
    """Run as another user if this one is root."""
    _write_image(public / "a.png")
    (public / "writable").mkdir()
    (public / "read-only").mkdir(mode=0o555)
    commands = [
        ["extract", "hog", "a.png", "-o", "OUT/f"],
        ["extract", "hog", "a.png", "-o", "OUT/f.npz"],
        ["sheet", "a.png", "-o", "OUT/sheet.png", "--representation", "hog"],
        ["convert", "writable/f", "-o", "OUT/g.safetensors"],
    ]
    arguments = [sys.executable, "-c", _COMMANDS, str(_NOBODY), json.dumps(commands)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300, cwd=public)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert json.loads(done.stdout.splitlines()[-1]) == [1] * len(commands), lines
    assert len(lines) == len(commands), lines
    assert all(line.startswith("error: ") and "read-only/" in line for line in lines), lines
    assert os.listdir(public / "read-only") == []


def _write_image(path: Path) -> None:
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path.chmod(0o644)


def test_a_folder_that_disappears(photo_folder: Path, tmp_path: Path, tiny: Path) -> None:
    hog, out = create_representation("hog"), tmp_path / "out"

    def removed_after(images: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if done >= images:
                shutil.rmtree(out, ignore_errors=True)

        return progress

    with pytest.raises(FileNotFoundError, match="out"):
        extract(hog, photo_folder, out, size=64, batch_size=2, progress=removed_after(4))
    store = extract(hog, photo_folder, tmp_path / "f", size=64)
    if os.name == "posix":
        with pytest.raises(FileNotFoundError) as caught:
            invert(store.path, out, inverter=tiny, batch_size=2, progress=removed_after(2))
        assert str(caught.value.filename).endswith(".png")
    assert not out.exists()
    assert len(extract(hog, photo_folder, out, size=64)) == 20


@_posix
def test_a_run_whose_folder_disappears(photo_folder: Path, tmp_path: Path) -> None:
    class Removes(Display):
        def update(self, progress: object, loss: float) -> None:
            if progress.step == 5:  # type: ignore[attr-defined]
                shutil.rmtree(tmp_path / "run")

    config = small_config(photo_folder, tmp_path / "run", steps=8, eval_every=4, save_every=2)
    with pytest.raises(FileNotFoundError) as caught:
        training.run(config, display=Removes())
    assert str(caught.value.filename).startswith(str(tmp_path / "run"))
    assert not list(tmp_path.rglob(".preimage-*"))
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert training.run(config).steps == 8
    assert weights(tmp_path / "run") and Inverter.load(tmp_path / "run")


@_posix
@pytest.mark.parametrize("output", ["file/f", "file/f.npz", "dangling", "absent-target", "folder.npz"])
def test_outputs_that_cannot_be_written(run: Run, photo_folder: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "else")
    (tmp_path / "absent-target").symlink_to(tmp_path / "nowhere" / "f")
    (tmp_path / "folder.npz").mkdir()
    before = sorted(os.listdir(tmp_path))
    code, _, err = run("extract", "hog", photo_folder / "camera-0.jpg", "-o", tmp_path / output)
    assert (code, err.count("\n"), err.startswith("error: ")) == (1, 1, True), err
    assert str(tmp_path / output.partition("/")[0]) in err, err
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "file").read_text() == "mine"


@_posix
def test_a_link_to_a_file_that_does_not_exist_yet(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "f.npz").symlink_to(tmp_path / "disk" / "f.npz")
    assert run("extract", "hog", photo_folder / "camera-0.jpg", "-o", tmp_path / "f.npz")[0] == 0
    assert (tmp_path / "f.npz").is_symlink() and os.listdir(tmp_path / "disk") == ["f.npz"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_devices(run: Run, photo_folder: Path, tmp_path: Path, tiny: Path) -> None:
    """They are named and not replaced, under links with any suffix, too."""
    device = "/dev/full"
    for suffix in (".npz", ".png", ".csv", ".safetensors", ""):
        (tmp_path / f"link{suffix}").symlink_to(device)
    image = photo_folder / "camera-0.jpg"
    for command in (
        ("extract", "hog", image, "-o", tmp_path / "link.npz"),
        ("extract", "hog", image, "-o", tmp_path / "link.safetensors"),
        ("extract", "hog", image, "-o", tmp_path / "link"),
        ("sheet", image, "-o", tmp_path / "link.png", "--representation", "hog"),
        ("evaluate", tiny, image, photo_folder / "camera-1.jpg", "--csv", tmp_path / "link.csv"),
        ("weights", "convert", tiny / "model.safetensors", "-o", tmp_path / "link.safetensors"),
        ("train", "hog", image, "-o", tmp_path / "link"),
        ("demo", image, image, "-o", tmp_path / "link"),
    ):
        code, _, err = run(*command)
        assert (code, err.count("error: ")) == (1, 1), (command, err)
        assert f"{tmp_path / 'link'}" in err.splitlines()[-1], (command, err)
    assert stat.S_ISCHR(os.stat(device).st_mode)
