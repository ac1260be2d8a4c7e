"""Targets: files of the package itself, with correct checksums, so that what is behind them is read."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

import torch

from fuzz.target import Target, folder, in_file, written
from mutations import RECORDS, SPEC
from preimage.baselines import _files
from preimage.inverters import Inverter, UShapedConfig
from preimage.inverters.pretrained import CONFIG
from preimage.io.store_index import INDEX, read_index
from preimage.store import FeatureStore, write_features
from preimage.training import checkpoint
from preimage.training.config import TrainConfig
from preimage.training.resuming import read_earlier
from preimage.training.split import ImageList

GOLDEN = Path(__file__).parents[1] / "golden"
DIGEST = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')
CONFIGURATION = TrainConfig(representation="hog", images=("photos",), output="run", steps=20)


def sealed(data: bytes, start: int, stop: int | None) -> bytes:
    """Return a file whose digest, of bytes `start` to `stop` with 64 zeros in its place, is correct."""
    match = DIGEST.search(data)
    if match is None:
        return data
    blank = data[: match.start(1)] + b"0" * 64 + data[match.end(1) :]
    return data[: match.start(1)] + hashlib.sha256(blank[start:stop]).hexdigest().encode() + data[match.end(1) :]


def sealed_shard(data: bytes) -> bytes:
    """Return a file of features, of either version, with correct digests."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = data[:end], data[end:]
    if b'"format_version":"1"' in header:
        return sealed(data, 0, None)
    for name, part in zip(("features_sha256", "columns_sha256"), divided(header, body), strict=True):
        digest = f'"{name}":"{hashlib.sha256(part).hexdigest()}"'.encode()
        header = re.sub(rf'"{name}":"[0-9a-f]{{64}}"'.encode(), digest, header, count=1)
    return sealed(header + body, 8, end)


def divided(header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return the features and the columns in the body of a shard, as its header divides them."""
    match = re.search(rb'"original_sizes":\{"dtype":"I32","shape":\[[^]]*\],"data_offsets":\[(\d{1,9}),', header)
    at = int(match[1]) if match else 0
    return body[:at], body[at:]


def read_store(path: Path) -> None:
    store = FeatureStore(path)
    store.verify()
    for record in store.records():
        assert record.features.shape[0] == store.spec.channels


def read_shard(data: bytes) -> None:
    in_file(read_store, ".safetensors")(sealed_shard(data))


def seed_index() -> list[bytes]:
    path = folder() / "store"
    write_features(path, SPEC, RECORDS)
    return [(path / INDEX).read_bytes()]


def read_sealed_index(data: bytes) -> None:
    path = folder() / INDEX
    path.write_bytes(sealed(data, 0, None))
    index = read_index(path.parent)
    repr(index.differences(index))


def inverter(number: int) -> Inverter:
    torch.manual_seed(number)
    return Inverter(SPEC, UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4)))


@functools.cache
def inverter_folder() -> Path:
    return inverter(0).save(folder() / "inverter")


def read_inverter(data: bytes) -> None:
    (inverter_folder() / CONFIG).write_bytes(data)
    Inverter.load(inverter_folder())


def seed_inverter() -> list[bytes]:
    return [(inverter(0).save(inverter_folder()) / CONFIG).read_bytes()]


def write_checkpoint(path: Path) -> None:
    images = ImageList({"a": "0", "b": "1"}, {"c": "2"})
    state = checkpoint.snapshot(
        CONFIGURATION.to_json(), checkpoint.Progress(step=3), SPEC, {"network": torch.nn.Linear(2, 2)}, [], images
    )
    checkpoint.write(path, state)


def read_checkpoint(path: Path) -> None:
    read_earlier(path, CONFIGURATION)
    checkpoint.restore(path, {"network": torch.nn.Linear(2, 2)}, [])


def write_dictionary(path: Path) -> None:
    _files.write(path, _files.DICTIONARY, SPEC, {"atoms": torch.zeros(2, 3)}, {"photographs": "5"})


TARGETS = {
    "shard": Target(
        read_shard,
        lambda: [
            *written([lambda path: write_features(path, SPEC, RECORDS)], ".safetensors")(),
            (GOLDEN / "features_v1.safetensors").read_bytes(),
        ],
    ),
    "store-index": Target(read_sealed_index, seed_index),
    "inverter-config": Target(read_inverter, seed_inverter),
    "checkpoint": Target(
        in_file(read_checkpoint, ".safetensors"), written([write_checkpoint], ".safetensors"), (ValueError,)
    ),
    "baseline": Target(
        in_file(lambda path: _files.read(path, _files.DICTIONARY, ["atoms"]), ".safetensors"),
        written([write_dictionary], ".safetensors"),
    ),
}
