"""A feature cache on disk: a manifest that says what it is of, and shards that are whole or absent.

Layout: ``manifest.json`` holds the settings and the type of the numbers; ``shard-00000.npy`` (rows, …) the features,
row = image · views + view; ``shard-00000.json``, written after it, its SHA-256. All are written atomically, so a kill
at any moment leaves whole shards and at most a temporary file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.errors import FileFormatError
from preimage.io import atomic, atomic_write
from preimage.spec import Spec

_FORMAT = "preimage-feature-cache"
_FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_LOCK = ".lock"
_SHARD_BYTES = 128 << 20  # of float32
_SHARD_ROWS = 4096
_STALE = 86_400.0  # seconds after which a temporary file is nobody's
_OPEN_SHARDS = 256  # mapped at once: each takes a file descriptor

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

Rows = npt.NDArray[np.float32]
DTYPES = ("float16", "float32")


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """All that decides the numbers in a cache, but for the type in which they are kept.

    Attributes:
        spec: of the features.
        images: digest of the images' keys and contents, in order.
        image_count: how many images.
        views: of each image.
        size: side of a view in pixels.
        min_crop: smallest area of a view, as a share of the image's largest square.
        seed: of the crops.
        shape: (C, h, w) or (C,) of a view's features.
    """

    spec: Spec
    images: str
    image_count: int
    views: int
    size: int
    min_crop: float
    seed: int
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.image_count * self.views

    @property
    def shard_rows(self) -> int:
        """Rows of a shard: whole images."""
        fitting = min(_SHARD_ROWS, _SHARD_BYTES // (4 * math.prod(self.shape)))
        return max(1, fitting // self.views) * self.views

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def rows_of(self, shard: int) -> range:
        first = shard * self.shard_rows
        return range(first, min(first + self.shard_rows, self.rows))

    def row_bytes(self, dtype: str) -> int:
        return math.prod(self.shape) * np.dtype(dtype).itemsize

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"spec": self.spec.to_dict(), "shape": list(self.shape)}

    def digest(self) -> str:
        """Names the cache's folder among others."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


class CacheFolder:
    """A cache's files, complete or not.

    Args:
        path: the folder, made if it is not there.
        settings: what it should hold.

    Attributes:
        dtype: of the numbers on disk; ``None`` until that is decided.

    Raises:
        ValueError: it holds features of other settings; says which differ.
        FileFormatError: its manifest is damaged.
    """

    def __init__(self, path: Path, settings: CacheSettings) -> None:
        self.path, self.settings = path, settings
        self.dtype: str | None = None
        path.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        manifest = path / _MANIFEST
        if manifest.exists():
            self.dtype = self._checked(manifest)
        else:
            self._write_manifest()
        self._open = functools.lru_cache(_OPEN_SHARDS)(self._map)

    def decide(self, dtype: str) -> None:
        """The type of all numbers. Shards of another are removed."""
        if self.dtype is not None:
            for shard in range(self.settings.shards):
                self.remove(shard)
        self.dtype = dtype
        self._write_manifest()

    def state(self, shard: int) -> str:
        """``"whole"``, ``"absent"``, or what is wrong with it."""
        path, note = self._paths(shard)
        if not path.exists() or not note.exists():
            return "absent"
        try:
            told = json.loads(note.read_bytes())["sha256"]
            with open(path, "rb") as file:
                found = _sha256(file)
            if found != told:
                return "its checksum does not match its contents"
            self._map(shard)
        except (OSError, ValueError, KeyError, TypeError) as error:
            return str(error)
        return "whole"

    def write(self, shard: int, rows: Rows) -> None:
        """A whole shard, atomically."""
        assert self.dtype is not None and len(rows) == len(self.settings.rows_of(shard))
        path, note = self._paths(shard)
        with atomic_write(path) as file:
            np.lib.format.write_array(file, rows.astype(self.dtype), allow_pickle=False)
            file.seek(0)
            digest = _sha256(file)
        with atomic_write(note) as file:
            file.write(json.dumps({"sha256": digest}).encode())

    def remove(self, shard: int) -> None:
        for path in reversed(self._paths(shard)):
            path.unlink(missing_ok=True)

    def row(self, index: int) -> Rows:
        """The features of a view, float32, in memory of their own."""
        shard, place = divmod(index, self.settings.shard_rows)
        return self._open(shard)[place].astype(np.float32)

    def _map(self, shard: int) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self._paths(shard)[0], mmap_mode="r", allow_pickle=False)
        wanted = (len(self.settings.rows_of(shard)), *self.settings.shape)
        if array.shape != wanted or array.dtype.name != self.dtype:
            raise ValueError(f"it holds {array.dtype.name} {array.shape}, not {self.dtype} {wanted}")
        return array

    def _paths(self, shard: int) -> tuple[Path, Path]:
        return self.path / f"shard-{shard:05d}.npy", self.path / f"shard-{shard:05d}.json"

    def _write_manifest(self) -> None:
        fields = {"format": _FORMAT, "format_version": _FORMAT_VERSION, "dtype": self.dtype, **self.settings.to_dict()}
        with atomic_write(self.path / _MANIFEST) as file:
            file.write(json.dumps(fields, indent=1).encode())

    def _checked(self, path: Path) -> str | None:
        """The type of the numbers, by the manifest of a cache with these settings."""
        fields = atomic.read_manifest(path, _FORMAT, _FORMAT_VERSION, "a feature cache")
        ours = self.settings.to_dict()
        if differing := [
            f"{name}: {fields.get(name)!r} != {value!r}" for name, value in ours.items() if fields.get(name) != value
        ]:
            raise ValueError(
                f"{self.path} is a cache of other features (there != wanted): {'; '.join(differing)}. "
                "Remove it, or give another cache_folder"
            )
        dtype = fields.get("dtype")
        if dtype is not None and dtype not in DTYPES:
            raise FileFormatError(path, f"names the type {dtype!r}; {' or '.join(DTYPES)} are right")
        return dtype


@contextlib.contextmanager
def alone_in(folder: Path, wait: Callable[[float], None]) -> Iterator[None]:
    """Holds the folder, made if it is not there, against other processes and threads that do the same.

    A kill lets go of it. Where the system or the disk has no locks, nobody waits.

    Args:
        folder: the one to hold.
        wait: called with the seconds waited so far, again and again, while another holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(folder / _LOCK, "wb") as file:
        begin = time.monotonic()
        waited = 0.0
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait(waited)
                waited = time.monotonic() - begin
            except OSError:  # no locks on this disk
                break
            else:
                break
        yield


def _sweep(folder: Path) -> None:
    """Removes what kills left half written, but not what another run may be writing."""
    for path in folder.glob(".preimage-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 22):
        digest.update(block)
    return digest.hexdigest()
