"""Test that no file of ours is mapped when it is deleted or replaced, which Windows (simulated here) does not allow."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import preimage
from preimage.pipelines.convert import convert

MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse to delete or replace mapped files; without garbage collections, which would unmap some of them."""
    if os.name == "nt":
        yield
        return
    if not MAPS.exists():
        pytest.skip("mapped files are not listed in /proc")
    unlink, replace = Path.unlink, os.replace

    def refuse_mapped(*paths: str | os.PathLike[str]) -> None:
        mapped = MAPS.read_text()
        for path in paths:
            if os.path.realpath(path) in mapped:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), *map(os.fspath, paths))

    def checked_unlink(path: Path, missing_ok: bool = False) -> None:
        refuse_mapped(path)
        unlink(path, missing_ok=missing_ok)

    def checked_replace(source: Any, target: Any) -> None:
        refuse_mapped(source, target)
        replace(source, target)

    monkeypatch.setattr(Path, "unlink", checked_unlink)
    monkeypatch.setattr(os, "replace", checked_replace)
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
def test_one_file_is_made_of_a_store_that_is_deleted(name: str, photo_folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        preimage.extract("hog", photo_folder, tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_closed_stores_are_written_again(photo_folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        store = preimage.extract("hog", photo_folder, tmp_path / "a", resume=False)
        assert store[0].shape[0] == 31
        convert(store, tmp_path / "b.safetensors")
        del store


@pytest.mark.parametrize("name", ["a", "a.safetensors"])
def test_the_error_names_an_open_file(name: str, photo_folder: Path, tmp_path: Path) -> None:
    store = preimage.extract("hog", photo_folder, tmp_path / name)
    kept = store[0].copy()
    mapped = tmp_path / name / "shard-00000.safetensors" if store.index else tmp_path / name
    with pytest.raises(PermissionError) as raised:
        preimage.extract("hog", photo_folder, tmp_path / name, resume=False)
    assert Path(raised.value.filename) == mapped
    assert (store[0] == kept).all()


def test_conversion_names_an_open_output(photo_folder: Path, tmp_path: Path) -> None:
    store = preimage.extract("hog", photo_folder, tmp_path / "a.safetensors")
    kept = store[0].copy()
    preimage.extract("hog", photo_folder, tmp_path / "b")
    with pytest.raises(PermissionError) as raised:
        convert(tmp_path / "b", tmp_path / "a.safetensors")
    assert Path(raised.value.filename) == tmp_path / "a.safetensors"
    assert (store[0] == kept).all()
