"""Compare the up-convolution's Triton kernels with the plain passes, in Triton's interpreter or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from preimage.ops.upconv import torch_passes
from preimage.ops.upconv.kernel_choice import choose
from preimage.ops.upconv.kernel_configs import PASSES, Config, candidates, tf32_allowed
from tolerances import UPCONV_KERNELS

interpreter = pytest.importorskip("triton.runtime.interpreter")

from preimage.ops.upconv import kernels  # noqa: E402
from preimage.ops.upconv.kernels import _launch, cudnn  # noqa: E402
from triton_resources import LAYERS  # noqa: E402

ON_GPU = torch.cuda.is_available()
# On a GPU float32 is only computed in TF32, torch's default.
PRECISIONS = ["tf32", "bf16"] if ON_GPU else ["ieee"]

# B, Ci, Co, H, W
SHAPES = [(1, 1, 1, 1, 1), (2, 5, 3, 4, 4), (1, 8, 2, 17, 9), (3, 17, 4, 1, 2), (1, 40, 20, 3, 9), (2, 20, 40, 5, 1)]

FORWARD = [
    Config("phase", (64, 32, 32), 4, 2),
    Config("all_phases", (64, 32, 32), 8, 2),
    Config("row_pair", (64, 32, 32), 4, 3),
    Config("cudnn", (16, 32), 4, 1),
    Config("subpixel", (64, 16, 16), 4, 2),
]
DGRAD = [
    Config("dgrad", (64, 32, 32), 4, 3),
    Config("dgrad_window", (64, 32, 64), 8, 2),
    Config("dgrad_cudnn", (16, 32), 4, 1),
]
WGRAD = [Config("wgrad", (32, 32, 64), 4, 2, 2), Config("wgrad_window", (32, 64, 64), 8, 2, 3)]


class Passes:
    """Tensors of a layer, results of the kernels, and expected results in float64."""

    def __init__(
        self,
        shape: tuple[int, ...],
        negative_slope: float | None = 0.2,
        dtype: torch.dtype = torch.float32,
        below: bool = True,
    ) -> None:
        batch, in_channels, out_channels, height, width = shape
        generator = torch.Generator().manual_seed(1)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=generator).to("cuda" if ON_GPU else "cpu", dtype)

        self.slope = negative_slope
        self.x = normal(batch, in_channels, height, width)
        self.x[self.x.abs() < 0.2] = 0  # where the mask's rule at zero counts
        self.below = self.x if below else None
        self.weight = normal(in_channels, out_channels, 5, 5)
        self.bias = None if negative_slope is None else normal(out_channels)
        self.dz = normal(batch, out_channels, 2 * height, 2 * width)
        self.y = normal(batch, out_channels, 2 * height, 2 * width)
        self.target = torch.randint(0, 256, self.y.shape, generator=generator, dtype=torch.uint8).to(self.x.device)
        self.mean, self.scale = normal(out_channels).float(), normal(batch).float()

    def run(self, config: Config) -> tuple[torch.Tensor, ...]:
        with kernels.poisoned():
            if _which(config) == "forward":
                return (kernels.forward(self.x, self.weight, self.bias, self.slope, config),)
            if _which(config) == "dgrad":
                return kernels.dgrad(self.dz, self.weight, self.below, self.slope, config)
            if _which(config) == "wgrad":
                return (kernels.wgrad(self.x, self.dz, config),)
            loss = (self.x, self.y, self.target, self.mean, self.scale, self.weight, self.slope, config)
            return (
                *kernels.image_backward(self.x, self.dz, self.weight, self.slope, config),
                *kernels.distance_backward(*loss),
            )

    def right(self, config: Config) -> tuple[torch.Tensor, ...]:
        x, weight, dz = self.x.double(), self.weight.double(), self.dz.double()
        if _which(config) == "forward":
            return (torch_passes.forward(x, weight, None if self.bias is None else self.bias.double(), self.slope),)
        if _which(config) == "dgrad":
            return torch_passes.dgrad(dz, weight, x if self.below is not None else None, self.slope)
        if _which(config) == "wgrad":
            return (torch_passes.wgrad(x, dz),)
        formed = torch_passes.image_distance_backward(self.y, self.target, self.mean, self.scale).double()
        return (
            *torch_passes.image_backward(x, dz, weight, self.slope),
            *torch_passes.image_backward(x, formed, weight, self.slope),
            torch_passes.bias_gradient(formed),
        )


def _which(config: Config) -> str:
    if config.kernel == "image_backward":
        return "image_backward"
    return config.kernel.split("_")[0] if config.kernel.startswith(("dgrad", "wgrad")) else "forward"


def _compare(passes: Passes, config: Config, precision: str) -> None:
    for ours, theirs in zip(passes.run(config), passes.right(config), strict=True):
        assert ours.shape == theirs.shape
        if not theirs.numel():
            continue
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error <= UPCONV_KERNELS[precision], f"{config}: {error:.1e}"


def _configurations(out_channels: int) -> list[Config]:
    if out_channels > 4:
        window = Config("wgrad_window", (32, 128, 64), 8, 2, 3)
        return [*FORWARD[:-1], *DGRAD, WGRAD[0], window if out_channels > 25 else WGRAD[1]]
    images = [Config("image_backward", (64, 16, 32 if out_channels == 4 else 16), 4, 2, 3)]
    return [*FORWARD, *DGRAD, *WGRAD, *images]


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Set whether float32 may be computed in TF32."""
    name: str = request.param
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    yield name
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("negative_slope", [None, 0.2])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_pass(shape: tuple[int, ...], negative_slope: float | None, precision: str) -> None:
    passes = Passes(shape, negative_slope, torch.bfloat16 if precision == "bf16" else torch.float32)
    for config in _configurations(shape[2]):
        _compare(passes, config, precision)


@pytest.mark.parametrize("config", DGRAD, ids=str)
def test_without_a_layer_below(config: Config) -> None:
    passes = Passes((2, 5, 3, 4, 4), None, below=False)
    assert passes.run(config)[1].shape == (0,)
    _compare(passes, config, PRECISIONS[0])


def test_vectors_of_any_stride() -> None:
    passes = Passes((2, 5, 3, 4, 4))
    assert passes.bias is not None
    image = Config("image_backward", (64, 16, 16), 4, 2, 3)
    for config in (FORWARD[0], FORWARD[-1], image):
        straight = passes.run(config)
        passes.bias, passes.mean, passes.scale = (
            torch.stack((vector, torch.full_like(vector, 7.0)), 1)[:, 0]
            for vector in (passes.bias, passes.mean, passes.scale)
        )
        assert not passes.bias.is_contiguous()
        assert all(torch.equal(*pair) for pair in zip(straight, passes.run(config), strict=True))
    distances = kernels.image_distance(passes.y, passes.target, passes.mean)
    assert torch.equal(distances, kernels.image_distance(passes.y, passes.target, passes.mean.contiguous()))
    with pytest.raises(ValueError, match=r"mean.*\(3,\)"):
        kernels.image_distance(passes.y, passes.target, passes.mean[:1])
    with pytest.raises(ValueError, match=r"bias.*\(3,\)"):
        kernels.forward(passes.x, passes.weight, passes.bias[:1], None, FORWARD[0])


@pytest.mark.parametrize("negative_slope", [0.2, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_activation_backward(shape: tuple[int, ...], negative_slope: float) -> None:
    """The gradient of the maps has another memory format than the maps."""
    passes = Passes(shape)
    y = passes.y.contiguous(memory_format=torch.channels_last)
    y[:, :, ::2] = 0
    with kernels.poisoned():
        ours = kernels.activation_backward(passes.dz, y, negative_slope)
    theirs = torch_passes.activation_backward(passes.dz.double(), y.double(), negative_slope)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=UPCONV_KERNELS["ieee"], atol=UPCONV_KERNELS["ieee"])


def test_sums_of_more_tiles_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "PROGRAMS", 3)
    _compare(Passes((2, 5, 3, 17, 9)), DGRAD[2], PRECISIONS[0])


def test_grids_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first axis of a grid may be longer than 65535: more images than that, or chunks of one, are run."""
    grids: list[tuple[int, ...]] = []
    monkeypatch.setattr(_launch, "launch", lambda kernel, grid, *_, **__: grids.append(grid))
    for shape in ((70000, 3, 8, 8), (1, 3, 10000, 10000)):
        y = torch.empty(shape, device="meta")
        kernels.image_distance(y, y.to(torch.uint8), torch.empty(3, device="meta"))
    x, y = torch.empty(70000, 5, 4, 4, device="meta"), torch.empty(70000, 3, 8, 8, device="meta")
    weight = torch.empty(5, 3, 5, 5, device="meta")
    kernels.forward(x, weight, None, None, FORWARD[0])
    kernels.dgrad(y, weight, x, None, DGRAD[0])
    kernels.wgrad(x, y, WGRAD[0])
    assert max(grid[0] for grid in grids) > 65535
    assert all(axis <= 65535 for grid in grids for axis in grid[1:])


def test_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ON_GPU:
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", _dot)
    passes = Passes((2, 5, 3, 4, 4), dtype=torch.bfloat16)
    for config in _configurations(3):
        _compare(passes, config, "bf16")


def _dot(_: object, a: Any, b: Any, total: Any, *__: object) -> Any:
    """Replace the interpreter's product, which multiplies the bits of bfloat16 as integers."""
    bits = (operand.data.astype(np.uint32) << 16 for operand in (a, b))
    left, right = (value.view(np.float32) for value in bits)
    return interpreter.TensorHandle(left @ right + total.data, total.dtype.scalar)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 3, 33, 17), (2, 1, 64, 40)])
def test_distance(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if ON_GPU else "cpu"
    y = torch.randn(shape, generator=generator).to(device)
    target = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
    mean = torch.randn(shape[1], generator=generator).to(device)
    with kernels.poisoned():
        ours = kernels.image_distance(y, target, mean)
    theirs = torch_passes.image_distance(y.double(), target, mean)
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=UPCONV_KERNELS["ieee"], atol=0)


def test_two_runs_give_the_same_bits() -> None:
    passes = Passes((2, 20, 3, 6, 5))
    for config in (DGRAD[0], *WGRAD, Config("image_backward", (64, 16, 16), 4, 2, 3)):
        for one, other in zip(passes.run(config), passes.run(config), strict=True):
            assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16"], indirect=True)
@pytest.mark.parametrize("layer", [name for name in LAYERS if name.startswith("H")])
def test_every_choice(layer: str, precision: str) -> None:
    """Runs the configurations chosen by the tables or the rule, since compiled code can differ from interpreted."""
    in_channels, out_channels, side = LAYERS[layer]
    batch = max(1, min(16, 16384 // side**2))
    passes = Passes(
        (batch, in_channels, out_channels, side, side), 0.2, torch.bfloat16 if precision == "bf16" else torch.float32
    )
    size = in_channels, out_channels, batch * side**2
    for which in PASSES[:4]:  # image_backward also represents distance_backward
        config = choose(which, *size, passes.x.dtype, torch.cuda.get_device_capability(), tf32=True)
        if config is not None:
            _compare(passes, config, precision)


def test_candidates_are_a_handful() -> None:
    for capability in ((8, 0), (8, 6), (9, 0), (10, 0), (12, 0)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for in_channels, out_channels, side in LAYERS.values():
                for which in PASSES[:4]:
                    size = in_channels, out_channels, 64 * side**2
                    found = candidates(which, *size, dtype, capability, tf32=True)
                    if which == "image_backward" and out_channels > 4:
                        assert found == ()
                    else:
                        assert 1 <= len(found) <= 9
                        assert all(_which(config) == which for config in found)


@pytest.mark.parametrize(
    ("pixels", "dtype", "capability", "tf32"),
    [
        (2**31 // 256 + 1, torch.bfloat16, (9, 0), True),
        (4096, torch.float64, (9, 0), True),
        (4096, torch.float32, (9, 0), False),
        (4096, torch.bfloat16, (7, 5), True),
        (0, torch.bfloat16, (9, 0), True),
    ],
)
def test_no_candidates(pixels: int, dtype: torch.dtype, capability: tuple[int, int], tf32: bool) -> None:
    assert all(candidates(which, 128, 64, pixels, dtype, capability, tf32=tf32) == () for which in PASSES)


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_tf32_where_torch_allows_it(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    assert tf32_allowed() == allowed
    assert _launch.precision(torch.float32) == ("tf32" if allowed else "ieee")
    assert _launch.precision(torch.bfloat16) == "ieee"


def test_rejects_maps_past_int32() -> None:
    x = torch.empty(1, device="meta").expand(2**13, 16, 128, 128)
    with pytest.raises(ValueError, match=r"2\^31 - 1"):
        kernels.forward(x, torch.empty(16, 3, 5, 5, device="meta"), None, None, FORWARD[0])
    like = torch.empty(1, device="meta").expand(2**13, 1, 128, 128)
    with pytest.raises(ValueError, match=r"2\^31 - 1"):
        _launch.new_map(like, 16, 128, 128)


def test_rejects_what_does_not_fit() -> None:
    passes = Passes((1, 5, 3, 2, 2))
    with pytest.raises(ValueError, match=r"weight.*\(4, Co, 5, 5\)"):
        kernels.forward(passes.x[:, :4], passes.weight, None, None, FORWARD[0])
    with pytest.raises(TypeError, match="dtype"):
        kernels.forward(passes.x, passes.weight.bfloat16(), None, None, FORWARD[0])
    with pytest.raises(ValueError, match="4 output channels"):
        kernels.forward(passes.x, passes.weight.repeat(1, 2, 1, 1), None, None, FORWARD[-1])


def test_empty_batch() -> None:
    passes = Passes((0, 5, 3, 2, 2))
    assert passes.run(FORWARD[0])[0].shape == (0, 3, 4, 4)
    for config in (*DGRAD, *WGRAD, Config("image_backward", (64, 16, 16), 4, 2, 3)):
        assert all(not result.any() for result in passes.run(config))
