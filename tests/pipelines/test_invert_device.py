"""Test inversion on a device, with queues that are threads in place of CUDA streams, and in another precision."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from extractions import contents
from preimage.inverters import Inverter
from preimage.io import FeatureRecord, decode_file
from preimage.pipelines.device_pipeline import DevicePipeline
from preimage.pipelines.invert import invert
from preimage.representations import create_representation
from preimage.store import write_features
from thread_queue import threaded_pipeline


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Return features of thirty images of two sizes, in float16."""
    random = np.random.default_rng(0)
    sides = [8 if number % 3 else 6 for number in range(30)]
    records = (
        FeatureRecord(f"{i:02}", random.random((31, 8, side)).astype(np.float32), (64, 8 * side), (64, 8 * side))
        for i, side in enumerate(sides)
    )
    write_features(tmp_path / "f", create_representation("hog").spec, records, dtype="float16")
    return tmp_path / "f"


def levels_apart(one: Path, other: Path) -> float:
    """Return the largest mean difference of two images of one name, in levels of 255."""
    pairs = [(decode_file(path).astype(int), decode_file(other / path.name)) for path in sorted(one.iterdir())]
    return max(float(np.abs(image - again).mean()) for image, again in pairs)


def test_images_are_those_of_the_cpu(
    features: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert(features, tmp_path / "cpu", inverter=tiny, batch_size=4)
    with threaded_pipeline() as pipeline:
        monkeypatch.setattr(DevicePipeline, "of", lambda device: pipeline)
        assert invert(features, tmp_path / "device", inverter=tiny, batch_size=4).images == 30
    assert contents(tmp_path / "device") == contents(tmp_path / "cpu")


def test_error_on_the_device_keeps_the_images_before_it(
    features: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Inverter.forward, 0

    def failing(self: Inverter, values: torch.Tensor, **options: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("out of memory")
        return forward(self, values, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Inverter, "forward", failing)
    with threaded_pipeline() as pipeline:
        monkeypatch.setattr(DevicePipeline, "of", lambda device: pipeline)
        with pytest.raises(RuntimeError, match="out of memory"):
            invert(features, tmp_path / "out", inverter=tiny, batch_size=4)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(written) <= 3 * 4
    assert all(decode_file(tmp_path / "out" / name).shape[0] == 64 for name in written), "no partial file"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write")]


def test_precision(features: Path, tiny: Path, tmp_path: Path) -> None:
    invert(features, tmp_path / "float32", inverter=tiny, device="cpu")
    invert(features, tmp_path / "bfloat16", inverter=tiny, device="cpu", precision="bfloat16")
    assert 0 < levels_apart(tmp_path / "float32", tmp_path / "bfloat16") < 2
    with pytest.raises(ValueError, match="precision must be auto, float32 or bfloat16, got 'half'"):
        invert(features, tmp_path / "half", inverter=tiny, precision="half")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_agrees_with_the_cpu(features: Path, tiny: Path, tmp_path: Path, precision: str) -> None:
    invert(features, tmp_path / "cpu", inverter=tiny, device="cpu")
    invert(features, tmp_path / "cuda", inverter=tiny, device="cuda", batch_size=4, precision=precision)
    assert levels_apart(tmp_path / "cpu", tmp_path / "cuda") < (0.5 if precision == "float32" else 2)
