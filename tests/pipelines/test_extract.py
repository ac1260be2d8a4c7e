"""Test extraction: the right features in the right order, and no partial files."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch

import preimage
from extractions import Stop, contents, stop_after
from preimage.errors import FileFormatError
from preimage.io import ImageSource, decode_file, list_images, shards
from preimage.pipelines import extract_batches, extract_device, image_loading
from preimage.pipelines.extract import extract, extract_with_summary
from preimage.representations import Representation, create_representation
from preimage.spec import Spec
from preimage.store import FeatureStore, merge, read_index
from sizes import pairs

HOG = create_representation("hog")


@pytest.fixture
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_batches, "shard_length", lambda image_bytes: 3)


@pytest.mark.usefixtures("short_shards")
def test_a_shard_is_written_while_the_disk_finishes_the_one_before(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(HOG, photo_folder, tmp_path / "expected", size=64)
    append, sync, opened, later = shards.ShardWriter.append, os.fsync, set(), threading.Event()

    def appended(self: shards.ShardWriter, *arguments: Any) -> None:
        append(self, *arguments)
        opened.add(self)
        if len(opened) == 2:
            later.set()

    def synchronized(descriptor: int) -> None:
        assert not opened or later.wait(60)
        sync(descriptor)

    monkeypatch.setattr(shards.ShardWriter, "append", appended)
    monkeypatch.setattr(os, "fsync", synchronized)
    extract(HOG, photo_folder, tmp_path / "f", size=64)
    assert contents(tmp_path / "f") == contents(tmp_path / "expected")


@pytest.mark.usefixtures("short_shards")
@pytest.mark.parametrize("full", [2, 6])  # of the shards 0 to 6
def test_disk_is_full_when_a_shard_is_finished(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    finish, calls = shards.ShardWriter.finish, 0

    def finished(self: shards.ShardWriter) -> None:
        nonlocal calls
        calls += 1
        if calls == full + 1:
            raise OSError(errno.ENOSPC, "the disk is full")
        finish(self)

    monkeypatch.setattr(shards.ShardWriter, "finish", finished)
    with pytest.raises(OSError, match="disk is full"):
        extract(HOG, photo_folder, tmp_path / "f", size=64)
    assert [entry.number for entry in read_index(tmp_path / "f").shards] == list(range(full)), "and none after it"
    assert not list((tmp_path / "f").glob(".preimage*"))
    monkeypatch.setattr(shards.ShardWriter, "finish", finish)
    assert extract_with_summary(HOG, photo_folder, tmp_path / "f", size=64).resumed == 3 * full


def test_features_equal_those_of_single_images_in_listed_order(mixed: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "f.safetensors"
    output.parent.mkdir()
    calls: list[tuple[int, int]] = []
    summary = extract_with_summary(
        HOG, mixed, output, batch_size=4, progress=lambda done, total: calls.append((done, total))
    )
    file = FeatureStore(output)
    assert list(file) == ["astronaut", "camera", "chelsea", "coffee", "sub/rocket"]
    for record, source in zip(file.records(), list_images(mixed), strict=True):
        image = decode_file(source.path)
        assert record.original_size == record.processed_size == image.shape[:2]
        expected = preimage.hog(image.transpose(2, 0, 1))
        np.testing.assert_array_equal(record.features, expected)
    assert (summary.images, summary.resumed, summary.skipped, summary.output) == (5, 0, (), output)
    assert summary.bytes == output.stat().st_size
    assert calls[-1] == (5, 5)
    assert [path.name for path in output.parent.iterdir()] == ["f.safetensors"]


def test_size_crops_the_center_square(mixed: Path, tmp_path: Path) -> None:
    extract(HOG, mixed, tmp_path / "f", size=48, dtype="float16")
    file = FeatureStore(tmp_path / "f")
    assert set(pairs(file.processed_sizes)) == {(48, 48)}
    assert file.record(3).original_size == (90, 120)
    assert file.dtype == "float16"
    assert file.stack().shape == (5, 31, 6, 6)


@pytest.mark.usefixtures("short_shards")
@pytest.mark.parametrize("stop_at", [1, 3, 4, 20])
def test_interrupted_extraction_resumes_to_the_same_bytes(photo_folder: Path, tmp_path: Path, stop_at: int) -> None:
    extract(HOG, photo_folder, tmp_path / "whole", size=64)
    output = tmp_path / "cut"
    with pytest.raises(Stop):
        extract(HOG, photo_folder, output, size=64, batch_size=2, progress=stop_after(stop_at))
    with pytest.raises(FileFormatError, match=r"\d of 7 shards"):
        FeatureStore(output)
    done = sum(entry.images for entry in read_index(output).shards)
    assert done == (20 if stop_at == 20 else stop_at // 3 * 3), "a shard whose images are all computed is finished"
    summary = extract_with_summary(HOG, photo_folder, output, size=64, batch_size=5)
    assert summary.resumed == done, "only the shard that was at work is done again"
    assert contents(output) == contents(tmp_path / "whole")
    assert extract_with_summary(HOG, photo_folder, output, size=64).resumed == 20, "what is complete is kept"


@pytest.mark.usefixtures("short_shards")
def test_resume_with_other_settings_is_rejected(photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "f"
    with pytest.raises(Stop):
        extract(HOG, photo_folder, output, size=64, progress=stop_after(4))
    before = contents(output)
    with pytest.raises(ValueError, match=r"size: 64 != 32.*--no-resume"):
        extract(HOG, photo_folder, output, size=32)
    with pytest.raises(ValueError, match=r"dtype: float32 != float16"):
        extract(HOG, photo_folder, output, size=64, dtype="float16")
    with pytest.raises(ValueError, match=r"parameters\.cell_size: 8 != 4"):
        extract(create_representation("hog", cell_size=4), photo_folder, output, size=64)
    with pytest.raises(ValueError, match=r"20 images.*19.*image 1: "):
        extract(HOG, list_images(photo_folder)[1:], output, size=64)
    assert contents(output) == before, "nothing is lost"
    assert extract_with_summary(HOG, photo_folder, output, size=32, resume=False).resumed == 0


@pytest.mark.usefixtures("short_shards")
def test_damaged_shard_is_recomputed(photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "f"
    with pytest.raises(Stop):
        extract(HOG, photo_folder, output, progress=stop_after(7))
    done = sum(entry.images for entry in read_index(output).shards)
    shard = output / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    summary = extract_with_summary(HOG, photo_folder, output)
    assert summary.resumed == done - 3
    assert "shard-00000.safetensors" in summary.notes[0] and "recomputed" in summary.notes[0]
    extract(HOG, photo_folder, tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")


def test_empty_store_of_a_failed_run_is_replaced(mixed: Path, tmp_path: Path) -> None:
    output = tmp_path / "f"
    (mixed / "zero.png").touch()
    with pytest.raises(ValueError, match=r"zero\.png.*empty.*--skip-bad"):
        extract(HOG, mixed, output)
    (mixed / "zero.png").unlink()
    assert extract_with_summary(HOG, mixed, output, size=64).images == 5


@pytest.mark.usefixtures("short_shards")
def test_other_image_list_names_the_first_difference(photo_folder: Path, tmp_path: Path) -> None:
    sources = list_images(photo_folder)
    with pytest.raises(Stop):
        extract(HOG, sources, tmp_path / "f", size=64, progress=stop_after(4))
    swapped = [*sources[:2], sources[3], sources[2], *sources[4:]]
    then, now = sources[2].key, sources[3].key
    with pytest.raises(ValueError, match=rf"20 images.*20.*image 3: '{then}'.*'{now}'"):
        extract(HOG, swapped, tmp_path / "f", size=64)
    with pytest.raises(ValueError, match=rf"20 images.*2.*image 3: '{then}'"):
        extract(HOG, sources[:2], tmp_path / "f", size=64)


@pytest.mark.usefixtures("short_shards")
def test_shards_of_changed_images_are_recomputed(photo_folder: Path, tmp_path: Path) -> None:
    photographs = Path(shutil.copytree(photo_folder, tmp_path / "photographs"))
    extract(HOG, photographs, tmp_path / "f", size=64)
    shutil.copy(photographs / "coffee-0.jpg", photographs / "chelsea-1.jpg")
    summary = extract_with_summary(HOG, photographs, tmp_path / "f", size=64)
    assert summary.resumed == 17
    assert ["1 of 7 shards" in note for note in summary.notes] == [True]
    extract(HOG, photographs, tmp_path / "whole", size=64)
    assert contents(tmp_path / "f") == contents(tmp_path / "whole")


def test_moved_images_are_the_same(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        extract(HOG, photo_folder, tmp_path / "f", size=64, progress=stop_after(4))
    shutil.copytree(photo_folder, tmp_path / "moved")
    assert extract_with_summary(HOG, tmp_path / "moved", tmp_path / "f", size=64).images == 20


@pytest.mark.parametrize("budget", [1, 3_000_000, 1 << 30])
def test_batches_fit_the_memory_budget(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    extract(Brightness(), photo_folder, tmp_path / "whole")
    counts: list[int] = []
    features = extract_device._features

    def counted(extraction: extract_batches.Extraction, images: torch.Tensor) -> object:
        bytes_each = image_loading.working_bytes(Brightness(), *images.shape[1:3])
        assert len(images) == 1 or len(images) * bytes_each <= budget
        counts.append(len(images))
        return features(extraction, images)

    monkeypatch.setattr(image_loading, "BATCH_BYTES", budget)
    monkeypatch.setattr(extract_device, "_features", counted)
    extract(Brightness(), photo_folder, tmp_path / "f")
    assert sum(counts) == 20 and max(counts) == {1: 1, 1 << 30: 16}.get(budget, max(counts))
    assert contents(tmp_path / "f") == contents(tmp_path / "whole")


def test_few_batches_of_large_features_are_queued(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_batches, "AHEAD_BYTES", 1)
    monkeypatch.setattr(extract_batches, "cpu_threads", lambda: 2)
    monkeypatch.setattr(extract_batches, "shard_length", lambda image_bytes: 20)  # one image in each task
    begun: list[str] = []
    read = image_loading.read

    def noted(source: ImageSource, *arguments: Any) -> image_loading.Loaded:
        begun.append(source.key)
        return read(source, *arguments)

    monkeypatch.setattr(extract_batches, "read", noted)
    ahead: list[int] = []
    extract(HOG, photo_folder, tmp_path / "f", progress=lambda done, total: ahead.append(len(begun) - done))
    assert max(ahead[4:]) <= 3, "two at work, and the one that the length of a shard was decided from"
    assert len(begun) == 21


def test_few_large_images_are_decoded_ahead(monkeypatch: pytest.MonkeyPatch, photo_folder: Path) -> None:
    monkeypatch.setattr(image_loading, "AHEAD_BYTES", 1)
    monkeypatch.setattr(image_loading, "cpu_threads", lambda: 2)
    begun: list[str] = []
    read = image_loading.read

    def noted(source: ImageSource, *arguments: Any) -> image_loading.Loaded:
        begun.append(source.key)
        return read(source, *arguments)

    monkeypatch.setattr(image_loading, "read", noted)
    for number, _ in enumerate(image_loading.load(list_images(photo_folder), None, ahead=16), 1):
        assert len(begun) <= number + 1
    assert len(begun) == 20


def test_problems_of_the_listing_are_skipped_and_notes_are_kept(mixed: Path, tmp_path: Path) -> None:
    (mixed / "gone.jpg").symlink_to("nowhere.jpg")
    (mixed / "more").symlink_to(mixed / "sub")
    with pytest.raises(ValueError, match=r"gone\.jpg: .*link.*--skip-bad"):
        extract(HOG, mixed, tmp_path / "f")
    summary = extract_with_summary(HOG, mixed, tmp_path / "f", skip_bad=True)
    assert summary.images == 5
    assert [Path(name).name for name, _ in summary.skipped] == ["gone.jpg"]
    assert any("1 link" in note for note in summary.notes)


@pytest.mark.parametrize("name", ["f.pt", "f.txt", "f.CSV", "f.safetensor"])
def test_unknown_suffix_gives_a_note(mixed: Path, tmp_path: Path, name: str) -> None:
    summary = extract_with_summary(HOG, mixed / "camera.png", tmp_path / name)
    assert re.search(rf"'{Path(name).suffix}' .*\.safetensors.*\.npy", summary.notes[0])
    assert tuple(FeatureStore(tmp_path / name)) == ("camera",)


@pytest.mark.parametrize("name", ["f", "f.safetensors", "f.SAFETENSORS", "f.hog", "f.conv5", "f.hog.bak"])
def test_names_of_feature_files(mixed: Path, tmp_path: Path, name: str) -> None:
    assert extract_with_summary(HOG, mixed / "camera.png", tmp_path / name).notes == ()
    assert tuple(FeatureStore(tmp_path / name)) == ("camera",)


@pytest.mark.parametrize("name", ["f", "f.npz"])
def test_folder_with_other_files_is_not_touched(photo_folder: Path, tmp_path: Path, name: str) -> None:
    stranger = tmp_path / ("f" if name == "f" else "f.npz.partial") / "thesis.tex"
    stranger.parent.mkdir()
    stranger.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        extract(HOG, photo_folder, tmp_path / name, resume=False)
    assert stranger.read_text() == "years of work"


def test_output_of_the_wrong_type_is_rejected(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("years of work")
    (tmp_path / "f.npz").mkdir()
    with pytest.raises(ValueError, match="f is a file"):
        extract(HOG, mixed, tmp_path / "f")
    with pytest.raises(ValueError, match=r"f\.npz.*file"):
        extract(HOG, mixed, tmp_path / "f.npz")
    assert (tmp_path / "f").read_text() == "years of work"


@pytest.mark.usefixtures("short_shards")
def test_bad_images_are_named_or_skipped(mixed: Path, tmp_path: Path) -> None:
    (mixed / "broken.png").write_bytes((mixed / "coffee.png").read_bytes()[:500])
    cv2.imwrite(str(mixed / "tiny.png"), np.zeros((3, 3, 3), np.uint8))
    output = tmp_path / "f"
    with pytest.raises(ValueError, match=r"broken\.png.*--skip-bad"):
        extract(HOG, mixed, output)
    summary = extract_with_summary(HOG, mixed, output, skip_bad=True)
    assert summary.images == 5
    assert [Path(name).name for name, _ in summary.skipped] == ["broken.png", "tiny.png"]
    assert re.search(r"tiny\.png: .*3×3", summary.skipped[1][1])
    assert len(FeatureStore(output)) == 5


@pytest.mark.usefixtures("short_shards")
def test_shard_with_skipped_images_is_recomputed_without_skip_bad(mixed: Path, tmp_path: Path) -> None:
    bad = mixed / "broken.png"
    bad.write_bytes(b"no image")
    with pytest.raises(Stop):
        extract(HOG, mixed, tmp_path / "f", skip_bad=True, progress=stop_after(6))
    shutil.copy(mixed / "coffee.png", bad)
    summary = extract_with_summary(HOG, mixed, tmp_path / "f")
    assert (summary.images, summary.skipped) == (6, ())


def test_no_usable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 images.*a\.png"):
        extract(HOG, tmp_path / "a.png", tmp_path / "f", skip_bad=True)
    with pytest.raises(ValueError, match="no image"):
        extract(HOG, [], tmp_path / "f")


@dataclasses.dataclass(frozen=True)
class Brightness(Representation):
    """Representation by vectors: the mean color, or NaN for images darker than a limit."""

    name: ClassVar[str] = "brightness"
    limit: float = 0.0

    @property
    def spec(self) -> Spec:
        return Spec("brightness", "test", channels=3, stride=None, parameters={"limit": self.limit})

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        means = images.float().mean(dim=(2, 3)) / 255
        return torch.where(means < self.limit, torch.nan, means)

    def feature_size(self, height: int, width: int) -> None:
        return None

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        raise NotImplementedError


def test_vectors_and_nonfinite_features(photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "f"
    with pytest.raises(ValueError, match=r"\d+ feature values.*\d+ images.*NaN.*--allow-nonfinite"):
        extract(Brightness(limit=0.4), photo_folder, output)
    with pytest.raises(FileFormatError, match="unfinished"):
        FeatureStore(output)
    summary = extract_with_summary(Brightness(limit=0.4), photo_folder, output, allow_nonfinite=True)
    assert summary.resumed == 20, "refusing lost nothing"
    stored = FeatureStore(output).stack()
    assert stored.shape == (20, 3)
    assert summary.nonfinite_values == int(np.isnan(stored).sum()) > 0
    assert len(summary.nonfinite_images) == int(np.isnan(stored).any(axis=1).sum()) < 20


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".npy", ".npz", ".mat", ".h5"])
def test_extract_returns_the_features_written(photo_folder: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".h5":
        pytest.importorskip("h5py")
    written = extract(HOG, photo_folder, tmp_path / f"f{suffix}")
    expected = FeatureStore(tmp_path / "f") if not suffix else extract(HOG, photo_folder, tmp_path / "expected")
    assert isinstance(written, FeatureStore) == (suffix in ("", ".safetensors"))
    assert (written.spec, len(written)) == (HOG.spec, 20)
    for key, features in zip(expected, expected.stack(), strict=True):
        assert np.array_equal(written[key], features)


def test_vectors_in_numpy_files_need_the_size_of_the_images(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"f\.npy: size"):
        extract(Brightness(), photo_folder, tmp_path / "f.npy")
    assert not (tmp_path / "f.npy").exists()
    written = extract(Brightness(), photo_folder, tmp_path / "f.npy", size=64)
    assert np.array_equal(written.processed_sizes, [[64, 64]] * 20)


def test_keys_are_written_next_to_an_npy(photo_folder: Path, tmp_path: Path) -> None:
    """They replace those of an earlier output, and are read again; nothing else is left."""
    output, keys = tmp_path / "e.npy", tmp_path / "e.keys.txt"
    output.write_bytes(b"earlier")
    keys.write_text("of another array\n")
    summary = extract_with_summary(HOG, photo_folder, output, size=64)
    names = [source.key for source in list_images(photo_folder)]
    assert sorted(os.listdir(tmp_path)) == ["e.keys.txt", "e.npy"]
    assert keys.read_text().splitlines() == names
    assert (summary.output, summary.bytes, summary.images) == (output, output.stat().st_size, 20)
    half = photo_folder.parent / "half"
    half.mkdir()
    for name in names[::2]:
        shutil.copy(next(photo_folder.glob(f"{name}.*")), half)
    assert list(extract(HOG, half, output, size=64)) == names[::2] == keys.read_text().splitlines()


@pytest.mark.usefixtures("short_shards")
def test_an_interrupted_extraction_to_an_npy_changes_neither_array_nor_keys(photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.npy"
    extract(HOG, photo_folder, output, size=64)
    before = [output.read_bytes(), (tmp_path / "e.keys.txt").read_bytes()]
    with pytest.raises(Stop):
        extract(HOG, photo_folder, output, size=32, progress=stop_after(7))
    assert [output.read_bytes(), (tmp_path / "e.keys.txt").read_bytes()] == before
    summary = extract_with_summary(HOG, photo_folder, output, size=32)
    assert summary.resumed > 0
    assert np.load(output).shape == (20, 31, 4, 4)
    assert sorted(os.listdir(tmp_path)) == ["e.keys.txt", "e.npy"]


def test_output_as_plain_arrays(photo_folder: Path, mixed: Path, tmp_path: Path) -> None:
    extract(HOG, photo_folder, tmp_path / "f")
    extract(HOG, photo_folder, tmp_path / "f.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), FeatureStore(tmp_path / "f").stack())
    extract(HOG, mixed, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as arrays:
        assert arrays["sub/rocket"].shape == (31, 8, 10)
    with pytest.raises(ValueError, match="shapes"):
        extract(HOG, mixed, tmp_path / "m.npy")
    assert not (tmp_path / "m.npy").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, r"dtype.*float32.*float16"),
        ({"size": 0}, "size"),
        ({"batch_size": 0}, "batch_size"),
        ({"device": "cuda:99"}, "'cuda:99'"),
        ({"decoder": "nvjpeg"}, "decoder must be cpu or gpu, got 'nvjpeg'"),
        ({"decoder": "gpu"}, "decoder 'gpu' needs .*device='cuda'"),
    ],
)
def test_options_out_of_range(photo_folder: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract(HOG, photo_folder, tmp_path / "f", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_earlier_file_stays_until_the_new_one_is_complete(photo_folder: Path, mixed: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    extract(HOG, mixed, output)
    earlier = output.read_bytes()
    with pytest.raises(Stop):
        extract(HOG, photo_folder, output, progress=stop_after(1))
    assert output.read_bytes() == earlier
    extract(HOG, photo_folder, output)
    assert len(FeatureStore(output)) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.safetensors", "mixed"]


@pytest.mark.usefixtures("short_shards")
def test_stores_of_shards_merge_to_one_run(photo_folder: Path, tmp_path: Path) -> None:
    extract(HOG, photo_folder, tmp_path / "whole", size=64)
    for share in range(2):
        extract(HOG, photo_folder, tmp_path / f"{share}", size=64, shard=(share, 2))
    assert len(FeatureStore(tmp_path / "0")) == 11
    merge([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    extract(HOG, photo_folder, tmp_path / "none", size=64, shard=(7, 8))
    assert len(FeatureStore(tmp_path / "none")) == 0, "there are fewer shards than shares"
    with pytest.raises(ValueError, match=r"f\.npz: .*folder"):
        extract(HOG, photo_folder, tmp_path / "f.npz", shard=(0, 2))


def test_two_extractions_into_one_store_are_rejected(photo_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    def again(done: int, total: int) -> None:
        with pytest.raises(ValueError, match="process"):
            extract(HOG, photo_folder, tmp_path / "f", size=64)

    assert extract_with_summary(HOG, photo_folder, tmp_path / "f", size=64, progress=again).images == 20


def test_large_batches_are_hashed_while_they_are_written(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(HOG, photo_folder, tmp_path / "f")
    monkeypatch.setattr(shards, "_PARALLEL_BYTES", 1)
    extract(HOG, photo_folder, tmp_path / "g")
    assert contents(tmp_path / "f") == contents(tmp_path / "g")
    assert not [thread for thread in threading.enumerate() if thread.name == "hash"]
