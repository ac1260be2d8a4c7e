"""Gradients of HOG: the native ones against the reference's autograd, and that against finite differences."""

from __future__ import annotations

import pytest
import torch

from conftest import photographs
from hog_implementations import IMPLEMENTATIONS
from preimage import reference
from preimage.ops.hog import hog
from tolerances import HOG_GRADIENT

pytestmark = pytest.mark.instruction_set

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
COLORS = ["luma", "strongest"]
SIZES = {"cells of 8": (8, 61, 83), "cells of 5": (5, 47, 52), "one cell": (8, 9, 8)}


def photograph(name: str, height: int, width: int) -> torch.Tensor:
    """(1, 3, H, W) float64, with a little noise: exact ties between directions have no gradient to compare."""
    crop = torch.from_numpy(photographs()[name])[60 : 60 + height, 150 : 150 + width].permute(2, 0, 1)[None].double()
    noise = torch.rand(crop.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (crop + noise) / 256


def gradients(images: torch.Tensor, weights: torch.Tensor, compute: object, **options: object) -> torch.Tensor:
    """Of the weighted sum of features."""
    images = images.detach().clone().requires_grad_()
    features = compute(images, **options)  # type: ignore[operator]
    features.backward(weights.to(features))
    assert images.grad is not None
    return images.grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("size", SIZES)
def test_against_the_reference(device: str, color: str, size: str) -> None:
    cell_size, height, width = SIZES[size]
    for name in ("astronaut", "coffee"):
        # The reference decides in float64 and the kernel in float32: the same float32 image for both, so that both
        # see the same numbers.
        image = photograph(name, height, width).float()
        weights = torch.randn(reference.hog(image, cell_size=cell_size).shape, dtype=torch.float64)
        expected = gradients(image, weights, reference.hog, cell_size=cell_size, color=color)
        found = gradients(image.to(device), weights, hog, cell_size=cell_size, color=color).cpu()
        assert (found - expected).norm() <= HOG_GRADIENT * expected.norm()
        assert found.dtype == image.dtype and found.shape == image.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("color", COLORS)
def test_finite_differences_of_the_reference(color: str, channels: int) -> None:
    torch.manual_seed(1)
    images = torch.rand(1, channels, 9, 10, dtype=torch.float64, requires_grad=True)
    options = {"eps": 1e-7, "atol": 1e-4, "rtol": 1e-4}
    assert torch.autograd.gradcheck(lambda x: reference.hog(x, cell_size=4, color=color), (images,), **options)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_down_the_gradient_comes_closer(device: str) -> None:
    target = hog(photograph("chelsea", 64, 64).float().to(device))
    image = photograph("rocket", 64, 64).float().to(device).requires_grad_()
    errors = []
    for _ in range(3):
        error = (hog(image) - target).square().sum()
        (step,) = torch.autograd.grad(error, image)
        errors.append(error.item())
        image = (image - 2e-3 * step / step.abs().max()).detach().requires_grad_()
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_flat_images_have_a_finite_gradient(name: str) -> None:
    image = torch.full((1, 3, 24, 24), 0.5)
    weights = torch.ones(1, 31, 3, 3)
    assert gradients(image, weights, IMPLEMENTATIONS[name]).abs().max().item() == 0


def test_an_image_without_interior_has_none() -> None:
    image = torch.rand(1, 3, 16, 2)
    assert gradients(image, torch.ones(1, 31, 4, 1), hog, cell_size=4).abs().max().item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradient_has_the_images_dtype(dtype: torch.dtype) -> None:
    image = photograph("coffee", 32, 32).to(dtype)
    weights = torch.ones(1, 31, 4, 4)
    found = gradients(image, weights, hog)
    expected = gradients(image.float(), weights, hog)
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("layout", ["one image", "one plane", "channels last", "sliced"])
def test_gradient_of_every_layout(layout: str) -> None:
    images = photograph("coffee", 40, 48).float().repeat(2, 1, 1, 1)
    view = {
        "one image": lambda x: x[0],
        "one plane": lambda x: x[1, 2],
        "channels last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "sliced": lambda x: x[:, :, 3:, ::2],
    }[layout]
    weights = torch.randn_like(hog(view(images)))
    found = gradients(images, weights, lambda x: hog(view(x)))
    of_view = gradients(view(images).contiguous(), weights, hog)
    (expected,) = torch.autograd.grad(view(images.requires_grad_()), images, of_view)
    assert torch.equal(found, expected)


def test_threads_and_batch_do_not_change_the_gradient() -> None:
    images = torch.cat([photograph(name, 200, 240).float() for name in ("astronaut", "coffee", "chelsea")])
    weights = torch.randn(hog(images).shape)
    before = torch.get_num_threads()
    try:
        found = {}
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found[threads] = gradients(images, weights, hog)
            alone = gradients(images[1:2], weights[1:2], hog)
            assert torch.equal(alone, found[threads][1:2])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1], found[2]) and torch.equal(found[1], found[5])


def test_the_gradient_has_no_gradient() -> None:
    image = photograph("coffee", 16, 16).float().requires_grad_()
    (first,) = torch.autograd.grad(hog(image).sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        first.sum().backward()


# What torch does when it traces an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_gradient() -> None:
    torch._dynamo.reset()
    image = photograph("coffee", 48, 56).float().requires_grad_()

    def energy(images: torch.Tensor) -> torch.Tensor:
        return hog(images).square().sum()

    (expected,) = torch.autograd.grad(energy(image), image)
    (found,) = torch.autograd.grad(torch.compile(energy, backend="aot_eager", fullgraph=True)(image), image)
    assert torch.equal(found, expected)
