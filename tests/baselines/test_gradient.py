"""Test the inversion of features by gradient descent on the image."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from conftest import photographs
from preimage.baselines.gradient import GradientDescent, total_variation
from preimage.metrics import feature_error
from preimage.representations import NetworkRepresentation, Representation, create_representation
from preimage.representations.network import Network
from preimage.representations.preprocessing import Preprocessing

SIDE = 48


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Return photographs (3, 3, 48, 48)."""
    names = ("astronaut", "chelsea", "rocket")
    small = [
        cv2.resize(photographs()[name][:300, 50:350], (SIDE, SIDE), interpolation=cv2.INTER_AREA) for name in names
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def layer() -> NetworkRepresentation:
    """Return the last layer of a small convolutional network."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 48, 3, 1, 1)
        )
    return Network(module, Preprocessing(SIDE)).representation("4")


def test_the_features_of_a_network_are_matched(images: torch.Tensor, layer: NetworkRepresentation) -> None:
    features = layer(images)
    result = GradientDescent(layer, device="cpu", steps=150, lr=0.05).invert(features[:2], layer.spec)
    assert result.shape == (2, 3, SIDE, SIDE) and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1
    assert feature_error(layer(result), features[:2]).max() < 0.1
    # A network keeps colors, so they are part of the result.
    chroma, wanted = ((x - x.mean(dim=1, keepdim=True)).flatten() for x in (result, images[:2]))
    assert torch.corrcoef(torch.stack((chroma, wanted)))[0, 1] > 0.6


@pytest.mark.parametrize(("name", "most"), [("hog", 0.35), ("dense-sift", 0.25)])
def test_the_features_of_descriptors_are_matched_by_gray_images(name: str, most: float, images: torch.Tensor) -> None:
    representation = create_representation(name)
    features = representation(images[:2])
    method = GradientDescent(representation, device="cpu", steps=100)
    result = method.invert(features, representation.spec, size=(SIDE, SIDE))
    assert feature_error(representation(result), features).max() < most
    assert (result == result[:, :1]).all()


def test_the_result_is_determined_by_the_seed(images: torch.Tensor) -> None:
    hog = create_representation("hog")
    features = hog(images[:1])
    first, again, other = (
        GradientDescent(hog, device="cpu", steps=5, seed=seed).invert(features, hog.spec) for seed in (3, 3, 4)
    )
    assert (first == again).all()
    assert (first - other).abs().mean() > 0.01


def test_the_result_does_not_depend_on_the_other_images_of_the_batch(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hog = create_representation("hog")
    features = hog(images)
    method = GradientDescent(hog, device="cpu", steps=6)
    together = method.invert(features, hog.spec)
    torch.testing.assert_close(method.invert(features[2:], hog.spec), together[2:], rtol=0, atol=1e-3)
    monkeypatch.setattr("preimage.baselines.gradient.BATCH", 2)
    torch.testing.assert_close(method.invert(features, hog.spec), together, rtol=0, atol=1e-3)


def test_images_stop_when_their_error_stops_falling(layer: NetworkRepresentation, images: torch.Tensor) -> None:
    calls: list[int] = []
    counted: list[tuple[int, int]] = []

    class Counted(NetworkRepresentation):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            return super().__call__(images)

    representation = Counted(layer.network, layer.layer)
    features = layer(images)

    def steps(tolerance: float) -> int:
        calls.clear()
        counted.clear()
        method = GradientDescent(representation, device="cpu", steps=60, tolerance=tolerance)
        method.invert(features, layer.spec, progress=lambda done, total: counted.append((done, total)))
        assert counted[-1] == (180, 180)
        assert [done for done, _ in counted] == sorted(done for done, _ in counted)
        return sum(calls)

    full, stopped = steps(0), steps(0.9)
    assert full >= 180
    assert stopped < full / 2


def test_the_size_follows_from_the_features_or_is_given(images: torch.Tensor) -> None:
    hog = create_representation("hog")
    method = GradientDescent(hog, device="cpu", steps=1)
    assert method.invert(hog(images), hog.spec).shape[2:] == (48, 48)
    assert method.invert(hog(images), hog.spec, size=(50, 45)).shape[2:] == (50, 45)
    with pytest.raises(ValueError, match=r"64×48 pixels are 8×6, got 6×6"):
        method.invert(hog(images), hog.spec, size=(64, 48))


def test_features_in_half_precision_without_any_energy_and_from_inference_mode_are_accepted() -> None:
    hog = create_representation("hog")
    with torch.inference_mode():
        features = hog(torch.full((1, 3, 32, 32), 0.5)).half()
        result = GradientDescent(hog, device="cpu", steps=3).invert(features, hog.spec)
    assert result.isfinite().all()


def test_vectors_of_a_network_are_inverted(layer: NetworkRepresentation, images: torch.Tensor) -> None:
    vector = NetworkRepresentation(layer.network, layer.layer, "vector")
    result = GradientDescent(vector, device="cpu", steps=2).invert(vector(images[:1]), vector.spec)
    assert result.shape == (1, 3, SIDE, SIDE)


@pytest.mark.parametrize("name", ["lbp", "sift"])
def test_a_representation_without_gradient_is_an_error(name: str) -> None:
    representation = create_representation(name)
    spec = representation.spec
    features = torch.zeros(1, spec.channels, *(representation.feature_size(64, 64) or ()))
    with pytest.raises(ValueError, match=rf"{name}.*no gradient.*HOG, dense SIFT and layers of networks"):
        GradientDescent(representation, device="cpu").invert(features, spec)


def test_another_spec_is_an_error_that_names_the_differences() -> None:
    other: Representation = create_representation("hog", cell_size=4)
    with pytest.raises(ValueError, match=r"parameters\.cell_size: 8 != 4"):
        GradientDescent(create_representation("hog")).invert(torch.zeros(1, 31, 4, 4), other.spec)


def test_features_that_are_not_finite_are_an_error() -> None:
    hog = create_representation("hog")
    with pytest.raises(ValueError, match=r"finite.*image 0"):
        GradientDescent(hog).invert(torch.full((1, 31, 4, 4), torch.nan), hog.spec)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("tolerance", -0.1),
        ("tolerance", 1),
        ("tv", float("nan")),
        ("tv_end", -1),
        ("beta", 0.5),
        ("norm", float("inf")),
        ("alpha", 0),
        ("lr", 0),
        ("momentum", 1),
        ("momentum", -0.1),
        ("preconditioning", -1),
    ],
)
def test_values_out_of_range_are_errors(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*got {value}"):
        GradientDescent(create_representation("hog"), **cast(Any, {name: value}))


def test_the_weights_of_the_total_variation_are_both_zero_or_positive() -> None:
    with pytest.raises(ValueError, match=r"tv.*tv_end.*got 1 and 0"):
        GradientDescent(create_representation("hog"), tv=1, tv_end=0)


def test_a_device_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"device.*abacus"):
        GradientDescent(create_representation("hog"), device="abacus")


@pytest.mark.parametrize("beta", [1, 2, 3])
def test_the_total_variation_is_that_of_its_definition(beta: float) -> None:
    rows = [[0.0, 1.0, 1.0], [2.0, 1.0, 3.0], [2.0, 1.0, 4.0]]
    total = 0.0
    for y in range(3):
        for x in range(3):
            right = rows[y][x + 1] - rows[y][x] if x < 2 else 0
            below = rows[y + 1][x] - rows[y][x] if y < 2 else 0
            total += (right**2 + below**2) ** (beta / 2)
    assert total_variation(torch.tensor([[rows]]), beta).item() == pytest.approx(total / 9, abs=1e-5)


def test_total_variation_smooths_the_result(images: torch.Tensor) -> None:
    hog = create_representation("hog")
    methods = [GradientDescent(hog, device="cpu", steps=40, tv=tv, tv_end=tv) for tv in (0, 100)]
    rough, smooth = (total_variation(method.invert(hog(images[:1]), hog.spec), 2) for method in methods)
    assert smooth < rough / 2


@pytest.mark.parametrize("device", ["cuda"])
def test_features_on_a_gpu_are_inverted_there(device: str, images: torch.Tensor) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    hog = create_representation("hog")
    features = hog(images)
    result = GradientDescent(hog, device=device, steps=60).invert(features.to(device), hog.spec)
    assert result.device.type == "cpu"
    assert feature_error(hog(result), features).max() < 0.5
