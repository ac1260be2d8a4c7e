"""Test errors of the command line: one line, the right exit code, no lost data."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from scipy.io import savemat

from conftest import Run, photographs
from preimage import cli
from preimage.cli import _shared
from preimage.io import write_png
from preimage.store import FeatureStore, read_index


def test_errors_are_one_line_and_exit_1(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features = tmp_path / "f"
    assert run("extract", "hog", photo_folder, "-o", features)[0] == 0
    cut = tmp_path / "cut.safetensors"
    shutil.copytree(features, tmp_path / "cut")
    (shard,) = (tmp_path / "cut").glob("shard-*")
    cut.write_bytes(shard.read_bytes()[:-7])
    shutil.copy(cut, shard)
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "evil.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}")
    (tmp_path / "evil.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(600))
    (tmp_path / "evil.h5").write_bytes(b"hello")
    savemat(tmp_path / "hog.mat", {"hog": np.zeros((8, 8, 31), np.float32)})
    np.save(tmp_path / "skimage.npy", np.zeros((7, 7, 2, 2, 9)))
    by_hog = ("--inverter", tiny, "--representation", "hog")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("extract", "hog", tmp_path / "absent", "-o", tmp_path / "x"), "absent: "),
        (
            ("extract", "hogg", photo_folder, "-o", tmp_path / "x"),
            r"representation.*'hogg'.*alexnet-conv1, ",
        ),
        (("extract", "hog", photo_folder, "-o", tmp_path / "x", "-p", "cell_size=0"), "cell_size"),
        (("extract", "hog", photo_folder, "-o", tmp_path / "x", "--dtype", "int8"), r"float32.*float16.*'int8'"),
        (("extract", "hog", photo_folder, "-o", tmp_path), "already|contains"),
        (
            ("extract", "hog", photo_folder, "-o", cut.with_suffix(""), "--size", 32),
            "cut.*size",
        ),
        (("extract", "hog", photo_folder, "-o", "/dev/null"), "/dev/null"),
        (("extract", "hog", photo_folder, "-o", "/proc/absent/x"), "/proc/absent"),
        (("invert", cut, "-o", tmp_path / "x", "--inverter", tiny), r"cut\.safetensors: "),
        (("invert", tmp_path / "cut", "-o", tmp_path / "x", "--inverter", tiny), f"{shard.name}: "),
        (("invert", tmp_path / "absent", "-o", tmp_path / "x"), "absent: "),
        (("invert", features, "-o", tmp_path / "x", "--inverter", "nobody"), "nobody: "),
        (("invert", features, "-o", tmp_path / "x", "--inverter", tiny, "--device", "tpu9"), "'tpu9'"),
        (("evaluate", tiny, tmp_path / "empty"), "empty|no image"),
        (("sheet", tmp_path / "text.safetensors", "-o", tmp_path / "x", "--inverter", tiny), "text.safetensors"),
        (("info", tmp_path / "text.safetensors"), r"text\.safetensors: "),
        (("info", tmp_path / "empty"), r"empty: .*config\.json"),
        (("info", tmp_path / "absent"), "absent: "),
        (("info", tmp_path / "evil.npy"), "evil.npy"),
        (("info", tmp_path / "evil.mat"), r"evil\.mat: .*v7\.3"),
        (("info", tmp_path / "evil.h5"), r"evil\.h5: .*HDF5"),
        (("invert", tmp_path / "hog.mat", "-o", tmp_path / "x", *by_hog), "'matlab'"),
        (("invert", tmp_path / "skimage.npy", "-o", tmp_path / "x", *by_hog), "HOG of scikit-image"),
        (("train", "hog", tmp_path / "empty", "-o", tmp_path / "x"), "empty|no image"),
    ]
    for arguments, message in cases:
        code, out, err = run(*arguments)
        assert code == 1, (arguments, out, err)
        assert out == ""
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        assert re.search(message, err), err
        assert not (tmp_path / "x").exists()


def test_debug_shows_the_traceback(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREIMAGE_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["preimage", "info", str(tmp_path / "absent")])
    with pytest.raises(FileNotFoundError):
        cli.main()


@pytest.mark.parametrize("arguments", [("extract", "hog"), ("nonsense",), ("info", "--nonsense", "x")])
def test_usage_errors_exit_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err


def test_bad_images_are_listed(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    code, out, err = run("extract", "hog", folder, "-o", tmp_path / "f")
    assert (code, out) == (1, "")
    assert "broken.jpg" in err
    code, out, _ = run("extract", "hog", folder, "-o", tmp_path / "f", "--skip-bad")
    assert code == 0
    assert re.search(r"^skipped .*broken\.jpg", out, re.MULTILINE)
    code, out, _ = run("extract", "hog", folder, "-o", tmp_path / "f", "--skip-bad", "--json")
    assert json.loads(out)["skipped"][0][0].endswith("broken.jpg")


def test_info_describes_an_unfinished_extraction(
    run: Run, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preimage.store.MAX_SHARD_IMAGES", 1)
    (tmp_path / "photos").mkdir()
    shutil.copy(next(photo_folder.iterdir()), tmp_path / "photos")
    (tmp_path / "photos" / "zzz.jpg").write_bytes(b"no image")
    assert run("extract", "hog", tmp_path / "photos", "-o", tmp_path / "f")[0] == 1
    code, out, _ = run("info", tmp_path / "f", "--json")
    found = json.loads(out)
    assert (code, found["kind"], found["images"]) == (0, "unfinished feature store", 2)
    assert (found["shards_done"], found["shards"]) == (1, 2)
    code, out, _ = run("verify", tmp_path / "f")
    assert code == 1
    assert re.search("f: .*1 of 2 shards", out)


def test_doctor_reports_a_missing_native_module(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    assert re.search(r"^torch +\d", out, re.MULTILINE)
    assert re.search(r"instruction sets +.*portable; uses ", out)
    monkeypatch.setitem(sys.modules, "preimage.ops._native", None)
    code, out, _ = run("doctor")
    assert code == 0
    assert re.search(r"native module +does not load", out)
    assert "problem: native: " in out
    assert "reinstall" in out


def test_doctor_reports_every_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("on fire")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(importlib.metadata, "version", broken)
    code, out, err = run("doctor", "--json")
    assert code == 0
    assert len([problem for problem in json.loads(out)["problems"] if "on fire" in problem]) >= 4
    assert "on fire" in err


class _CvError(Exception):
    """An error like OpenCV's, whose module is cv2."""


_CvError.__module__ = "cv2"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("mat1 and mat2\n cannot be multiplied"), "RuntimeError: mat1 and mat2 cannot be multiplied"),
        (NotImplementedError(), "NotImplementedError"),
        (ArithmeticError("x"), "ArithmeticError: x"),
        (MemoryError(), "out of memory: MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory: RuntimeError: Default"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "out of memory: OutOfMemoryError: CUDA",
        ),
        (_CvError("(-4:Insufficient memory) Failed to allocate 9 bytes"), "out of memory: _CvError: .*9 bytes"),
        (
            np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("f4")),
            "out of memory: \\w*MemoryError: Unable",
        ),
    ],
)
def test_errors_of_other_programs_are_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    @_shared.reporting
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        command()
    out, err = capsys.readouterr()
    assert (caught.value.exit_code, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"error: {words}", err)


@pytest.mark.parametrize("error", [AssertionError("ours"), AttributeError("ours"), NameError("ours")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    namespace: dict[str, Callable[[], None]] = {}
    code = compile("def command():\n    raise error", str(Path(_shared.__file__).parent / "made_up.py"), "exec")
    exec(code, {"error": error}, namespace)
    with pytest.raises(type(error), match="ours"):
        _shared.reporting(namespace["command"])()


BROKEN = ("torchvision", "torchmetrics", "matplotlib", "h5py", "scipy", "skimage", "triton")


def test_broken_packages_break_only_what_needs_them(photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    """Simulates, for example, a torchvision that was built for another torch."""
    site = tmp_path / "site"
    for name in BROKEN:
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(f"raise RuntimeError('operator {name}::nms does not exist')\n")
        package = "scikit_image" if name == "skimage" else name
        (site / f"{package}-9.0.dist-info").mkdir()
        (site / f"{package}-9.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.0\n"
        )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "preimage", *map(str, arguments)]
        return subprocess.run(
            words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )

    done = command("evaluate", tiny, photo_folder, "--size", 32)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^SSIM +-?0\.\d+$", done.stdout, re.MULTILINE)
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    done = command("info", tmp_path / "f.h5")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.search(r"h5py, .*\(RuntimeError: operator h5py.*--force-reinstall h5py", done.stderr)
    done = command("doctor", "--json")
    problems = "\n".join(json.loads(done.stdout)["problems"])
    for name in BROKEN:
        package = "scikit-image" if name == "skimage" else name
        assert re.search(f"{package}.*RuntimeError: operator {name}::nms", problems), problems
    assert "torchvision" in problems


@pytest.mark.parametrize("name", ["f", "f.safetensors"])
def test_full_disk_leaves_no_partial_file_and_resumes(photo_folder: Path, tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    output = tmp_path / name
    store = output if name == "f" else tmp_path / f"{name}.partial"

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "preimage", "extract", "hog", str(photo_folder), "-o", str(output)]
    done = subprocess.run(command, preexec_fn=small_files_only, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(rf"^error: {store}/shard-00000\.safetensors: File too large", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [store.name]
    assert sorted(path.name for path in store.iterdir()) == [".lock", "index.json"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(FeatureStore(output)) == 20
    assert [path.name for path in tmp_path.iterdir()] == [name]


_SHORT_SHARDS = """
from preimage import cli, store
store.MAX_SHARD_IMAGES = 20
cli.main()
"""


def _shards(folder: Path) -> list[str]:
    """Return the files of complete shards."""
    return [entry.file for entry in read_index(folder).shards] if (folder / "index.json").exists() else []


def test_ctrl_c_exits_130_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_png(folder / "0000.png", photographs()["astronaut"])
    for index in range(1, 300):
        os.link(folder / "0000.png", folder / f"{index:04d}.png")
    output = tmp_path / "f"
    arguments = ["extract", "hog", str(folder), "-o", str(output), "--size", "32"]
    command = [sys.executable, "-c", _SHORT_SHARDS, *arguments]
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not _shards(output) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("extracting ")] == ["interrupted"]
    finished = _shards(output)
    assert sorted(path.name for path in output.iterdir()) == [".lock", "index.json", *finished]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["resumed"], found["images"]) == (20 * len(finished), 300)
    assert 0 < found["resumed"] < 300
