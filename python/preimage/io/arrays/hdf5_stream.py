"""Write HDF5 files through a stream that turns a full disk into an error instead of a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO


class OutputStream:
    """File object for h5py that keeps write errors for `check`, because HDF5 crashes if closing a file fails."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(lambda: self._stream.seek(offset, whence), offset)

    def tell(self) -> int:
        return self._try(self._stream.tell, 0)

    def write(self, data: Any) -> int:
        return self._try(lambda: self._stream.write(data), len(data))

    def truncate(self, size: int) -> int:
        return self._try(lambda: self._stream.truncate(size), size)

    def flush(self) -> int:
        return self._try(lambda: self._stream.flush() or 0, 0)

    def read(self, count: int) -> bytes:
        done = bytearray(count)
        self._try(lambda: self._fill(done), 0)
        return bytes(done)

    def _fill(self, done: bytearray) -> int:
        data = self._stream.read(len(done))
        done[: len(data)] = data
        return len(data)

    def _try(self, action: Callable[[], int], otherwise: int) -> int:
        if self._error is None:
            try:
                return action()
            except OSError as error:
                self._error = error
        return otherwise
