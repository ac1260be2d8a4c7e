"""Test the number of shards of a store that are mapped at once, and how often their features are hashed."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from preimage import store
from preimage.errors import FileFormatError
from preimage.io import shards
from preimage.io.feature_file import FeatureRecord
from preimage.spec import Spec

SPEC = Spec("mine", "user", channels=7, stride=None)


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store of 12 shards with one image each, of which three may be mapped at once."""
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    monkeypatch.setattr(store, "MAX_MAPPED", 3)
    records = (FeatureRecord(f"{i}", np.full(7, i, np.float32), (9, 9), (9, 9)) for i in range(12))
    store.write_features(tmp_path / "s", SPEC, records)
    return tmp_path / "s"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts file descriptors")
def test_file_descriptors_are_few(many: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    opened = store.FeatureStore(many)
    kept = opened["0"]
    for _ in range(2):
        assert [int(opened[position][0]) for position in range(12)] == list(range(12))
    opened.verify()
    assert len(os.listdir("/proc/self/fd")) <= before + 4, "three mapped shards, and the one of an array in use"
    assert int(kept[3]) == 0


def test_features_are_hashed_once(many: Path) -> None:
    opened = store.FeatureStore(many)
    with mock.patch.object(shards.hashlib, "sha256", wraps=shards.hashlib.sha256) as sha256:
        for _ in range(3):
            assert [int(opened[position][0]) for position in range(12)] == list(range(12))
        assert sha256.call_count == 12


def test_a_damaged_shard_is_hashed_once_until_it_changes(many: Path) -> None:
    path = many / "shard-00005.safetensors"
    sound = path.read_bytes()
    flipped = sound.replace(np.full(7, 5, np.float32).tobytes(), np.full(7, 6, np.float32).tobytes())
    assert flipped != sound
    path.write_bytes(flipped)
    opened = store.FeatureStore(many)
    with mock.patch.object(shards.hashlib, "sha256", wraps=shards.hashlib.sha256) as sha256:
        for _ in range(3):
            with pytest.raises(FileFormatError, match=r"shard-00005.*checksum.*features"):
                opened["5"]
        assert sha256.call_count == 1
    other = path.with_suffix(".new")
    other.write_bytes(sound)
    os.replace(other, path)
    assert int(opened["5"][0]) == 5
