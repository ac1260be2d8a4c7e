"""Test keys that could leave the output folder, or name files that a system cannot hold, in every reader and writer."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import scipy.io

from keypoint_attacks import BYTES, FRAMES
from keypoint_files import colmap_database
from mutations import RECORDS, SPEC, STACK
from own_files import reseal
from preimage.io import FeatureRecord, KeypointRecord, list_images, read_array_file, read_keypoints, write_keypoints
from preimage.io.arrays import write_array_file
from preimage.io.atomic import file_problem, key_problem
from preimage.io.checksum import ZEROS
from preimage.io.shards import write_shard
from preimage.keypoints import Keypoints
from preimage.pipelines.invert import invert
from preimage.representations import create_representation
from preimage.store import FeatureStore, write_features

HOG = create_representation("hog").spec
BAD = {
    "parents": "../../x",
    "parents below": "a/../../x",
    "a parent": "..",
    "the folder": ".",
    "nothing": "",
    "an absolute path": "/etc/x",
    "two slashes": "//server/share/x",
    "an empty part": "a//x",
    "a folder": "x/",
    "a backslash": "\\x",
    "parents by backslashes": "..\\..\\x",
    "mixed slashes": "a/..\\../x",
    "a drive": "C:\\x",
    "a relative drive": "C:x",
    "a share": "\\\\server\\share\\x",
    "NUL": "a\0/../x",
    "a line": "a\nb",
    "an escape": "a\x1b[2Jb",
    "1025 characters": "x" * 1025,
    "the name of the metadata": "__metadata__",
}
# Valid keys that not every system can name files after, or that resemble others.
UNUSUAL = {
    "300 characters": "x" * 300,
    "400 bytes": "ü" * 200,
    "1024 characters": "/".join(["x" * 204] * 5)[:1024],
    "4096 bytes": "/".join(["𝔛" * 60] * 17)[:1024],
    "a device": "sub/CON",
    "a device with a suffix": "aux.jpg",
    "a device by a superscript": "COM¹",
    "a trailing dot": "a./b.",
    "a trailing space": "a /b ",
    "a colon": "aa:stream",
    "one dot leaders": "․․/x",
    "wide characters": "．．／x",
    "division slashes": "..∕..∕x",
    "percent signs": "%2e%2e/%2e%2e/x",
    "a decomposed letter": "cafe\u0301",
    "right to left": "a\u202egnp.exe",
    "a next line": "a\x85b\u2028c",
    "a home": "~/x",
    "an option": "-rf",
    "a variable": "$HOME/%TEMP%",
    "a glob": "*?[x]",
    "quotes": "\"'`;|&<x>",
    "a hidden file": ".x",
}


def v1(path: Path, key: str) -> None:
    keys, sizes = json.dumps([key]), "[[9,9]]"
    metadata = {"format": "preimage-features", "format_version": "1", "sha256": ZEROS, "spec": SPEC.to_json()}
    metadata |= {"dtype": "float32", "keys": keys, "original_sizes": sizes, "processed_sizes": sizes}
    entry = {"dtype": "F32", "shape": list(STACK[0].shape), "data_offsets": [0, STACK[0].nbytes]}
    entries = {"__metadata__": metadata} | ({key: entry} if key != "__metadata__" else {})
    header = json.dumps(entries, separators=(",", ":"))
    data = header.encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + STACK[0].tobytes())
    reseal(path)


def shard(path: Path, key: str) -> None:
    with write_shard(path, SPEC, "float32") as writer:
        writer.append([key], STACK[:1], [(9, 9)], [(16, 24)])


def archive(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)


def beside(path: Path, key: str) -> None:
    np.save(path, STACK[:1])
    path.with_suffix(".keys.txt").write_text(f"{key}\n", encoding="utf-8")


def matlab(path: Path, key: str) -> None:
    write_array_file(path, SPEC, RECORDS[:1], convention="matlab")
    arrays = {name: array for name, array in scipy.io.loadmat(path).items() if not name.startswith("__")}
    scipy.io.savemat(path, arrays | {"preimage_keys": json.dumps([key])})


def hdf5(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"{key}/{name}"] = array


def tar(path: Path, key: str) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        member = tarfile.TarInfo(f"{key}.jpg")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))


def image(path: Path, key: str) -> None:
    target = path / f"{key}.jpg"
    if not target.resolve().is_relative_to(path.resolve()):
        pytest.skip("such a file is not in the folder")
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")


KEYPOINTS = {"keypoints": FRAMES, "descriptors": BYTES}
HLOC = {
    "keypoints": FRAMES[:, :2].astype(np.float16),
    "scales": FRAMES[:, 2].astype(np.float16),
    "oris": FRAMES[:, 3].astype(np.float16),
    "descriptors": BYTES.T.astype(np.float16),
    "image_size": np.array([160, 128]),
}
READERS: dict[str, tuple[Callable[[Path, str], object], Callable[[Path], Iterable[str]]]] = {
    "f": (shard, FeatureStore),
    "v1": (v1, FeatureStore),
    "f.npz": (lambda path, key: archive(path, {key: STACK[0]}), lambda path: read_array_file(path, SPEC)),
    "keys.npz": (
        lambda path, key: archive(path, {"a": STACK[:1], "keys": np.array([key])}),
        lambda path: read_array_file(path, SPEC),
    ),
    "f.npy": (beside, lambda path: read_array_file(path, SPEC)),
    "f.mat": (matlab, read_array_file),
    "f.h5": (
        lambda path, key: hdf5(path, key, {"features": STACK[0]}),
        lambda path: read_array_file(path, SPEC),
    ),
    "f.tar": (tar, lambda path: [source.key for source in list_images(path)]),
    "folder": (image, lambda path: [source.key for source in list_images(path)]),
    "f.db": (lambda path, key: colmap_database(path, {key: (FRAMES.astype(np.float32), BYTES)}), read_keypoints),
    "keypoints.npz": (
        lambda path, key: archive(path, {f"{key}/{name}": array for name, array in KEYPOINTS.items()}),
        read_keypoints,
    ),
    "hloc.h5": (lambda path, key: hdf5(path, key, HLOC), read_keypoints),
}


def keys_read(reader: str, path: Path, key: str) -> list[str]:
    """Write a file with this key, and read its keys; skip what the format or the system cannot write."""
    write, read = READERS[reader]
    try:
        write(path, key)
    except (OSError, ValueError, TypeError, UserWarning) as error:  # zipfile warns about equal names
        pytest.skip(f"cannot be written: {error}")
    return list(read(path))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_returns_a_key_that_leaves_the_folder(tmp_path: Path, reader: str, name: str) -> None:
    """Such a key is an error that names the file, or the root and drive are dropped."""
    path = tmp_path / reader
    try:
        keys = keys_read(reader, path, BAD[name])
    except ValueError as error:
        assert reader in str(error) or "key" in str(error)
        return
    for key in keys:
        assert key_problem(key) is None
        assert not PureWindowsPath(key).anchor and ".." not in PureWindowsPath(key).parts
        assert (tmp_path / key).resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("reader", ["f", "v1", "f.npz", "f.mat"])
def test_unusual_keys_are_read_unchanged(tmp_path: Path, reader: str, name: str) -> None:
    assert keys_read(reader, tmp_path / reader, UNUSUAL[name]) == [UNUSUAL[name]]


def features(key: str) -> FeatureRecord:
    return FeatureRecord(key, STACK[0], (9, 9), (16, 24))


def write_h5(path: Path, key: str) -> None:
    pytest.importorskip("h5py")
    write_array_file(path, SPEC, [features("a"), features(key)])


def write_sift(path: Path, key: str) -> None:
    file = read_keypoints(colmap_database(path.with_suffix(".db"), {"a": (FRAMES.astype(np.float32), BYTES)}))
    keypoints: Keypoints = file["a"]
    path.with_suffix(".db").unlink()
    write_keypoints(path, [KeypointRecord("a", keypoints, None), KeypointRecord(key, keypoints, None)])


WRITERS: dict[str, Callable[[Path, str], object]] = {
    "f.safetensors": lambda path, key: write_features(path, SPEC, [features("a"), features(key)]),
    "f.npz": lambda path, key: write_array_file(path, SPEC, [features("a"), features(key)]),
    "f.npy": lambda path, key: write_array_file(path, SPEC, [features("a"), features(key)]),
    "f.mat": lambda path, key: write_array_file(path, SPEC, [features("a"), features(key)], convention="matlab"),
    "f.h5": write_h5,
    "keypoints.npz": write_sift,
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_accepts_such_a_key(tmp_path: Path, writer: str, name: str) -> None:
    with pytest.raises(ValueError, match="key"):
        WRITERS[writer](tmp_path / writer, BAD[name])
    assert os.listdir(tmp_path) == []


def invert_two(folder: Path, inverter: Path, key: str) -> None:
    """Invert the features of two images, ``first`` and one with this key."""
    values = np.zeros((31, 4, 4), np.float32)
    records = [FeatureRecord(one, values, (32, 32), (32, 32)) for one in ("first", key)]
    write_features(folder / "f.safetensors", HOG, records)
    invert(folder / "f.safetensors", folder / "output", inverter=inverter, device="cpu")


@pytest.mark.parametrize("name", UNUSUAL)
def test_images_are_written_inside_the_folder_or_not_at_all(tmp_path: Path, tiny: Path, name: str) -> None:
    try:
        invert_two(tmp_path, tiny, UNUSUAL[name])
    except ValueError as error:
        assert "key" in str(error)
        assert os.listdir(tmp_path) == ["f.safetensors"], "nothing is written"
    else:
        output = tmp_path / "output"
        written = {path for path in output.rglob("*") if path.is_file()}
        assert written == {output / "first.png", output / f"{UNUSUAL[name]}.png"}
        assert sorted(os.listdir(tmp_path)) == ["f.safetensors", "output"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count other units")
@pytest.mark.parametrize("name", ["300 characters", "400 bytes", "4096 bytes"])
def test_names_that_are_too_long_are_told(tmp_path: Path, tiny: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"key.*bytes"):
        invert_two(tmp_path, tiny, UNUSUAL[name])


@pytest.mark.parametrize(
    ("keys", "options", "words"),
    [
        (["a", "a.png/b"], {}, r"'a\.png/b'.*'a'"),
        (["a.png/b", "a"], {}, r"'a\.png/b'.*'a'"),
        (["a\\b", "a/b"], {"windows": True}, "same file"),
        (["a.PNG/b", "a"], {"folded": True}, "folder"),
        (["x" * 252], {}, "256"),
        (["ü" * 126], {"folded": False}, "256"),
        (["x" * 256 + "/a"], {}, "256"),
        (["COM²"], {"windows": True}, "Windows"),
        (["conin$"], {"windows": True}, "Windows"),
    ],
)
def test_keys_whose_files_cannot_exist(keys: list[str], options: dict[str, bool], words: str) -> None:
    problem = file_problem(keys, **{"windows": False, "folded": False} | options)  # type: ignore[arg-type]
    assert problem is not None
    assert key_problem(keys[0]) is None
    with pytest.raises(ValueError, match=words):
        raise ValueError(problem)


def test_long_keys_whose_files_can_exist() -> None:
    for key in ("x" * 251, "ü" * 125 + "x", "/".join(["x" * 255, "x" * 251])):
        assert file_problem([key], windows=False, folded=False) is None
    assert file_problem(["ü" * 251], windows=False, folded=True) is None
