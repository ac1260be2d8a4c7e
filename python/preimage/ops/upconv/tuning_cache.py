"""What was measured, kept on disk: one JSON file per machine and version, shared by every process of the user.

The file is a cache and nothing more: one that is damaged, foreign or of another version is as good as none, and one
that cannot be written means that this process alone remembers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

_FORMAT = "preimage-tuning"
_VERSION = 1
_LARGEST = 1 << 26  # bytes; a thousand keys take one megabyte
_LOCK_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """One candidate of a key: a kernel's configuration, or torch."""

    name: str  # for a person
    config: list[Any] | None  # as `Config.to_list` gives it; None: torch
    milliseconds: float | None  # the median; None where it was not measured
    error: float | None  # the largest relative error against the reference; None where it was not compared
    reason: str | None  # why it may not be chosen


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a key."""

    chosen: list[Any] | None  # None: torch
    trials: tuple[Trial, ...]  # torch's first
    shape: str  # measured on
    date: str  # ISO 8601, UTC

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Entry:
        """Raises TypeError or ValueError for anything that `dataclasses.asdict` did not make of an entry."""
        trials = tuple(Trial(**trial) for trial in values["trials"])
        entry = Entry(**{**values, "trials": trials})
        lists = [entry.chosen, *(trial.config for trial in trials)]
        numbers = [number for trial in trials for number in (trial.milliseconds, trial.error)]
        texts = [entry.shape, entry.date, *(trial.name for trial in trials), *(trial.reason or "" for trial in trials)]
        if not (
            all(value is None or isinstance(value, list) for value in lists)
            and all(value is None or isinstance(value, float) for value in numbers)
            and all(isinstance(value, str) for value in texts)
        ):
            raise ValueError("not an entry of the cache")
        return entry


@dataclasses.dataclass(frozen=True)
class Record:
    """An entry with its key and the machine that it holds for (GPU, versions)."""

    machine: Mapping[str, str]
    key: str
    entry: Entry


def folder() -> Path:
    """``$PREIMAGE_CACHE``, or ``$XDG_CACHE_HOME/preimage``, or ``~/.cache/preimage``. It need not exist.

    Raises:
        RuntimeError: none of them is set and the user has no home.
    """
    if ours := os.environ.get("PREIMAGE_CACHE"):
        return Path(ours).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "preimage"


def plain(value: Any) -> Any:
    """As it comes back from a file: tuples become lists."""
    return json.loads(json.dumps(value))


def file_name(machine: Mapping[str, str]) -> str:
    """The machine's own: its GPU for a person, a hash of all of it for us."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.get("gpu", "").lower()).strip("-")[:40]
    digest = hashlib.sha256(json.dumps(dict(machine), sort_keys=True).encode()).hexdigest()[:16]
    return f"upconv-{gpu}-{digest}.json"


class Store:
    """The entries of one machine, in memory and on disk. For one thread at a time."""

    def __init__(self, machine: Mapping[str, str]) -> None:
        self.machine = dict(machine)
        self._unwritten: dict[str, Entry] = {}
        self._read: dict[str, Entry] = {}
        self._seen: tuple[int, ...] | None = None

    def get(self, key: str) -> Entry | None:
        """What is known of a key, by this process or another."""
        with contextlib.suppress(OSError, RuntimeError):
            path = folder() / file_name(self.machine)
            status = path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                self._read, self._seen = _entries_of(path, self.machine), seen
        return self._unwritten.get(key) or self._read.get(key)

    def put(self, key: str, entry: Entry) -> None:
        """Adds an entry to what is on disk, keeping what others have written; warns once where that cannot be."""
        self._unwritten[key] = entry
        try:
            where = folder()
            where.mkdir(parents=True, exist_ok=True)
            with _locked(where):
                path = where / file_name(self.machine)
                merged = {**_entries_of(path, self.machine), **self._unwritten}
                _write(path, _encoded(self.machine, merged))
        except (OSError, RuntimeError) as error:
            _warn(f"the measurements of the up-convolution are kept for this process only: {error}")
        else:
            self._unwritten.clear()
            self._read, self._seen = merged, None

    def unwritten(self) -> list[Record]:
        """What only this process knows."""
        return [Record(self.machine, key, entry) for key, entry in self._unwritten.items()]


def records() -> list[Record]:
    """All entries on disk, of every machine; damaged files count as empty."""
    found = []
    for path in _files():
        machine, entries = _decoded(path)
        found += [Record(machine, key, entry) for key, entry in entries.items()]
    return found


def clear() -> int:
    """Removes the files; gives how many. Raises OSError where one cannot be removed."""
    count = 0
    paths = _files()
    if paths:
        with _locked(paths[0].parent):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    count += 1
            for left in paths[0].parent.glob(".preimage-tuning-*.tmp"):  # of processes that were killed
                left.unlink(missing_ok=True)
    return count


def _files() -> list[Path]:
    with contextlib.suppress(OSError, RuntimeError):
        return sorted(folder().glob("upconv-*.json"))
    return []


def _entries_of(path: Path, machine: Mapping[str, str]) -> dict[str, Entry]:
    told, entries = _decoded(path)
    return entries if told == machine else {}


def _encoded(machine: Mapping[str, str], entries: Mapping[str, Entry]) -> bytes:
    content = {
        "machine": dict(machine),
        "entries": {key: dataclasses.asdict(entries[key]) for key in sorted(entries)},
    }
    return json.dumps(
        {"format": _FORMAT, "version": _VERSION, "sha256": _digest(content), **content}, indent=1, allow_nan=False
    ).encode()


def _decoded(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """Machine and entries, both empty for a file that is not ours to the last byte: its numbers become launches."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            return {}, {}
        whole = json.loads(data)
        content = {"machine": whole["machine"], "entries": whole["entries"]}
        if (whole["format"], whole["version"], whole["sha256"]) != (_FORMAT, _VERSION, _digest(content)):
            return {}, {}
        return content["machine"], {key: Entry.from_dict(entry) for key, entry in content["entries"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}, {}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _locked(where: Path) -> Iterator[None]:
    """One writer at a time. Where locks are not to be had it goes on without: an entry may be lost, no file breaks."""
    with open(where / "upconv.lock", "ab") as file:
        if sys.platform != "win32":
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.01)
                except OSError:
                    break
        yield  # closing the file lets go of the lock


def _write(path: Path, data: bytes) -> None:
    """Complete or not at all. (`storage.files` has the like for the user's files, on a floor above this one.)"""
    temporary = path.with_name(f".preimage-tuning-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_warned = False


def _warn(message: str) -> None:
    global _warned  # noqa: PLW0603 - once a process
    if not _warned:
        _warned = True
        warnings.warn(message, RuntimeWarning, stacklevel=4)
