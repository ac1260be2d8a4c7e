"""Damaged files: every reader gets many of them. MUTATIONS=2000 tries more."""

import os

import numpy as np

from preimage.errors import FileFormatError
from preimage.io import FeatureRecord
from preimage.io.arrays import read_foreign
from preimage.spec import Spec

MUTATIONS = int(os.environ.get("MUTATIONS", "300"))
SPEC = Spec("hog", "v", 31, 8, {"cell_size": 8})
STACK = np.random.default_rng(17).standard_normal((3, 31, 2, 3)).astype(np.float32)
RECORDS = [FeatureRecord(f"a/{i}", features, (9, 9), (16, 24)) for i, features in enumerate(STACK)]

# Damage may take away, or change, what a file tells of itself: then the caller is asked, or contradicted.
ASKED = (
    "plain arrays",
    "'matlab'",
    "!=",
    "turned",
)


def mutated(seed, number):
    """Bytes of a file, a few changed, more often near the beginning; some cut short."""
    rng = np.random.default_rng(number)
    data = bytearray(seed)
    for _ in range(rng.integers(1, 4)):
        position = rng.integers(len(data)) if number % 2 else int(len(data) * rng.random() ** 3)
        data[position] = rng.choice([0, 1, 255, int(rng.integers(256)), data[position] ^ (1 << int(rng.integers(8)))])
    return data[: rng.integers(len(data))] if number % 7 == 0 else data


def try_mutations(path, seeds):
    """Reads many damaged files through; gives how many were accepted."""
    accepted = 0
    for number in range(MUTATIONS):
        path.write_bytes(mutated(seeds[number % len(seeds)], number))
        try:
            file = read_foreign(path, SPEC, "matlab" if number % len(seeds) and path.suffix == ".mat" else None)
            assert all(features.shape[0] == 31 for features in file.values())
            accepted += 1
        except FileFormatError as error:
            assert str(path) in str(error)
        except ValueError as error:
            assert any(words in str(error) for words in ASKED), error
    return accepted
