"""Test reading vectors from Parquet files: columns, keys, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutations import mutated
from preimage.errors import FileFormatError
from preimage.io.arrays.parquet_vectors import open_parquet
from preimage.io.arrays.user_features import read_user_features

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

VECTORS = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)
KEYS = ["a.jpg", "b", "sub/c", "d", "e", "f"]


def saved(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "index.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def lists(kind: Any = None, vectors: np.ndarray = VECTORS) -> Any:
    return pa.array(list(vectors), type=kind or pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.list_(pa.float32()), np.float32),
        (pa.list_(pa.float64(), 4), np.float64),
        (pa.large_list(pa.float16()), np.float16),
    ],
)
def test_lists_of_any_kind(tmp_path: Path, kind: Any, dtype: type) -> None:
    vectors = VECTORS.astype(np.float16) if dtype is np.float16 else VECTORS
    array, keys = open_parquet(saved(tmp_path, {"key": KEYS, "x": lists(kind, vectors)}, row_group_size=2))
    assert (array.shape, array.dtype, keys) == ((6, 4), dtype, KEYS)
    assert np.array_equal(array.load(), vectors.astype(dtype))


def test_the_named_column_and_keys_of_any_name(tmp_path: Path) -> None:
    columns = {"other": lists(vectors=VECTORS + 1), "embedding": lists(), "n": [1] * 6, "id": list(range(6))}
    array, keys = open_parquet(saved(tmp_path, columns))
    assert np.array_equal(array.load(), VECTORS)
    assert keys == ["0", "1", "2", "3", "4", "5"]


def test_features_with_and_without_keys(tmp_path: Path) -> None:
    file = read_user_features(saved(tmp_path, {"path": KEYS, "v": lists()}), name="clip", image_size=64)
    assert (file.spec.representation, file.spec.channels, file.spec.stride) == ("clip", 4, None)
    assert np.array_equal(file["sub/c"], VECTORS[2])
    path = saved(tmp_path, {"v": lists()})
    (tmp_path / "index.keys.txt").write_text("\n".join(KEYS[::-1]))
    beside = read_user_features(path, name=None, image_size=64)
    assert np.array_equal(beside["sub/c"], VECTORS[3])
    (tmp_path / "index.keys.txt").write_text("\n".join(KEYS[1:]))
    with pytest.raises(FileFormatError, match=r"index\.keys\.txt: 5 keys for 6 images in .*index\.parquet"):
        read_user_features(path, name=None, image_size=64)
    (tmp_path / "index.keys.txt").unlink()
    with pytest.raises(FileFormatError, match=r"index\.parquet: .*'b' twice"):
        read_user_features(saved(tmp_path, {"path": [*KEYS[:5], "b"], "v": lists()}), name=None, image_size=64)
    saved(tmp_path, {"v": lists()})
    with pytest.raises(ValueError, match=r"index\.parquet.*keys.*column 'key'"):
        read_user_features(path, name=None, image_size=64)
    assert list(read_user_features(path, name=None, image_size=64, default_keys=KEYS)) == KEYS


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"key": KEYS}, "one column of lists"),
        ({"x": lists(), "y": lists()}, "one column of lists"),
        ({"x": [[1, 2]] * 6}, "one column of lists"),
        ({"x": pa.array([[1.0], [1.0, 2.0]] * 3)}, "row 1 has 2 numbers"),
        ({"x": pa.array([[1.0], None] * 3)}, "row 1 has no vector"),
        ({"x": pa.array([[1.0], [None]] * 3)}, "null"),
        ({"x": pa.array([[]] * 6, type=pa.list_(pa.float32()))}, "length, at least 1"),
        ({"x": lists(), "key": [*KEYS[:5], None]}, "key is missing"),
        ({"x": pa.array([], type=pa.list_(pa.float32()))}, "rows, got 0"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    with pytest.raises(FileFormatError, match=rf"index\.parquet.*{problem}"):
        open_parquet(saved(tmp_path, columns))


def test_vectors_of_two_lengths_in_two_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preimage.io.arrays.parquet_vectors._BATCH", 2)
    with pytest.raises(FileFormatError, match="one length, got 1 and 2"):
        open_parquet(saved(tmp_path, {"x": pa.array([[1.0]] * 2 + [[1.0, 2.0]] * 4)}))


def test_a_few_bytes_for_very_many_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, {"x": pa.array([[0.0] * 50_000] * 20)}, compression="zstd")
    assert path.stat().st_size < 20_000
    assert open_parquet(path)[0].shape == (20, 50_000)
    monkeypatch.setattr("preimage.io.arrays.parquet_vectors.MAX_ARRAY_BYTES", 4 << 20)
    with pytest.raises(FileFormatError, match=r"at most 524288 numbers, got 1000000"):
        open_parquet(path)


@pytest.mark.parametrize("length", [0, 3, 100, -9])
def test_truncated_files(tmp_path: Path, length: int) -> None:
    path = saved(tmp_path, {"key": KEYS, "x": lists()})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileFormatError, match=r"index\.parquet"):
        open_parquet(path)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    seed = saved(tmp_path, {"key": KEYS, "x": lists()}).read_bytes()
    refused = 0
    for number in range(100):
        path = tmp_path / "index.parquet"
        path.write_bytes(mutated(seed, number))
        try:
            array, keys = open_parquet(path)
            assert array.load().shape == array.shape
            assert keys is None or len(keys) == len(array.load())
        except FileFormatError:
            refused += 1
    assert refused > 20
