"""Test reading flat FAISS indices: layout, order, other types, and damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mutations import MUTATIONS, mutated
from preimage.errors import FileFormatError
from preimage.io.arrays import is_array_file, read_array_file
from preimage.io.arrays.faiss_index import open_faiss
from preimage.io.arrays.formats import check_writable
from preimage.io.arrays.user_features import read_user_features
from preimage.spec import Spec

VECTORS = np.random.default_rng(3).standard_normal((5, 7)).astype("<f4")
KEYS = ["a", "b", "sub/c", "d", "e"]
SPEC = Spec("gist", "v", 7, None)


def flat(vectors: np.ndarray = VECTORS, kind: bytes = b"IxF2", metric: int = 1) -> bytes:
    """Return the bytes of a flat index, as FAISS writes it."""
    count, dimension = vectors.shape
    argument = struct.pack("<f", 0.0) if metric > 1 else b""
    header = struct.pack("<iqqq?i", dimension, count, 1 << 20, 1 << 20, True, metric)
    return kind + header + argument + struct.pack("<Q", vectors.size) + vectors.tobytes()


def id_map(ids: list[int], kind: bytes = b"IxMp") -> bytes:
    """Return the bytes of a flat index with ids."""
    header = struct.pack("<iqqq?i", 7, len(ids), 1 << 20, 1 << 20, True, 1)
    return kind + header + flat() + struct.pack(f"<Q{len(ids)}q", len(ids), *ids)


def saved(folder: Path, data: bytes, name: str = "index.faiss") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(("kind", "metric"), [(b"IxF2", 1), (b"IxFI", 0), (b"IxFl", 2)])
def test_vectors_of_flat_indices(tmp_path: Path, kind: bytes, metric: int) -> None:
    array = open_faiss(saved(tmp_path, flat(kind=kind, metric=metric)))
    assert array.shape == (5, 7)
    assert np.array_equal(array.load(), VECTORS)


@pytest.mark.parametrize("kind", [b"IxMp", b"IxM2"])
def test_an_id_map_is_read_in_ascending_order_of_its_ids(tmp_path: Path, kind: bytes) -> None:
    ids = [40, 2, -1, 7, 3]
    array = open_faiss(saved(tmp_path, id_map(ids, kind)))
    assert np.array_equal(array.load(), VECTORS[np.argsort(ids)])


def test_what_faiss_writes_is_read(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    path = tmp_path / "index.faiss"
    for index in (faiss.IndexFlatL2(7), faiss.IndexFlatIP(7), faiss.IndexFlat(7, faiss.METRIC_L1)):
        index.add(VECTORS)
        faiss.write_index(index, str(path))
        assert np.array_equal(open_faiss(path).load(), index.reconstruct_n(0, index.ntotal))
    for owner in (faiss.IndexIDMap, faiss.IndexIDMap2):
        index = owner(faiss.IndexFlatL2(7))
        index.add_with_ids(VECTORS, np.array([4, 2, 0, 1, 3]))
        faiss.write_index(index, str(path))
        assert np.array_equal(open_faiss(path).load(), VECTORS[[2, 3, 1, 4, 0]])
    for name, kind in (("HNSW8", "IndexHNSWFlat"), ("SQ8", "IndexScalarQuantizer"), ("IVF1,Flat", "IndexIVFFlat")):
        faiss.write_index(faiss.index_factory(7, name), str(path))
        with pytest.raises(FileFormatError, match=rf"index\.faiss.*flat.*{kind}.*reconstruct_n"):
            open_faiss(path)
    faiss.write_index(faiss.IndexIDMap(faiss.index_factory(7, "SQ8")), str(path))
    with pytest.raises(FileFormatError, match=r"IndexIDMap of IndexScalarQuantizer"):
        open_faiss(path)


def test_keys_are_beside_the_file_or_given(tmp_path: Path) -> None:
    path = saved(tmp_path, flat())
    with pytest.raises(ValueError, match=r"keys.*index\.keys\.txt"):
        read_user_features(path, name=None, image_size=64)
    assert list(read_user_features(path, name=None, image_size=64, default_keys=KEYS)) == KEYS
    (tmp_path / "index.keys.txt").write_text("\n".join(KEYS[::-1]))
    file = read_user_features(path, name=None, image_size=64, default_keys=KEYS)
    assert list(file) == KEYS[::-1]
    assert np.array_equal(file["e"], VECTORS[0])
    assert list(read_user_features(path, name=None, image_size=64, keys=KEYS)) == KEYS
    with pytest.raises(ValueError, match=r"index\.faiss.*4 keys for 5"):
        read_user_features(path, name=None, image_size=64, keys=KEYS[:4])


def test_a_known_spec_makes_an_index_a_feature_file(tmp_path: Path) -> None:
    path = saved(tmp_path, flat(), "index.index")
    file = read_array_file(path, fallback=SPEC, image_size=(64, 64))
    assert (file.spec, list(file)) == (SPEC, ["00000", "00001", "00002", "00003", "00004"])
    assert np.array_equal(file.stack(), VECTORS)
    with pytest.raises(ValueError, match=r"index\.index.*spec"):
        read_array_file(path)


def test_only_existing_files_count_and_none_is_written(tmp_path: Path) -> None:
    assert not is_array_file(tmp_path / "photos.index")  # the name of a feature store
    assert is_array_file(saved(tmp_path, flat(), "photos.index"))
    with pytest.raises(ValueError, match=r"\.faiss.*only read.*\.npz"):
        check_writable(tmp_path / "out.faiss", SPEC, "float32", None)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a FAISS index"),
        (b"PK\3\4 zip", "not a FAISS index"),
        (b"IxF2", "truncated"),
        (flat()[:-1], "truncated"),
        (flat() + b"x", "further bytes"),
        (flat(np.zeros((0, 7), "<f4")), "no vectors"),
        (b"IxF2" + struct.pack("<iqqq?i", 8, 1 << 61, 0, 0, True, 1) + struct.pack("<Q", 0), "0 floats"),  # 2 ** 64
        (b"IxF2" + struct.pack("<iqqq?i", 7, 1 << 40, 0, 0, True, 1) + struct.pack("<Q", 7 << 40), "truncated"),
        (b"IxF2" + struct.pack("<iqqq?i", -7, 5, 0, 0, True, 1) + struct.pack("<Q", 35), "claims"),
        (b"IxF2" + struct.pack("<iqqq?i", 7, 5, 0, 0, True, 1) + struct.pack("<Q", 34), "34 floats"),
        (id_map([1, 2, 3, 4]), "ids"),
        (id_map([1, 2, 3, 4, 4]), "same id"),
        (id_map([1, 2, 3, 4, 5])[:-3], "truncated"),
        (b"IxMp" + struct.pack("<iqqq?i", 7, 5, 0, 0, True, 1) + b"IxMp", "IndexIDMap of IndexIDMap"),
        (b"IxZZ" + bytes(40), "type IxZZ"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(FileFormatError, match=rf"index\.faiss.*{problem}"):
        open_faiss(saved(tmp_path, data))


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    seeds = [flat(), id_map([5, 3, 1, 2, 4])]
    refused = 0
    for number in range(MUTATIONS):
        path = saved(tmp_path, mutated(seeds[number % 2], number))
        try:
            array = open_faiss(path)
            assert array.load().shape == array.shape
        except FileFormatError:
            refused += 1
    assert refused > MUTATIONS // 20
