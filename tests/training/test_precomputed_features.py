"""Test user-provided features: training an inverter on a file and its images, and inverting such files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cache_runs import StopAt
from conftest import Run
from preimage import store, training
from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.io import FeatureRecord, decode_file, list_images
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.spec import Spec
from preimage.store import FeatureStore, write_features
from preimage.training import TrainConfig, dataset_factory
from preimage.training.dataset import Batch
from toys import SIDE, ToyMaps, ToyVectors
from training_runs import metrics_without_time, small_config, weights

pytestmark = pytest.mark.usefixtures("toys")

Features = dict[str, np.ndarray]


def precomputed_config(images: Path, features: Path, output: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"representation": None, "features": str(features), "size": None}
    return small_config(images, output, **settings | changes)


@pytest.fixture(scope="module")
def made(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Features]:
    """Return maps and vectors of the photographs by key."""
    folder = tmp_path_factory.mktemp("features")
    found = {}
    for name, kind in (("maps", ToyMaps), ("vectors", ToyVectors)):
        extract(kind(), photo_folder, folder / name)
        file = FeatureStore(folder / name)
        assert np.array_equal(file.processed_sizes, [(SIDE, SIDE)] * 20), (
            "images are resized to the only size that the toys take"
        )
        found[name] = {key: np.array(features) for key, features in file.items()}
    return found


def write_npz(path: Path, features: Features) -> Path:
    np.savez(path, **features)
    return path


def write_stack(path: Path, features: Features) -> Path:
    np.savez(path, anything=np.stack(list(features.values())), keys=np.array(list(features)))
    return path


def write_npy(path: Path, features: Features) -> Path:
    path = path.with_suffix(".npy")
    np.save(path, np.stack(list(features.values())))
    path.with_suffix(".keys.txt").write_text("\n".join(f"{key}.jpg" for key in features) + "\n")
    return path


def write_h5(path: Path, features: Features) -> Path:
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        for key, values in features.items():
            group = file.create_group(f"{key}.jpg")
            group["global_descriptor" if values.ndim == 1 else "features"] = values
            group["image_size"] = np.array([96, 96])
    return path


@pytest.mark.parametrize("kind", ["maps", "vectors"])
@pytest.mark.parametrize("write", [write_npz, write_stack, write_npy, write_h5])
def test_plain_arrays_make_an_inverter_for_such_arrays(
    photo_folder: Path, tmp_path: Path, made: dict[str, Features], write: Callable[..., Path], kind: str
) -> None:
    path = write(tmp_path / "f.npz", made[kind])
    summary = training.run(
        precomputed_config(photo_folder, path, tmp_path / "run", size=SIDE, steps=9, workers=3, features_name="mine")
    )
    inverter = Inverter.load(summary.folder)
    channels, stride = (6, 8) if kind == "maps" else (7, None)
    assert inverter.spec == Spec("mine", "user", channels=channels, stride=stride)
    assert inverter.training_notes["training_images"] == 16
    assert invert(path, tmp_path / "out", inverter=summary.folder).images == 20
    suffix = ".jpg.png" if write in (write_npy, write_h5) else ".png"
    picture = decode_file(tmp_path / "out" / f"coffee-2{suffix}")
    again = inverter(torch.from_numpy(made[kind]["coffee-2"]), size=(SIDE, SIDE)).permute(1, 2, 0) * 255
    assert picture.shape == ((24, 24, 3) if kind == "maps" else (SIDE, SIDE, 3))
    assert np.abs(picture - again.numpy()).max() <= 0.52


def test_a_feature_file_says_what_it_is(photo_folder: Path, tmp_path: Path) -> None:
    extract(ToyMaps(), photo_folder, tmp_path / "f.safetensors")
    config = precomputed_config(photo_folder, tmp_path / "f.safetensors", tmp_path / "run", steps=150, eval_every=50)
    summary = training.run(config)
    inverter = Inverter.load(summary.folder)
    assert inverter.spec == ToyMaps().spec
    assert inverter.training_notes["size"] == SIDE, "the file states the size of its images"
    errors = [line["error"] for line in metrics_without_time(tmp_path / "run") if "error" in line]
    assert errors[-1] < 0.9 * errors[0]
    assert summary.error < summary.mean_image_error
    with pytest.raises(ValueError, match=r"size.*32.*64"):
        training.run(precomputed_config(photo_folder, tmp_path / "f.safetensors", tmp_path / "x", size=64))
    with pytest.raises(ValueError, match=r"features_name.*'mine'"):
        training.run(precomputed_config(photo_folder, tmp_path / "f.safetensors", tmp_path / "x", features_name="mine"))


@pytest.fixture
def several_shards(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store of the photographs' maps in float16, four images per shard."""
    monkeypatch.setattr(store, "SHARD_BYTES", 4 * 6 * 4 * 4 * 2)
    extract(ToyMaps(), photo_folder, tmp_path / "maps", dtype="float16")
    assert len(list((tmp_path / "maps").glob("shard-*"))) == 5
    return tmp_path / "maps"


def test_a_store_of_several_shards(photo_folder: Path, tmp_path: Path, several_shards: Path) -> None:
    config = precomputed_config(photo_folder, several_shards, tmp_path / "run", steps=12)
    resolved, dataset = dataset_factory.open_dataset(config)
    assert (resolved.size, dataset.image_count, dataset.val_count) == (SIDE, 16, 4)
    for part in (dataset.batch(3), *dataset.val_batches(4)):
        assert part.features is not None
        assert part.features.dtype == torch.float32
        torch.testing.assert_close(part.features, ToyMaps()(part.images), atol=1e-5, rtol=1e-3)
    summary = training.run(config)
    assert Inverter.load(summary.folder).spec == ToyMaps().spec


def test_a_damaged_shard_costs_its_own_images_only(photo_folder: Path, tmp_path: Path, several_shards: Path) -> None:
    path = several_shards / "shard-00003.safetensors"
    intact = path.read_bytes()
    first = FeatureStore(several_shards)["coffee-0"].tobytes()
    path.write_bytes(intact.replace(first, first[::-1]))
    config = precomputed_config(photo_folder, several_shards, tmp_path / "run", steps=2)
    with pytest.raises(ValueError, match=r"4 of 20 images.*shard-00003\.safetensors"):
        training.run(config)
    summary = training.run(dataclasses.replace(config, skip_bad=True))
    assert [key for key, _ in summary.skipped] == [f"coffee-{index}" for index in range(4)]
    path.write_bytes(intact[:-1])
    with pytest.raises(FileFormatError, match=r"shard-00003\.safetensors"):
        training.run(precomputed_config(photo_folder, several_shards, tmp_path / "x", skip_bad=True))
    path.unlink()
    with pytest.raises(FileFormatError, match=r"shard-00003\.safetensors.*missing"):
        training.run(precomputed_config(photo_folder, several_shards, tmp_path / "x"))
    index = store.read_index(several_shards)
    index = dataclasses.replace(index, complete=False, shards=index.shards[:3])
    (several_shards / store.INDEX).write_bytes(index.to_bytes())
    with pytest.raises(FileFormatError, match="3 of 5 shards"):
        training.run(precomputed_config(photo_folder, several_shards, tmp_path / "x"))
    with pytest.raises(FileFormatError, match=r"nothing.*index\.json"):
        (tmp_path / "nothing").mkdir()
        training.run(precomputed_config(photo_folder, tmp_path / "nothing", tmp_path / "x"))


def test_every_image_has_its_own_features(photo_folder: Path, tmp_path: Path, made: dict[str, Features]) -> None:
    shuffled = dict(sorted(made["maps"].items(), key=lambda item: item[0][::-1]))
    path = write_stack(tmp_path / "f.npz", shuffled)
    _, dataset = dataset_factory.open_dataset(precomputed_config(photo_folder, path, tmp_path / "run", size=SIDE))
    parts: list[Batch] = [*dataset.val_batches(3), *dataset.examples(with_features=True), *map(dataset.batch, range(5))]
    assert [len(part.images) for part in parts] == [3, 1, 16, 4, 4, 4, 4, 4]
    for part in parts:
        assert part.features is not None
        torch.testing.assert_close(part.features, ToyMaps()(part.images), atol=1e-5, rtol=1e-5)
    assert not torch.equal(parts[3].images, parts[7].images)


def test_it_resumes_bit_for_bit(photo_folder: Path, tmp_path: Path, made: dict[str, Features]) -> None:
    path = write_npy(tmp_path / "f.npz", made["vectors"])
    settings = {"size": SIDE, "optimizer": "muon"}
    training.run(precomputed_config(photo_folder, path, tmp_path / "full", **settings, workers=2))
    cut = precomputed_config(photo_folder, path, tmp_path / "cut", **settings)
    with pytest.raises(OSError, match="went away"):
        training.run(cut, display=StopAt(17))
    training.run(cut, resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")


def test_what_does_not_go_together(photo_folder: Path, tmp_path: Path, made: dict[str, Features]) -> None:
    features = made["vectors"]
    some = {key: value for key, value in features.items() if not key.startswith("rocket")}
    path = write_npz(tmp_path / "f.npz", some | {"moon": features["coffee-0"]})
    words = r"16 match.*4 images.*'rocket-0', .*\.\.\..*1 feature.*'moon'"
    with pytest.raises(ValueError, match=words):
        training.run(precomputed_config(photo_folder, path, tmp_path / "run"))
    left = training.run(
        precomputed_config(photo_folder, path, tmp_path / "run", size=SIDE, allow_missing=True, steps=2)
    )
    assert Inverter.load(left.folder).training_notes["training_images"] == 12
    others = write_npz(tmp_path / "o.npz", {f"other/{key}": value for key, value in features.items()})
    with pytest.raises(ValueError, match=r"0 match.*20 images.*20 features"):
        training.run(precomputed_config(photo_folder, others, tmp_path / "x", allow_missing=True))
    twice = write_npz(tmp_path / "t.npz", features | {"coffee-0.jpg": features["coffee-0"]})
    with pytest.raises(ValueError, match=r"'coffee-0' and 'coffee-0\.jpg'.*'coffee-0'"):
        training.run(precomputed_config(photo_folder, twice, tmp_path / "x"))
    nan = write_npz(tmp_path / "n.npz", features | {"coffee-1": np.full(7, np.nan, np.float32)})
    with pytest.raises(ValueError, match=r"1 of 20 images.*'coffee-1'.*NaN"):
        training.run(precomputed_config(photo_folder, nan, tmp_path / "x"))
    maps = made["maps"] | {"coffee-1": np.zeros((6, 4, 5), np.float32)}
    with pytest.raises(ValueError, match=r"'coffee-1'.*\(6, 4, 5\).*\(6, 4, 4\)"):
        training.run(precomputed_config(photo_folder, write_npz(tmp_path / "m.npz", maps), tmp_path / "x", size=SIDE))
    with pytest.raises(ValueError, match=r"16 images.*16"):
        training.run(precomputed_config(photo_folder, path, tmp_path / "x", allow_missing=True, val_count=16))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("sizes", [[(SIDE, SIDE + 8)], [(SIDE, SIDE), (SIDE + 4, SIDE)]], ids=str)
def test_maps_of_images_that_are_not_square(photo_folder: Path, tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    """Training images are cropped to squares, which do not match the cells of such maps."""
    records = [
        FeatureRecord(source.key, np.zeros((6, 4, 4), np.float32), (96, 96), sizes[index % len(sizes)])
        for index, source in enumerate(list_images(photo_folder))
    ]
    write_features(tmp_path / "f", ToyMaps().spec, records)
    with pytest.raises(ValueError, match=r"32×40|32×32, 36×32"):
        training.run(precomputed_config(photo_folder, tmp_path / "f", tmp_path / "x"))
    vectors = [FeatureRecord(one.key, np.zeros(7, np.float32), (96, 96), one.processed_size) for one in records]
    write_features(tmp_path / "v", ToyVectors().spec, vectors)
    config, _ = dataset_factory.open_dataset(precomputed_config(photo_folder, tmp_path / "v", tmp_path / "x"))
    assert config.size == 256


def test_lists_of_keys(photo_folder: Path, tmp_path: Path, made: dict[str, Features]) -> None:
    path = write_npy(tmp_path / "f.npz", made["vectors"])
    keys = path.with_suffix(".keys.txt")
    lines = keys.read_text().splitlines()
    for text, words in (
        ("\n".join(lines[:-1]), r"19 keys.*20 images"),
        ("\n".join([*lines, "more"]), r"21 keys.*20 images"),
        ("\n".join([*lines[:-1], lines[0]]), "key 'astronaut-0"),
        ("\n".join([*lines[:-1], "../up"]), "relative"),
    ):
        keys.write_text(text)
        with pytest.raises(ValueError, match=words):
            training.run(precomputed_config(photo_folder, path, tmp_path / "x"))
    keys.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")  # as written by editors on Windows
    assert dataset_factory.open_dataset(precomputed_config(photo_folder, path, tmp_path / "x"))[1].image_count == 16
    for text, encoding in (("\n".join(lines) + "\n \n\n", "utf-8"), ("\n".join(lines), "utf-16")):
        keys.write_text(text, encoding=encoding)
        assert dataset_factory.open_dataset(precomputed_config(photo_folder, path, tmp_path / "x"))[1].image_count == 16
    keys.write_bytes(b"\xff\xfe\0")
    with pytest.raises(FileFormatError, match=r"f\.keys\.txt.*UTF-8"):
        training.run(precomputed_config(photo_folder, path, tmp_path / "x"))
    keys.unlink()
    with pytest.raises(ValueError, match=r"f\.keys\.txt"):
        training.run(precomputed_config(photo_folder, path, tmp_path / "x"))
    np.save(path, np.zeros((20, 3, 4), np.float32))
    keys.write_text("\n".join(lines))
    with pytest.raises(FileFormatError, match=r"\(N, C\).*\(N, C, h, w\).*\(20, 3, 4\)"):
        training.run(precomputed_config(photo_folder, path, tmp_path / "x"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"representation": "hog"}, "one or the other"),
        ({"features": None}, r"representation.*features"),
        ({"parameters": {"cell_size": 8}}, "parameters"),
        ({"cache": "on"}, "cache"),
        ({"features": None, "representation": "hog", "allow_missing": True}, "features"),
    ],
)
def test_settings_that_do_not_go_with_it(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"features": "f.npz", "images": ("a",), "output": str(tmp_path), **change})


def test_validation_images_with_features_in_the_same_file(
    photo_folder: Path, tmp_path: Path, made: dict[str, Features]
) -> None:
    images = sorted(photo_folder.iterdir())
    train, apart = tmp_path / "train", tmp_path / "val"
    for folder, files in ((train, images[:15]), (apart, images[15:])):
        folder.mkdir()
        for file in files:
            (folder / file.name).write_bytes(file.read_bytes())
    path = write_npz(tmp_path / "f.npz", made["vectors"])
    config = precomputed_config(train, path, tmp_path / "run", val_images=(str(apart),), size=SIDE, steps=2)
    training.run(config)
    _, dataset = dataset_factory.open_dataset(config)
    listed = dataset.image_list()
    assert list(listed.train) == [file.stem for file in images[:15]]
    assert list(listed.val) == [file.stem for file in images[15:]]
    (batch,) = dataset.val_batches(20)
    assert np.allclose(batch.features, np.stack([made["vectors"][file.stem] for file in images[15:]]))
    training.run(config, resume=True)
    (train / images[15].name).write_bytes(images[15].read_bytes())
    with pytest.raises(ValueError, match=f"different keys.*{images[15].stem}"):
        training.run(dataclasses.replace(config, output=str(tmp_path / "other")))
    (apart / images[15].name).unlink()
    (apart / images[16].name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=images[16].stem):
        training.run(dataclasses.replace(config, output=str(tmp_path / "other")))
    skipped = dataclasses.replace(config, output=str(tmp_path / "other"), skip_bad=True)
    assert len(dataset_factory.open_dataset(skipped)[1].image_list().val) == 3


def test_names_of_representations_are_taken(photo_folder: Path, tmp_path: Path, made: dict[str, Features]) -> None:
    path = write_npz(tmp_path / "f.npz", made["vectors"])
    with pytest.raises(ValueError, match=r"features_name.*'hog'"):
        training.run(precomputed_config(photo_folder, path, tmp_path / "run", features_name="hog"))


def test_on_the_command_line(run: Run, photo_folder: Path, tmp_path: Path, made: dict[str, Features]) -> None:
    path = write_npz(tmp_path / "f.npz", made["vectors"])
    common = ("train", "--features", path, photo_folder, "-o", tmp_path / "run")
    options = ("--steps", 2, "--batch-size", 2, "--val-count", 4, "--size", SIDE, "--precision", "float32")
    code, out, err = run(*common, *options, "--features-name", "mine", "--json")
    assert code == 0, err
    assert json.loads(out)["images_seen"] == 4
    assert re.search(f"{path}/compact.*16 images", err)
    code, _, err = run(*common, *options, "-p", "cell_size=8")
    assert (code, bool(re.search("--param.*cell_size=8", err))) == (2, True)
    code, out, err = run("invert", path, "-o", tmp_path / "out", "--inverter", tmp_path / "run")
    assert code == 0, err
    code, _, err = run("evaluate", tmp_path / "run", photo_folder)
    assert (code, "'mine'" in err) == (1, True)
    code, out, err = run("info", tmp_path / "run")
    assert code == 0, err
    assert "mine user" in out
    keys = [source.key for source in list_images(tmp_path / "out")]
    assert keys == [source.key for source in list_images(photo_folder)]
