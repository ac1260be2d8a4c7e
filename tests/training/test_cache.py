"""The cache of features: the same run up to half precision, resumable, checked, and made only where it pays."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_runs import VIEWS, Notes, StopAt, built, dataset_of, toy_config
from preimage.errors import FileFormatError
from preimage.training import cache_files, cached, train
from preimage.training.cache import cache_settings, view_at, view_of
from preimage.training.cache_files import CacheFolder, CacheSettings
from preimage.training.dataset import Batch, CropDataset, Dataset
from toys import ToyMaps
from training_runs import metrics_without_time, weights

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "_SHARD_ROWS", 12)  # three images of four views


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor([line["loss"] for line in metrics_without_time(folder) if "loss" in line])


class SameCrops(CropDataset):
    """The cache's crops, their features computed anew in float32."""

    settings: CacheSettings

    def batch(self, step: int) -> Batch:
        pixels = cached.CachedDataset(self, _Nothing(self.settings)).batch(step).images  # type: ignore[arg-type]
        return Batch(pixels, None)


class _Nothing:
    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings

    def row(self, index: int) -> np.ndarray:
        return np.zeros(self.settings.shape, np.float32)


@pytest.mark.parametrize("representation", ["toy-maps", "toy-vectors"])
def test_a_cached_run_is_the_same_run(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, representation: str
) -> None:
    train(toy_config(photo_folder, tmp_path / "cached", representation=representation))

    def same_crops(dataset: CropDataset, *arguments: object, **options: object) -> Dataset:
        dataset.__class__ = SameCrops
        dataset.settings = cache_settings(dataset.config, dataset.representation, dataset.images, VIEWS)  # type: ignore[attr-defined]
        return dataset

    monkeypatch.setattr(cached, "where_it_pays", same_crops)
    train(toy_config(photo_folder, tmp_path / "fresh", representation=representation))
    ours, theirs = losses(tmp_path / "cached"), losses(tmp_path / "fresh")
    assert len(ours) == 30
    torch.testing.assert_close(ours, theirs, atol=0, rtol=2e-3)
    assert not torch.equal(ours, theirs), "half precision leaves a trace"


def test_every_row_is_its_view(photo_folder: Path, tmp_path: Path) -> None:
    dataset, made = built(toy_config(photo_folder, tmp_path / "run"), tmp_path / "cache")
    settings = made.settings
    assert (settings.rows, settings.shards, made.dtype) == (64, 6, "float16")
    for row in range(settings.rows):
        image, view = divmod(row, VIEWS)
        pixels = view_of(dataset.images[image], settings, image, view)
        features = dataset.representation(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
        np.testing.assert_allclose(made.row(row), features.numpy(), atol=1e-6, rtol=1e-3)
    assert np.load(made.path / "shard-00005.npy").shape == (4, 6, 4, 4)
    views = [view_of(dataset.images[3], settings, 3, view) for view in range(VIEWS)]
    assert np.array_equal(views[0][:, ::-1], views[1])
    assert not np.array_equal(views[0], views[2])
    batch = cached.CachedDataset(dataset, made).batch(7)
    torch.testing.assert_close(batch.features, dataset.representation(batch.images), atol=1e-6, rtol=1e-3)


def test_every_view_comes_before_any_returns(photo_folder: Path, tmp_path: Path) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    dataset = dataset_of(config)
    settings = cache_settings(dataset.config, dataset.representation, dataset.images, VIEWS)
    orders = [[view_at(settings, image, epoch) for epoch in range(2 * VIEWS)] for image in range(20)]
    assert all(sorted(order[:VIEWS]) == sorted(order[VIEWS:]) == list(range(VIEWS)) for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    assert any(order[:VIEWS] != order[VIEWS:] for order in orders)


_RUN = """
import sys
import toys
from preimage.representations import base
from preimage.training import TrainConfig, cache_files, train, trainer
base._REGISTER["toy-slow"], trainer.plan, cache_files._SHARD_ROWS = toys.SlowToy, toys.toy_plan, 12
train(TrainConfig.from_json(sys.argv[1]))
"""


def test_a_killed_building_goes_on(photo_folder: Path, tmp_path: Path) -> None:
    whole = toy_config(photo_folder, tmp_path / "whole", representation="toy-slow", steps=12)
    cut = dataclasses.replace(whole, output=str(tmp_path / "cut"))
    train(whole)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", _RUN, cut.to_json()], env=environment)
    while process.poll() is None and len(list((tmp_path / "cut").glob("cache/*/shard-*.json"))) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "cut" / "cache").iterdir()
    kept = {path.stem: (folder / f"{path.stem}.npy").stat().st_mtime_ns for path in folder.glob("shard-*.json")}
    assert 2 <= len(kept) < 6, "killed while it was building"
    old = folder / ".preimage-0123456789abcdef.tmp"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    notes = Notes()
    train(cut, display=notes)
    assert notes.notes[-1].startswith(f"features of {64 - 12 * len(kept)} of 64 views computed in")
    assert {name: (folder / f"{name}.npy").stat().st_mtime_ns for name in kept} == kept
    assert not old.exists()
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "whole") == metrics_without_time(tmp_path / "cut")


def test_a_cached_run_resumes_bit_for_bit(photo_folder: Path, tmp_path: Path) -> None:
    train(toy_config(photo_folder, tmp_path / "whole", workers=2))
    with pytest.raises(OSError, match="went away"):
        train(toy_config(photo_folder, tmp_path / "cut"), display=StopAt(17))
    train(toy_config(photo_folder, tmp_path / "cut", workers=3), resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "whole") == metrics_without_time(tmp_path / "cut")


def test_ctrl_c_stops_the_building(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = CacheFolder.write

    def interrupted(self: CacheFolder, shard: int, rows: np.ndarray) -> None:
        write(self, shard, rows)
        if shard == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(CacheFolder, "write", interrupted)
    config = toy_config(photo_folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert len(list((tmp_path / "run").glob("cache/*/shard-*.json"))) == 2
    assert train(config).steps == 30


def test_runs_share_a_cache(photo_folder: Path, tmp_path: Path) -> None:
    shared = str(tmp_path / "caches")
    train(toy_config(photo_folder, tmp_path / "a", cache_folder=shared))
    assert not (tmp_path / "a" / "cache").exists()
    ToyMaps.calls, notes = 0, Notes()
    train(toy_config(photo_folder, tmp_path / "b", cache_folder=shared, steps=20), display=notes)
    assert ToyMaps.calls == 16 + 4, "statistics and the validation"
    assert "all are in" in notes.notes[-1]
    train(toy_config(photo_folder, tmp_path / "c", cache_folder=shared, seed=1))
    assert len(list((tmp_path / "caches").iterdir())) == 2, "other crops are another cache"


def test_damage_is_noticed_and_mended(photo_folder: Path, tmp_path: Path) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    _, made = built(config, tmp_path / "cache")
    whole = [made.row(row) for row in range(64)]
    paths = [made.path / f"shard-{shard:05d}.npy" for shard in range(4)]
    data = bytearray(paths[0].read_bytes())
    data[-3] ^= 1
    paths[0].write_bytes(data)
    paths[1].write_bytes(paths[1].read_bytes()[:-7])
    (made.path / "shard-00002.json").write_text("{")
    paths[3].unlink()
    notes: list[str] = []
    _, again = built(config, tmp_path / "cache", notes)
    assert [note.split(" of ")[0] for note in notes if "damaged" in note] == ["shard 0", "shard 1", "shard 2"]
    assert "its checksum does not match its contents" in notes[0]
    assert notes[-1].startswith("features of 48 of 64 views")
    assert all(np.array_equal(again.row(row), whole[row]) for row in range(64))


def test_a_cache_of_something_else_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    _, made = built(config, tmp_path / "cache")
    manifest = made.path / "manifest.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(fields | {"seed": 5, "min_crop": 0.25}))
    with pytest.raises(ValueError, match=r"\(there != wanted\): min_crop: 0.25 != 0.5; seed: 5 != 0"):
        built(config, tmp_path / "cache")
    for text, words in (
        ("{", "is not JSON"),
        ("[]", "is not the manifest of a feature cache"),
        (json.dumps(fields | {"format_version": 2}), "format version 2"),
        (json.dumps(fields | {"dtype": "float8"}), "names the type 'float8'"),
    ):
        manifest.write_text(text)
        with pytest.raises(FileFormatError, match=words):
            built(config, tmp_path / "cache")


def test_what_half_precision_cannot_hold(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    for scale in (1e6, 1e-8):
        _, made = built(dataclasses.replace(config, parameters={"scale": scale}), tmp_path / "cache")
        assert made.dtype == np.load(made.path / "shard-00000.npy").dtype == "float32"
    compute, seen = ToyMaps.__call__, []

    def rises(self: ToyMaps, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return compute(self, images) * (1e6 if sum(seen) > 24 else 1.0)

    monkeypatch.setattr(ToyMaps, "__call__", rises)
    notes: list[str] = []
    _, made = built(config, tmp_path / "cache", notes)
    assert "jpg reach" in notes[0] and notes[0].endswith("the cache is begun anew in float32")
    assert made.dtype == "float32"
    assert np.isfinite(made.row(0)).all()


def test_features_that_are_no_numbers(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = ToyMaps.__call__
    monkeypatch.setattr(ToyMaps, "__call__", lambda self, images: compute(self, images) / 0 * 0)
    with pytest.raises(ValueError, match=r"features of .*astronaut-1\.jpg are NaN or infinite"):
        built(toy_config(photo_folder, tmp_path / "run"), tmp_path / "cache")
