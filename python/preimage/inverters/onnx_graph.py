"""Build ONNX graphs from the torch functions that a network calls.

A network is called with a `Value` in place of a tensor, and each torch function becomes a node, so that any
architecture can be exported whose functions are in `_TRANSLATIONS`. An up-convolution becomes a 3×3 convolution to four
times as many channels, one for each pixel of a 2×2 block, and DepthToSpace.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from preimage.inverters.quantization import SCALE, quantized
from preimage.ops.upconv import upconv_chain
from preimage.optional import import_optional

OPSET = 17
_IR_VERSION = 8  # that of OPSET; older runtimes refuse newer ones
WEIGHTS = ("float32", "float16", "int8")

Tensor = torch.Tensor


class Value:
    """Input of a graph under construction, or output of a node, which torch functions take like a tensor.

    Args:
        graph: The graph.
        name: Name of the value in it.
        rank: Number of dimensions, where it is known.
    """

    def __init__(self, graph: Graph, name: str, rank: int | None = None) -> None:
        self.graph, self.name, self._rank = graph, name, rank

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Value:
        translate = _TRANSLATIONS.get(function)
        if translate is None:
            raise ValueError(f"a network that calls {function.__name__} cannot be exported to ONNX")
        return translate(*args, **(kwargs or {}))

    def __add__(self, other: Operand) -> Value:
        return self.graph.node("Add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.node("Sub", self, other)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.node("Mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.node("Div", self, other)

    def __floordiv__(self, other: Operand) -> Value:
        """Divide integers that are not negative: ONNX rounds towards zero."""
        return self.graph.node("Div", self, other)

    def __mod__(self, other: Operand) -> Value:
        return self.graph.node("Mod", self, other)

    def __getitem__(self, index: tuple[slice, ...]) -> Value:
        """Return a part of a map; slices have no steps."""
        parts = [(axis, part) for axis, part in enumerate(index) if part != slice(None)]
        end = np.iinfo(np.int64).max
        limits = [(part.start or 0, end if part.stop is None else part.stop, axis) for axis, part in parts]
        return self.graph.node("Slice", self, *map(list, zip(*limits, strict=True)))

    def dim(self) -> int:
        assert self._rank is not None
        return self._rank

    def clamp_min(self, least: float) -> Value:
        return self.graph.node("Max", self, np.float32(least))

    def log(self) -> Value:
        return self.graph.node("Log", self)

    def reshape(self, *shape: int) -> Value:
        return self.graph.node("Reshape", self, list(shape))

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Value:
        """Return the value: ONNX has no memory formats."""
        return self


Operand = Value | Tensor | npt.NDArray[Any] | np.float32 | Sequence[int] | int


class Graph:
    """Nodes and constants of an ONNX graph.

    Args:
        names: Name of each weight by its ``id``.
        transposed: Names of the weights whose output channels are axis 1.
        weights: Dtype in which weights are stored, one of `WEIGHTS`; computations are float32 with each.
    """

    def __init__(self, names: Mapping[int, str], transposed: Collection[str], weights: str) -> None:
        self._onnx = import_optional("onnx")
        self._nodes: list[Any] = []
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._names, self._transposed, self._weights = names, transposed, weights

    def node(self, operator: str, *inputs: Operand, output: str = "", **attributes: Any) -> Value:
        """Append a node and return its output; inputs that are not values are constants."""
        output = output or f"{operator}_{len(self._nodes)}"
        names = [(one if isinstance(one, Value) else self._constant(one)).name for one in inputs]
        self._nodes.append(self._onnx.helper.make_node(operator, names, [output], name=output, **attributes))
        return Value(self, output)

    def weight(self, weight: Tensor, arranged: Callable[[Tensor], Tensor] = lambda weight: weight) -> Value:
        """Return a weight as float32; it is stored in the dtype that the graph has for weights.

        Args:
            weight: Weight of the network.
            arranged: Function that rearranges its elements, with the output channels as axis 0; it may add zeros.
        """
        name = self._names[id(weight)]
        value = weight.detach().float().cpu()
        parts = quantized({name: value}, self._transposed) if self._weights == "int8" else {}
        if name + SCALE in parts:
            integers = self._named(name, arranged(parts[name]))
            # Zeros that the arrangement adds have no scale: the largest of a channel is that of its other elements.
            axes = tuple(range(1, value.dim()))
            scale = self._named(name + SCALE, arranged(parts[name + SCALE].expand_as(value)).amax(axes, keepdim=True))
            # Not DequantizeLinear, which onnxruntime computes again in every run.
            return self.node("Cast", integers, to=self._onnx.TensorProto.FLOAT) * scale
        if self._weights == "float16":
            return self.node("Cast", self._named(name, arranged(value).half()), to=self._onnx.TensorProto.FLOAT)
        return self._named(name, arranged(value))

    def bias(self, bias: Tensor | None, repeats: int = 1) -> list[Value]:
        """Return a bias, each element `repeats` times, as the last input of a node; nothing for no bias."""
        if bias is None:
            return []
        return [self._named(self._names[id(bias)], bias.detach().float().cpu().repeat_interleave(repeats))]

    def model(
        self, shapes: Mapping[str, Sequence[int | str]], inputs: int, metadata: Mapping[str, str], producer: str
    ) -> Any:
        """Return the graph as a checked ``onnx.ModelProto``.

        Args:
            shapes: Shape of each input and output, which are float32; a dimension with a name is dynamic.
            inputs: Number of the shapes that belong to inputs; they come first.
            metadata: Strings to store in the file.
            producer: Version of this package.
        """
        helper = self._onnx.helper
        values = [
            helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
        ]
        constants = [self._onnx.numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, "inverter", values[:inputs], values[inputs:], constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        model.producer_name, model.producer_version = "preimage", producer
        helper.set_model_props(model, dict(metadata))
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def _named(self, name: str, value: Tensor) -> Value:
        """Return a constant with the name of a weight."""
        if name not in self._constants:
            self._constants[name] = value.contiguous().numpy()
        return Value(self, name)

    def _constant(self, value: Tensor | npt.ArrayLike) -> Value:
        """Return a constant; equal ones are stored once."""
        array = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        for name, known in self._constants.items():
            if known.shape == array.shape and known.dtype == array.dtype and np.array_equal(known, array):
                return Value(self, name)
        name = f"constant_{len(self._constants)}"
        self._constants[name] = array
        return Value(self, name)


def _conv2d(
    x: Value,
    weight: Tensor,  # [Co, Ci, K, K]
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Value:
    window = {"kernel_shape": weight.shape[2:], "strides": stride, "pads": (*padding, *padding), "dilations": dilation}
    attributes: dict[str, Any] = {**window, "group": groups}
    return x.graph.node("Conv", x, x.graph.weight(weight), *x.graph.bias(bias), **attributes)


def _upconv_chain(
    x: Value,
    weights: Sequence[Tensor],  # [Ci, Co, 5, 5] each
    biases: Sequence[Tensor | None],
    slopes: Sequence[float | None],
) -> Value:
    graph = x.graph
    for weight, bias, slope in zip(weights, biases, slopes, strict=True):
        inputs = x, graph.weight(weight, _subpixel), *graph.bias(bias, repeats=4)
        x = graph.node("Conv", *inputs, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
        if slope is not None:  # before the pixels are arranged: a runtime can fuse it with the convolution
            x = _leaky_relu(x, slope)
        x = graph.node("DepthToSpace", x, blocksize=2, mode="CRD")
    return x


def _subpixel(weight: Tensor) -> Tensor:  # [Ci, Co, 5, 5] -> [4 Co, Ci, 3, 3]
    """Return the weight of the convolution whose channels 4 c + 2 a + b are the pixels (2 i + a, 2 j + b) of channel c.

    Along an axis, its tap r, which meets input i + r - 1, is tap 2 r - a of the 5×5 convolution after zero insertion,
    or zero where that convolution has no such tap.
    """
    taps = weight.transpose(0, 1).flip(2, 3)  # [Co, Ci, 5, 5] in the orientation of conv2d
    padded = F.pad(taps, (1, 0, 1, 0))  # tap k is at k + 1 = 2 r + (1 - a)
    blocks = padded.unflatten(3, (3, 2)).unflatten(2, (3, 2)).flip(3, 5)  # [Co, Ci, r, a, s, b]
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)


def _leaky_relu(x: Value, negative_slope: float, inplace: bool = False) -> Value:
    return x.graph.node("LeakyRelu", x, alpha=negative_slope)


def _linear(x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    return x.graph.node("Gemm", x, x.graph.weight(weight), *x.graph.bias(bias), transB=1)


def _pad(x: Value, pad: Sequence[int], mode: str, value: float | None = None) -> Value:
    left, right, top, bottom = pad
    return x.graph.node("Pad", x, [0, 0, top, left, 0, 0, bottom, right], mode={"replicate": "edge"}[mode])


def _concatenated(values: Sequence[Value], dim: int = 0) -> Value:
    return values[0].graph.node("Concat", *values, axis=dim)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Value]] = {
    torch.conv2d: _conv2d,
    torch.cat: _concatenated,
    upconv_chain: _upconv_chain,
    F.leaky_relu: _leaky_relu,
    F.linear: _linear,
    F.pad: _pad,
}
