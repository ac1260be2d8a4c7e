"""Test the up-convolution's passes on a CPU: every algorithm against plain float64, and cached weights."""

from __future__ import annotations

import gc
from unittest import mock

import pytest
import torch

from preimage.ops.upconv import cpu_matmul, cpu_passes, torch_passes
from tolerances import UPCONV

DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16, torch.float16) if cpu_passes.usable(dtype)]

# B, Ci, Co, H, W for each algorithm, including odd numbers.
FORWARD = {
    "_subpixel": [(2, 5, 3, 6, 5), (1, 1, 1, 1, 1), (3, 8, 4, 33, 17), (1, 2, 2, 1, 9)],
    "_deconvolution": [(2, 3, 5, 1, 7), (3, 2, 70, 4, 4), (1, 48, 32, 33, 17), (1, 70, 69, 3, 5)],
    "_phases": [(4, 512, 512, 4, 4), (2, 513, 515, 8, 5)],
}
DGRAD = {
    "input_gradient": [(2, 64, 7, 1, 3), (1, 512, 33, 5, 3), (3, 96, 64, 4, 4)],
    "conv2d": [(2, 3, 5, 1, 7), (1, 48, 32, 33, 17), (2, 5, 3, 6, 5), (2, 40, 65, 4, 5)],
}
WGRAD = {
    "wgrad": [*DGRAD["input_gradient"], (2, 40, 65, 4, 5), (1, 1, 1, 1, 1)],
    "convolution": [(2, 3, 5, 1, 7), (1, 48, 32, 33, 17), (2, 5, 3, 6, 5)],
}


def operands(
    shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (x, dz, weight, bias) of a layer, rounded to a dtype; x has zeros and both signs."""
    batch, in_channels, out_channels, height, width = shape
    torch.manual_seed(sum(shape))
    x = torch.nn.functional.leaky_relu(torch.randn(batch, in_channels, height, width).clamp_min(-1.5), 0.2)
    x[torch.rand_like(x) < 0.1] = 0
    dz = torch.randn(batch, out_channels, 2 * height, 2 * width)
    weight = torch.randn(in_channels, out_channels, 5, 5) / (in_channels * 25 / 4) ** 0.5
    weight = weight.contiguous(memory_format=torch.channels_last)
    maps = (tensor.to(dtype).contiguous(memory_format=torch.channels_last) for tensor in (x, dz))
    return *maps, weight.to(dtype), torch.randn(out_channels).to(dtype)


def close(got: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=UPCONV[dtype] * max(1.0, wanted.abs().max().item()))


def cases(table: dict[str, list[tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(algorithm, shape) for algorithm, shapes in table.items() for shape in shapes]


@pytest.mark.parametrize("negative_slope", [None, 0.2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("algorithm", "shape"), cases(FORWARD))
def test_forward(algorithm: str, shape: tuple[int, ...], dtype: torch.dtype, negative_slope: float | None) -> None:
    x, _, weight, bias = operands(shape, dtype)
    wanted = torch_passes.forward(x.double(), weight.double(), bias.double(), negative_slope)
    with mock.patch.object(cpu_passes, algorithm, wraps=getattr(cpu_passes, algorithm)) as spy:
        close(cpu_passes.forward(x, weight, bias, negative_slope, repeated=True), wanted, dtype)
        assert spy.called
    close(cpu_passes.forward(x, weight, bias, negative_slope, repeated=False), wanted, dtype)
    without_bias = torch_passes.forward(x.double(), weight.double(), None, negative_slope)
    close(cpu_passes.forward(x, weight.contiguous(), None, negative_slope, repeated=False), without_bias, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 512, 83, 4, 4), (2, 700, 60, 5, 3)])
def test_forward_as_a_matrix_product(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, _, weight, bias = operands(shape, dtype)
    with mock.patch.object(cpu_matmul, "forward", wraps=cpu_matmul.forward) as spy:
        for slope, offset in ((0.2, bias), (None, None)):
            wanted = torch_passes.forward(
                x.double(), weight.double(), None if offset is None else offset.double(), slope
            )
            close(cpu_passes.forward(x, weight, offset, slope, repeated=False), wanted, dtype)
        assert spy.call_count == (2 if dtype == torch.float32 else 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("algorithm", "shape"), cases(DGRAD))
def test_dgrad(algorithm: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, dz, weight, _ = operands(shape, dtype)
    with mock.patch.object(cpu_matmul, "input_gradient", wraps=cpu_matmul.input_gradient) as spy:
        for below, slope in ((x, 0.2), (x, None), (None, None)):
            for kernel in (weight, weight.contiguous()):
                got = cpu_passes.dgrad(dz, kernel, below, slope)
                wanted = torch_passes.dgrad(
                    dz.double(), weight.double(), None if below is None else below.double(), slope
                )
                close(got[0], wanted[0], dtype)
                torch.testing.assert_close(
                    got[1], torch_passes.bias_gradient(got[0]) if below is not None else torch.empty(0)
                )
        assert spy.called == (algorithm == "input_gradient")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("algorithm", "shape"), cases(WGRAD))
def test_wgrad(algorithm: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, dz, _, _ = operands(shape, dtype)
    with mock.patch.object(cpu_matmul, "wgrad", wraps=cpu_matmul.wgrad) as spy:
        dw = cpu_passes.wgrad(x, dz)
        assert spy.called == (algorithm == "wgrad")
    close(dw, torch_passes.wgrad(x.double(), dz.double()), dtype)
    assert dw.is_contiguous(memory_format=torch.channels_last)


def test_falls_back_without_onednns_private_ops() -> None:
    x, dz, weight, bias = operands((2, 40, 65, 3, 5), torch.float32)
    cpu_passes.usable.cache_clear()
    try:
        with mock.patch.object(cpu_passes, "_mkldnn", object()):
            assert not cpu_passes.usable(torch.float32)
            close(
                cpu_passes.forward(x, weight, bias, 0.2, repeated=True),
                torch_passes.forward(x.double(), weight.double(), bias.double(), 0.2),
                torch.float32,
            )
            close(cpu_passes.wgrad(x, dz), torch_passes.wgrad(x.double(), dz.double()), torch.float32)
    finally:
        cpu_passes.usable.cache_clear()


def test_a_wrong_private_op_is_not_used() -> None:
    cpu_passes.usable.cache_clear()
    try:
        with mock.patch.object(cpu_passes, "_deconvolution", lambda x, *_: torch.zeros(2, 16, 6, 6)):
            assert not cpu_passes.usable(torch.float32)
    finally:
        cpu_passes.usable.cache_clear()


CHANGES = {
    "in place": lambda weight: weight.mul_(2),
    "through data": lambda weight: weight.data.mul_(2),
    "copied over": lambda weight: weight.copy_(torch.randn_like(weight)),
    "other memory": lambda weight: setattr(weight, "data", torch.randn_like(weight)),
    "other layout": lambda weight: setattr(weight, "data", torch.randn_like(weight).contiguous()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weight_is_packed_again(change: str) -> None:
    x, _, weight, bias = operands((2, 24, 32, 9, 4), torch.float32)
    cpu_passes.forward(x, weight, bias, 0.2, repeated=True)
    CHANGES[change](weight)
    wanted = torch_passes.forward(x.double(), weight.double(), bias.double(), 0.2)
    close(cpu_passes.forward(x, weight, bias, 0.2, repeated=True), wanted, torch.float32)


def test_packed_weights_are_reused_few_and_go_with_the_weight() -> None:
    x, _, weight, bias = operands((2, 24, 32, 9, 4), torch.float32)
    cpu_passes._cache.clear()
    for _ in range(3):
        cpu_passes.forward(x, weight, bias, 0.2, repeated=True)
        (entry,) = cpu_passes._cache.values()
        (packed,) = entry.by_size.values()
    cpu_passes.forward(x, weight, bias, 0.2, repeated=True)
    assert next(iter(entry.by_size.values())) is packed
    for width in range(1, 9):
        cpu_passes.forward(x[..., :1].expand(2, 24, 9, width).contiguous(), weight, bias, 0.2, repeated=True)
    assert len(entry.by_size) == cpu_passes._Packed.SIZES
    del weight
    gc.collect()
    assert not cpu_passes._cache


@pytest.mark.filterwarnings("error")
def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        x, _, weight, bias = operands((2, 24, 32, 9, 4), torch.float32)
        first = cpu_passes.forward(x, weight, bias, 0.2, repeated=True)
        weight.mul_(-1)
        assert not torch.equal(first, cpu_passes.forward(x, weight, bias, 0.2, repeated=True))
