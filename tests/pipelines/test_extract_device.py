"""Test extraction on a device, with queues that are threads in place of CUDA streams: the same stores as on the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from extractions import Stop, contents, stop_after
from preimage.io import ImageSource
from preimage.io.shards import ShardWriter
from preimage.pipelines import extract as extract_module
from preimage.pipelines import extract_batches, extract_device, image_loading
from preimage.pipelines.device_pipeline import DevicePipeline
from preimage.pipelines.extract import extract, extract_with_summary
from preimage.representations import Representation, create_representation
from preimage.spec import Spec
from preimage.store import FeatureStore, read_index
from thread_queue import threaded_pipeline
from tolerances import CUDA

HOG = create_representation("hog")


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Extract on a device: the CPU with three queues that are threads."""
    with contextlib.ExitStack() as pipelines:
        monkeypatch.setattr(DevicePipeline, "of", lambda device: pipelines.enter_context(threaded_pipeline()))
        monkeypatch.setattr(extract_module, "device_for_extraction", lambda *_: torch.device("cpu"))
        yield
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("decode", "write"))], "all threads have ended"


@pytest.fixture
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_batches, "shard_length", lambda image_bytes: 3)


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the size of each computed batch is appended."""
    sizes: list[int] = []
    features = extract_device._features

    def noted(extraction: extract_batches.Extraction, images: torch.Tensor) -> object:
        sizes.append(len(images))
        return features(extraction, images)

    monkeypatch.setattr(extract_device, "_features", noted)
    return sizes


@dataclasses.dataclass(frozen=True)
class Scaled(Representation):
    """Representation by vectors: the mean color times a factor, computed by torch only."""

    name: ClassVar[str] = "scaled"
    factor: float = 1.0

    @property
    def spec(self) -> Spec:
        return Spec("scaled", "test", channels=3, stride=None, parameters={"factor": self.factor})

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * images.float().mean(dim=(2, 3))

    def feature_size(self, height: int, width: int) -> None:
        return None

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        raise NotImplementedError


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["hog", "lbp", "dense-sift"])
@pytest.mark.parametrize("folder", ["photo_folder", "mixed"])
def test_stores_are_those_of_the_cpu(
    name: str, dtype: str, folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    images, representation = request.getfixturevalue(folder), create_representation(name)
    extract(representation, images, tmp_path / "cpu", dtype=dtype)
    request.getfixturevalue("on_device")
    for batch_size in (None, 3):
        output = tmp_path / f"device-{batch_size}"
        extract(representation, images, output, dtype=dtype, batch_size=batch_size)
        assert contents(output) == contents(tmp_path / "cpu")


@pytest.mark.usefixtures("short_shards")
@pytest.mark.parametrize("stop_at", [1, 4, 9])
def test_interrupted_extraction_resumes(
    photo_folder: Path, tmp_path: Path, stop_at: int, request: pytest.FixtureRequest
) -> None:
    extract(HOG, photo_folder, tmp_path / "cpu", size=64)
    request.getfixturevalue("on_device")
    with pytest.raises(Stop):
        extract(HOG, photo_folder, tmp_path / "f", size=64, batch_size=2, progress=stop_after(stop_at))
    done = sum(entry.images for entry in read_index(tmp_path / "f").shards)
    assert stop_at // 3 * 3 <= done < 20
    assert extract_with_summary(HOG, photo_folder, tmp_path / "f", size=64).resumed == done
    assert contents(tmp_path / "f") == contents(tmp_path / "cpu")


@pytest.mark.usefixtures("on_device", "short_shards")
def test_bad_images_are_named_or_skipped(mixed: Path, tmp_path: Path) -> None:
    (mixed / "broken.png").write_bytes((mixed / "coffee.png").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"broken\.png.*--skip-bad"):
        extract(HOG, mixed, tmp_path / "f")
    summary = extract_with_summary(HOG, mixed, tmp_path / "f", skip_bad=True)
    assert (summary.images, [Path(name).name for name, _ in summary.skipped]) == (5, ["broken.png"])


@pytest.mark.usefixtures("on_device", "short_shards")
def test_features_that_do_not_fit_name_the_image(photo_folder: Path, tmp_path: Path) -> None:
    means = extract(Scaled(), photo_folder, tmp_path / "means").stack()
    largest = means.max(axis=1)
    first = int(np.argmax(largest > np.sort(largest)[9]))
    factor = 65520 / float(np.sort(largest)[9]) * 0.9999
    with pytest.raises(ValueError, match=r"features up to \S+ do not fit in float16") as raised:
        extract(Scaled(factor), photo_folder, tmp_path / "f", dtype="float16")
    assert list(FeatureStore(tmp_path / "means"))[first] in str(raised.value)
    assert f"{factor * largest[first]:g}" in str(raised.value)
    done = sum(entry.images for entry in read_index(tmp_path / "f").shards)
    assert done == first // 3 * 3, "the shards before it are complete"


@pytest.mark.usefixtures("on_device")
def test_nonfinite_features_are_counted(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"60 feature values of 20 images are NaN or infinite .*--allow-nonfinite"):
        extract(Scaled(float("inf")), photo_folder, tmp_path / "f", dtype="float16")


@pytest.mark.usefixtures("on_device")
def test_batches_of_descriptors_are_bounded_by_bytes(
    photo_folder: Path, tmp_path: Path, batch_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(HOG, photo_folder, tmp_path / "all", size=64)
    assert batch_sizes == [20]
    batch_sizes.clear()
    monkeypatch.setattr(extract_device, "_BATCH_BYTES", 6 * (3 * 64 * 64 + 31 * 8 * 8 * 2))
    extract(HOG, photo_folder, tmp_path / "f", size=64, dtype="float16")
    assert batch_sizes == [6, 6, 6, 2]
    batch_sizes.clear()
    monkeypatch.setattr(extract_device, "_BATCH_BYTES", 1)
    extract(HOG, photo_folder, tmp_path / "g", size=64, batch_size=4)
    assert batch_sizes == [1] * 20
    batch_sizes.clear()
    extract(Scaled(), photo_folder, tmp_path / "h", size=64)
    assert batch_sizes == [16, 4], "networks"


@pytest.mark.usefixtures("on_device")
def test_few_images_are_in_memory(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding, the device and writing run at most a fixed number of images ahead of each other."""
    monkeypatch.setattr(extract_device, "_BATCH_BYTES", 1)
    monkeypatch.setattr(image_loading, "AHEAD_BYTES", 1)
    lock, alive, most = threading.Lock(), 0, 0
    read, append = image_loading.read, ShardWriter.append

    def count(change: int) -> None:
        nonlocal alive, most
        with lock:
            alive += change
            most = max(most, alive)

    def begun(source: ImageSource, *arguments: Any) -> image_loading.Loaded:
        count(1)
        return read(source, *arguments)

    def written(self: ShardWriter, keys: list[str], *arguments: Any) -> None:
        append(self, keys, *arguments)
        count(-len(keys))

    monkeypatch.setattr(image_loading, "read", begun)
    monkeypatch.setattr(ShardWriter, "append", written)
    extract(HOG, photo_folder, tmp_path / "f", size=64)
    decoders, on_device, queued = image_loading.cpu_threads(), 3, 4
    assert alive == 0
    assert most <= decoders + on_device + queued + 2, "and one that is yielded, and one that is written"


@pytest.mark.usefixtures("on_device", "short_shards")
@pytest.mark.parametrize("stage", ["decoder", "compute", "writer"])
def test_error_of_a_stage_ends_the_extraction(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    target, name = {
        "decoder": (image_loading, "read"),
        "compute": (extract_device, "_features"),
        "writer": (ShardWriter, "append"),
    }[stage]
    real, calls = getattr(target, name), 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise OSError(errno.ENOSPC, "the disk is full") if stage == "writer" else RuntimeError("out of memory")
        return real(*arguments)

    monkeypatch.setattr(target, name, failing)
    with pytest.raises((RuntimeError, OSError), match=r"out of memory|disk is full"):
        extract(HOG, photo_folder, tmp_path / "f", size=64, batch_size=1)
    index = read_index(tmp_path / "f")
    assert [entry.number for entry in index.shards] == [0, 1], "six images were written before"
    shards = sorted(path.name for path in (tmp_path / "f").iterdir() if path.name.startswith((".preimage", "shard")))
    assert shards == ["shard-00000.safetensors", "shard-00001.safetensors"], "nothing incomplete is left"
    monkeypatch.setattr(target, name, real)
    assert extract_with_summary(HOG, photo_folder, tmp_path / "f", size=64).resumed == 6


def test_sift_stays_on_the_cpu(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preimage.inverters.resolve_device", torch.device)
    sift = create_representation("sift")
    summary = extract_with_summary(sift, photo_folder, tmp_path / "f", size=64, device="cuda")
    assert [note for note in summary.notes if "sift" in note and "on the CPU, not on cuda" in note] == [*summary.notes]
    extract(sift, photo_folder, tmp_path / "cpu", size=64, device="cpu")
    assert contents(tmp_path / "f") == contents(tmp_path / "cpu")
    assert extract_with_summary(sift, photo_folder, tmp_path / "auto", size=64).notes == ()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["hog", "lbp", "dense-sift"])
@pytest.mark.parametrize("folder", ["photo_folder", "mixed"])
def test_cuda_agrees_with_the_cpu(
    name: str, dtype: str, folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    representation, images = create_representation(name), request.getfixturevalue(folder)
    here = extract(representation, images, tmp_path / "here", dtype=dtype, device="cpu")
    there = extract(representation, images, tmp_path / "there", dtype=dtype, device="cuda")
    rounding = 2**-11 if dtype == "float16" else 0.0  # half a unit in the last place on each side, of values below 1
    for (key, expected), (other, features) in zip(here.items(), there.items(), strict=True):
        assert key == other
        difference = np.abs(features.astype(np.float32) - expected.astype(np.float32))
        assert difference.max() <= CUDA * max(1, float(np.abs(expected).max())) + 2 * rounding * np.abs(expected).max()
