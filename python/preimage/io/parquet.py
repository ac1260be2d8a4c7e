"""Read encoded images from Parquet files, one row group at a time.

The images are in a binary column named ``image``, ``bytes``, ``jpg``, ``png`` or ``content``, or in a struct
``image: {bytes, path}`` as Hugging Face's `datasets` writes it. Their names are in a column ``key``, ``__key__``,
``path``, ``file_name`` or ``id``, or in the struct; rows without a name are numbered from 0.
"""

from __future__ import annotations

import itertools
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

from preimage.errors import FileFormatError, is_out_of_memory, reader_errors
from preimage.io.atomic import LONGEST_KEY
from preimage.io.parquet_footer import RowGroup, read_row_groups
from preimage.io.remote import open_file
from preimage.io.urls import is_url, masked
from preimage.optional import import_optional

T = TypeVar("T")

_IMAGES = ("image", "bytes", "jpg", "png", "content", "image.bytes")
NAMES = ("key", "__key__", "path", "file_name", "id", "image.path")
_MAX_GROUP_BYTES = 1 << 30  # maximum size of the images of a row group, uncompressed; as of one encoded image
_MAX_NAMES_BYTES = 1 << 28  # maximum size of the names of a row group, uncompressed
# A tiny file can claim any number of rows. Above the first number, an image must take this many bytes of the file.
_ROWS_UNCHECKED, _MIN_BYTES = 1 << 16, 32
_KEPT_TABLES = 16  # number of files whose metadata are in memory
_KEPT_GROUPS = 2  # number of row groups in memory: threads that read images in order are in one group and the next


class NoImageColumnError(FileFormatError):
    """Error for a Parquet file without a column of images."""


class _Table(NamedTuple):
    """Metadata of a Parquet file, its columns by number, its row groups, and the number of the first row of each."""

    metadata: Any
    image: int
    name: int | None
    groups: list[RowGroup]
    starts: list[int]


def list_rows(path: str) -> Iterator[tuple[int, str | None, int]]:
    """Yield the number of each row, its name if it has one, and the bytes of the images of its row group.

    The images are not read.

    Args:
        path: Path or URL of the file.

    Raises:
        NoImageColumnError: No column contains images.
        FileFormatError: The file is damaged, or a row group is too large.
        ImportError: pyarrow is not installed.
        OSError: The file cannot be read.
    """
    if is_url(path):  # the file may have changed since it was listed
        _tables.forget(path)
        _groups.forget(path)
    table = _table(path, _version(path))
    for group, start in enumerate(table.starts[:-1]):
        size = _column_bytes(table, group, table.image, path, _MAX_GROUP_BYTES)
        count = table.starts[group + 1] - start
        names = [None] * count if table.name is None else _names(path, table, group)
        if len(names) != count:
            raise FileFormatError(masked(path), f"damaged: {len(names)} names of {count} rows in row group {group}")
        for row, name in enumerate(names, start):
            yield row, name, size


def read_row(path: str, row: int) -> bytes:
    """Read an encoded image, and keep the images of its row group in memory for the next rows.

    Args:
        path: Path or URL of the file.
        row: Number of the row.

    Raises:
        FileFormatError: The file is damaged, a row group is too large, or the row has no image.
        ImportError: pyarrow is not installed.
        OSError: The file cannot be read.
    """
    version = _version(path)
    table = _table(path, version)
    if not 0 <= row < table.starts[-1]:
        raise FileFormatError(masked(path), f"truncated: no row {row}, it has {table.starts[-1]}")
    group = bisect_right(table.starts, row) - 1
    chunks = _groups.get(
        (path, version, group), lambda: _read_column(path, table, group, table.image, _MAX_GROUP_BYTES)
    )
    index = row - table.starts[group]
    for chunk in chunks:
        if index < len(chunk):
            with parquet_errors(path):
                data = chunk[index].as_py()
            if isinstance(data, bytes):
                return data
            break
        index -= len(chunk)
    raise FileFormatError(masked(path), f"no image in row {row}")


class _Kept(Generic[T]):
    """Keep what was read last. Each value is read by one thread, while the others that need it wait."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.clear()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.clear)  # a thread that reads is not in the child

    def clear(self) -> None:
        self._lock = threading.Lock()
        self._futures: OrderedDict[tuple[object, ...], Future[T]] = OrderedDict()

    def forget(self, path: str) -> None:
        """Forget what was read of a file."""
        with self._lock:
            for key in [key for key in self._futures if key[0] == path]:
                del self._futures[key]

    def get(self, key: tuple[object, ...], read: Callable[[], T]) -> T:
        """Return what is kept for a key, or else what `read` returns."""
        with self._lock:
            future = self._futures.get(key)
            if known := future is not None:
                self._futures.move_to_end(key)
            else:
                future = self._futures[key] = Future()
                while len(self._futures) > self._count:
                    self._futures.popitem(last=False)
        if not known:
            try:
                future.set_result(read())
            except BaseException as error:
                with self._lock:
                    if self._futures.get(key) is future:
                        del self._futures[key]
                future.set_exception(error)
        return future.result()


_tables: _Kept[_Table] = _Kept(_KEPT_TABLES)
_groups: _Kept[list[Any]] = _Kept(_KEPT_GROUPS)


def _version(path: str) -> tuple[int, ...]:
    """Return what changes when a local file is replaced."""
    if is_url(path):
        return ()
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _table(path: str, version: tuple[int, ...]) -> _Table:
    """Return the metadata of a file of this version."""
    return _tables.get((path, version), lambda: _read_table(path))


def _read_table(path: str) -> _Table:
    parquet = import_optional("pyarrow")
    with parquet_errors(path), open_file(path) as (file, size), parquet.ParquetFile(file) as opened:
        metadata = opened.metadata
        columns: dict[str, tuple[int, Any]] = {}
        for number in range(metadata.num_columns):
            column = metadata.schema.column(number)
            columns.setdefault(column.path, (number, column))
        images = [columns[name] for name in _IMAGES if name in columns]
        image = next((number for number, column in images if _is_binary(column)), None)
        if image is None:
            shown = ", ".join(itertools.islice(columns, 20)) + (", ..." if len(columns) > 20 else "")
            raise NoImageColumnError(
                masked(path),
                f"no column of images: expected a binary column {', '.join(_IMAGES[:-1])}, or a struct image with "
                f"bytes, got {shown or 'no columns'}",
            )
        names = [columns[name] for name in NAMES if name in columns]
        name = next((number for number, column in names if _is_name(column)), None)
        groups = read_row_groups(file)
        counts, rows = [group.rows for group in groups], sum(group.rows for group in groups)
        if min(counts, default=0) < 0 or rows > max(_ROWS_UNCHECKED, size // _MIN_BYTES):
            raise FileFormatError(masked(path), f"damaged: it claims {rows} rows in {size} bytes")
        if any(len(group.column_bytes) != metadata.num_columns for group in groups):
            raise FileFormatError(masked(path), "damaged: a row group lacks columns")
        return _Table(metadata, image, name, groups, [0, *itertools.accumulate(counts)])


def _is_binary(column: Any) -> bool:
    plain = column.max_repetition_level == 0 and column.physical_type == "BYTE_ARRAY"
    return plain and column.logical_type.type == "NONE"


def _is_name(column: Any) -> bool:
    return column.max_repetition_level == 0 and column.physical_type in ("BYTE_ARRAY", "INT32", "INT64")


def _column_bytes(table: _Table, group: int, column: int, path: str, limit: int) -> int:
    """Return the uncompressed size of a column of a row group in bytes."""
    size = table.groups[group].column_bytes[column]
    if not 0 <= size <= limit:
        name = table.metadata.schema.column(column).path
        raise FileFormatError(
            masked(path),
            f"row group {group} has {size} bytes in column {name}, at most {limit} are read at once; write the file "
            "with fewer rows in a row group (row_group_size=100)",
        )
    return size


def _read_column(path: str, table: _Table, group: int, column: int, limit: int) -> list[Any]:
    """Return the arrays of a column of a row group."""
    _column_bytes(table, group, column, path, limit)
    name = table.metadata.schema.column(column).path
    parquet = import_optional("pyarrow")
    with (
        parquet_errors(path),
        open_file(path) as (file, _),
        # As a dictionary a value that is stored once for many rows, as in a decompression bomb, stays one value.
        parquet.ParquetFile(
            file, metadata=table.metadata, read_dictionary=[name], page_checksum_verification=True
        ) as opened,
    ):
        chunks = opened.read_row_group(group, columns=[name], use_threads=False).column(0).chunks
        return [chunk.field(0) if "." in name else chunk for chunk in chunks]


def _names(path: str, table: _Table, group: int) -> list[str | None]:
    assert table.name is not None
    names: list[str | None] = []
    for chunk in _read_column(path, table, group, table.name, _MAX_NAMES_BYTES):
        with parquet_errors(path):
            if hasattr(chunk, "dictionary"):
                texts = [_text(value) for value in chunk.dictionary.to_pylist()]
                indices = chunk.indices.to_pylist()
                names += [None if index is None else texts[index] for index in indices]
            else:
                names += [_text(value) for value in chunk.to_pylist()]
    return names


def _text(value: object) -> str | None:
    """Return a name as text, cut where it is too long for a key."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    return None if value is None or value == "" else str(value)[: LONGEST_KEY + 1]


@contextmanager
def parquet_errors(path: str) -> Iterator[None]:
    """Convert the errors of a damaged file; those of the file system, which have a number, are not changed."""
    arrow = import_optional("pyarrow", "pyarrow")
    kinds = (arrow.ArrowException, ValueError, LookupError, OverflowError, RecursionError, TypeError)
    try:
        with reader_errors(masked(path), kinds):
            yield
    except FileFormatError as error:
        if error.__cause__ is not None and is_out_of_memory(error.__cause__):
            raise error.__cause__ from None
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise FileFormatError(masked(path), " ".join(str(error).split())) from error
