"""Test the decision whether a run caches features, which is kept when it resumes."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cache_runs import CROPS, Notes, StopAt, toy_config
from preimage import training
from preimage.store import StoreWriter
from preimage.training import cache_builder, cache_decision
from training_runs import weights

pytestmark = pytest.mark.usefixtures("toys")


def test_a_small_disk(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_builder.shutil, "disk_usage", lambda path: usage._replace(free=(1 << 28) + 10_000))
    with pytest.raises(ValueError, match=r"0\.0 MB.*cache='off'"):
        training.run(config)
    auto = dataclasses.replace(config, representation="toy-slow", cache="auto")
    notes = Notes()
    assert training.run(auto, display=notes).steps == 30
    assert "disk" in notes.notes[0]


def decision(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cache.json").read_text())


def test_a_cache_is_made_where_it_pays(photo_folder: Path, tmp_path: Path) -> None:
    notes = Notes()
    slow = toy_config(photo_folder, tmp_path / "slow", representation="toy-slow", cache="auto", steps=13)
    training.run(slow, display=notes)
    made = decision(tmp_path / "slow")
    assert made["crops"] == 2, "an image comes three times: more crops would not all be used"
    assert made["extraction"] > 0.1
    assert "feature cache" in notes.notes[0]
    assert re.search("2 .*16 images", notes.notes[0])
    training.run(toy_config(photo_folder, tmp_path / "short", representation="toy-slow", cache="auto", steps=7))
    assert decision(tmp_path / "short")["crops"] == 0
    assert not (tmp_path / "short" / "cache").exists()
    training.run(toy_config(photo_folder, tmp_path / "fast", representation="hog", size=64, cache="auto"))
    assert decision(tmp_path / "fast")["crops"] == 0
    assert decision(tmp_path / "fast")["extraction"] is not None
    training.run(toy_config(photo_folder, tmp_path / "off", representation="toy-slow", cache="off", steps=2))
    assert not (tmp_path / "off" / "cache.json").exists()


def test_a_resumed_run_does_as_before_without_measuring(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([(1.0, 0.1), (1.0, 0.1), (0.1, 1.0)])
    monkeypatch.setattr(cache_decision, "measure_times", lambda dataset, state: next(times))
    training.run(toy_config(photo_folder, tmp_path / "full", cache="auto"))
    cut = toy_config(photo_folder, tmp_path / "cut", cache="auto")
    with pytest.raises(OSError, match="went away"):
        training.run(cut, display=StopAt(17))
    training.run(cut, resume=True)
    assert decision(tmp_path / "cut")["crops"] == CROPS
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    plain = toy_config(photo_folder, tmp_path / "plain", cache="auto")
    with pytest.raises(OSError, match="went away"):
        training.run(plain, display=StopAt(17))
    (tmp_path / "plain" / "cache.json").unlink()  # as in a run from before caches existed
    training.run(plain, resume=True)
    training.run(toy_config(photo_folder, tmp_path / "off", cache="off"))
    assert weights(tmp_path / "plain") == weights(tmp_path / "off")
    with pytest.raises(ValueError, match="cache_crops: 8 != 4"):
        training.run(dataclasses.replace(cut, cache_crops=8), resume=True)


def test_measuring_changes_nothing(photo_folder: Path, tmp_path: Path) -> None:
    fast = toy_config(photo_folder, tmp_path / "fast", representation="hog", size=64, cache="auto")
    training.run(fast)
    training.run(dataclasses.replace(fast, output=str(tmp_path / "off"), cache="off"))
    assert weights(tmp_path / "fast") == weights(tmp_path / "off")


def test_features_that_vary_at_random_are_not_cached(photo_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"representation": "sift", "parameters": {"variant": "opencv"}, "size": 64}
    with pytest.raises(ValueError, match=r"sift.*random"):
        training.run(toy_config(photo_folder, tmp_path / "on", **settings))
    assert not (tmp_path / "on").exists()
    training.run(toy_config(photo_folder, tmp_path / "auto", **settings, cache="auto", steps=2))
    assert not (tmp_path / "auto" / "cache.json").exists()


def test_a_disk_that_fills_up_meanwhile(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fills(self: object, number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "shard")

    monkeypatch.setattr(StoreWriter, "shard", fills)
    monkeypatch.setattr(cache_decision, "measure_times", lambda dataset, state: (1.0, 0.1))
    notes = Notes()
    config = toy_config(photo_folder, tmp_path / "run", cache="auto", steps=24)
    assert training.run(config, display=notes).steps == 24
    assert "feature cache" in notes.notes[-1] and "No space left" in notes.notes[-1]
    with pytest.raises(cache_builder.NoRoomError, match="No space left"):
        training.run(dataclasses.replace(config, output=str(tmp_path / "on"), cache="on"))
