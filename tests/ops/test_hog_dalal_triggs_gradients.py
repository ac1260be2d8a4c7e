"""Compare the gradient of HOG (dalal-triggs) with the reference's autograd, and that with finite differences."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from conftest import photographs
from implementations import KERNELS, with_one_thread
from preimage import hog, reference
from preimage.ops._block_options import BLOCK_NORMS
from tolerances import FINITE_DIFFERENCES_RELATIVE, HOG_BLOCKS_GRADIENT

VARIANT = "dalal-triggs"
CASES: dict[str, dict[str, Any]] = {
    **{
        f"{norm}, {color}, {'roots' if root else 'values'}": {
            "block_norm": norm,
            "color": color,
            "transform_sqrt": root,
        }
        for norm, color, root in itertools.product(BLOCK_NORMS, ("luma", "strongest"), (False, True))
    },
    "cells of 5 x 7": {"cell_size": (5, 7), "block_size": (1, 2), "orientations": 8},
    "one block": {"cell_size": (21, 18), "block_size": 2, "orientations": 1},
    "many orientations": {"cell_size": 4, "block_size": (4, 3), "orientations": 20},
}

every_kernel = pytest.mark.parametrize("name", KERNELS["hog"])


def photograph(name: str, height: int = 47, width: int = 52) -> torch.Tensor:
    """Return (1, 3, H, W) float32."""
    crop = torch.from_numpy(photographs()[name])[60 : 60 + height, 150 : 150 + width].permute(2, 0, 1)[None].float()
    return crop / 255


def gradient(run: Any, images: torch.Tensor, **options: Any) -> torch.Tensor:
    source = images.detach().clone().requires_grad_()
    features = run(source, variant=VARIANT, **options)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found,) = torch.autograd.grad(features, source, weights.to(features))
    assert found.dtype == images.dtype and found.shape == images.shape
    return found


@pytest.mark.parametrize("case", CASES)
def test_gradient_agrees_with_the_reference(case: str) -> None:
    noise = torch.rand(1, 3, 47, 52, generator=torch.Generator().manual_seed(2))
    noise[0, :, 10:30, 10:30] = 0  # no gradient, and no derivative of the root
    for images in (photograph("astronaut"), noise, noise[:, :1]):
        expected = gradient(with_one_thread(reference.hog), images.double(), **CASES[case])
        for kernel in KERNELS["hog"].values():
            found = gradient(kernel, images, **CASES[case])
            assert (found - expected).norm() <= HOG_BLOCKS_GRADIENT * expected.norm()


@pytest.mark.parametrize("norm", BLOCK_NORMS)
def test_finite_differences_of_the_reference(norm: str) -> None:
    images = 0.1 + torch.rand(1, 3, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"block_norm": norm, "cell_size": (4, 3), "block_size": 2, "orientations": 5, "transform_sqrt": True}
    assert torch.autograd.gradcheck(
        lambda x: reference.hog(x, variant=VARIANT, **options),
        (images.requires_grad_(),),
        eps=1e-7,
        atol=1e-5,
        rtol=FINITE_DIFFERENCES_RELATIVE,
    )


@every_kernel
def test_flat_images_have_no_gradient(name: str) -> None:
    flat = torch.zeros(1, 3, 40, 24)
    for norm in BLOCK_NORMS:
        for options in ({}, {"transform_sqrt": True}, {"color": "strongest"}):
            found = gradient(KERNELS["hog"][name], flat, block_norm=norm, **options)
            assert found.abs().max().item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_has_the_dtype_of_the_images(dtype: torch.dtype) -> None:
    image = photograph("coffee").to(dtype)
    assert torch.equal(gradient(hog, image), gradient(hog, image.float()).to(dtype))


def test_gradient_of_views() -> None:
    images = photograph("coffee", 60, 110).repeat(2, 1, 1, 1)
    view = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[:, :, 3:, ::2]
    assert torch.equal(gradient(hog, view), gradient(hog, view.contiguous()))
    assert gradient(hog, images[:0]).shape == images[:0].shape


def test_threads_and_batch_do_not_change_the_gradient() -> None:
    images = torch.cat([photograph(name, 200, 240) for name in ("astronaut", "coffee", "chelsea")])
    features = hog(images, variant=VARIANT)
    weights = torch.randn(features.shape)
    before = torch.get_num_threads()

    def gradient_of(part: slice) -> torch.Tensor:
        source = images[part].clone().requires_grad_()
        (found,) = torch.autograd.grad(hog(source, variant=VARIANT), source, weights[part])
        return found

    expected = gradient_of(slice(None))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(gradient_of(slice(None)), expected)
            assert torch.equal(gradient_of(slice(1, 2)), expected[1:2])
    finally:
        torch.set_num_threads(before)


def test_second_derivatives_are_rejected() -> None:
    image = photograph("coffee").requires_grad_()
    (first,) = torch.autograd.grad(hog(image, variant=VARIANT).sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        first.sum().backward()


# What torch does when it traces an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_gradient_of_compiled_functions() -> None:
    torch._dynamo.reset()
    image = photograph("coffee").requires_grad_()

    def energy(images: torch.Tensor) -> torch.Tensor:
        return hog(images, variant=VARIANT, cell_size=(6, 7), block_norm="L1-sqrt").square().sum()

    (expected,) = torch.autograd.grad(energy(image), image)
    (found,) = torch.autograd.grad(torch.compile(energy, backend="aot_eager", fullgraph=True)(image), image)
    assert torch.equal(found, expected)
