"""Provide the work that is interrupted by `faults`: everything in the package that writes more than one file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from cache_runs import builder, toy_config
from own_files import checkpoint_contents
from preimage import training
from preimage.inverters import Inverter, SingleStreamConfig
from preimage.io.arrays import is_array_file, read_array_file
from preimage.io.checksum import CHECKSUM
from preimage.io.keypoints import KeypointRecord, read_keypoints, write_keypoints
from preimage.keypoints import Keypoints
from preimage.pipelines import extract_batches
from preimage.pipelines.convert import convert
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.representations import Representation, create_representation
from preimage.spec import Spec
from preimage.store import FeatureStore, merge, read_index, stored_keys
from preimage.training import checkpoint
from toys import introduce

_DIFFERING = ("seconds", "waited", "step_seconds", CHECKSUM)  # fields: times, and checksums of files that contain them


class Job:
    """Work that writes below a folder, and can be repeated after it was interrupted.

    Attributes:
        images: Folder of photographs.
        inputs: Folder of what `prepare` has written.
        output: File or folder that the work writes.
    """

    name = "output"

    def __init__(self, images: Path, inputs: Path, folder: Path) -> None:
        self.images, self.inputs, self.output = images, inputs, folder / self.name

    def prepare(self) -> None:
        """Write the inputs, once."""

    def earlier(self) -> None:
        """Write an earlier output, before each trial."""

    def run(self) -> None:
        """Do the work."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise an error if the output is neither absent, nor complete, nor unfinished in a way that is noticed."""
        raise NotImplementedError

    def _extract(self, output: Path, **options: Any) -> None:
        extract_batches.shard_length = lambda image_bytes: 4
        extract(create_representation("hog"), self.images, output, size=32, batch_size=2, **options)

    def _tiny_inverter(self, seed: int) -> Inverter:
        torch.manual_seed(seed)
        return Inverter(
            create_representation("hog").spec, SingleStreamConfig(layers=("c3/1 8", "up 8", "up 8", "up 3"))
        )


def check_store(store: Path) -> None:
    """Check that all listed shards of a store can be read, and the store itself if it is complete."""
    if (store / "index.json").exists():
        index = read_index(store)
        for entry in index.shards:
            assert len(stored_keys(store, entry)) == entry.images <= len(index.positions(entry.number))
        if index.complete:
            FeatureStore(store).verify()


class Extraction(Job):
    """Extraction to a store, by one of the representations, or by a convolution, which torch computes in batches."""

    def __init__(self, images: Path, inputs: Path, folder: Path, representation: str = "hog") -> None:
        super().__init__(images, inputs, folder)
        self._representation = representation

    def run(self) -> None:
        extract_batches.shard_length = lambda image_bytes: 4
        name = self._representation
        representation = _Convolution() if name == "convolution" else create_representation(name)
        extract(representation, self.images, self.output, size=64, batch_size=2)

    def check(self) -> None:
        check_store(self.output)


class _Convolution(Representation):
    spec = Spec("convolution", "test", channels=8, stride=8)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        weights = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        return torch.nn.functional.conv2d(images.float() / 255, weights, stride=8)

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        return height // 8, width // 8

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return height * 8, width * 8


class FileExtraction(Job):
    """Extraction to a single file, which replaces an earlier one."""

    def __init__(self, images: Path, inputs: Path, folder: Path, suffix: str) -> None:
        self.name = f"output{suffix}"
        super().__init__(images, inputs, folder)
        self._old = inputs / self.name

    def prepare(self) -> None:
        self._extract(self._old, dtype="float16" if self._old.suffix != ".mat" else "float32")

    def earlier(self) -> None:
        shutil.copyfile(self._old, self.output)

    def run(self) -> None:
        self._extract(self.output)

    def check(self) -> None:
        features = (
            read_array_file(self.output, spec=create_representation("hog").spec)
            if is_array_file(self.output)
            else FeatureStore(self.output)
        )
        assert len(list(features.records())) == 20
        check_store(self.output.with_name(self.output.name + ".partial"))


class Conversion(Job):
    """Conversion of a file to a store."""

    def prepare(self) -> None:
        self._extract(self.inputs / "features.safetensors")

    def run(self) -> None:
        if not (self.output / "index.json").exists() or not read_index(self.output).complete:
            convert(self.inputs / "features.safetensors", self.output)

    def check(self) -> None:
        check_store(self.output)


class Merge(Job):
    """Merging of two stores, by links or copies."""

    def __init__(self, images: Path, inputs: Path, folder: Path, links: bool = True) -> None:
        super().__init__(images, inputs, folder)
        self._links = links

    def prepare(self) -> None:
        for part in range(2):
            self._extract(self.inputs / str(part), shard=(part, 2))

    def run(self) -> None:
        if not self._links:
            os.link = _no_links  # type: ignore[assignment]
        if not (self.output / "index.json").exists():
            merge([self.inputs / "0", self.inputs / "1"], self.output)

    def check(self) -> None:
        check_store(self.output)
        for part in range(2):
            FeatureStore(self.inputs / str(part)).verify()


def _no_links(source: object, target: object) -> None:
    raise OSError(95, "Operation not supported")


class Inversion(Job):
    """Inversion to PNG files in two folders."""

    def prepare(self) -> None:
        self._extract(self.inputs / "features")
        self._tiny_inverter(0).save(self.inputs / "inverter")

    def run(self) -> None:
        invert(self.inputs / "features", self.output, inverter=self.inputs / "inverter", batch_size=5)

    def check(self) -> None:
        for path in self.output.rglob("*.png"):
            assert cv2.imread(str(path)) is not None


class Checkpoints(Job):
    """Checkpoints, each of which replaces the last."""

    def run(self) -> None:
        self.output.mkdir(exist_ok=True)
        for step in range(3):
            made = checkpoint_contents(step)
            tensors = made.tensors | {"weight": torch.full((50_000,), float(step))}
            checkpoint.write(self.output / checkpoint.CHECKPOINT, checkpoint.Snapshot(tensors, made.metadata))

    def check(self) -> None:
        path = self.output / checkpoint.CHECKPOINT
        if path.exists():
            step = checkpoint.read_header(path)[1].step
            assert bool((safetensors.torch.load_file(path)["weight"] == step).all())


class InverterSave(Job):
    """An inverter that replaces another one in its folder."""

    def prepare(self) -> None:
        self._tiny_inverter(0).save(self.inputs / "old")

    def earlier(self) -> None:
        shutil.copytree(self.inputs / "old", self.output)

    def run(self) -> None:
        self._tiny_inverter(1).save(self.output)

    def check(self) -> None:
        found = Inverter.load(self.output).state_dict()
        others = [self._tiny_inverter(seed).state_dict() for seed in range(2)]
        assert any(all(torch.equal(found[name], other[name]) for name in found) for other in others)


class KeypointFile(Job):
    """A file of keypoints that replaces another."""

    name = "keypoints.npz"

    def earlier(self) -> None:
        self._write(3)

    def run(self) -> None:
        self._write(4)

    def _write(self, images: int) -> None:
        values, descriptors = np.arange(1, 6, dtype=np.float32), np.full((5, 128), 128**-0.5, np.float32)
        found = Keypoints(values, values, values, values, values, descriptors, np.array([0, 5]))
        write_keypoints(self.output, [KeypointRecord(f"image-{index}", found, (32, 32)) for index in range(images)])

    def check(self) -> None:
        assert len(read_keypoints(self.output)) in (3, 4)


class _Toys(Job):
    def config(self) -> training.TrainConfig:
        introduce(pytest.MonkeyPatch())
        settings = {"steps": 8, "save_every": 3, "eval_every": 4, "workers": 1, "cache_crops": 2}
        return toy_config(self.images, self.output, **settings)


class Training(_Toys):
    """Training run with a feature cache, checkpoints and validations."""

    def run(self) -> None:
        training.run(self.config(), resume=True)

    def check(self) -> None:
        path = self.output / checkpoint.CHECKPOINT
        if path.exists():
            checkpoint.read_header(path)
            safetensors.torch.load_file(path)
        if (self.output / "config.json").exists():
            Inverter.load(self.output)
        for store in self.output.glob("cache/*"):
            check_store(store)


class Cache(_Toys):
    """Feature cache of training images."""

    def run(self) -> None:
        _, made = builder(self.config(), self.output)
        made.build()

    def check(self) -> None:
        for store in self.output.glob("*"):
            check_store(store)


JOBS: dict[str, Callable[[Path, Path, Path], Job]] = {
    "extract": Extraction,
    **{
        f"extract-{name}": lambda *folders, name=name: Extraction(*folders, representation=name)
        for name in ("lbp", "dense-sift", "sift", "convolution")
    },
    **{
        f"extract{suffix}": lambda *folders, suffix=suffix: FileExtraction(*folders, suffix=suffix)
        for suffix in (".safetensors", ".npy", ".npz", ".h5", ".mat")
    },
    "convert": Conversion,
    "merge": Merge,
    "merge-copies": lambda *folders: Merge(*folders, links=False),
    "invert": Inversion,
    "checkpoint": Checkpoints,
    "inverter": InverterSave,
    "keypoints": KeypointFile,
    "train": Training,
    "cache": Cache,
}


def contents(folder: Path) -> dict[str, object]:
    """Return the contents of all files below a folder except locks, without what depends on the clock."""
    return {
        path.relative_to(folder).as_posix(): _without_times(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _without_times(path: Path) -> object:
    if path.name == checkpoint.CHECKPOINT:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
            metadata.pop(CHECKSUM, None)
            tensors = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
        return tensors, {name: _dropped(text) if text[0] == "{" else text for name, text in metadata.items()}
    if path.suffix in (".json", ".jsonl"):
        return [_dropped(line) for line in path.read_text().splitlines()]
    return path.read_bytes()


def _dropped(line: str) -> object:
    try:
        value = json.loads(line)
    except ValueError:  # one line of several
        return None if any(f'"{name}"' in line for name in _DIFFERING) else line
    return {name: one for name, one in value.items() if name not in _DIFFERING} if isinstance(value, dict) else value
