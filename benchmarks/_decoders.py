"""Decoders of up-convolutions, a problem to set them (with its answer in float64), and the contenders that solve it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

from preimage import reference
from preimage.nn import UpConv2d, UpConvChain

SLOPE = 0.2
PASSES = ("forward", "forward+backward")

# ‖result - float64's‖ / ‖float64's‖, for y, for gradients through one leaky ReLU, and through several: rounding puts
# some values on the other side of the kink, and each of them is passed on. Measured: bfloat16 4e-3, 4e-3 and 8e-2,
# float32 1e-6, and 5e-3 where one value of 30 000 has changed its side.
TOLERANCES = {torch.float32: (1e-5, 3e-2, 3e-2), torch.bfloat16: (1e-2, 3e-2, 2e-1)}
TF32_TOLERANCES = (5e-3, 3e-2, 1e-1)


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """One up-convolution of maps of side × side; without a slope it is the last."""

    side: int
    in_channels: int
    out_channels: int
    negative_slope: float | None = SLOPE

    @property
    def name(self) -> str:
        """For example ``64→32 at 64²``."""
        return f"{self.in_channels}→{self.out_channels} at {self.side}²"

    def flops(self, batch: int) -> int:
        """Of one pass: forward, the gradient of x, or that of the weight."""
        return 50 * self.in_channels * self.out_channels * batch * self.side**2

    def sizes(self, batch: int) -> tuple[int, int, int]:
        """Numbers in x, in the weight and in y."""
        pixels = batch * self.side**2
        return pixels * self.in_channels, 25 * self.in_channels * self.out_channels, 4 * pixels * self.out_channels


def decoder(side: int, *channels: int) -> tuple[LayerShape, ...]:
    """The layers from maps of side² to an image, the last without activation."""
    pairs = list(itertools.pairwise(channels))
    return tuple(
        LayerShape(side << index, inside, outside, SLOPE if index < len(pairs) - 1 else None)
        for index, (inside, outside) in enumerate(pairs)
    )


# F: of the fully connected inverter, 128²; H: one for 256². `tiny` is for trying the benchmarks themselves.
DECODERS = {
    "F": decoder(4, 256, 256, 128, 64, 32, 3),
    "H": decoder(4, 512, 512, 256, 128, 64, 32, 3),
    "tiny": decoder(2, 16, 8, 3),
}


class Problem:
    """Input, weights, biases and the output's gradient, all exact in bfloat16, and so the same in every dtype."""

    def __init__(
        self, layers: tuple[LayerShape, ...], batch: int, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.layers = layers
        self.device = torch.device(device)  # where the answer is computed
        self.batch = batch
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (torch.randn(shape, generator=random) * scale).bfloat16().float()

        first, last = layers[0], layers[-1]
        self.x = normal(batch, first.in_channels, first.side, first.side)
        self.weights = [
            normal(layer.in_channels, layer.out_channels, 5, 5, scale=(layer.in_channels * 6.25) ** -0.5)
            for layer in layers
        ]
        self.biases = [normal(layer.out_channels, scale=0.1) for layer in layers]
        self.dy = normal(batch, last.out_channels, 2 * last.side, 2 * last.side)

    @functools.cached_property
    def answer(self) -> tuple[torch.Tensor, ...]:
        """In float64: y, the gradients of x, of the weights and of the biases."""
        contender = Contender("float64", Plain(self), self, torch.float64, self.device, channels_last=False)
        return tuple(result.detach() for result in contender.logical(contender.both()))


class Plain(nn.Module):
    """torch's own layers."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.slopes = [layer.negative_slope for layer in problem.layers]
        self.weights = nn.ParameterList(map(self.own, problem.weights))
        self.biases = nn.ParameterList(self.own_bias(bias) for bias in problem.biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight, bias, slope in zip(self.weights, self.biases, self.slopes, strict=True):
            x = self.layer(x, weight, bias)
            x = x if slope is None else F.leaky_relu(x, slope)
        return x

    def layer(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """One layer without its activation."""
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1)

    def own(self, weight: torch.Tensor) -> torch.Tensor:
        """From (Ci, Co, 5, 5) to the parameter."""
        return weight.clone()

    def logical(self, gradient: torch.Tensor) -> torch.Tensor:
        """The inverse, for a gradient."""
        return gradient

    def own_bias(self, bias: torch.Tensor) -> torch.Tensor:
        """From (Co,) to the parameter."""
        return bias.clone()

    def logical_bias(self, gradient: torch.Tensor) -> torch.Tensor:
        """The inverse, for a gradient."""
        return gradient

    def settle(self) -> None:
        """Lays the parameters out as its user would, after they have come to their device."""


class SubPixel(Plain):
    """One 3×3 convolution to the four phases of every output pixel, then a pixel shuffle; 36 tap slots for 25 taps."""

    def layer(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 2)

    def own(self, weight: torch.Tensor) -> torch.Tensor:
        turned = weight.flip(2, 3).transpose(0, 1)  # as conv2d has it
        phases = [F.pad(turned[:, :, a::2, b::2], (b, 0, a, 0)) for a in (0, 1) for b in (0, 1)]
        return torch.stack(phases, dim=1).flatten(0, 1)

    def logical(self, gradient: torch.Tensor) -> torch.Tensor:
        taps = gradient.unflatten(0, (-1, 4))
        whole = gradient.new_empty(taps.shape[0], taps.shape[2], 5, 5)
        for a, b in itertools.product((0, 1), repeat=2):
            whole[:, :, a::2, b::2] = taps[:, 2 * a + b, :, a:, b:]
        return whole.flip(2, 3).transpose(0, 1)

    def own_bias(self, bias: torch.Tensor) -> torch.Tensor:
        return bias.repeat_interleave(4)

    def logical_bias(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.unflatten(0, (-1, 4)).sum(1)


class Naive(Plain):
    """Zeros between the pixels and a convolution, as the definition says: 100 multiplications for 25."""

    def layer(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return reference.upconv(x, weight, bias)


class Ours(Plain):
    """`preimage.nn.UpConvChain`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        layers = [UpConv2d(layer.in_channels, layer.out_channels, layer.negative_slope) for layer in problem.layers]
        for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
            layer.weight, layer.bias = weight, bias
        self.chain = UpConvChain(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.chain(x)

    def settle(self) -> None:
        for weight in self.weights:
            if weight.is_cuda:  # as the trainer lays them out there: (5, 5, Ci, Co) in memory
                weight.data = weight.data.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)


class WrongResultError(Exception):
    """A contender does not solve the problem: it is not worth a measurement."""


class Contender:
    """A module set to solve a problem, with everything in one dtype, on one device and in one layout."""

    def __init__(
        self,
        name: str,
        module: Plain,
        problem: Problem,
        dtype: torch.dtype,
        device: torch.device,
        *,
        channels_last: bool = True,
        call: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.name = name
        self.problem = problem
        self.module = module.to(device, dtype, memory_format=layout)  # type: ignore[call-overload]
        self.module.settle()
        self.x = problem.x.to(device, dtype, memory_format=layout, copy=True).requires_grad_()
        self.dy = problem.dy.to(device, dtype, memory_format=layout, copy=True)
        self._call = self.module if call is None else call  # for example the module compiled
        self._inputs = [self.x, *self.module.weights, *self.module.biases]

    def forward(self) -> torch.Tensor:
        """y, as in inference."""
        with torch.no_grad():
            return self._call(self.x)

    def both(self) -> tuple[torch.Tensor, ...]:
        """y, and the gradients of x, of the weights and of the biases, as they lie."""
        y = self._call(self.x)
        return y, *torch.autograd.grad(y, self._inputs, self.dy)

    def runner(self, which: str) -> Callable[[], object]:
        """What is timed for a pass of `PASSES`."""
        return self.forward if which == "forward" else self.both

    @staticmethod
    def poison(results: object) -> None:
        """Fills results that a replay is to write with NaN, so that what it leaves out shows."""
        for result in results if isinstance(results, tuple) else (results,):
            result.detach().fill_(float("nan"))

    def changed(self) -> None:
        """As after an optimiser's step: nothing made from the weights may be used again."""
        torch.autograd.graph.increment_version(list(self.module.parameters()))

    def check(self, which: str, run: Callable[[], object] | None = None) -> float:
        """The largest error of a pass (of `run`, where it is replayed), relative to each result's Euclidean length.

        Raises:
            WrongResultError: one is above its tolerance, or not a number.
        """
        found = (run or self.runner(which))()
        results = self.logical(found if isinstance(found, tuple) else (found,))
        count = len(self.problem.layers)
        names = ["y", "dx", *(f"dw{i}" for i in range(count)), *(f"db{i}" for i in range(count))]
        tf32 = self.x.is_cuda and self.x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
        limits = TF32_TOLERANCES if tf32 else TOLERANCES[self.x.dtype]
        worst = 0.0
        for name, mine, theirs in zip(names, results, self.problem.answer, strict=False):
            error = ((mine.detach().double() - theirs).norm() / theirs.norm()).item()
            limit = limits[0] if name == "y" else limits[1] if count == 1 else limits[2]
            if not error <= limit:
                raise WrongResultError(f"{name} is {error:.1e} off, at most {limit:.0e}")
            worst = max(worst, error)
        return worst

    def logical(self, results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Results of a pass with the weights' gradients as (Ci, Co, 5, 5) and the biases' as (Co,)."""
        weights = 2 + len(self.problem.layers)
        return (
            *results[:2],
            *map(self.module.logical, results[2:weights]),
            *map(self.module.logical_bias, results[weights:]),
        )


def flops(layers: Iterable[LayerShape], batch: int, which: str) -> int:
    """Of a pass of `PASSES`: three times as many with the two gradients."""
    return sum(layer.flops(batch) for layer in layers) * (1 if which == "forward" else 3)
