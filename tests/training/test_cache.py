"""Test the feature cache: equal runs up to half precision, resumption, checks, and use only if it saves time."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_runs import CROPS, Notes, StopAt, built, dataset_of, row, settings_of, toy_config
from preimage import training
from preimage.errors import FileFormatError
from preimage.store import ShardEntry, StoreWriter, open_writer, read_index
from preimage.training import cache_decision, cached_dataset
from preimage.training.cached_dataset import CachedDataset, crop_key
from preimage.training.dataset import Batch, CropDataset, Dataset
from toys import ToyMaps
from training_runs import metrics_without_time, weights

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_dataset, "_MAX_SHARD_CROPS", 12)  # three images of four crops


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor([line["loss"] for line in metrics_without_time(folder) if "loss" in line])


class SameCrops(CropDataset):
    """Dataset of the cache's crops, with features recomputed in float32."""

    def batch(self, step: int) -> Batch:
        settings = settings_of(self)
        return Batch(CachedDataset(self, settings, Zeros(settings.shape)).batch(step).images, None)  # type: ignore[arg-type]


class Zeros:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __getitem__(self, key: str) -> np.ndarray:
        return np.zeros(self.shape, np.float32)


@pytest.mark.parametrize("representation", ["toy-maps", "toy-vectors", "toy-probabilities"])
def test_a_cached_run_is_the_same_run(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, representation: str
) -> None:
    training.run(toy_config(photo_folder, tmp_path / "cached", representation=representation))
    (store,) = (tmp_path / "cached" / "cache").iterdir()
    exact = read_index(store).dtype == "float32"
    assert exact == (representation == "toy-probabilities")

    def same_crops(dataset: CropDataset, *arguments: object, **options: object) -> Dataset:
        dataset.__class__ = SameCrops
        return dataset

    monkeypatch.setattr(cache_decision, "with_cache", same_crops)
    training.run(toy_config(photo_folder, tmp_path / "fresh", representation=representation))
    ours, theirs = losses(tmp_path / "cached"), losses(tmp_path / "fresh")
    assert len(ours) == 30
    torch.testing.assert_close(ours, theirs, atol=0, rtol=2e-3)
    assert torch.equal(ours, theirs) == exact, "half precision leaves a trace"
    assert (weights(tmp_path / "cached") == weights(tmp_path / "fresh")) == exact


def test_every_row_is_its_crop(photo_folder: Path, tmp_path: Path) -> None:
    dataset, made = built(toy_config(photo_folder, tmp_path / "run"), tmp_path / "cache")
    settings = settings_of(dataset)
    assert made.index is not None
    assert (len(made), made.index.count, len(made.index.shards), made.dtype) == (64, 64, 6, "float16")
    assert made.key(31) == crop_key(7, 3) == "000007.3"
    for index in range(64):
        image, view = divmod(index, CROPS)
        pixels = settings.crop(dataset.images.decoded(image), image, view)
        features = dataset.representation(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
        np.testing.assert_allclose(row(made, index), features.numpy(), atol=1e-6, rtol=1e-3)
        np.testing.assert_array_equal(row(made, index), made[index])
    assert made.index.shards[5].images == 4
    assert made.processed_size(0) == made.record(0).original_size == (32, 32)
    crops = [settings.crop(dataset.images.decoded(3), 3, number) for number in range(CROPS)]
    assert np.array_equal(crops[0][:, ::-1], crops[1])
    assert not np.array_equal(crops[0], crops[2])
    batch = CachedDataset(dataset, settings, made).batch(7)
    torch.testing.assert_close(batch.features, dataset.representation(batch.images), atol=1e-6, rtol=1e-3)


def test_every_crop_is_used_before_any_is_used_again(photo_folder: Path, tmp_path: Path) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    settings = settings_of(dataset_of(config))
    orders = [[settings.crop_number(epoch, image) for epoch in range(2 * CROPS)] for image in range(20)]
    assert all(sorted(order[:CROPS]) == sorted(order[CROPS:]) == list(range(CROPS)) for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    assert any(order[:CROPS] != order[CROPS:] for order in orders)


_RUN = """
import sys
import toys
from preimage.representations import registry
from preimage.training import TrainConfig, builders, cached_dataset, run
registry._REGISTER["toy-slow"], builders.plan, cached_dataset._MAX_SHARD_CROPS = toys.SlowToy, toys.toy_plan, 12
run(TrainConfig.from_json(sys.argv[1]))
"""


def test_a_killed_computation_is_continued(photo_folder: Path, tmp_path: Path) -> None:
    full = toy_config(photo_folder, tmp_path / "full", representation="toy-slow", steps=12)
    cut = dataclasses.replace(full, output=str(tmp_path / "cut"))
    training.run(full)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", _RUN, cut.to_json()], env=environment)
    while process.poll() is None and len(list((tmp_path / "cut").glob("cache/*/shard-*"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "cut" / "cache").iterdir()
    kept = {entry.file: (folder / entry.file).stat().st_mtime_ns for entry in read_index(folder).shards}
    assert 2 <= len(kept) < 6, "killed during the computation"
    old = folder / ".preimage-0123456789abcdef.tmp"
    old.write_bytes(b"half")
    notes = Notes()
    training.run(cut, display=notes)
    assert notes.notes[-1].startswith(f"features of {64 - 12 * len(kept)} of 64 crops computed in")
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert not old.exists()
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


def test_a_cached_run_resumes_bit_for_bit(photo_folder: Path, tmp_path: Path) -> None:
    training.run(toy_config(photo_folder, tmp_path / "full", workers=2))
    with pytest.raises(OSError, match="went away"):
        training.run(toy_config(photo_folder, tmp_path / "cut"), display=StopAt(17))
    training.run(toy_config(photo_folder, tmp_path / "cut", workers=3), resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


def test_ctrl_c_stops_the_computation(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = StoreWriter.add

    def interrupted(self: StoreWriter, entry: ShardEntry) -> None:
        add(self, entry)
        if entry.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StoreWriter, "add", interrupted)
    config = toy_config(photo_folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        training.run(config)
    (folder,) = (tmp_path / "run" / "cache").iterdir()
    assert [entry.number for entry in read_index(folder).shards] == [0, 1]
    notes = Notes()
    assert training.run(config, display=notes).steps == 30
    assert notes.notes[-1].startswith("features of 40 of 64 crops")


def test_runs_share_a_cache(photo_folder: Path, tmp_path: Path) -> None:
    shared = str(tmp_path / "caches")
    training.run(toy_config(photo_folder, tmp_path / "a", cache_folder=shared))
    assert not (tmp_path / "a" / "cache").exists()
    ToyMaps.calls, notes = 0, Notes()
    training.run(toy_config(photo_folder, tmp_path / "b", cache_folder=shared, steps=20), display=notes)
    assert ToyMaps.calls == 16 + 4, "statistics and the validation"
    assert "all are in" in notes.notes[-1]
    training.run(toy_config(photo_folder, tmp_path / "c", cache_folder=shared, seed=1))
    assert len(list((tmp_path / "caches").iterdir())) == 2, "other crops are another cache"


def test_damage_is_found_and_repaired(photo_folder: Path, tmp_path: Path) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    _, made = built(config, tmp_path / "cache")
    full = made.stack()
    paths = [Path(made.path, f"shard-{shard:05d}.safetensors") for shard in range(6)]
    intact = paths[5].read_bytes()
    data = bytearray(paths[0].read_bytes())
    data[-400] ^= 1  # features
    paths[0].write_bytes(data)
    paths[1].write_bytes(paths[1].read_bytes()[:-7])
    paths[2].write_bytes(paths[3].read_bytes())
    paths[3].unlink()
    notes: list[str] = []
    _, again = built(config, tmp_path / "cache", notes)
    assert [Path(note.partition(":")[0]) for note in notes[:-1]] == paths[:4]
    assert all(note.endswith(": recomputed") for note in notes[:-1])
    assert "checksum" in notes[0]
    assert notes[-1].startswith("features of 48 of 64 crops")
    assert np.array_equal(again.stack(), full)
    assert paths[5].read_bytes() == intact


def test_every_flipped_bit_is_found(photo_folder: Path, tmp_path: Path) -> None:
    config = toy_config(photo_folder, tmp_path / "run", representation="toy-vectors")
    _, made = built(config, tmp_path / "cache")
    path = Path(made.path, "shard-00002.safetensors")
    intact, random = path.read_bytes(), np.random.default_rng(0)
    for position in random.choice(len(intact), 12, replace=False):
        data = bytearray(intact)
        data[position] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        notes: list[str] = []
        built(config, tmp_path / "cache", notes)
        assert notes[0].endswith("recomputed")
        assert path.read_bytes() == intact


def test_later_damage_is_found_when_it_is_read(photo_folder: Path, tmp_path: Path) -> None:
    dataset, made = built(toy_config(photo_folder, tmp_path / "run"), tmp_path / "cache")
    for path in Path(made.path).glob("shard-*"):
        data = bytearray(path.read_bytes())
        data[-400] ^= 1
        path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"shard-0000.*checksum.*features"):
        CachedDataset(dataset, settings_of(dataset), made).batch(0)


def test_a_cache_of_something_else_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    dataset = dataset_of(config)
    settings = settings_of(dataset)
    folder = tmp_path / "cache" / settings.digest()
    source = settings.source | {"seed": 5, "min_crop": 0.25}
    with (
        open_writer(folder, settings.spec, "float16", count=settings.count, length=12, source=source) as store,
        store.shard(0) as shard,
    ):
        shard.append(["a"], np.zeros((1, *settings.shape), np.float16), [(1, 1)], [(1, 1)])
    with pytest.raises(ValueError, match=r"min_crop: 0\.25 != 0\.5; seed: 5 != 0"):
        built(config, tmp_path / "cache")
    (folder / "index.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"index\.json"):
        built(config, tmp_path / "cache")
    (folder / "shard-00000.npy").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"shard-00000\.npy"):
        built(config, tmp_path / "cache")


def test_what_half_precision_cannot_hold(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(photo_folder, tmp_path / "run")
    for scale in (1e6, 1e-8):
        _, made = built(dataclasses.replace(config, parameters={"scale": scale}), tmp_path / "cache")
        assert made.dtype == made[0].dtype == "float32"
    compute, seen = ToyMaps.__call__, []

    def rises(self: ToyMaps, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return compute(self, images) * (1e6 if sum(seen) > 24 else 1.0)

    monkeypatch.setattr(ToyMaps, "__call__", rises)
    notes: list[str] = []
    dataset, made = built(config, tmp_path / "cache", notes)
    assert "jpg reach" in notes[0] and "restarted in float32" in notes[0]
    assert made.dtype == "float32"
    assert notes[1].startswith("features of 64 of 64 crops")
    pixels = settings_of(dataset).crop(dataset.images.decoded(0), 0, 1)
    features = compute(ToyMaps(), torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
    np.testing.assert_allclose(row(made, 1), 1e6 * features.numpy(), rtol=1e-6)


def test_features_that_are_no_numbers(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = ToyMaps.__call__
    monkeypatch.setattr(ToyMaps, "__call__", lambda self, images: compute(self, images) / 0 * 0)
    with pytest.raises(ValueError, match=r"features.*astronaut-1\.jpg.*NaN"):
        built(toy_config(photo_folder, tmp_path / "run"), tmp_path / "cache")
