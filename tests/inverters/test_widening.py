"""Test that an inverter of features with more channels starts as that of their first channels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from conftest import photographs
from preimage.inverters import Inverter, SingleStreamConfig, TwoStreamConfig, UShapedConfig
from preimage.inverters.architectures import ArchitectureConfig
from preimage.inverters.sampler import SamplerConfig
from preimage.inverters.widening import widened
from preimage.representations import create_representation
from preimage.representations.registry import class_of
from preimage.spec import Spec

PLAIN, IN_COLOR = (create_representation("sift", color=color) for color in (False, True))
SPLAT = UShapedConfig(widths=(8, 8), blocks_down=(0, 0), blocks_up=(0,), head=(4,), entry=("c3/2 8",), splat_levels=2)
NETWORKS: list[ArchitectureConfig] = [
    dataclasses.replace(SPLAT, head=(4, 4)),
    UShapedConfig(widths=(8, 8), blocks_down=(1, 1), blocks_up=(1,), head=(4,)),
    SingleStreamConfig(("c5/2 8", "up 8", "up 8", "up 3")),
    SingleStreamConfig(("up 8", "up 3")),
    TwoStreamConfig(("c3/2 8", "up 8"), ("c3/1 4",), ("up 8", "up 3")),
]


def photos() -> torch.Tensor:
    images = [photographs()[name][:128, :128] for name in ("astronaut", "coffee")]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: f"{config.architecture}")
def test_reconstructions_are_the_same_whatever_the_further_channels_contain(config: ArchitectureConfig) -> None:
    torch.manual_seed(0)
    narrow = Inverter(PLAIN.spec, config).eval()
    narrow.feature_mean.normal_()
    narrow.feature_deviation.uniform_(0.5, 2)
    wide = widened(narrow, IN_COLOR.spec).eval()
    features = IN_COLOR(photos())
    assert features[:, 133:].any()
    with torch.inference_mode():
        torch.testing.assert_close(wide(features), narrow(features[:, :133]), atol=1e-5, rtol=0)
    assert torch.equal(wide.feature_mean[:133], narrow.feature_mean) and not wide.feature_mean[133:].any()
    assert (wide.feature_deviation[133:] == 1).all()
    assert wide.spec == IN_COLOR.spec and narrow.spec == PLAIN.spec
    wide.train().distances(features, photos()).sum().backward()
    reading = [weight for name, weight in wide.named_parameters() if weight.shape != narrow.get_parameter(name).shape]
    assert reading and all(weight.grad is not None and weight.grad[weight == 0].any() for weight in reading)


def test_the_pretrained_inverter_of_sift() -> None:
    narrow = Inverter.load("sift-compact")
    wide = widened(narrow, IN_COLOR.spec).eval()
    features = IN_COLOR(photos())
    with torch.inference_mode():
        torch.testing.assert_close(wide(features), narrow(features[:, :133]), atol=1e-5, rtol=0)
    grown = {
        name: tuple(weight.shape[:2])
        for name, weight in wide.named_parameters()
        if weight.shape != narrow.get_parameter(name).shape
    }
    # The convolution of the grid, and that of its output and the splat's: four levels of red, green, blue, coverage.
    assert sorted(shape[1] for shape in grown.values()) == [136, 80 + 52 + 16]


def test_a_sampler_is_left_out() -> None:
    narrow = Inverter(PLAIN.spec, NETWORKS[1], sampler=SamplerConfig())
    assert widened(narrow, IN_COLOR.spec).sampler is None


def test_refuses_features_without_further_channels() -> None:
    narrow = Inverter(IN_COLOR.spec, NETWORKS[1])
    for spec in (IN_COLOR.spec, PLAIN.spec):
        with pytest.raises(ValueError, match=rf"more than 136 channels.*{spec.channels}"):
            widened(narrow, spec)


def test_only_color_has_first_channels() -> None:
    other = create_representation("sift", cell_size=8, variant="opencv", descriptor_scale=2.0, color=True)
    expected = create_representation("sift", cell_size=8, variant="opencv", descriptor_scale=2.0).spec
    assert class_of("sift").first_channels(other.spec) == expected
    for spec in (PLAIN.spec, create_representation("hog").spec, Spec("someone's", "user", 8, None)):
        assert class_of(spec.representation).first_channels(spec) is None
