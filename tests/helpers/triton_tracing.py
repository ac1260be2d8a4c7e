"""Trace the up-convolution's ops as torch.compile does, on CUDA tensors without memory, and print findings as JSON.

This needs Triton without its interpreter, but no GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from triton.backends.compiler import GPUTarget

from preimage.ops.upconv import (
    kernel_choice,
    passes,
    torch_ops,  # noqa: F401 (defines the ops)
    upconv_chain,
    upconv_chain_distance,
)
from preimage.ops.upconv.chain_backward import Chain, ChainDistance
from preimage.ops.upconv.kernel_configs import Config

Found = dict[str, Any]


class Driver:
    """The part of a GPU's driver that torch uses to determine which tensors a kernel writes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def stand_in_for_cuda() -> None:
    """Disable the guard that makes a tensor's device the current one, for a torch built without CUDA."""
    if torch.backends.cuda.is_built():
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[1] = guards[0]  # that of the CPU


@contextlib.contextmanager
def chosen(config: Config) -> Iterator[None]:
    """Run every pass with one configuration within a ``with`` block."""
    before, kernel_choice.choose = kernel_choice.choose, lambda *_, **__: config
    try:
        yield
    finally:
        kernel_choice.choose = before


def launches(graph: torch.fx.Graph) -> list[Found]:
    """Return name and written parameters of every kernel of the package in the graph."""
    found = []
    for node in graph.nodes:
        if "triton_kernel_wrapper" in str(node.target):
            kernel: Any = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            name = getattr(kernel, "fn", kernel).__name__  # torch wraps it to hold the number of warps
            found.append({"kernel": name, "writes": sorted(node.kwargs["tensors_to_clone"])})
    return found


def left(graph: torch.fx.Graph) -> list[str]:
    """Return the package's ops that are in the graph as ops."""
    return [str(node.target) for node in graph.nodes if node.op == "call_function" and "preimage" in str(node.target)]


def parts(module: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
    """Yield the graph and those inside it, a function's forward and backward."""
    return [part for part in module.modules() if isinstance(part, torch.fx.GraphModule)]


def described(value: torch.Tensor | Sequence[torch.Tensor]) -> list[list[Any]]:
    values = [value] if isinstance(value, torch.Tensor) else list(value)
    return [[str(v.device), str(v.dtype), list(v.shape), list(v.stride())] for v in values]


def map_of(batch: int, channels: int, side: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(batch, side, side, channels, dtype=dtype, device="cuda").permute(0, 3, 1, 2)


def ops(dtype: torch.dtype) -> Iterator[Found]:
    """Return, for every registered op and every kernel, the outputs of the traced graph and of the op's fake."""
    package_ops = torch.ops.preimage
    for kernel, split in KERNELS:
        out_channels = 3 if kernel in ("subpixel", "image_backward") else 24
        x, y = map_of(2, 20, 4, dtype), map_of(2, out_channels, 8, dtype)
        weight = torch.empty(20, out_channels, 5, 5, dtype=dtype, device="cuda")
        bias = torch.empty(out_channels, dtype=dtype, device="cuda")
        calls: dict[str, Callable[..., Any]] = {}
        if kernel == "dgrad_cudnn":
            calls["activation_backward"] = lambda x, y, w, b: package_ops.upconv_activation_backward(y, y, 0.2)
        if kernel.startswith("dgrad"):
            calls["dgrad below"] = lambda x, y, w, b: package_ops.upconv_dgrad(y, w, x, 0.2)
            calls["dgrad"] = lambda x, y, w, b: package_ops.upconv_dgrad(y, w, None, None)
        elif kernel.startswith("wgrad"):
            calls["wgrad"] = lambda x, y, w, b: package_ops.upconv_wgrad(x, y)
        elif kernel == "image_backward":
            target = torch.empty(y.shape, dtype=torch.uint8, device="cuda")
            mean, scale = torch.empty(3, device="cuda"), torch.empty(2, device="cuda")
            calls["image_backward"] = lambda x, y, w, b: package_ops.upconv_image_backward(x, y, w, 0.2)
            calls["distance_backward"] = lambda x, y, w, b, t=target, m=mean, s=scale: (
                package_ops.upconv_distance_backward(x, y, t, m, s, w, None)
            )
            calls["distance"] = lambda x, y, w, b, t=target, m=mean: package_ops.image_distance(y, t, m)
        else:
            calls["forward"] = lambda x, y, w, b: package_ops.upconv(x, w, b, 0.2, False)
            calls["forward plain"] = lambda x, y, w, b: package_ops.upconv(x.contiguous(), w, None, None, True)
        blocks = {"wgrad_window": (16, 64, 16), "cudnn": (64, 16), "dgrad_cudnn": (64, 16)}
        config = Config(kernel, blocks.get(kernel, (64, 16, 16)), 4, 2, split)
        with chosen(config):
            for name, call in calls.items():
                graph = make_fx(dispatch_functionalize(call))(x, y, weight, bias).graph
                results: Any = graph.output_node().args[0]
                nodes = [results] if isinstance(results, torch.fx.Node) else results
                yield {
                    "name": f"{name}: {kernel} /{split} {dtype}",
                    "launches": launches(graph),
                    "traced": described([node.meta["val"] for node in nodes]),
                    "registered": described(call(x, y, weight, bias)),
                    "left": left(graph),
                }


KERNELS = [
    *(("phase", 1), ("all_phases", 1), ("row_pair", 1), ("subpixel", 1), ("cudnn", 1)),
    *(
        ("dgrad", 1),
        ("dgrad_window", 1),
        ("dgrad_cudnn", 1),
        ("wgrad", 1),
        ("wgrad", 2),
        ("wgrad_window", 1),
        ("wgrad_window", 2),
    ),
    ("image_backward", 2),
]


SIZES = ((16, 32), (32, 3))  # of a chain's layers
SLOPES = (0.2, None)


def leaves(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return maps, weights and biases of a chain."""
    weights = [torch.empty(*size, 5, 5, dtype=dtype, device="cuda") for size in SIZES]
    return (map_of(2, 16, 4, dtype), *weights, *(torch.empty(size[1], dtype=dtype, device="cuda") for size in SIZES))


def loss() -> tuple[torch.Tensor, torch.Tensor]:
    """Return target and mean."""
    return torch.empty(2, 3, 16, 16, dtype=torch.uint8, device="cuda"), torch.empty(3, device="cuda")


class Context:
    """Stand-in for autograd's context, because the engine runs no CUDA nodes if torch is built without CUDA."""

    def __init__(self, needs: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs)
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors


def both_ways(dtype: torch.dtype) -> Iterator[Found]:
    """Trace forward and backward passes of chains of two layers in one graph."""

    def chain(*tensors: torch.Tensor) -> list[torch.Tensor]:
        context = Context([True, False, *[True] * 4])
        y = Chain.forward(context, tensors[0], SLOPES, *tensors[1:])
        return [y, *(g for g in Chain.backward(context, torch.ones_like(y)) if g is not None)]

    def distance(*tensors: torch.Tensor) -> list[torch.Tensor]:
        context = Context([True, False, False, False, *[True] * 4])
        x, *parameters = tensors[:5]
        target, mean = tensors[5:]
        distances = ChainDistance.forward(context, x, target, mean, SLOPES, *parameters)
        gradients = ChainDistance.backward(context, torch.ones_like(distances))
        return [distances, *(g for g in gradients if g is not None)]

    for name, function, extra in (("chain", chain, ()), ("distance", distance, loss())):
        inputs = (*leaves(dtype), *extra)
        graph = make_fx(dispatch_functionalize(function))(*inputs).graph
        results: Any = graph.output_node().args[0]
        yield {
            "name": f"{name} {dtype}",
            "launches": launches(graph),
            "traced": described([node.meta["val"] for node in results]),
            "registered": described(function(*inputs)),
            "left": left(graph),
        }


def compiled(dtype: torch.dtype) -> Iterator[Found]:
    """Trace with torch.compile in one graph: through AOTAutograd without gradients, up to it with gradients."""
    for gradients in (False, True):
        x, *parameters = (leaf.requires_grad_(gradients) for leaf in leaves(dtype))
        chain = (parameters[:2], parameters[2:], SLOPES)
        for name, call, extra in (("chain", upconv_chain, ()), ("distance", upconv_chain_distance, loss())):
            graphs: list[torch.fx.GraphModule] = []

            def keep(module: torch.fx.GraphModule, _: Any, graphs: list[Any] = graphs) -> Any:
                graphs.append(module)
                return make_boxed_func(module.forward)

            def stop(module: torch.fx.GraphModule, _: Any, graphs: list[Any] = graphs) -> Any:
                graphs.append(module)
                return lambda *_: (torch.empty(1),)

            def function(x: torch.Tensor, call: Any = call, chain: Any = chain, extra: Any = extra) -> torch.Tensor:
                result: torch.Tensor = call(x, *chain, *extra)
                return result

            torch._dynamo.reset()
            backend = stop if gradients else aot_autograd(fw_compiler=keep)
            torch.compile(function, fullgraph=True, backend=backend)(x)
            yield {
                "name": f"{name} {dtype}{' with gradients' if gradients else ''}",
                "launches": [found for graph in graphs for found in launches(graph.graph)],
                "ops": [op for graph in graphs for part in parts(graph) for op in left(part.graph)],
            }


def main() -> None:
    stand_in_for_cuda()
    triton.runtime.driver.set_active(Driver())
    passes._capability = lambda device: (9, 0)
    torch.backends.cudnn.allow_tf32 = True
    with FakeTensorMode():
        found = {
            cases.__name__: [case for dtype in (torch.bfloat16, torch.float32) for case in cases(dtype)]
            for cases in (ops, both_ways, compiled)
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
