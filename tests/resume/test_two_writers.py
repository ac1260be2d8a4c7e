"""Test two processes that write the same output at once, and a third that reads it: one of the writers may give up with
a sentence that names the output, the reader gets old or new features or a clear error, and nothing is mixed.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import Run
from faults import TRIALS, WORK, FaultServer, spread
from preimage import store
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, SingleStreamConfig, pretrained
from preimage.io import locks
from preimage.pipelines.extract import extract
from preimage.representations import create_representation
from preimage.store import FeatureStore, merge

_HOG = create_representation("hog")


_WORK = [work for work in WORK if work != "checkpoint"]  # only the run that holds the folder's lock writes checkpoints


@pytest.mark.parametrize("work", spread(_WORK, "extract", "extract.npz", "merge", "inverter", "invert"))
def test_two_processes_at_once(faults: FaultServer, photo_folder: Path, tmp_path: Path, work: str) -> None:
    assert faults.interrupt(work, "pair", photo_folder, tmp_path, TRIALS)["problems"] == []


def test_the_second_command_is_refused(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    for name, folder in (("f", "f"), ("f.npz", "f.npz.partial")):
        with locks.folder_lock(tmp_path / folder):
            code, _, err = run("extract", "hog", photo_folder, "-o", tmp_path / name, "--size", 64)
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"error: {tmp_path / folder}: another process"), err


def test_two_extractions_without_locks(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On file systems without locks both write the same shards, each atomically; either may fail, naming a file."""

    def unsupported(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "fcntl", SimpleNamespace(flock=unsupported, LOCK_EX=2, LOCK_NB=4))
    errors: list[BaseException] = []

    def write() -> None:
        try:
            extract(_HOG, photo_folder, tmp_path / "f", size=64, batch_size=2)
        except (OSError, FileFormatError) as error:  # the other one has begun the index anew
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(str(tmp_path / "f") in str(error) for error in errors)
    extract(_HOG, photo_folder, tmp_path / "f", size=64)
    extract(_HOG, photo_folder, tmp_path / "g", size=64)
    assert [(key, value.tolist()) for key, value in FeatureStore(tmp_path / "f").items()] == [
        (key, value.tolist()) for key, value in FeatureStore(tmp_path / "g").items()
    ]


def test_a_merge_that_another_has_finished_meanwhile(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [tmp_path / "0", tmp_path / "1"]
    for part in range(2):
        extract(_HOG, photo_folder, parts[part], size=64, shard=(part, 2))
    lock = store.folder_lock

    def late(folder: Path) -> Any:
        monkeypatch.setattr(store, "folder_lock", lock)
        merge(parts, folder)
        return lock(folder)

    monkeypatch.setattr(store, "folder_lock", late)
    with pytest.raises(FileExistsError, match="merged"):
        merge(parts, tmp_path / "merged")
    assert len(FeatureStore(tmp_path / "merged")) == 20


def test_a_merge_of_a_store_that_is_replaced_meanwhile(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(_HOG, photo_folder, tmp_path / "f", size=64)
    link = store._link

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(store, "_link", link)
        extract(_HOG, photo_folder, tmp_path / "f", size=32, resume=False)
        link(source, target)

    monkeypatch.setattr(store, "_link", late)
    with pytest.raises(FileFormatError, match="shard-00000"):
        merge([tmp_path / "f"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert len(merge([tmp_path / "f"], tmp_path / "merged")) == 20


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_a_reader_of_features_that_are_replaced(photo_folder: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    extract(_HOG, photo_folder, path, size=64)
    before = FeatureStore(path)
    mapped = FeatureStore(path)
    first = mapped[0].copy()
    extract(_HOG, photo_folder, path, size=32, resume=False)
    with pytest.raises((FileFormatError, FileNotFoundError), match="f"):
        before[0].sum()
    assert (mapped[0] == first).all(), "its files are still mapped"
    assert FeatureStore(path)[0].shape == (31, 4, 4)


def _inverter(value: float) -> Inverter:
    inverter = Inverter(_HOG.spec, SingleStreamConfig(layers=("c3/1 8", "up 8", "up 8", "up 3")))
    for parameter in inverter.parameters():
        parameter.data.fill_(value)
    return inverter


def _value(folder: Path) -> float:
    return float(next(iter(Inverter.load(folder).parameters())).flatten()[0])


def test_a_reader_of_an_inverter_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the config and the weights, another process replaces both."""
    folder, read = _inverter(1).save(tmp_path / "inverter"), pretrained.read_config

    def late(path: Path) -> dict[str, Any]:
        fields = read(path)
        monkeypatch.setattr(pretrained, "read_config", read)
        _inverter(2).save(folder)
        return fields

    monkeypatch.setattr(pretrained, "read_config", late)
    assert _value(folder) == 2


def test_a_reader_of_weights_that_are_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process renames them after the reader has looked at one of the two files."""
    folder = _inverter(1).save(tmp_path / "inverter")
    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "move_into_place", lambda *paths: None)
        _inverter(2).save(folder)
    read, paths = Path.read_bytes, list[Path]()

    def late(path: Path) -> bytes:
        paths.append(path)
        if len(paths) == 2:
            os.replace(folder / "model.next.safetensors", folder / "model.safetensors")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    assert _value(folder) == 2


def test_an_inverter_whose_replacement_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new weights are used as soon as their config is written, and are not lost by a third one."""
    folder, move = _inverter(1).save(tmp_path / "inverter"), pretrained.move_into_place
    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "move_into_place", lambda *paths: None)
        _inverter(2).save(folder)
    assert _value(folder) == 2
    assert sorted(os.listdir(folder)) == ["config.json", "model.next.safetensors", "model.safetensors"]

    def killed(finished: Path, output: Path) -> None:
        move(finished, output)
        monkeypatch.setattr(pretrained, "atomic_write", lambda path: pytest.fail("killed"))

    with monkeypatch.context() as patched, pytest.raises(pytest.fail.Exception):
        patched.setattr(pretrained, "move_into_place", killed)
        _inverter(3).save(folder)
    assert _value(folder) == 2
    monkeypatch.undo()
    _inverter(3).save(folder)
    assert _value(folder) == 3 and sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        Inverter.load(folder)
