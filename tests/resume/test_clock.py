"""Test clocks that jump by a year: nothing depends on the time of day, nor on the times of files."""

from __future__ import annotations

import ast
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import preimage
from cache_runs import StopAt, toy_config
from extractions import contents
from preimage import training
from preimage.io.locks import folder_lock
from preimage.pipelines.convert import convert
from preimage.pipelines.extract import extract
from preimage.representations import create_representation
from preimage.store import merge
from training_runs import metrics_without_time, weights

_YEAR = 365 * 86_400


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that lets the clock jump a year forwards and backwards, with every look at it."""

    def start() -> None:
        plain, plain_ns, jumps = time.time, time.time_ns, itertools.cycle((_YEAR, -_YEAR, 0))
        monkeypatch.setattr(time, "time", lambda: plain() + next(jumps))
        monkeypatch.setattr(time, "time_ns", lambda: plain_ns() + next(jumps) * 10**9)

    return start


def _shift(folder: Path) -> None:
    """Date half of the files a year back, and half a year ahead."""
    for path, shift in zip(sorted(folder.rglob("*")), itertools.cycle((_YEAR, -_YEAR)), strict=False):
        os.utime(path, (time.time() + shift, time.time() + shift))


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".npz", ".mat", ".h5"])
def test_extraction(photo_folder: Path, tmp_path: Path, jumping: Callable[[], None], suffix: str) -> None:
    hog = create_representation("hog")
    extract(hog, photo_folder, tmp_path / f"before{suffix}", size=64)
    jumping()
    extract(hog, photo_folder, tmp_path / f"after{suffix}", size=64)
    names = [f"{name}{suffix}" for name in ("before", "after")]
    assert list(contents(tmp_path / names[0]).values()) == list(contents(tmp_path / names[1]).values())


def test_resumption_and_merging(photo_folder: Path, tmp_path: Path, jumping: Callable[[], None]) -> None:
    """Shards are kept, although the files of images and shards seem to be newer or older."""
    images = tmp_path / "images"
    images.mkdir()
    for path in photo_folder.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    hog = create_representation("hog")
    for part in range(2):
        extract(hog, images, tmp_path / f"{part}", size=64, shard=(part, 2))
    before = contents(tmp_path / "0")
    jumping()
    _shift(images)
    _shift(tmp_path / "0")
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "0").glob("shard-*")}
    extract(hog, images, tmp_path / "0", size=64, shard=(0, 2))
    assert contents(tmp_path / "0") == before
    assert stamps == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "0").glob("shard-*")}
    merged = merge([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    convert(tmp_path / "merged", tmp_path / "f.npz")
    assert len(merged) == 20


@pytest.mark.usefixtures("toys")
def test_training(photo_folder: Path, tmp_path: Path, jumping: Callable[[], None]) -> None:
    """A run is resumed with its feature cache, and ends with the same weights."""
    settings = {"steps": 16, "eval_every": 8, "save_every": 5}
    training.run(toy_config(photo_folder, tmp_path / "full", **settings))
    cut = toy_config(photo_folder, tmp_path / "cut", **settings)
    with pytest.raises(OSError, match="went away"):
        training.run(cut, display=StopAt(10))
    jumping()
    _shift(tmp_path / "cut")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "cache").rglob("shard-*")}
    training.run(cut, resume=True)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "cache").rglob("shard-*")}
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


@pytest.mark.usefixtures("toys")
def test_max_hours(photo_folder: Path, tmp_path: Path, jumping: Callable[[], None]) -> None:
    """A jump of a year neither ends a run of an hour, nor keeps one of a second from its end."""
    jumping()
    settings = {"cache": "off", "steps": None, "eval_every": "1000s", "save_every": "1000s", "log_every": "1000s"}
    long = training.run(toy_config(photo_folder, tmp_path / "long", **settings | {"steps": 8, "max_hours": 1.0}))
    assert (long.steps, long.seconds < 3600) == (8, True)
    short = training.run(toy_config(photo_folder, tmp_path / "short", **settings | {"max_hours": 0.2 / 3600}))
    assert 0.2 <= short.seconds < 3600


def test_waiting_for_a_lock(tmp_path: Path, jumping: Callable[[], None]) -> None:
    pytest.importorskip("fcntl")
    jumping()
    waits: list[float] = []
    enough = threading.Event()

    def wait(waited: float) -> None:
        waits.append(waited)
        if len(waits) == 10:
            enough.set()

    def second() -> None:
        with folder_lock(tmp_path, wait):
            pass

    thread = threading.Thread(target=second)
    with folder_lock(tmp_path):
        thread.start()
        assert enough.wait(60)
    thread.join()
    assert waits == sorted(waits) and waits[0] == 0 and waits[-1] < _YEAR / 2


def test_no_code_looks_at_the_time_of_day() -> None:
    """Durations are measured with `time.monotonic` and `time.perf_counter`."""
    found = []
    for path in Path(preimage.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if name in ("time.time", "time.time_ns", "time.localtime", "time.gmtime", "datetime.now"):
                    found.append(f"{path.name}:{node.lineno}: {name}")
            elif isinstance(node, ast.Import | ast.ImportFrom) and "datetime" in [one.name for one in node.names]:
                found.append(f"{path.name}:{node.lineno}: datetime")
    assert found == []
