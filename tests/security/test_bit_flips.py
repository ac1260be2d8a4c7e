"""Flip single bits in every file that the package writes for itself: each is found. BIT_FLIPS=200 flips more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from own_files import own_files
from preimage.errors import FileFormatError

BIT_FLIPS = int(os.environ.get("BIT_FLIPS", "20"))
FILES = {name: kind for name, kind in own_files().items() if kind.has_checksum}


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    """Bits are drawn from the whole file, and as many from its first kilobyte, the header and its padding."""
    path = FILES[name].write(tmp_path)
    FILES[name].read(tmp_path)
    data = path.read_bytes()
    random = np.random.default_rng(len(data))
    positions = [*random.integers(8 * len(data), size=BIT_FLIPS), *random.integers(8192, size=BIT_FLIPS)]
    for position in map(int, positions):
        damaged = bytearray(data)
        damaged[position // 8 % len(data)] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=path.name):
            FILES[name].read(tmp_path)
