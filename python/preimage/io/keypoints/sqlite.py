"""Read SQLite databases of unknown origin safely.

Only plain tables are read: no views, virtual tables, computed columns or extensions, which could run code. The file is
opened as immutable, so that no journal is read and no file is written next to it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from preimage.io.atomic import StrPath
from preimage.io.file_types import mismatch

_SIGNATURE = b"SQLite format 3\0"
_SECONDS = 1.0  # time limit, plus the same for every 100 MB: a damaged tree of pages can be cyclic
_BYTES_PER_SECOND = 100e6
_WRITE_BACK = {"-wal": "PRAGMA wal_checkpoint(TRUNCATE)", "-journal": "PRAGMA integrity_check"}
_STEPS = 200  # instructions of SQLite's virtual machine between checks of the time
_UNWRITTEN = " (was it copied without its -wal file, which can contain the rest?)"
_LIMITS = {  # by SQLite's names, which Python has since 3.11
    "SQLITE_LIMIT_LENGTH": 128 << 20,  # size of a string or blob
    "SQLITE_LIMIT_SQL_LENGTH": 100_000,
    "SQLITE_LIMIT_COLUMN": 100,
    "SQLITE_LIMIT_EXPR_DEPTH": 100,
    "SQLITE_LIMIT_COMPOUND_SELECT": 3,
    "SQLITE_LIMIT_VDBE_OP": 25_000,
    "SQLITE_LIMIT_ATTACHED": 0,
    "SQLITE_LIMIT_TRIGGER_DEPTH": 1,
    "SQLITE_LIMIT_WORKER_THREADS": 0,
}


@contextlib.contextmanager
def open_database(path: StrPath) -> Iterator[sqlite3.Connection]:
    """Open a read-only connection with a time limit.

    Raises:
        ValueError: The file is not an SQLite database, or another program has not finished writing it.
        sqlite3.Error: The file is damaged, now or in any later use; `sqlite3.OperationalError` (interrupted) after the
            time limit.
    """
    size = _check_files(path)
    uri = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=8)
    try:
        deadline = time.monotonic() + _SECONDS + size / _BYTES_PER_SECOND
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
        for name, limit in _LIMITS.items():
            if hasattr(connection, "setlimit") and hasattr(sqlite3, name):
                connection.setlimit(getattr(sqlite3, name), limit)
        for pragma in ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON", "mmap_size=0", "cache_size=-4096"):
            connection.execute(f"PRAGMA {pragma}")
        yield connection
    finally:
        connection.close()


def _check_files(path: StrPath) -> int:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise ValueError(mismatch("an SQLite database", path))
    for suffix, remedy in _WRITE_BACK.items():
        beside = f"{os.fspath(path)}{suffix}"
        with contextlib.suppress(FileNotFoundError):
            if os.stat(beside).st_size:
                name = os.path.basename(path)
                raise ValueError(
                    f"is incomplete: {os.path.basename(beside)} contains changes that are not written back yet. Close "
                    f"the program that has it open; if that was killed, write them back with: sqlite3 {name} {remedy!r}"
                )
    return size


def _keeps_log(connection: sqlite3.Connection) -> bool:
    """Return whether the database uses a write-ahead log, according to its header."""
    (_, _, path), *_ = connection.execute("PRAGMA database_list").fetchall()
    with open(path, "rb") as file:
        return file.read(20)[18:] == b"\2\2"


def check_table(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> set[str]:
    """Return the names of a table's columns.

    Raises:
        ValueError: The table is not a plain table, or one of `columns` is missing.
    """
    found = connection.execute(
        "SELECT type, rootpage, substr(sql, 1, 13) FROM main.sqlite_master WHERE name = ? COLLATE NOCASE LIMIT 2",
        (table,),
    ).fetchall()
    if not found:
        raise ValueError(f"has no table {table!r}" + (_UNWRITTEN if _keeps_log(connection) else ""))
    (kind, page, sql), *others = found
    # SQLite stores the statement in this spelling; an edited one could create a virtual table.
    plain = kind == "table" and isinstance(page, int) and page > 0 and sql == "CREATE TABLE "
    if others or not plain:
        raise ValueError(f"{table!r} must be a plain table")
    about = connection.execute(f"PRAGMA main.table_xinfo({table})").fetchall()
    if any(hidden for *_, hidden in about):
        raise ValueError(f"{table!r} has computed columns")
    names = {name.lower() for _, name, *_ in about if isinstance(name, str)}
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{table!r} has no column {', '.join(missing)}")
    return names
