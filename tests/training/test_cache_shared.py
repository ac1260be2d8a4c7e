"""Test a cache that several runs fill at once, and runs that are interrupted."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_runs import CROPS, Notes, StopAt, builder, built, row, toy_config
from preimage import training
from preimage.training import cache_builder, cache_decision, cached_dataset
from toys import ToyMaps

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_dataset, "_MAX_SHARD_CROPS", 12)  # three images of four crops
    monkeypatch.setattr(cache_builder, "_POLL_EVERY", 0.01)


def test_one_run_computes_it_and_the_others_wait(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds if half precision turns out not to suffice."""
    compute, started, goes_on = ToyMaps.__call__, threading.Event(), threading.Event()

    def slow(self: ToyMaps, images: torch.Tensor) -> torch.Tensor:
        features = compute(self, images)
        if ToyMaps.calls > 24:
            started.set()
            assert goes_on.wait(60)
            features = features * 1e6
        return features

    monkeypatch.setattr(ToyMaps, "__call__", slow)
    config = toy_config(photo_folder, tmp_path / "run")
    first = builder(config, tmp_path / "cache")[1]
    thread = threading.Thread(target=first.build)
    thread.start()
    assert started.wait(60)
    notes: list[str] = []
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(KeyboardInterrupt):
        builder(config, tmp_path / "cache", notes, stopped)[1].build()
    timer = threading.Timer(0.1, goes_on.set)
    timer.start()
    _, made = built(config, tmp_path / "cache", notes)
    thread.join()
    timer.join()
    assert [note.split(":")[0] for note in notes] == [f"another run computes {made.path}"] * 2 + [
        f"features of {CROPS} crops of every image"
    ]
    assert made.dtype == "float32"
    assert ToyMaps.calls == 24 + 64, "restarted by the first, and not computed by the second"
    assert all(np.isfinite(row(made, view)).all() for view in range(64))


def test_no_room_for_single_precision(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, room = shutil.disk_usage(tmp_path), 18_000  # 12,288 bytes are needed, or twice that
    monkeypatch.setattr(cache_builder.shutil, "disk_usage", lambda path: usage._replace(free=(1 << 28) + room))
    monkeypatch.setattr(cache_decision, "measure_times", lambda dataset, state: (1.0, 0.1))
    config = toy_config(photo_folder, tmp_path / "auto", cache="auto", parameters={"scale": 1e6}, steps=24)
    notes = Notes()
    assert training.run(config, display=notes).steps == 24
    assert notes.notes[0].startswith("feature cache, because")
    assert notes.notes[1].startswith("no feature cache: ") and "do not fit on this disk" in notes.notes[1]
    assert json.loads((tmp_path / "auto" / "cache.json").read_text())["crops"] == 0
    with pytest.raises(cache_builder.NoRoomError, match=r"cache_crops.*cache_folder"):
        training.run(dataclasses.replace(config, output=str(tmp_path / "on"), cache="on"))


def test_probabilities_are_kept_in_single_precision(photo_folder: Path, tmp_path: Path) -> None:
    """Networks take their logarithms, and half precision rounds small probabilities to zero."""
    config = toy_config(photo_folder, tmp_path / "run", representation="toy-probabilities")
    _, made = built(config, tmp_path / "cache")
    rows = made.stack()
    assert made.dtype == "float32"
    assert 0 < rows.min() < 1e-7
    assert np.abs(np.log(np.maximum(rows.astype(np.float16), 1e-7)) - np.log(np.maximum(rows, 1e-7))).max() > 0.01


@pytest.mark.parametrize("stops", ["in a step", "in the cache"])
def test_no_thread_outlives_its_run(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: str
) -> None:
    config = toy_config(photo_folder, tmp_path / "run", workers=3, cache="off" if stops == "in a step" else "on")
    if stops == "in the cache":
        monkeypatch.setattr(cache_builder.CacheBuilder, "_features", lambda self, pixels: 1 / 0)
    with pytest.raises((OSError, ZeroDivisionError)) as held:  # with its frames, and all that they refer to
        training.run(config, display=StopAt(3))
    assert held.traceback
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("batch", "crop", "look"))]
