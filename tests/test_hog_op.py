"""`torch.ops.preimage.hog`: schema, fake shapes, torch.compile."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from preimage.ops.hog import hog

OP = torch.ops.preimage.hog.default
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda images: images,
    "channels last": lambda images: images.to(memory_format=torch.channels_last),
    "transposed": lambda images: images.mT,
    "sliced": lambda images: images[:, :, 1:, ::2],
    "expanded": lambda images: images[:1].expand(3, -1, -1, -1),
    "bytes": lambda images: (images * 255).to(torch.uint8),
    "half": lambda images: images.half(),
    "double": lambda images: images.double(),
    "empty batch": lambda images: images[:0],
    "one image": lambda images: images[0],
    "one plane": lambda images: images[0, 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [(8, "vlfeat-uoctti", "luma"), (5, "vlfeat-uoctti", "strongest")], ids=str)
def test_opcheck(layout: str, options: tuple[int, str, str]) -> None:
    images = LAYOUTS[layout](torch.rand(2, 3, 40, 52))
    torch.library.opcheck(OP, (images, *options))


def test_fake_shapes_are_real_shapes() -> None:
    for height, width, cell_size in ((4, 4, 8), (11, 12, 8), (100, 203, 8), (31, 17, 5), (9, 9, 1)):
        images = torch.rand(2, 1, height, width)
        fake = OP(images.to("meta"), cell_size, "vlfeat-uoctti", "luma")
        real = OP(images, cell_size, "vlfeat-uoctti", "luma")
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


SIZES = [(64, 64), (72, 100), (96, 128), (130, 61), (200, 96)]


def test_compile_without_breaks_and_with_few_recompilations() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def double(images: torch.Tensor) -> torch.Tensor:
        return hog(images, colour="strongest") * 2

    compiled = torch.compile(double, backend=counter, fullgraph=True)
    for height, width in SIZES:
        images = torch.rand(2, 3, height, width)
        assert torch.equal(compiled(images), double(images))
    assert counter.frame_count <= 3  # the first compilation and at most two more
    with pytest.raises(ValueError, match="1 or 3 channels"):
        double(torch.rand(2, 2, 64, 64))


# What torch 2.13's own compiler does on import.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compile_with_the_default_backend() -> None:
    torch._dynamo.reset()

    def energy(images: torch.Tensor) -> torch.Tensor:
        return hog(images.permute(0, 3, 1, 2) * 0.5).square().sum(1)

    images = torch.rand(2, 48, 56, 3)
    compiled = torch.compile(energy, fullgraph=True)
    assert torch.allclose(compiled(images), energy(images), rtol=1e-6)


def test_autocast_and_inference_mode() -> None:
    images = torch.rand(1, 3, 32, 32)
    expected = hog(images)
    with torch.inference_mode():
        assert torch.equal(hog(images), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hog(images), expected)
