"""Compare the up-convolution with the plain implementation, forward and backward."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from preimage import reference
from preimage.nn import UpConv2d
from preimage.ops.upconv import upconv
from tolerances import UPCONV

SHAPES = [(1, 1, 1, 1, 1), (2, 3, 5, 1, 7), (2, 5, 3, 6, 5), (1, 8, 4, 33, 17), (3, 2, 70, 4, 4)]  # B, Ci, Co, H, W


@pytest.mark.parametrize("negative_slope", [None, 0.2])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape: tuple[int, ...], negative_slope: float | None) -> None:
    batch, in_channels, out_channels, height, width = shape
    torch.manual_seed(0)
    inputs = [
        torch.randn(*size, dtype=torch.float64, requires_grad=True)
        for size in ((batch, in_channels, height, width), (in_channels, out_channels, 5, 5), (out_channels,))
    ]
    fast, plain = (f(*inputs, negative_slope) for f in (upconv, reference.upconv))
    assert fast.shape == (batch, out_channels, 2 * height, 2 * width)
    torch.testing.assert_close(fast, plain, atol=UPCONV[torch.float64], rtol=0)
    weights = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad(fast, inputs, weights), torch.autograd.grad(plain, inputs, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=UPCONV[torch.float64], rtol=UPCONV[torch.float64])


def test_puts_a_value_at_the_top_left_of_its_block() -> None:
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1
    weight = torch.zeros(1, 1, 5, 5)
    weight[0, 0, 2, 2] = 1
    y = upconv(x, weight)
    assert y.nonzero().tolist() == [[0, 0, 2, 2]]


def test_orientation_is_that_of_conv_transpose2d() -> None:
    """The tap right of the kernel's center adds to the pixel to the right."""
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1
    weight = torch.zeros(1, 1, 5, 5)
    weight[0, 0, 2, 3] = 1
    assert upconv(x, weight).nonzero().tolist() == [[0, 0, 2, 3]]


@pytest.mark.parametrize("channels", [(6, 9), (16, 16)])
def test_state_fits_torchs_layer_and_back(channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs, again = UpConv2d(*channels), nn.ConvTranspose2d(*channels, 5, 2, 2, 1), UpConv2d(*channels)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    again.load_state_dict(theirs.state_dict())
    x = torch.randn(2, channels[0], 5, 4)
    torch.testing.assert_close(ours(x), F.leaky_relu(theirs(x), 0.2))
    assert torch.equal(again.weight, ours.weight) and torch.equal(again.bias, ours.bias)
    assert again.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo does
@pytest.mark.parametrize("out_channels", [3, 8])
def test_compiles_whole(out_channels: int) -> None:
    layer = UpConv2d(4, out_channels)
    x = torch.randn(2, 4, 5, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_layer_keeps_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 64, 16, 16)
    y = UpConv2d(64, 64)(x)
    assert 0.7 < y.square().mean().item() < 1.3


def test_layer_without_activation_is_linear() -> None:
    layer = UpConv2d(4, 3, negative_slope=None)
    x = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(layer(2 * x), 2 * layer(x))


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        ((4, 5, 5), (4, 2, 5, 5), r"x.*\(B, C, H, W\).*\(4, 5, 5\)"),
        ((1, 4, 5, 5), (3, 2, 5, 5), r"weight.*\(4, Co, 5, 5\).*\(3, 2, 5, 5\)"),
        ((1, 4, 5, 5), (4, 2, 3, 3), r"\(4, 2, 3, 3\)"),
    ],
)
def test_rejects(x: tuple[int, ...], weight: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upconv(torch.zeros(x), torch.zeros(weight))


def test_cpu_does_not_use_the_registered_ops() -> None:
    """Registering them loads dynamo and inductor, which takes longer than importing torch."""
    script = """
import sys, torch
from preimage.nn import UpConv2d
UpConv2d(4, 3)(torch.randn(1, 4, 5, 6)).sum().backward()
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_has_the_same_parameters_and_defaults() -> None:
    assert inspect.signature(reference.upconv) == inspect.signature(upconv)
