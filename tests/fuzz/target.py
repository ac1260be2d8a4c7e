"""A function to fuzz: what it is given first, and what it may raise."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError

MAX_SECONDS = 2.0  # of the process's time, for one input
MAX_BYTES = 512 << 20  # of memory, for one input


@dataclass(frozen=True)
class Target:
    """A parser, or another function of bytes.

    Attributes:
        read: Function of the bytes; whatever it returns is accepted.
        seeds: Function that returns valid inputs, which `read` takes without an error.
        errors: Documented errors. All others, `AssertionError` included, are faults.
    """

    read: Callable[[bytes], Any]
    seeds: Callable[[], Iterable[bytes]]
    errors: tuple[type[Exception], ...] = (FileFormatError,)

    def __call__(self, data: bytes) -> bool:
        """Return whether an input is accepted; raise anything that is a fault."""
        begun = time.process_time()
        try:
            self.read(data)
            accepted = True
        except self.errors:
            accepted = False
        if (seconds := time.process_time() - begun) > MAX_SECONDS:
            raise TimeoutError(f"{seconds:.1f} seconds for {len(data)} bytes")
        return accepted


@functools.cache
def folder() -> Path:
    """Return a temporary folder of this process, in memory where the system has one."""
    memory = Path("/dev/shm")
    created = tempfile.mkdtemp(prefix="preimage-fuzz-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, created, ignore_errors=True)
    return Path(created)
