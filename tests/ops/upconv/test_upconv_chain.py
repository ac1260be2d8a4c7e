"""Compare chains of up-convolutions with single layers: values, gradients, torch.compile."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from layouts import LAYOUTS
from preimage import reference
from preimage.nn import UpConv2d, UpConvChain
from preimage.ops.upconv import (
    torch_ops,  # noqa: F401 (defines the ops)
    upconv,
    upconv_chain,
    upconv_chain_distance,
)
from tolerances import UPCONV, UPCONV_AUTOCAST, UPCONV_COMPILED, UPCONV_DISTANCE, UPCONV_DISTANCE_GRADIENT

SLOPES = [(0.2, None), (0.1, 0.3, None), (0.2, None, 0.2), (None,), (0.2,)]


def a_chain(slopes: tuple[float | None, ...], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, list, list]:
    """Return (x, weights, biases), all with gradients; the second layer of three has no bias."""
    torch.manual_seed(0)
    channels = [*(4, 6, 5, 3)[: len(slopes)], 3]
    x = torch.randn(2, 4, 3, 2, dtype=dtype, requires_grad=True)
    weights = [torch.randn(ci, co, 5, 5, dtype=dtype) / ci for ci, co in itertools.pairwise(channels)]
    biases = [
        None if layer == 1 and len(slopes) == 3 else torch.randn(w.shape[1], dtype=dtype)
        for layer, w in enumerate(weights)
    ]
    for parameter in (*weights, *biases):
        if parameter is not None:
            parameter.requires_grad_()
    return x, weights, biases


def one_by_one(x: torch.Tensor, weights: list, biases: list, slopes: tuple[float | None, ...]) -> torch.Tensor:
    for weight, bias, slope in zip(weights, biases, slopes, strict=True):
        x = reference.upconv(x, weight, bias, slope)
    return x


def asking(x: torch.Tensor, weights: list, biases: list) -> list[torch.Tensor]:
    return [t for t in (x, *weights, *biases) if t is not None and t.requires_grad]


def assert_all_close(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> None:
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, atol=UPCONV[torch.float64], rtol=UPCONV[torch.float64])


@pytest.mark.parametrize("slopes", SLOPES)
def test_equals_layer_by_layer(slopes: tuple[float | None, ...]) -> None:
    x, weights, biases = a_chain(slopes)
    ours, theirs = upconv_chain(x, weights, biases, slopes), one_by_one(x, weights, biases, slopes)
    assert_all_close((ours,), (theirs,))
    gradient = torch.randn_like(theirs)
    inputs = asking(x, weights, biases)
    assert_all_close(torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(theirs, inputs, gradient))


@pytest.mark.parametrize("frozen", range(1, 127, 5))
def test_frozen_parameters_get_no_gradient(frozen: int) -> None:
    """Any of x, three weights and three biases may need no gradient; propagation ends where none is needed."""
    slopes = (0.2, 0.2, None)
    x, weights, biases = a_chain(slopes)
    biases[1] = torch.randn(5, dtype=torch.float64)
    for bit, tensor in enumerate((x, *weights, *biases)):
        tensor.requires_grad_(not frozen >> bit & 1)
    inputs = asking(x, weights, biases)
    ours, theirs = upconv_chain(x, weights, biases, slopes), one_by_one(x, weights, biases, slopes)
    gradient = torch.randn_like(theirs)
    assert_all_close(torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(theirs, inputs, gradient))
    upconv_chain(x, weights, biases, slopes).backward(gradient)
    assert all(t.grad is None for t in (x, *weights, *biases) if not t.requires_grad)


@pytest.mark.parametrize("slopes", [(0.2, None), (0.1, 0.3, None), (None,)])
def test_distance_equals_that_of_the_image(slopes: tuple[float | None, ...]) -> None:
    x, weights, biases = a_chain(slopes)
    image = one_by_one(x, weights, biases, slopes)
    target = torch.randint(256, image.shape, dtype=torch.uint8)
    mean = torch.rand(3, dtype=torch.float64)
    ours = upconv_chain_distance(x, weights, biases, slopes, target, mean)
    theirs = torch.linalg.vector_norm(image + mean[:, None, None] - target / 255.0, dim=(1, 2, 3))
    torch.testing.assert_close(ours.double(), theirs, atol=0, rtol=UPCONV_DISTANCE)
    share = torch.tensor([0.3, 1.7])
    inputs = asking(x, weights, biases)
    gradients = zip(
        torch.autograd.grad(ours, inputs, share), torch.autograd.grad(theirs, inputs, share.double()), strict=True
    )
    for got, wanted in gradients:
        atol = UPCONV_DISTANCE * wanted.abs().max().item()
        torch.testing.assert_close(got, wanted, atol=atol, rtol=UPCONV_DISTANCE_GRADIENT)


def test_target_is_converted_at_most_once() -> None:
    """Training batches are channels_last and are used as they are; others are kept converted for the backward pass."""
    x, weights, biases = a_chain((0.2, None))
    target = torch.randint(256, (2, 3, 12, 8), dtype=torch.uint8)
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        given, kept = target.contiguous(memory_format=layout), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            distance = upconv_chain_distance(x, weights, biases, (0.2, None), given, torch.zeros(3))
        (saved,) = (t for t in kept if t.dtype == torch.uint8)
        assert saved.is_contiguous(memory_format=torch.channels_last)
        assert (saved.data_ptr() == given.data_ptr()) == (layout is torch.channels_last)
        results.append((distance, *torch.autograd.grad(distance.sum(), asking(x, weights, biases))))
    assert all(map(torch.equal, *results))


def test_a_distance_of_zero_has_no_gradient() -> None:
    weights, biases = [torch.zeros(4, 3, 5, 5, requires_grad=True)], [torch.zeros(3, requires_grad=True)]
    target = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    distance = upconv_chain_distance(torch.ones(1, 4, 2, 2), weights, biases, [None], target, torch.zeros(3))
    distance.sum().backward()
    assert distance.item() == 0
    assert weights[0].grad is not None and not weights[0].grad.any()


def test_gradcheck() -> None:
    slopes = (0.2, None)
    x, weights, biases = a_chain(slopes)

    def chain(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return upconv_chain(x, parameters[:2], parameters[2:], slopes)

    assert torch.autograd.gradcheck(chain, (x[:1, :, :2].detach().requires_grad_(), *weights, *biases))


@pytest.mark.parametrize("which", ["x", "weight", "bias"])
def test_second_derivatives_are_rejected(which: str) -> None:
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((1, 2, 3, 3), (2, 5, 5, 5), (5,)))
    wanted = {"x": x, "weight": weight, "bias": bias}[which]
    (gradient,) = torch.autograd.grad(upconv(x, weight, bias).square().sum(), wanted, create_graph=True)
    with pytest.raises(RuntimeError, match=r"upconv.*second derivative"):
        gradient.sum().backward()


def test_only_outputs_of_layers_are_kept() -> None:
    layers = UpConvChain(UpConv2d(8, 7), UpConv2d(7, 6), UpConv2d(6, 3, None))
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t.numel()), lambda n: n):
        layers(torch.randn(2, 8, 4, 4))
    parameters = sum(p.numel() for p in layers.parameters())
    assert sum(kept.values()) == parameters + 2 * 16 * (8 + 4 * 7 + 16 * 6 + 64 * 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = UpConvChain(UpConv2d(16, 8), UpConv2d(8, 3, None))
    x = torch.randn(2, 16, 5, 4)
    wanted = layers(x)
    with torch.autocast("cpu", dtype):
        y = layers(x)
    assert y.dtype == dtype
    atol, rtol = UPCONV_AUTOCAST[dtype]
    torch.testing.assert_close(y.float(), wanted, atol=atol, rtol=rtol)
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layers.parameters())


def test_gradients_are_the_same_a_hundred_times() -> None:
    torch.manual_seed(0)
    layers = UpConvChain(UpConv2d(64, 33), UpConv2d(33, 16), UpConv2d(16, 3, None))
    x = torch.randn(3, 64, 4, 5, requires_grad=True)

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(layers(x).square().sum(), [x, *layers.parameters()]))

    first = gradients()
    assert all(all(map(torch.equal, first, gradients())) for _ in range(100))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo does
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_whole_with_gradients(backend: str) -> None:
    torch._dynamo.reset()
    layers = UpConvChain(UpConv2d(6, 8), UpConv2d(8, 3, None))
    compiled = torch.compile(layers, fullgraph=True, backend=backend)
    for height, width in ((5, 4), (3, 7), (8, 2)):
        x = torch.randn(2, 6, height, width)
        ours, theirs = compiled(x), layers(x)
        torch.testing.assert_close(ours, theirs)
        for got, wanted in zip(
            torch.autograd.grad(ours.square().sum(), list(layers.parameters())),
            torch.autograd.grad(theirs.square().sum(), list(layers.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(got, wanted, atol=UPCONV_COMPILED, rtol=UPCONV_COMPILED)


OPS = torch.ops.preimage


@pytest.mark.parametrize(
    ("layout", "channels"),
    [("contiguous", (5, 9)), ("channels last", (8, 3)), ("sliced", (5, 3)), ("empty batch", (8, 3))],
)
def test_opcheck(layout: str, channels: tuple[int, int]) -> None:
    in_channels, out_channels = channels
    x = LAYOUTS[layout](torch.randn(2, in_channels, 4, 6))
    weight, bias = torch.randn(in_channels, out_channels, 5, 5), torch.randn(out_channels)
    batch, _, height, width = x.shape
    dz = torch.randn(batch, out_channels, 2 * height, 2 * width)
    for repeated in (False, True):
        torch.library.opcheck(OPS.upconv.default, (x, weight, bias, 0.2, repeated))
    torch.library.opcheck(OPS.upconv.default, (x, weight, None, None, False))
    torch.library.opcheck(OPS.upconv_dgrad.default, (dz, weight, x, 0.2))
    torch.library.opcheck(OPS.upconv_dgrad.default, (dz, weight, None, None))
    torch.library.opcheck(OPS.upconv_wgrad.default, (x, dz))
    torch.library.opcheck(OPS.upconv_activation_backward.default, (dz, dz.sin(), 0.2))
    if out_channels == 3:
        torch.library.opcheck(OPS.upconv_image_backward.default, (x, dz, weight, 0.2))
        target, mean = torch.randint(256, dz.shape, dtype=torch.uint8), torch.rand(3)
        torch.library.opcheck(OPS.image_distance.default, (dz, target, mean))
        scale = torch.rand(batch)
        torch.library.opcheck(OPS.upconv_distance_backward.default, (x, dz, target, mean, scale, weight, 0.2))


def test_module_is_a_sequential_of_its_layers() -> None:
    torch.manual_seed(0)
    layers = UpConvChain(UpConv2d(4, 6), UpConv2d(6, 5), nn.Conv2d(5, 5, 3, padding=1), UpConv2d(5, 3, None))
    plain = nn.Sequential(*(UpConv2d(4, 6), UpConv2d(6, 5), nn.Conv2d(5, 5, 3, padding=1), UpConv2d(5, 3, None)))
    plain.load_state_dict(layers.state_dict())
    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(layers(x), plain(x))
    target, mean = torch.randint(256, (2, 3, 24, 40), dtype=torch.uint8), torch.rand(3)
    wanted = torch.linalg.vector_norm(plain(x) + mean[:, None, None] - target / 255, dim=(1, 2, 3))
    torch.testing.assert_close(layers.distance(x, target, mean), wanted)


def test_a_subclass_keeps_its_own_forward() -> None:
    class Doubled(UpConv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layers = UpConvChain(UpConv2d(2, 2), Doubled(2, 2))
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(layers(x), 2 * UpConv2d.forward(layers[1], layers[0](x)))


def test_hooks_of_a_layer_are_called() -> None:
    layers = UpConvChain(UpConv2d(2, 4), UpConv2d(4, 5), UpConv2d(5, 3, None))
    x = torch.randn(1, 2, 3, 3)
    wanted, seen = layers(x), []
    layers[1].register_forward_hook(lambda _layer, _inputs, y: seen.append(y.shape))
    torch.testing.assert_close(layers(x), wanted)
    assert seen == [(1, 5, 12, 12)]


def test_weights_in_any_memory_order() -> None:
    layer, x = UpConv2d(6, 5), torch.randn(2, 6, 4, 3)
    wanted = layer(x)
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = layer.weight.detach().clone(memory_format=layout).requires_grad_()
        torch.testing.assert_close(upconv(x, weight, layer.bias), wanted)
        got = torch.autograd.grad(upconv(x, weight, layer.bias).sum(), weight)
        torch.testing.assert_close(got, torch.autograd.grad(layer(x).sum(), layer.weight))


def test_plain_torch_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights, biases = a_chain((0.2, None))
    wanted = upconv_chain(x, weights, biases, (0.2, None))
    monkeypatch.setenv("PREIMAGE_UPCONV", "plain")
    y = upconv_chain(x, weights, biases, (0.2, None))
    torch.testing.assert_close(y, wanted)
    assert type(y.grad_fn).__name__ == "ConvolutionBackward0"
    monkeypatch.setenv("PREIMAGE_UPCONV", "fast")
    with pytest.raises(ValueError, match=r"PREIMAGE_UPCONV.*auto.*plain.*'fast'"):
        upconv_chain(x, weights, biases, (0.2, None))


def test_works_without_memory() -> None:
    assert UpConvChain(UpConv2d(4, 5), UpConv2d(5, 3, None)).to("meta")(
        torch.empty(2, 4, 3, 5, device="meta")
    ).shape == (
        2,
        3,
        12,
        20,
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"biases": [None]}, ValueError, r"weights.*biases.*slopes.*2, 1 and 2"),
        ({"slopes": (0.2, -1.0)}, ValueError, r"negative_slope.*0.*None.*-1\.0"),
        ({"biases": [None, torch.zeros(4)]}, ValueError, r"bias.*\(3,\).*\(4,\)"),
        ({"x": torch.zeros(1, 4, 2, 2)}, TypeError, r"dtype.*torch.float32.*torch.float64"),
        ({"x": torch.zeros(1, 4, 2, 2, dtype=torch.int64)}, TypeError, "floating"),
        (
            {"x": torch.zeros(1, 4, 2, 2, dtype=torch.float64, device="meta")},
            ValueError,
            "meta",
        ),
    ],
)
def test_rejects(change: dict[str, object], error: type[Exception], message: str) -> None:
    x, weights, biases = a_chain((0.2, None))
    arguments = {"x": x, "weights": weights, "biases": biases, "slopes": (0.2, None)} | change
    with pytest.raises(error, match=message):
        upconv_chain(**arguments)


def test_distance_rejects_wrong_shapes() -> None:
    x, weights, biases = a_chain((0.2, None))
    target, mean = torch.zeros(2, 3, 12, 8, dtype=torch.uint8), torch.zeros(3)
    with pytest.raises(ValueError, match=r"slopes.*0\.2"):
        upconv_chain_distance(x, weights, biases, (0.2, 0.2), target, mean)
    with pytest.raises(ValueError, match=r"\(2, 3, 12, 8\) uint8.*cpu.*\(2, 3, 12, 8\) torch.float32.*cpu"):
        upconv_chain_distance(x, weights, biases, (0.2, None), target.float(), mean)
    with pytest.raises(ValueError, match=r"UpConv2d.*Conv2d"):
        UpConvChain(UpConv2d(4, 3), nn.Conv2d(3, 3, 1)).distance(torch.zeros(1, 4, 2, 2), target, mean)
