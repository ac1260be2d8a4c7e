"""`torch.ops.preimage.dense_sift`: schema, fake shapes, torch.compile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from preimage.ops.sift import dense_sift

OP = torch.ops.preimage.dense_sift.default
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
OPTIONS = [
    (4, 4, "gaussian", 2.0, None, torch.float32),
    (3, 5, "flat", 1.5, [1, 2, 25, 22], torch.uint8),
    (2, 4, "flat", 1.5, None, torch.bfloat16),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(layout: str, options: tuple[object, ...]) -> None:
    images = LAYOUTS[layout](torch.rand(2, 3, 40, 52))
    torch.library.opcheck(OP, (images, *options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fake_shapes_are_real_shapes(options: tuple[object, ...]) -> None:
    for height, width in ((26, 23), (100, 203), (31, 27)):
        images = torch.rand(2, 1, height, width)
        for fake, real in zip(OP(images.to("meta"), *options), OP(images, *options), strict=True):
            assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


SIZES = [(64, 64), (72, 100), (96, 128), (130, 61), (200, 96)]


def test_compile_without_breaks_and_with_few_recompilations() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def double(images: torch.Tensor) -> torch.Tensor:
        features, norms = dense_sift(images, window="flat", norms=True)
        return features * 2 + norms

    compiled = torch.compile(double, backend=counter, fullgraph=True)
    for height, width in SIZES:
        images = torch.rand(2, 3, height, width)
        assert torch.equal(compiled(images), double(images))
    assert counter.frame_count <= 3  # the first compilation and at most two more
    with pytest.raises(ValueError, match="1 or 3 channels"):
        double(torch.rand(2, 2, 64, 64))


def test_autocast_and_inference_mode() -> None:
    images = torch.rand(1, 3, 32, 32)
    expected = dense_sift(images)
    with torch.inference_mode():
        assert torch.equal(dense_sift(images), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dense_sift(images), expected)
