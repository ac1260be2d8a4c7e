"""Test that the sample sheets of training runs are not among the images of a run."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_runs import Notes, StopAt, toy_config
from conftest import Run
from preimage import training
from preimage.io import find_images, list_images
from preimage.training import TrainConfig, listing
from preimage.training.checkpoint import CHECKPOINT, read_images
from preimage.training.config import SETTINGS
from preimage.training.split import ImageList
from toys import SIDE
from training_runs import weights

pytestmark = pytest.mark.usefixtures("toys")

SHEET = "samples/step-0000001.png"


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of 20 images to add runs to."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def config_of(images: Path, output: Path, **changes: Any) -> TrainConfig:
    return toy_config(images, output, **{"cache": "off", "steps": 2, "eval_every": 1, **changes})


def keys_of(run: Path) -> set[str]:
    images = read_images(run / CHECKPOINT)
    return images.train.keys() | images.val.keys()


def add_sheets(run: Path, *steps: int, marker: str = SETTINGS) -> Path:
    """Create the folder of a run with sample sheets of these steps."""
    (run / "samples").mkdir(parents=True, exist_ok=True)
    (run / marker).write_text("{}")
    photo = next(path for path in sorted(run.parent.iterdir()) if path.suffix == ".jpg")
    for step in steps:
        path = run / f"samples/step-{step:07d}.png"
        path.write_bytes(photo.read_bytes() + bytes(step))  # no copy of an image
    return run


def listed(
    paths: Path | list[str], output: Path, known: ImageList | None = None, **options: Any
) -> tuple[set[str], set[str], str]:
    """Return the keys of the images, those of the sheets that are left out, and the notes."""
    notes: list[str] = []
    given = [str(paths)] if isinstance(paths, Path) else paths
    config = TrainConfig(representation="hog", images=tuple(given), output=str(output), **options)
    found, sheets = listing.list_images(given, config, known, notes.append)
    return {source.key for source in found.sources}, sheets, " ".join(notes)


def test_sheets_of_an_earlier_run_are_no_images(photos: Path) -> None:
    before = {source.key for source in list_images(photos)}
    first, second = Notes(), Notes()
    training.run(config_of(photos, photos / "run1"), display=first)
    training.run(config_of(photos, photos / "run2"), display=second)
    assert keys_of(photos / "run1") == keys_of(photos / "run2") == before
    assert first.notes == []
    assert len(second.notes) == 1
    assert re.search("2 sample sheets .*'run1/samples/step-0000001'", second.notes[0])
    third = Notes()
    training.run(config_of(photos, photos / "run2"), resume=True, display=third)
    assert keys_of(photos / "run2") == before
    assert re.search("4 sample sheets", third.notes[0])


def test_on_the_command_line(run: Run, photos: Path) -> None:
    add_sheets(photos / "run1", 1)
    options = ("--max-steps", 1, "--batch-size", 2, "--val-count", 4, "--precision", "float32", "--cache", "off")
    code, out, err = run("train", "toy-maps", photos, "-o", photos / "run2", *options)
    assert code == 0, err
    assert re.search("1 sample sheet ", out + err)
    assert re.search("16 images", out + err)


@pytest.mark.parametrize("marker", [SETTINGS, CHECKPOINT])
def test_either_file_marks_a_run(photos: Path, tmp_path: Path, marker: str) -> None:
    add_sheets(photos / "run", 1, marker=marker)
    keys, sheets, notes = listed(photos, tmp_path / "new")
    assert (len(keys), sheets) == (20, {"run/samples/step-0000001"})
    assert "1 sample sheet " in notes


def test_other_images_are_kept(photos: Path, tmp_path: Path) -> None:
    """Photographs may lie in a folder of that name, and files may have such names."""
    photo = photos / "coffee-1.jpg"
    run = add_sheets(photos / "run", 1)
    shutil.copy(photo, run / "samples" / "coffee.jpg")
    for name in ("samples", "no-run/samples", "run/other"):
        (photos / name).mkdir(parents=True)
        shutil.copy(photo, photos / name / "step-0000001.png")
    keys, sheets, _ = listed(photos, tmp_path / "new")
    assert len(keys) == 20 + 1 + 3
    assert sheets == {"run/samples/step-0000001"}


def test_the_sheets_in_the_output_are_left_out_even_without_its_other_files(photos: Path) -> None:
    (add_sheets(photos / "run", 1) / SETTINGS).unlink()
    assert listed(photos, photos / "run")[1] == {"run/samples/step-0000001"}


def test_links(photos: Path, tmp_path: Path) -> None:
    run = add_sheets(photos / "run", 1, 2)
    for name, target in (("to-run", run), ("to-samples", run / "samples"), ("to-photos", photos)):
        (tmp_path / name).symlink_to(target)
    for name in ("to-run", "to-samples"):
        _, sheets, notes = listed([str(photos / "coffee-1.jpg"), str(tmp_path / name)], tmp_path / "new")
        assert len(sheets) == 2, name
        assert "2 sample sheets" in notes
    assert len(listed(tmp_path / "to-photos", tmp_path / "new")[0]) == 20
    moved = shutil.move(run / "samples", tmp_path / "moved")
    (run / "samples").symlink_to(moved)
    sheets = listed([str(photos / "coffee-1.jpg"), str(run / "samples")], tmp_path / "new")[1]
    assert len(sheets) == 2, "the folder of sheets is a link"
    assert len(listed(photos, tmp_path / "new")[0]) == 20, "links in a folder are not followed"


def test_single_files_relative_paths_and_braces(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add_sheets(photos / "run", 1, 2)
    photo = str(photos / "coffee-1.jpg")
    monkeypatch.chdir(run / "samples")
    for paths in ([SHEET.split("/")[1]], ["."], ["../samples"], ["step-000000{1,2}.png"]):
        assert listed([photo, *paths], tmp_path / "new")[0] == {"coffee-1"}, paths


def test_shards_and_urls(photos: Path, tmp_path: Path) -> None:
    """Their sheets are images, as they have always been."""
    fsspec = pytest.importorskip("fsspec")
    run = add_sheets(photos / "run", 1)
    with tarfile.open(photos / "shard.tar", "w") as archive:
        archive.add(run / SHEET, "inside/" + SHEET)
        archive.add(photos / "coffee-1.jpg", "inside/coffee-1.jpg")
    shutil.copy(photos / "shard.tar", run / "samples" / "shard.tar")
    keys, sheets, _ = listed(photos, tmp_path / "new")
    assert (len(keys), sheets) == (20 + 4, {"run/samples/step-0000001"})
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/sheets/run/{SETTINGS}", b"{}")
    memory.pipe(f"/sheets/run/{SHEET}", (run / SHEET).read_bytes())
    assert listed(["memory://sheets"], tmp_path / "new")[:2] == ({"run/samples/step-0000001"}, set())


def test_every_folder_is_looked_at_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_sheets(photos / "run", *range(1, 30))
    looked: list[str] = []
    found = find_images([str(photos)])
    isfile = os.path.isfile
    monkeypatch.setattr(listing, "find_images", lambda paths, skip_bad: found)
    monkeypatch.setattr(os.path, "isfile", lambda path: looked.append(str(path)) or isfile(path))
    assert len(listed(photos, tmp_path / "new")[1]) == 29
    assert looked == [str(photos / "run" / SETTINGS)]


def test_a_run_that_was_started_with_sheets_keeps_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions trained on them."""
    add_sheets(photos / "run1", 1, 2)
    config = config_of(photos, photos / "run2", steps=8, eval_every=4)
    with monkeypatch.context() as before:
        before.setattr(listing, "_SHEET", re.compile("never"))
        training.run(config_of(photos, tmp_path / "full", steps=8, eval_every=4))
        with pytest.raises(OSError, match="went away"):
            training.run(config, display=StopAt(5))
    then = keys_of(photos / "run2")
    assert {"run1/samples/step-0000001", "run1/samples/step-0000002"} < then
    add_sheets(photos / "run1", 1, 2, 3)
    notes = Notes()
    assert training.run(config, resume=True, display=notes).steps == 8
    assert keys_of(photos / "run2") == then
    assert re.search("2 sample sheets .*'run1/samples/step-0000003'.*'run2/", notes.notes[0])
    assert weights(photos / "run2") == weights(tmp_path / "full")


def test_a_resumed_run_keeps_only_the_sheets_of_the_same_set(photos: Path, tmp_path: Path) -> None:
    add_sheets(photos / "run", 1)
    key = "run/samples/step-0000001"
    validated = ImageList({"a": ""}, {key: ""})
    assert listed(photos, tmp_path / "new", validated)[1] == set(), "it was held out"
    assert listed(photos, tmp_path / "new", validated, val_images=("x",))[1] == {key}
    trained = ImageList({key: ""}, {"a": ""})
    assert listed(photos, tmp_path / "new", trained, val_images=("x",))[1] == set()


def test_validation_images(photos: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    for name in ("coffee-1.jpg", "coffee-2.jpg"):
        shutil.move(photos / name, apart / name)
    run = add_sheets(apart / "run", 1)
    notes = Notes()
    training.run(config_of(photos, tmp_path / "new", val_images=(str(apart),)), display=notes)
    assert set(read_images(tmp_path / "new" / CHECKPOINT).val) == {"coffee-1", "coffee-2"}
    assert re.search("validation images.* 1 sample sheet ", notes.notes[0])
    with pytest.raises(ValueError, match=r"validation images.* 1 sample sheet .*'step-0000001'"):
        training.run(config_of(photos, tmp_path / "other", val_images=(str(run / "samples"),)))


def test_nothing_but_sheets(photos: Path, tmp_path: Path) -> None:
    run = add_sheets(photos / "run", 1, 2)
    with pytest.raises(ValueError, match=r"images.* 2 sample sheets .*'samples/step-0000001'.*photographs"):
        training.run(config_of(run, tmp_path / "new"))


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_features_of_sheets_are_left_out_with_them(photos: Path, tmp_path: Path, suffix: str) -> None:
    add_sheets(photos / "run", 1)
    random = np.random.default_rng(0)
    keys = [source.key for source in list_images(photos)]
    features = {key: random.random(7, dtype=np.float32) for key in keys}
    features["run/samples/step-0000001" + suffix] = features.pop("run/samples/step-0000001")
    np.savez(tmp_path / "f.npz", **features)
    settings = {"representation": None, "features": str(tmp_path / "f.npz"), "size": SIDE, "cache": "auto"}
    notes = Notes()
    training.run(config_of(photos, tmp_path / "new", **settings), display=notes)
    assert len(keys_of(tmp_path / "new")) == 20
    assert len(notes.notes) == 1
    odd = features | {"run/samples/step-0000001" + suffix: np.zeros((7, 2, 2), np.float32)}
    np.savez(tmp_path / "f.npz", **odd)
    summary = training.run(config_of(photos, tmp_path / "odd", **settings, skip_bad=True))
    assert (len(keys_of(tmp_path / "odd")), summary.skipped) == (20, ())
