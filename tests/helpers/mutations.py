"""Damage the bytes of files. MUTATIONS=2000 tests more variants."""

import os

import numpy as np

from preimage.io import FeatureRecord
from preimage.spec import Spec

MUTATIONS = int(os.environ.get("MUTATIONS", "300"))
OWN_MUTATIONS = int(os.environ.get("MUTATIONS", "60"))  # of the files that the package writes for itself
SPEC = Spec("hog", "v", 31, 8, {"cell_size": 8})
STACK = np.random.default_rng(17).standard_normal((3, 31, 2, 3)).astype(np.float32)
RECORDS = [FeatureRecord(f"a/{i}", features, (9, 9), (16, 24)) for i, features in enumerate(STACK)]


def mutated(seed, number):
    """Return the bytes of a file with a few changed, removed or repeated, more often near its start; some truncated."""
    rng = np.random.default_rng(number)
    data = bytearray(seed)
    for _ in range(rng.integers(1, 4)):
        position = rng.integers(len(data)) if number % 2 else int(len(data) * rng.random() ** 3)
        other = data[rng.integers(len(data))]  # in a text, another character
        flipped = data[position] ^ (1 << int(rng.integers(8)))
        data[position] = rng.choice([0, 1, 255, int(rng.integers(256)), flipped, other, other])
    if number % 11 == 0:
        start, length = rng.integers(len(data)), int(rng.integers(1, 9))
        data[start : start + length] = data[start : start + length] * int(rng.choice([0, 2]))
    return data[: rng.integers(len(data))] if number % 7 == 0 else data
