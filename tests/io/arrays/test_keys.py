"""Test the keys of stacked arrays: written next to `.npy` files, read from there and from `.npz` files, and errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import FeatureRecord
from preimage.io.arrays import move_array_file, read_array_file, write_array_file
from preimage.io.arrays.formats import check_writable
from preimage.io.arrays.npy import read_numpy_features
from preimage.io.arrays.user_features import read_user_features
from preimage.spec import Spec

SPEC = Spec("hog", "v", 3, 8)
VECTORS = Spec("gist", "v", 10, None)
STACK = np.random.default_rng(7).standard_normal((2, 3, 4, 5)).astype(np.float32)
MATRIX = np.random.default_rng(8).standard_normal((8, 10)).astype(np.float32)
NAMES = [f"k{i}" for i in range(8)]


def records(keys: Sequence[str], arrays: np.ndarray = STACK) -> list[FeatureRecord]:
    return [FeatureRecord(key, array, (32, 40), (32, 40)) for key, array in zip(keys, arrays, strict=True)]


def read_vectors(path: Path) -> list[str]:
    return list(read_numpy_features(path, VECTORS, processed_sizes=(64, 64)))


def read_users(path: Path) -> list[str]:
    return list(read_user_features(path, name=None, image_size=64))


READERS = [read_vectors, read_users]


# ---- Writing ----


@pytest.mark.parametrize(
    "keys", [["sub/b", "a"], ["a\x85b\u2028c", "\u2029d \xa0"], [" x ", "ü/𝔛"], ["a.b.c", "a.b"], ["#a", '"b"']]
)
def test_keys_are_written_next_to_an_npy_and_read_again(tmp_path: Path, keys: list[str]) -> None:
    path = tmp_path / "e.v1.npy"
    write_array_file(path, SPEC, records(keys))
    assert sorted(os.listdir(tmp_path)) == ["e.v1.keys.txt", "e.v1.npy"]
    assert (tmp_path / "e.v1.keys.txt").read_bytes() == "".join(f"{key}\n" for key in keys).encode()
    assert np.array_equal(np.load(path), STACK)
    file = read_array_file(path, SPEC)
    assert list(file) == keys
    assert np.array_equal(file[keys[1]], STACK[1])
    assert list(read_user_features(path, name=None, image_size=32)) == keys, "as training reads them"


@pytest.mark.parametrize("keys", [["a", "   "], ["a", "\u2028"], ["\ufeffa", "b"]])
def test_keys_that_a_text_file_cannot_hold(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(ValueError, match=r"e\.npy: key '.*\.npz"):
        write_array_file(tmp_path / "e.npy", SPEC, records(keys))
    assert os.listdir(tmp_path) == []
    write_array_file(tmp_path / "e.npz", SPEC, records(keys))
    assert list(read_array_file(tmp_path / "e.npz", SPEC)) == keys


@pytest.mark.parametrize("left", ["e.npy", "e.keys.txt"])
def test_one_of_both_files_is_there_already(tmp_path: Path, left: str) -> None:
    path = tmp_path / "e.npy"
    write_array_file(path, SPEC, records(["old/a", "old/b"], STACK[::-1]))
    for name in {"e.npy", "e.keys.txt"} - {left}:
        (tmp_path / name).unlink()
    write_array_file(path, SPEC, records(["a", "b"]))
    assert sorted(os.listdir(tmp_path)) == ["e.keys.txt", "e.npy"]
    file = read_array_file(path, SPEC)
    assert list(file) == ["a", "b"] and np.array_equal(file.stack(), STACK)


def test_a_failed_write_changes_neither_file(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    write_array_file(path, SPEC, records(["a", "b"]))
    before = [(tmp_path / name).read_bytes() for name in ("e.npy", "e.keys.txt")]
    mixed = [*records(["c", "d"]), FeatureRecord("e", STACK[0][:, :2], (32, 40), (32, 40))]
    for other in (mixed, [], records(["c", "c"]), records(["c", " "])):
        with pytest.raises(ValueError, match=r"\.npy|twice"):
            write_array_file(path, SPEC, other)
        assert [(tmp_path / name).read_bytes() for name in ("e.npy", "e.keys.txt")] == before
        assert len(os.listdir(tmp_path)) == 2


def write(folder: Path) -> None:
    write_array_file(folder / "e.npy", SPEC, records(["new/a", "new/b"]))


def move(folder: Path) -> None:
    move_array_file(folder / "made" / "e.npy", folder / "e.npy")


def state(folder: Path) -> tuple[str, str]:
    """Return to what the array and the keys belong."""
    array, keys = folder / "e.npy", folder / "e.keys.txt"
    values = "new" if np.array_equal(np.load(array), STACK) else "old"
    return values, keys.read_text().partition("/")[0] if keys.exists() else "none"


@pytest.mark.parametrize("failure", ["error", "interrupt"])
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("work", [write, move])
def test_an_array_is_never_next_to_the_keys_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], None], linked: bool, failure: str
) -> None:
    """Neither after any renaming, when a kill would leave what is there, nor if a renaming fails or is interrupted."""
    replace, calls, fails_at, seen = os.replace, 0, 0, []

    def replaced(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at and failure == "error":
            raise PermissionError(13, "in use", target)
        replace(source, target)
        seen.append(state(folder))
        if calls == fails_at:
            raise KeyboardInterrupt

    for fails_at in range(6):
        folder, calls = tmp_path / str(fails_at), 0
        (folder / "made").mkdir(parents=True)
        write_array_file(folder / "made" / "e.npy", SPEC, records(["new/a", "new/b"]))
        write_array_file(folder / "e.npy", SPEC, records(["old/a", "old/b"], STACK[::-1]))
        if linked:
            (folder / "disk").mkdir()
            for name in ("e.npy", "e.keys.txt"):
                shutil.move(folder / name, folder / "disk" / name)
                (folder / name).symlink_to(folder / "disk" / name)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replaced)
            try:
                work(folder)
            except (PermissionError, KeyboardInterrupt):
                assert fails_at
                assert state(folder) in {("old", "old"), ("new", "none"), ("new", "new")}
            else:
                assert state(folder) == ("new", "new")
                assert not fails_at or calls < fails_at
        assert not [name for name in os.listdir(folder) if name.startswith(".preimage-")]
        assert (folder / "e.npy").is_symlink() == linked
    assert set(seen) <= {("old", "old"), ("old", "none"), ("new", "none"), ("new", "new")}
    assert ("new", "new") in seen


def test_a_file_of_keys_that_is_not_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.keys.txt").mkdir()
    with pytest.raises(ValueError, match=r"a\.keys\.txt: not a regular file.*a\.npy"):
        check_writable(tmp_path / "a.npy", SPEC, "float32", None)
    (tmp_path / "b.faiss").touch()
    (tmp_path / "b.keys.txt").write_text("x\n")
    with pytest.raises(ValueError, match=r"b\.npy: .*b\.keys\.txt.*b\.faiss"):
        write_array_file(tmp_path / "b.npy", SPEC, records(["c", "d"]))
    assert (tmp_path / "b.keys.txt").read_text() == "x\n" and not (tmp_path / "b.npy").exists()
    with pytest.raises(OSError, match=r"too long.*keys\.txt"):
        check_writable(tmp_path / f"{'x' * 251}.npy", SPEC, "float32", None)


def test_what_a_killed_process_has_set_aside_is_deleted_and_never_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = tmp_path / "e.npy", []
    write_array_file(path, SPEC, records(["a", "b"]))

    def killed(source: Any, target: Any, replace: Callable[[Any, Any], None] = os.replace) -> None:
        replace(source, target)
        left.append((target, Path(target).read_bytes()))
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(os, "replace", killed)
        write_array_file(path, SPEC, records(["c", "d"]))
    aside, data = left[0]
    assert data == b"a\nb\n" and Path(aside).name.startswith(".preimage-")
    (tmp_path / "e.keys.txt").unlink(missing_ok=True)
    Path(aside).write_bytes(data)
    with pytest.raises(ValueError, match="twice"):
        write_array_file(path, SPEC, records(["e", "e"]))
    assert not (tmp_path / "e.keys.txt").exists()
    write_array_file(path, SPEC, records(["e", "f"]))
    assert sorted(os.listdir(tmp_path)) == ["e.keys.txt", "e.npy"]
    assert (tmp_path / "e.keys.txt").read_text() == "e\nf\n"


def test_a_missing_folder_is_that_of_the_array(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.e\.npy"):
        write_array_file(tmp_path / "absent" / "e.npy", SPEC, records(["a", "b"]))


# ---- Reading ----


@pytest.mark.parametrize("count", [1, 7, 9])
def test_another_number_of_keys_next_to_an_npy(tmp_path: Path, count: int) -> None:
    np.save(tmp_path / "e.npy", MATRIX)
    (tmp_path / "e.keys.txt").write_text("".join(f"k{i}\n" for i in range(count)))
    for read in READERS:
        with pytest.raises(FileFormatError, match=rf"e\.keys\.txt: {count} keys? for 8 images.*e\.npy") as caught:
            read(tmp_path / "e.npy")
        assert caught.value.path.endswith("e.keys.txt")
        assert ("1 keys" in str(caught.value)) is False


KEYS = {
    "too few": (NAMES[:1], "1 key for 8 images"),
    "too many": ([*NAMES, "more"], "9 keys for 8 images"),
    "twice": ([*NAMES[:7], "k1"], "'k1' twice"),
    "a line break": ([*NAMES[:7], "k\n1"], "control character"),
    "a parent": ([*NAMES[:7], "../k"], "relative"),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", KEYS)
def test_wrong_keys_in_an_npz_name_the_file(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    keys, words = KEYS[name]
    np.savez(tmp_path / "e.npz", features=MATRIX, keys=np.array(keys))
    with pytest.raises(FileFormatError, match=rf"e\.npz: .*{words}"):
        read(tmp_path / "e.npz")


@pytest.mark.parametrize("name", KEYS)
def test_wrong_keys_of_the_caller_name_the_array(tmp_path: Path, name: str) -> None:
    keys, words = KEYS[name]
    np.save(tmp_path / "e.npy", MATRIX)
    with pytest.raises(ValueError, match=rf"e\.npy: .*{words}") as caught:
        read_user_features(tmp_path / "e.npy", name=None, image_size=64, keys=keys)
    assert not isinstance(caught.value, FileFormatError)


def test_missing_sizes_name_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", MATRIX)
    with pytest.raises(ValueError, match=r"e\.npy: processed_sizes"):
        read_numpy_features(tmp_path / "e.npy", VECTORS)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("first", ["features", "extra"])
def test_another_array_besides_the_stack_is_named(tmp_path: Path, first: str, read: Callable[[Path], object]) -> None:
    arrays = {"features": MATRIX, "extra": np.arange(7.0)}
    ordered = {first: arrays[first]} | arrays
    np.savez(tmp_path / "e.npz", **ordered, keys=np.array(NAMES))
    words = (
        r"e\.npz: one stacked array and `keys` were expected; besides 'features' \(8, 10\) also found 'extra' \(7,\)"
    )
    with pytest.raises(FileFormatError, match=words):
        read(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", **ordered)
    if read is read_vectors:
        with pytest.raises(FileFormatError, match=r"stacked array was expected.*also found 'extra'"):
            read(tmp_path / "e.npz")


@pytest.mark.parametrize("read", READERS)
def test_two_stacks_and_keys(tmp_path: Path, read: Callable[[Path], object]) -> None:
    np.savez(tmp_path / "e.npz", a=MATRIX, b=MATRIX, keys=np.array(NAMES))
    with pytest.raises(FileFormatError, match=r"one stacked array.*2 arrays: 'a' \(8, 10\), 'b'"):
        read(tmp_path / "e.npz")


def test_a_stack_among_arrays_of_images_is_the_wrong_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", a=STACK[0], b=STACK[1], c=STACK)
    with pytest.raises(FileFormatError, match=r"'c': features must have shape \(3, h, w\)"):
        read_numpy_features(tmp_path / "e.npz", SPEC)
    np.savez(tmp_path / "f.npz", a=STACK[0], b=STACK[1], keys=np.array(["x", "y"]))
    assert list(read_numpy_features(tmp_path / "f.npz", SPEC)) == ["x", "y"], "one array per image, and their keys"


def test_an_array_of_the_wrong_shape_is_named_by_its_own_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", good=np.ones(5), a=MATRIX, b=MATRIX)
    with pytest.raises(FileFormatError, match=r"'a' must have shape.*\(8, 10\).*only array besides `keys`"):
        read_users(tmp_path / "e.npz")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (np.arange(8), "keys must be strings, got int64"),
        (np.arange(8, dtype=np.uint8), "keys must be strings, got uint8"),
        (np.arange(8.0), "keys must be strings, got float64"),
        (np.ones(8, bool), "keys must be strings, got bool"),
        (np.ones(8, complex), "keys must be strings, got complex128"),
        (np.array(["2020-01-01"] * 8, "M8[D]"), "keys must be strings, got datetime64"),
        (np.zeros(8, [("a", "f4")]), "keys must be strings, got void"),
        (np.array(NAMES, object), "Python objects"),
        (np.array([*NAMES[:7], "x" * 20_000]), "keys must have at most 1024 characters.*U20000"),
        (np.array([NAMES]), r"shape \(N,\).*\(1, 8\)"),
    ],
)
def test_keys_that_are_no_strings(tmp_path: Path, keys: np.ndarray, words: str, read: Callable[[Path], object]) -> None:
    np.savez(tmp_path / "e.npz", features=MATRIX, keys=keys)
    with pytest.raises(FileFormatError, match=rf"e\.npz: (its )?{words}|e\.npz: .*{words}") as caught:
        read(tmp_path / "e.npz")
    assert "keys.npy" not in str(caught.value)


def test_an_image_can_be_called_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", keys=MATRIX[0], other=MATRIX[1])
    assert read_vectors(tmp_path / "e.npz") == ["keys", "other"]
    np.savez(tmp_path / "f.npz", keys=STACK[0], other=STACK[1])
    assert list(read_numpy_features(tmp_path / "f.npz", SPEC)) == ["keys", "other"]
