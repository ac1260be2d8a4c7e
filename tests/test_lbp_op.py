"""`torch.ops.preimage.lbp` and `lbp_codes`: schema, fake shapes, torch.compile."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from preimage.ops.lbp import lbp, lbp_codes
from test_hog_op import LAYOUTS, SIZES

OP = torch.ops.preimage.lbp.default
CODES_OP = torch.ops.preimage.lbp_codes.default


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell_size", [16, 5])
def test_opcheck(layout: str, cell_size: int) -> None:
    images = LAYOUTS[layout](torch.rand(2, 3, 40, 52))
    torch.library.opcheck(OP, (images, cell_size, "vlfeat-uniform"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_of_the_map(layout: str) -> None:
    images = LAYOUTS[layout](torch.rand(2, 3, 40, 52))
    torch.library.opcheck(CODES_OP, (images, "vlfeat-uniform"))


def test_fake_shapes_are_real_shapes() -> None:
    for height, width, cell_size in ((16, 16, 16), (31, 33, 16), (100, 203, 16), (31, 17, 5), (9, 9, 1)):
        images = torch.rand(2, 1, height, width)
        fake = OP(images.to("meta"), cell_size, "vlfeat-uniform")
        real = OP(images, cell_size, "vlfeat-uniform")
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
        fake, real = CODES_OP(images.to("meta"), "vlfeat-uniform"), CODES_OP(images, "vlfeat-uniform")
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def test_compile_without_breaks_and_with_few_recompilations() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def both(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return lbp(images * 0.5, dtype=torch.bfloat16) * 2, lbp_codes(images)

    compiled = torch.compile(both, backend=counter, fullgraph=True)
    for height, width in SIZES:
        images = torch.rand(2, 3, height, width)
        for found, expected in zip(compiled(images), both(images), strict=True):
            assert torch.equal(found, expected)
    assert counter.frame_count <= 3  # the first compilation and at most two more


# What torch 2.13's own compiler does on import.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compile_with_the_default_backend() -> None:
    torch._dynamo.reset()

    def energy(images: torch.Tensor) -> torch.Tensor:
        return lbp(images.permute(0, 3, 1, 2)).square().sum(1)

    images = torch.rand(2, 48, 56, 3)
    compiled = torch.compile(energy, fullgraph=True)
    assert torch.allclose(compiled(images), energy(images), rtol=1e-6)


def test_autocast_and_inference_mode() -> None:
    images = torch.rand(1, 3, 32, 32)
    expected = lbp(images)
    with torch.inference_mode():
        assert torch.equal(lbp(images), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lbp(images), expected)


def test_gradients_are_refused_under_compile_too() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lbp, backend="eager")
    with pytest.raises(ValueError, match="derivative is zero almost everywhere"):
        compiled(torch.rand(1, 1, 16, 16, requires_grad=True))
