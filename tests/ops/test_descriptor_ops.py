"""Test `torch.ops.preimage.*`, the descriptors' ops: schema, fake shapes, torch.compile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import preimage
from layouts import LAYOUTS
from preimage.ops import torch_ops as _torch_ops
from tolerances import COMPILED

pytestmark = pytest.mark.instruction_set

del _torch_ops

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPS = torch.ops.preimage
# An op with the parameters that follow the images.
CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "hog": (OPS.hog.default, (8, "vlfeat-uoctti", "luma")),
    "hog, cells of 5": (OPS.hog.default, (5, "vlfeat-uoctti", "strongest")),
    "hog, dalal-triggs": (OPS.hog_dalal_triggs.default, ([5, 4], "strongest", 8, [2, 3], "L2-Hys", True)),
    "lbp": (OPS.lbp.default, (16, "vlfeat-uniform")),
    "lbp, cells of 5": (OPS.lbp.default, (5, "vlfeat-uniform")),
    "lbp_codes": (OPS.lbp_codes.default, ("vlfeat-uniform",)),
    "dense_sift": (OPS.dense_sift.default, (4, 4, "gaussian", 2.0, None, torch.float32)),
    "dense_sift, part": (OPS.dense_sift.default, (3, 5, "flat", 1.5, [1, 2, 25, 22], torch.uint8)),
    "dense_sift, bfloat16": (OPS.dense_sift.default, (2, 4, "flat", 1.5, None, torch.bfloat16)),
}
BACKWARD: dict[str, tuple[Any, int]] = {  # the op, and how many gradients come before the images
    "hog": (OPS.hog_backward.default, 1),
    "hog, dalal-triggs": (OPS.hog_dalal_triggs_backward.default, 1),
    "dense_sift": (OPS.dense_sift_backward.default, 2),
}
FUNCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "hog": lambda images: preimage.hog(images, color="strongest") * 2,
    "hog, dalal-triggs": lambda images: preimage.hog(images, variant="dalal-triggs", cell_size=(7, 8)) * 2,
    "lbp": lambda images: preimage.lbp(images * 0.5) * 2,
    "lbp_codes": preimage.lbp_codes,
    "dense_sift": lambda images: torch.cat(preimage.dense_sift(images, window="flat", norms=True), dim=1) * 2,
}
SIZES = [(64, 64), (72, 100), (96, 128), (130, 61), (200, 96)]


def outputs(result: Any) -> tuple[torch.Tensor, ...]:
    """Return the outputs of an op as a tuple."""
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_opcheck(call: str, layout: str, device: str) -> None:
    op, parameters = CALLS[call]
    images = LAYOUTS[layout](torch.rand(2, 3, 40, 52, device=device))
    torch.library.opcheck(op, (images, *parameters))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced", "empty batch", "one image"])
@pytest.mark.parametrize("call", BACKWARD)
def test_opcheck_of_the_gradient(call: str, layout: str, device: str) -> None:
    op, parameters = CALLS[call]
    backward, count = BACKWARD[call]
    images = LAYOUTS[layout](torch.rand(2, 3, 24, 33, device=device))
    gradients = [torch.rand_like(output) for output in outputs(op(images, *parameters))]
    torch.library.opcheck(backward, (*gradients, images, *parameters[: len(parameters) - count + 1]))


@pytest.mark.parametrize("call", CALLS)
def test_fake_shapes_are_real_shapes(call: str) -> None:
    op, parameters = CALLS[call]
    for height, width in ((26, 23), (100, 203), (31, 27)):
        images = torch.rand(2, 1, height, width)
        fakes, reals = outputs(op(images.to("meta"), *parameters)), outputs(op(images, *parameters))
        for fake, real in zip(fakes, reals, strict=True):
            assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile_without_breaks_and_with_few_recompilations(name: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(FUNCTIONS[name], backend=counter, fullgraph=True)
    for height, width in SIZES:
        images = torch.rand(2, 3, height, width)
        assert torch.equal(compiled(images), FUNCTIONS[name](images))
    assert counter.frame_count <= 3  # the first compilation and at most two more


# Warnings of torch 2.13's compiler on import.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compile_with_the_default_backend() -> None:
    torch._dynamo.reset()

    def energy(images: torch.Tensor) -> torch.Tensor:
        planar = images.permute(0, 3, 1, 2) * 0.5
        return torch.stack([function(planar).float().square().sum() for function in FUNCTIONS.values()])

    images = torch.rand(2, 48, 56, 3)
    compiled = torch.compile(energy, fullgraph=True)
    assert torch.allclose(compiled(images), energy(images), rtol=COMPILED)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_and_inference_mode(name: str) -> None:
    images = torch.rand(1, 3, 32, 32)
    compute = FUNCTIONS[name]
    expected = compute(images)
    with torch.inference_mode():
        assert torch.equal(compute(images), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compute(images), expected)
