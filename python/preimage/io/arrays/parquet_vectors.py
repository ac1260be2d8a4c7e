"""Read one vector per row from a Parquet file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.errors import FileFormatError
from preimage.io.arrays.stored_arrays import MAX_ARRAY_BYTES, StoredArray
from preimage.io.atomic import StrPath
from preimage.io.feature_file import MAX_IMAGES
from preimage.io.parquet import NAMES, parquet_errors
from preimage.io.parquet_footer import read_row_groups
from preimage.optional import import_optional

_VECTORS = ("features", "embedding", "embeddings", "vector", "vectors", "global_descriptor")
_BATCH = 4096  # rows read at once


def open_parquet(path: StrPath) -> tuple[StoredArray, list[str] | None]:
    """Return the vectors (N, C) of a Parquet file, and their keys; ``None`` if it contains no keys.

    Args:
        path: Path of a file with a column of lists of numbers (float16, float32 or float64; of variable or fixed
            length), named ``features``, ``embedding``, ``vector`` or in the plural, ``global_descriptor``, or the only
            such column; and optionally a column of keys, named ``key``, ``__key__``, ``path``, ``file_name`` or ``id``.

    Raises:
        FileFormatError: The file is damaged, has no such column, or vectors differ in length or are missing.
        ImportError: pyarrow is not installed.
    """
    parquet = import_optional("pyarrow")
    name = str(path)
    with parquet_errors(name), open(path, "rb") as file:
        opened = parquet.ParquetFile(file, page_checksum_verification=True)
        groups = read_row_groups(file)
        rows = sum(group.rows for group in groups)
        if not 0 < rows <= MAX_IMAGES or min(group.rows for group in groups) < 0:
            raise ValueError(f"must have 1 to {MAX_IMAGES} rows, got {rows}")
        column, keys_column = _columns(opened.schema_arrow)
        _check_size(opened.metadata, column)
        vectors: list[npt.NDArray[Any]] = []
        keys: list[str] = []
        for batch in opened.iter_batches(_BATCH, columns=[column, *filter(None, [keys_column])], use_threads=False):
            vectors.append(_stacked(batch.column(column), sum(map(len, vectors))))
            if vectors[-1].shape[1] != vectors[0].shape[1]:
                raise ValueError(f"vectors must be of one length, got {vectors[0].shape[1]} and {vectors[-1].shape[1]}")
            if keys_column is not None:
                keys += _texts(batch.column(keys_column))
    if sum(map(len, vectors)) != rows:
        raise FileFormatError(name, f"damaged: {sum(map(len, vectors))} of {rows} rows")
    stack = np.concatenate(vectors)
    return StoredArray(column, stack.shape, stack.dtype, lambda: stack), keys if keys_column is not None else None


def _columns(schema: Any) -> tuple[str, str | None]:
    """Return the names of the columns of vectors and of keys."""
    types = import_optional("pyarrow", "pyarrow").types
    lists = [
        field.name
        for field in schema
        if (types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type))
        and types.is_floating(field.type.value_type)
    ]
    named = [column for column in _VECTORS if column in lists]
    if not named and len(lists) != 1:
        found = ", ".join(f"{field.name} ({field.type})" for field in list(schema)[:20]) or "no columns"
        raise ValueError(
            f"must have one column of lists of floating-point numbers, or one of them named {', '.join(_VECTORS)}; "
            f"got {found}"
        )
    names = [field.name for field in schema if _is_key(types, field.type)]
    return (named or lists)[0], next((column for column in NAMES if column in names), None)


def _is_key(types: Any, kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind))


def _check_size(metadata: Any, column: str) -> None:
    """Raise ``ValueError`` if the vectors take too much memory; a tiny file can contain very many equal numbers."""
    count = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            if chunk.path_in_schema.split(".")[0] == column:
                count += max(0, chunk.num_values)
    if 8 * count > MAX_ARRAY_BYTES:
        raise ValueError(f"column {column} must have at most {MAX_ARRAY_BYTES // 8} numbers, got {count}")


def _stacked(column: Any, first: int) -> npt.NDArray[Any]:
    """Return the vectors of a batch as (B, C)."""
    if column.null_count:
        raise ValueError(f"row {first + column.is_null().to_pylist().index(True)} has no vector")
    flat = column.flatten()
    if flat.null_count:
        raise ValueError("a vector contains null instead of a number")
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any() or lengths[0] < 1:
        row = first + int((lengths != lengths[0]).argmax())
        raise ValueError(f"vectors must be of one length, at least 1; row {row} has {lengths[row - first]} numbers")
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(column), int(lengths[0]))
    return values


def _texts(column: Any) -> list[str]:
    if column.null_count:
        raise ValueError("a key is missing")
    return [str(value) for value in column.to_pylist()]
