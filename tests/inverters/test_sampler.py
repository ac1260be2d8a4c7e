"""Samples: several images from one set of features."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import photographs
from preimage.errors import FileFormatError
from preimage.inverters import (
    ArchitectureConfig,
    Inverter,
    OutputRegion,
    SingleStreamConfig,
    TwoStreamConfig,
    UShapedConfig,
)
from preimage.inverters.pretrained import pretrained_samplers
from preimage.inverters.sampler import Noise, SamplerConfig
from preimage.io.checksum import with_checksum
from preimage.representations import create_representation, representation_from_spec
from preimage.spec import Spec

_SMALL = SamplerConfig(vector=4, maps=2)
_HOG = create_representation("hog").spec
_U_SHAPED = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4), repeat_edges=1)
_TWO_STREAMS = TwoStreamConfig(("c5/2 6", "up 5"), ("c3/1 4",), ("c3/1 8", "up 6", "up 4", "up 3"))
_MAP = SingleStreamConfig(("c3/1 8", "res", "up 6", "res", "up 4", "up 3"))
_VECTOR = SingleStreamConfig(("fc 32", "grid 2 8", "up 6", "res", "up 4", "up 3"))


def _inverter(config: ArchitectureConfig = _U_SHAPED, *, sampler: SamplerConfig | None = _SMALL) -> Inverter:
    """Return an inverter with random weights, whose samples differ visibly."""
    torch.manual_seed(0)
    spec, region = _HOG, None
    if config is _MAP:
        spec, region = Spec("toy", "toy-map", 5, 12), OutputRegion(48, 48, 20)
    elif config is _VECTOR:
        spec, region = Spec("toy", "toy-vector", 5, None), OutputRegion(32, 32, 16)
    inverter = Inverter(spec, config, output_region=region, sampler=sampler).eval().requires_grad_(False)
    for module in (inverter.network, inverter.sampler):
        if module is not None:
            for weight in module.parameters():
                weight.copy_(torch.randn_like(weight) * 0.1)
    return inverter


def _features(inverter: Inverter, *leading: int) -> torch.Tensor:
    cells = () if inverter.network.side is not None else (4, 4) if inverter.output_region is not None else (6, 5)
    return torch.rand(*leading, inverter.spec.channels, *cells, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [_U_SHAPED, _TWO_STREAMS, _MAP, _VECTOR], ids=["u", "two", "map", "vector"])
def test_an_untrained_sampler_without_noise_is_the_inverter(config: ArchitectureConfig) -> None:
    torch.manual_seed(3)
    region = _inverter(config).output_region
    inverter = Inverter(_inverter(config).spec, config, output_region=region, sampler=SamplerConfig()).eval()
    features = _features(inverter, 2)
    with torch.no_grad():
        inverter.image_mean.fill_(0.3)
        assert torch.equal(inverter.sample(features, 1, spread=0.0)[:, 0], inverter(features))
        assert not torch.equal(inverter.sample(features, 1)[:, 0], inverter(features))


@pytest.mark.parametrize("config", [_U_SHAPED, _TWO_STREAMS, _MAP, _VECTOR], ids=["u", "two", "map", "vector"])
def test_a_draw_depends_only_on_seed_position_and_number(config: ArchitectureConfig) -> None:
    inverter = _inverter(config)
    features = _features(inverter, 3)
    draws = inverter.sample(features, 3, seed=5)
    assert draws.shape[:3] == (3, 3, 3) and draws.min() >= 0 and draws.max() <= 1
    torch.testing.assert_close(inverter.sample(features[1:2], 2, seed=5, positions=[1])[0], draws[1, :2])
    torch.testing.assert_close(inverter.sample(features[2], 1, seed=5, positions=[2]), draws[2, :1])
    alike = features[:1].expand(2, *features.shape[1:])
    between = inverter.sample(alike, 2, seed=5)
    different = [between[0, 0], between[0, 1], between[1, 0], inverter.sample(alike, 1, seed=6)[0, 0]]
    for index, image in enumerate(different):
        for other in different[:index]:
            assert (image - other).abs().mean() > 1e-3


def test_the_noise_of_a_draw_is_fixed() -> None:
    config = SamplerConfig(vector=3, maps=1)
    noise = Noise.draw(config, [(1, 2), (2, 2)], seed=7, positions=[0, 4], draw=2)
    values = np.random.default_rng([7, 4, 2]).standard_normal(9, dtype=np.float32)
    np.testing.assert_allclose(noise.vector[1], values[:3] * np.sqrt(3 / (values[:3] ** 2).sum()), rtol=1e-6)
    np.testing.assert_array_equal(noise.maps[0][1, 0], [values[3:5]])
    np.testing.assert_array_equal(noise.maps[1][1, 0], values[5:].reshape(2, 2))
    half = Noise.draw(config, [(1, 2), (2, 2)], seed=7, positions=[0, 4], draw=2, spread=0.5)
    torch.testing.assert_close(half.vector, noise.vector / 2)
    torch.testing.assert_close(half.maps[1], noise.maps[1] / 2)


def test_leading_dimensions_and_size() -> None:
    inverter = _inverter()
    features = _features(inverter, 2, 3)
    draws = inverter.sample(features, 2, size=(45, 40))
    assert draws.shape == (2, 3, 2, 3, 45, 40)
    flat = inverter.sample(features.flatten(0, 1).numpy(), 2)
    assert flat.shape == (6, 2, 3, 48, 40)
    torch.testing.assert_close(draws.flatten(0, 1), flat[..., :45, :])
    assert inverter.sample(features[0, 0], 2).shape == (2, 3, 48, 40)
    mean, deviation = inverter.moments(features, 2, size=(45, 40))
    assert mean.shape == deviation.shape == (2, 3, 3, 45, 40)


def test_empty_batches_have_no_samples() -> None:
    inverter = _inverter()
    features = _features(inverter, 2, 0)
    assert inverter.sample(features, 3).shape == (2, 0, 3, 3, 48, 40)
    assert [part.shape for part in inverter.moments(features, 2)] == [(2, 0, 3, 48, 40)] * 2


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_positions_may_be_an_array(kind: Callable[[list[int]], Any]) -> None:
    inverter = _inverter()
    features = _features(inverter, 2)
    assert torch.equal(
        inverter.sample(features, 1, positions=kind([4, 1])), inverter.sample(features, 1, positions=[4, 1])
    )
    with pytest.raises(TypeError, match="integer"):
        inverter.sample(features, 1, positions=kind([0.5, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_samples_in_another_precision_are_nearly_those_in_float32(dtype: torch.dtype) -> None:
    inverter = _inverter()
    features = _features(inverter, 2).double().numpy()
    wanted = inverter.sample(features, 2)
    drawn = inverter.to(dtype).sample(features, 2)
    torch.testing.assert_close(drawn.float(), wanted, atol=1e-5 if dtype == torch.float64 else 0.05, rtol=0)


def test_moments_are_those_of_the_samples() -> None:
    inverter = _inverter()
    features = _features(inverter, 2)
    draws = inverter.sample(features, 5, seed=1)
    mean, deviation = inverter.moments(features, 5, seed=1)
    torch.testing.assert_close(mean, draws.mean(dim=1))
    torch.testing.assert_close(deviation, draws.std(dim=1), atol=1e-5, rtol=1e-4)
    one = inverter.moments(features[0], 5, seed=1)
    torch.testing.assert_close(one[1], deviation[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_a_sampler_is_saved_with_its_inverter(tmp_path: Path, dtype: torch.dtype) -> None:
    inverter = _inverter(UShapedConfig())
    loaded = Inverter.load(inverter.save(tmp_path / "inverter", dtype=dtype))
    assert loaded.can_sample and loaded.sampler is not None and loaded.sampler.config == _SMALL
    assert not any(weight.requires_grad for weight in loaded.parameters())
    features = _features(inverter, 1)
    near = 1e-6 if dtype == torch.float32 else 0.05
    assert (loaded.sample(features, 2) - inverter.sample(features, 2)).abs().mean() < near
    if dtype == torch.int8:
        weights = sum(weight.numel() for weight in inverter.parameters())
        assert (tmp_path / "inverter" / "model.safetensors").stat().st_size < 1.05 * weights


@pytest.mark.parametrize(
    "fields", [{"vector": 4}, {"vector": 4, "maps": 0}, {"vector": True, "maps": 2}, {"vector": 5, "maps": 2}, [], 3]
)
def test_rejects_other_samplers_in_files(tmp_path: Path, fields: object) -> None:
    path = _inverter().save(tmp_path / "inverter") / "config.json"
    config = json.loads(path.read_text())
    config["sampler"], config["sha256"] = fields, "0" * 64
    path.write_bytes(with_checksum((json.dumps(config, indent=2) + "\n").encode()))
    with pytest.raises(FileFormatError, match="sampler"):
        Inverter.load(path.parent)


def test_an_inverter_without_sampler_says_what_can_sample() -> None:
    inverter = _inverter(sampler=None)
    assert not inverter.can_sample
    for method in (inverter.sample, inverter.moments):
        with pytest.raises(ValueError, match=r"cannot sample.*train --sampler"):
            method(_features(inverter, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must.*1.*0"),
        ({"seed": -1}, "seed.*-1"),
        ({"spread": -0.5}, "spread.*-0.5"),
        ({"spread": math.nan}, "spread.*nan"),
        ({"spread": math.inf}, "spread.*10.*inf"),
        ({"positions": [0, -3]}, r"positions.*-3"),
        ({"seed": 2**32}, rf"seed.*{2**32}"),
        ({"positions": [0, 2**32]}, rf"positions.*{2**32}"),
        ({"positions": [0]}, "2 sets.*got 1"),
        ({"size": (8, 8)}, "size.*8×8"),
    ],
)
def test_names_bad_arguments(arguments: dict[str, object], message: str) -> None:
    inverter = _inverter()
    with pytest.raises(ValueError, match=message):
        inverter.sample(_features(inverter, 2), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"n must.*2.*1"):
        inverter.moments(_features(inverter, 2), 1)
    with pytest.raises(ValueError, match="31, h, w"):
        inverter.sample(torch.rand(7))
    with pytest.raises(TypeError, match="floating"):
        inverter.sample(torch.ones(31, 4, 4, dtype=torch.int32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": "2"}, "n and.*integers.*'2'"),
        ({"positions": [[0], [1]]}, r"positions.*integers.*\[0\]"),
        ({"seed": 0.5}, r"seed.*integer.*0\.5"),
        ({"seed": None}, "seed.*integer.*None"),
        ({"spread": "1"}, "spread.*number.*'1'"),
        ({"size": (32.0, 32.0)}, r"size.*32\.0"),
    ],
)
def test_names_arguments_of_wrong_types(arguments: dict[str, object], message: str) -> None:
    inverter = _inverter()
    with pytest.raises(TypeError, match=message):
        inverter.sample(_features(inverter, 2), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("short_side", [128, 256, 350, 600])
@pytest.mark.parametrize("name", pretrained_samplers())
def test_pretrained_samplers_draw_photographs_at_any_size(name: str, short_side: int) -> None:
    """Their mean is like the reconstruction, they differ from each other, and no grid is in them."""
    inverter = Inverter.load(name)
    photograph = photographs()["astronaut"]
    image = cv2.resize(photograph, (short_side * 5 // 4, short_side), interpolation=cv2.INTER_AREA)
    original = torch.from_numpy(image).permute(2, 0, 1)[None]
    features = representation_from_spec(inverter.spec)(original)
    draws = inverter.sample(features, 4, size=image.shape[:2])[0]
    plain = inverter(features, size=image.shape[:2])[0]
    truth = original[0].float() / 255
    assert (draws.mean(dim=0) - truth).square().mean() < 1.25 * (plain - truth).square().mean() + 0.005
    assert 0.03 < draws.std(dim=0).mean() < 0.25
    for side in (8, 16):
        rows, columns = (size // side for size in image.shape[:2])
        blocks = draws[:, :, : rows * side, : columns * side].unflatten(3, (columns, side)).unflatten(2, (rows, side))
        grid = blocks.mean(dim=(2, 4))
        assert (grid - grid.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt() < 0.04
