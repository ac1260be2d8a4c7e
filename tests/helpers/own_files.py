"""Write every kind of file that the package writes for itself, read it, and change it with a new checksum."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch import nn

from mutations import RECORDS, SPEC
from paths import GOLDEN
from preimage.baselines import PairedDictionary, PatchDatabase
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, UShapedConfig
from preimage.io.checksum import ZEROS, with_checksum
from preimage.representations import create_representation
from preimage.store import FeatureStore, write_features
from preimage.training import TrainConfig, cache_decision, checkpoint
from preimage.training.checkpoint import Progress
from preimage.training.images import BadImage
from preimage.training.resuming import read_earlier
from preimage.training.split import ImageList

HOG = create_representation("hog").spec
CONFIG = TrainConfig(representation="hog", images=("photos",), output="run", preset="compact", size=64)


@dataclass(frozen=True)
class OwnFile:
    """A kind of file that the package writes.

    Attributes:
        write: Writes one, with all that belongs to it, into a folder, and returns its path.
        read: Opens and verifies what is in the folder. Damage raises ``FileFormatError``.
        has_checksum: Whether every damage must be found; else valid values may be read.
        seal: Corrects the checksum of a changed file, so that its reader finds what an attacker wants it to find;
            ``None`` where another file contains a second checksum.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    has_checksum: bool = True
    seal: Callable[[Path], object] | None = None


def write_store(folder: Path, file: str, dtype: str = "float32") -> Path:
    write_features(folder / "store", SPEC, RECORDS, dtype=dtype)
    return folder / "store" / file


def write_file(folder: Path, dtype: str) -> Path:
    path = folder / "store"
    write_features(folder / "one.safetensors", SPEC, RECORDS, dtype=dtype)
    (folder / "one.safetensors").rename(path)
    return path


def write_first_version(folder: Path) -> Path:
    (folder / "store").write_bytes((GOLDEN / "features_v1.safetensors").read_bytes())
    return folder / "store"


def read_store(folder: Path) -> None:
    store = FeatureStore(folder / "store")
    store.verify()
    for record in store.records():
        assert record.features.shape[0] == store.spec.channels and record.features.dtype == store.dtype


def write_inverter(folder: Path, file: str, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    network = UShapedConfig(widths=(16, 24), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))
    return Inverter(HOG, network, {"steps": 3}).save(folder / "inverter", dtype=dtype) / file


def read_inverter(folder: Path) -> None:
    Inverter.load(folder / "inverter")


def change_config(folder: Path, changes: Mapping[str, Any]) -> Path:
    """Change fields of an inverter's config, with a correct checksum if it has one; ``...`` removes a field."""
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | {"sha256": ZEROS} | changes
    text = json.dumps({name: value for name, value in fields.items() if value is not ...})
    path.write_bytes(with_checksum(text.encode()) if fields["sha256"] == ZEROS else text.encode())
    return path


def reseal(path: Path) -> None:
    """Correct the checksum in a JSON or safetensors file after a change, if the change has left one."""
    data = bytearray(path.read_bytes())
    if stored := re.search(rb'"sha256": ?"([0-9a-f]{64})"', data):
        data[stored.start(1) : stored.end(1)] = ZEROS.encode()
        data[stored.start(1) : stored.end(1)] = hashlib.sha256(data).hexdigest().encode()
        path.write_bytes(data)


def seal_shard(path: Path) -> None:
    """Correct the digests in a file of features after a change."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = data[:end], data[end:]
    # Where the header divides the body into features and columns.
    match = re.search(rb'"original_sizes":\{"dtype":"I32","shape":\[[^]]*\],"data_offsets":\[(\d{1,9}),', header)
    middle = int(match[1]) if match else 0
    for name, part in (("features_sha256", body[:middle]), ("columns_sha256", body[middle:])):
        digest = f'"{name}":"{hashlib.sha256(part).hexdigest()}"'.encode()
        header = re.sub(rf'"{name}":"[0-9a-f]{{64}}"'.encode(), digest, header, count=1)
    if stored := re.search(rb'"sha256":"([0-9a-f]{64})"', header):
        blank = header[: stored.start(1)] + ZEROS.encode() + header[stored.end(1) :]
        header = header[: stored.start(1)] + hashlib.sha256(blank[8:]).hexdigest().encode() + header[stored.end(1) :]
    path.write_bytes(header + body)


def seal_weights(path: Path) -> None:
    """Correct the digest of the weights in an inverter's config, after a change."""
    change_config(path.parent, {"weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def checkpoint_contents(step: int = 3) -> checkpoint.Snapshot:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    images = ImageList({"a": "1", "b": "2"}, {"c": "3"}, (BadImage("d", "bad", False),))
    return checkpoint.snapshot(
        CONFIG.to_json(), Progress(step=step, error=0.5), HOG, {"model": model}, [optimizer], images
    )


def write_checkpoint(folder: Path) -> Path:
    checkpoint.write(folder / "checkpoint", checkpoint_contents())
    return folder / "checkpoint"


def write_old_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of the last version without a checksum."""
    tensors, metadata = checkpoint_contents()
    safetensors.torch.save_file(tensors, folder / "checkpoint", metadata | {"format_version": "4"})
    return folder / "checkpoint"


def read_checkpoint(folder: Path) -> bool:
    path = folder / "checkpoint"
    try:
        earlier = read_earlier(path, CONFIG)
    except FileFormatError:
        raise
    except ValueError as error:  # forged settings
        assert "other settings" in str(error), error
        return False
    assert isinstance(earlier.progress.step, int) and earlier.progress.step >= 0
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    checkpoint.restore(path, {"model": model}, [optimizer])
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return True


def write_decision(folder: Path) -> Path:
    cache_decision._record(folder, cache_decision.Decision(4, "a reason", 0.5, 0.25, ("auto", 8)))
    return folder / "cache.json"


def read_decision(folder: Path) -> None:
    state: Any = SimpleNamespace(config=SimpleNamespace(cache="auto", cache_crops=8))
    decision = cache_decision._recorded(folder, state)
    assert decision is None or decision.crops >= 0


def write_dictionary(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    atoms = (torch.rand(shape, generator=generator) for shape in ((4, 31, 5, 5), (4, 40, 40)))
    return PairedDictionary(HOG, *atoms, level=0.5, contrast=1.0, penalty=0.1, device="cpu").save(folder / "learned")


def write_patches(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.randint(256, (5, 128), dtype=torch.uint8, generator=generator)
    patches = torch.randint(256, (5, 8, 8, 3), dtype=torch.uint8, generator=generator)
    spec = create_representation("sift").spec
    return PatchDatabase(spec, descriptors, patches, torch.full((3,), 0.5), 2, device="cpu").save(folder / "learned")


def own_files() -> dict[str, OwnFile]:
    """Return all kinds by name."""
    kinds = {
        "shard": OwnFile(lambda folder: write_store(folder, "shard-00000.safetensors"), read_store),
        "shard, float16": OwnFile(lambda folder: write_store(folder, "shard-00000.safetensors", "float16"), read_store),
        "index": OwnFile(lambda folder: write_store(folder, "index.json"), read_store, seal=reseal),
        "single file": OwnFile(lambda folder: write_file(folder, "float32"), read_store, seal=seal_shard),
        "single file, float16": OwnFile(lambda folder: write_file(folder, "float16"), read_store, seal=seal_shard),
        "single file, version 1": OwnFile(write_first_version, read_store, seal=reseal),
        "config of an inverter": OwnFile(lambda f: write_inverter(f, "config.json"), read_inverter, seal=reseal),
        "checkpoint": OwnFile(write_checkpoint, read_checkpoint, seal=reseal),
        "checkpoint, version 4": OwnFile(write_old_checkpoint, read_checkpoint, has_checksum=False),
        "decision about a cache": OwnFile(write_decision, read_decision, seal=reseal),
        "paired dictionary": OwnFile(
            write_dictionary, lambda folder: PairedDictionary.load(folder / "learned", device="cpu"), seal=reseal
        ),
        "patch database": OwnFile(
            write_patches, lambda folder: PatchDatabase.load(folder / "learned", device="cpu"), seal=reseal
        ),
    }
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
        name = f"weights of an inverter, {str(dtype).removeprefix('torch.')}"
        kinds[name] = OwnFile(
            lambda folder, dtype=dtype: write_inverter(folder, "model.safetensors", dtype),  # type: ignore[misc]
            read_inverter,
            seal=seal_weights if dtype in (torch.float32, torch.int8) else None,
        )
    return kinds


__all__ = ["OwnFile", "change_config", "own_files", "reseal"]
