"""Test the images of a run: bad ones are detected or left out, and a run resumes only with its initial images."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cache_runs import Notes, StopAt, toy_config
from conftest import Run
from preimage import training
from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.io import Listing, list_images
from preimage.store import read_index
from preimage.training import TrainConfig, checkpoint
from preimage.training.builders import init_warning
from preimage.training.checkpoint import read_header, read_images
from preimage.training.images import ImageSet
from preimage.training.sampling import batch_images, batch_samples
from preimage.training.split import ImageList
from toys import SIDE, ToyVectors
from training_runs import metrics_without_time, weights

pytestmark = pytest.mark.usefixtures("toys")

Change = Callable[[Path], None]


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of 20 images to change; astronaut-0, camera-1, chelsea-2 and coffee-3 are held out."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def config_of(photos: Path, output: Path, **changes: Any) -> TrainConfig:
    return toy_config(photos, output, **{"cache": "off", "steps": 24, "eval_every": 12, **changes})


def interrupt(config: TrainConfig, step: int = 13) -> None:
    """Start a run that is ended by an error after `step` steps."""
    with pytest.raises(OSError, match="went away"):
        training.run(config, display=StopAt(step))


def cut_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def corrupt(path: Path) -> None:
    """Write a lossless WebP with a valid header and length whose pixels cannot be decoded."""
    done, data = cv2.imencode(".webp", np.zeros((40, 40, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done
    header = 25  # RIFF, VP8L and the size in pixels
    path.write_bytes(bytes(data)[:header] + b"\xff" * (len(data) - header))


def replace_by(other: str) -> Change:
    return lambda photos: shutil.copy(photos / other, photos / "coffee-1.jpg") and None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda photos: (photos / "coffee-1.jpg").unlink(), r"16.*15.*1 missing.*'coffee-1'"),
        (lambda photos: (photos / "coffee-3.jpg").unlink(), r"4.*3.*1 missing.*'coffee-3'"),
        (lambda photos: shutil.copy(photos / "coffee-1.jpg", photos / "a.jpg"), r"16.*17.*1 new.*'a'"),
        (replace_by("coffee-2.jpg"), r"16.*16.*1 changed.*'coffee-1'"),
        (lambda photos: cut_end(photos / "coffee-1.jpg"), r"1 .*coffee-1\.jpg"),
        (lambda photos: (photos / "coffee-1.jpg").rename(photos / "z.jpg"), r"1 missing.*'coffee-1'.*1 new"),
    ],
    ids=["deleted", "held-out deleted", "added", "replaced", "cut", "renamed"],
)
def test_a_run_resumes_with_the_same_images_only(photos: Path, tmp_path: Path, change: Change, words: str) -> None:
    config = config_of(photos, tmp_path / "run")
    interrupt(config)
    before = (tmp_path / "run" / checkpoint.CHECKPOINT).read_bytes()
    change(photos)
    with pytest.raises(ValueError, match=rf"images.*{words}"):
        training.run(config, resume=True)
    assert (tmp_path / "run" / checkpoint.CHECKPOINT).read_bytes() == before


def test_an_image_of_the_same_length_is_another_one(photos: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    path = photos / "coffee-1.jpg"
    path.unlink()
    cv2.imwrite(str(photos / "coffee-1.bmp"), pixels[0])
    length = (photos / "coffee-1.bmp").stat().st_size
    config = config_of(photos, tmp_path / "run")
    interrupt(config)
    cv2.imwrite(str(photos / "coffee-1.bmp"), pixels[1])
    assert (photos / "coffee-1.bmp").stat().st_size == length
    with pytest.raises(ValueError, match=r"1 changed.*'coffee-1'"):
        training.run(config, resume=True)


def test_the_images_may_come_in_another_order(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order may change, for example, in a new tar shard."""
    training.run(config_of(photos, tmp_path / "full"))
    cut = config_of(photos, tmp_path / "cut")
    interrupt(cut)

    def backwards(paths: Any, *, skip_bad: bool) -> Listing:
        return Listing(list_images(paths)[::-1])

    monkeypatch.setattr("preimage.training.listing.find_images", backwards)
    training.run(cut, resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    images = read_images(tmp_path / "cut" / checkpoint.CHECKPOINT)
    assert images is not None
    assert list(images.val) == ["astronaut-0", "camera-1", "chelsea-2", "coffee-3"]


def test_separate_validation_images(photos: Path, tmp_path: Path) -> None:
    """They may have the names of training images, but not be the same."""
    apart = tmp_path / "apart"
    apart.mkdir()
    for index in range(4):
        shutil.move(photos / f"rocket-{index}.jpg", apart / f"coffee-{index}.jpg")
    config = config_of(photos, tmp_path / "run", val_images=(str(apart),))
    interrupt(config)
    shutil.move(apart / "coffee-1.jpg", apart / "other.jpg")
    with pytest.raises(ValueError, match=r"16.*16.*validation images.*1 missing.*'coffee-1'"):
        training.run(config, resume=True)
    shutil.move(apart / "other.jpg", apart / "coffee-1.jpg")
    assert training.run(config, resume=True).steps == 24
    shutil.copy(photos / "camera-2.jpg", apart / "twin.jpg")
    with pytest.raises(ValueError, match=r"1 images.*'twin'"):
        training.run(config_of(photos, tmp_path / "twin", val_images=(str(apart),)))


def test_copies_among_the_validation_images_are_reported(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "astronaut-0.jpg", photos / "z.jpg")
    notes = Notes()
    training.run(config_of(photos, tmp_path / "run", steps=1), display=notes)
    assert re.search("1 of 4 held-out images.*training images", notes.notes[0])


def test_init_from_an_inverter_that_was_trained_on_them(photos: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    training.run(config_of(photos, first, steps=2))
    same, other, unknown = Notes(), Notes(), Notes()
    training.run(config_of(photos, tmp_path / "a", steps=1, init=str(first)), display=same)
    training.run(config_of(photos, tmp_path / "b", steps=1, init=str(first), val_count=5), display=other)
    (first / checkpoint.CHECKPOINT).unlink()
    training.run(config_of(photos, tmp_path / "c", steps=1, init=str(first)), display=unknown)
    assert same.notes == []
    assert re.search("4 of the 5 images.*'camera-0'", other.notes[0])
    assert re.search(f"{first}.*unknown.*too low", unknown.notes[0])


@pytest.mark.parametrize("init", ["hog-compact", "someone/hog-compact"])
def test_init_from_an_inverter_by_name(init: str) -> None:
    """Nobody knows the photographs it was trained on."""
    warning = init_warning(init, ImageList({"a": "0"}, {"b": "1"}))
    assert warning is not None
    assert re.search(f"{init}.*unknown.*too low", warning)


def test_a_run_from_a_pretrained_inverter_warns(photos: Path, tmp_path: Path) -> None:
    notes = Notes()
    settings = {"representation": "hog", "size": 64, "steps": 1, "batch_size": 2, "preset": None}
    training.run(config_of(photos, tmp_path / "run", **settings, init="hog-compact"), display=notes)
    (warning,) = notes.notes
    assert re.search("hog-compact.*unknown", warning)


def test_bad_images_are_found_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    cut_end(photos / "coffee-1.jpg")
    (photos / "rocket-2.jpg").write_bytes(b"")
    words = r"2 of 20 images.*coffee-1\.jpg.*rocket-2\.jpg.*--skip-bad"
    with pytest.raises(ValueError, match=words):
        training.run(config_of(photos, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_bad_images_are_left_out_and_listed(photos: Path, tmp_path: Path) -> None:
    cut_end(photos / "coffee-1.jpg")
    corrupt(photos / "astronaut-0.jpg")  # held out
    config = config_of(photos, tmp_path / "run", skip_bad=True)
    interrupt(config)
    (photos / "coffee-1.jpg").unlink()  # which has no part in the run
    summary = training.run(config, resume=True)
    assert [key for key, _ in summary.skipped] == ["coffee-1", "astronaut-0"]
    assert "truncated" in summary.skipped[0][1]
    fields = json.loads((tmp_path / "run" / "train.json").read_text())
    assert len(fields["skipped"]) == 2
    assert TrainConfig.from_json(json.dumps(fields)).skip_bad
    notes = Inverter.load(tmp_path / "run").training_notes
    assert (notes["training_images"], notes["val_images"], notes["skipped_images"]) == (15, 3, 2)


def test_what_cannot_be_listed_is_left_out_and_listed_too(photos: Path, tmp_path: Path) -> None:
    (photos / "shard.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ValueError, match=r"shard\.tar"):
        training.run(config_of(photos, tmp_path / "run"))
    config = config_of(photos, tmp_path / "run", skip_bad=True)
    interrupt(config)
    summary = training.run(config, resume=True)
    assert [Path(name).name for name, _ in summary.skipped] == ["shard.tar"]
    assert Inverter.load(tmp_path / "run").training_notes["training_images"] == 16


@pytest.mark.parametrize("cache", ["off", "on"])
def test_an_image_that_only_decoding_finds_bad(photos: Path, tmp_path: Path, cache: str) -> None:
    corrupt(photos / "coffee-1.jpg")
    plain = config_of(photos, tmp_path / "plain", cache=cache)
    with pytest.raises(FileFormatError, match=r"coffee-1\.jpg.*--skip-bad"):
        training.run(plain)
    settings = {"cache": cache, "skip_bad": True}
    full = training.run(config_of(photos, tmp_path / "full", **settings, workers=3))
    assert [key for key, _ in full.skipped] == ["coffee-1"]
    if cache == "on":
        (store,) = (tmp_path / "full" / "cache").iterdir()
        (entry,) = read_index(store).shards
        assert (entry.images, entry.skipped[0][0]) == (4 * 15, str(photos / "coffee-1.jpg"))
    cut = config_of(photos, tmp_path / "cut", **settings)
    interrupt(cut)
    assert training.run(cut, resume=True).skipped[0][0] == "coffee-1"
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")
    known = read_images(tmp_path / "cut" / checkpoint.CHECKPOINT)
    assert known is not None
    assert "coffee-1" in known.train
    assert ImageList.from_json(known.to_json()) == known


def test_a_run_resumes_when_its_images_have_moved(photos: Path, tmp_path: Path) -> None:
    """From a folder on disk to a tar file at a URL, for example."""
    fsspec = pytest.importorskip("fsspec")
    training.run(config_of(photos, tmp_path / "full"))
    interrupt(config_of(photos, tmp_path / "cut"))
    moved = tmp_path / "elsewhere.tar"
    with tarfile.open(moved, "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.add(path, path.name)
    fsspec.filesystem("memory").pipe("/moved/photos.tar", moved.read_bytes())
    shutil.rmtree(photos)
    cut = dataclasses.replace(config_of(photos, tmp_path / "cut"), images=("memory://moved/photos.tar",))
    training.run(cut, resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")
    assert read_header(tmp_path / "cut" / checkpoint.CHECKPOINT)[0].images == cut.images


def test_a_run_that_a_bad_image_ended_resumes_without_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preimage.training.dataset._EXAMPLES", 1)  # which do not include the bad one
    corrupt(photos / "rocket-1.jpg")
    order = [index for step in range(4) for index in batch_samples(step, 4, 16, 0).images]
    bad = 13  # rocket-1 among the training images
    first = order.index(bad) // 4
    config = config_of(photos, tmp_path / "run", steps=8, save_every=1000)
    with pytest.raises(FileFormatError, match=r"rocket-1\.jpg"):
        training.run(config)
    path = tmp_path / "run" / checkpoint.CHECKPOINT
    if first:
        assert read_header(path)[1].step == first, "no step is lost"
    else:
        assert not path.exists()
    summary = training.run(config_of(photos, tmp_path / "run", steps=8, skip_bad=True), resume=True)
    assert [key for key, _ in summary.skipped] == ["rocket-1"]


def test_the_next_image_replaces_a_bad_one(photos: Path) -> None:
    sources = list_images(photos)
    valid = ImageSet(sources)
    bad = ImageSet(sources, skipped={7: "bad"})
    for step in range(5):
        ours, theirs = (batch_images(images, step, 4, 0)[0].images.tolist() for images in (bad, valid))
        assert 7 not in ours
        assert all(one == other for one, other in zip(ours, theirs, strict=True) if other != 7)
    with pytest.raises(ValueError, match=r"20 images.*bad"):
        batch_images(ImageSet(sources, skipped=dict.fromkeys(range(20), "bad")), 0, 4, 0)


def test_images_that_cannot_be_read_now_are_not_bad(photos: Path) -> None:
    """An unavailable disk does not make them bad."""
    images = ImageSet(list_images(photos), skip_bad=True)
    (photos / "astronaut-0.jpg").unlink()
    with pytest.raises(OSError, match=r"astronaut-0\.jpg"):
        images.usable(0)
    assert not images.bad


@pytest.mark.parametrize("below", ["run", "."])
def test_a_run_in_the_folder_of_its_images(photos: Path, below: str) -> None:
    """Its sample sheets are not training images."""
    config = config_of(photos, photos / below, eval_every=6)
    interrupt(config)
    assert list((photos / below / "samples").iterdir())
    notes = Notes()
    assert training.run(config, resume=True, display=notes).steps == 24
    assert re.search("2 .*sheets", notes.notes[0])


def test_nothing_left(photos: Path, tmp_path: Path) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"20 of 20 images.*10 more$"):
        training.run(config_of(photos, tmp_path / "run", skip_bad=True))


def write_features(photos: Path, path: Path, **changes: np.ndarray | None) -> Path:
    features: dict[str, np.ndarray | None] = {}
    for source in list_images(photos):
        random = np.random.default_rng(len(features))
        features[source.key] = random.random(7, dtype=np.float32)
    features |= {key.replace("_", "-"): value for key, value in changes.items()}
    np.savez(path, **{key: value for key, value in features.items() if value is not None})
    return path


def precomputed_config(photos: Path, path: Path, output: Path, **changes: Any) -> TrainConfig:
    settings = {"representation": None, "features": str(path), "size": SIDE, "cache": "auto"}
    return config_of(photos, output, **settings | changes)


def test_a_few_bad_features_do_not_cost_the_others(photos: Path, tmp_path: Path) -> None:
    path = write_features(
        photos,
        tmp_path / "f.npz",
        astronaut_0=np.zeros(5, np.float32),  # the first one
        coffee_0=np.full(7, np.nan, np.float32),
        coffee_1=np.zeros((7, 2, 2), np.float32),
        coffee_2=None,
        moon=np.zeros(7, np.float32),
    )
    cut_end(photos / "camera-1.jpg")
    with pytest.raises(ValueError, match=r"f\.npz.*astronaut-0"):
        training.run(precomputed_config(photos, path, tmp_path / "run"))
    notes = Notes()
    summary = training.run(precomputed_config(photos, path, tmp_path / "run", skip_bad=True), display=notes)
    assert [key for key, _ in summary.skipped] == ["astronaut-0", "coffee-1", "coffee-0", "camera-1"]
    assert re.search("1 image.*'coffee-2'.*1 feature.*'moon'", notes.notes[0])
    assert Inverter.load(summary.folder).training_notes["training_images"] == 20 - 4 - 4 - 1
    assert training.run(precomputed_config(photos, path, tmp_path / "run", skip_bad=True), resume=True).steps == 24


def test_other_features_are_another_run(photos: Path, tmp_path: Path) -> None:
    path = write_features(photos, tmp_path / "f.npz")
    config = precomputed_config(photos, path, tmp_path / "run")
    interrupt(config)
    write_features(photos, path, coffee_0=np.ones(7, np.float32), coffee_1=None)
    with pytest.raises(ValueError, match=r"1 missing.*'coffee-1'.*1 with.*'coffee-0'"):
        training.run(dataclasses.replace(config, skip_bad=True), resume=True)
    write_features(photos, path)
    assert training.run(config, resume=True).steps == 24


def test_on_the_command_line(run: Run, photos: Path, tmp_path: Path) -> None:
    cut_end(photos / "coffee-1.jpg")
    command = ("train", "toy-maps", photos, "-o", tmp_path / "run", "--steps", 2, "--batch-size", 2)
    options = ("--val-count", 4, "--precision", "float32", "--cache", "off")
    code, _, err = run(*command, *options)
    assert (code, "1 of 20 images" in err, err.count("\n")) == (1, True, 1)
    code, out, err = run(*command, *options, "--skip-bad")
    assert code == 0, err
    assert re.search(f"{photos / 'coffee-1.jpg'}: .*JPEG", out) is not None
    assert ToyVectors.calls == 0
