"""Compute the outputs of a network's layers with forward hooks, in a pass that ends after the last of them."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from preimage.errors import brief, is_out_of_memory

T = TypeVar("T")
_TORCHSCRIPT = "TorchScript has no layers to hook, only its output"
_STANDARD_LIBRARY = str(Path(os.__file__).parent)
_NOT_THE_USERS = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))


class _Enough(BaseException):
    """End a pass early. Not an `Exception`, so that an ``except`` in the network does not catch it."""


def named_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that can be hooked by their dotted names, the network itself as ``""``.

    A shared layer has several names. Parts of TorchScript cannot be hooked.
    """
    layers: dict[str, nn.Module] = {}
    script: str | None = None  # prefix of the names inside the last TorchScript module
    for name, layer in module.named_modules(remove_duplicate=False):
        if script is not None and name.startswith(script):
            continue
        layers[name] = layer
        script = (f"{name}." if name else "") if isinstance(layer, torch.jit.ScriptModule) else None
    return layers


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Return the layer of a dotted name.

    Raises:
        TypeError: `name` is not a string.
        ValueError: No such layer; the message lists similar names.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a layer must be a string such as 'features.4', got {name!r}")
    layers = named_layers(module)
    if name not in layers:
        parts = name.split(".")
        for parent in (".".join(parts[:count]) for count in range(len(parts))):
            if isinstance(layers.get(parent), torch.jit.ScriptModule):
                raise ValueError(f"the network has no layer {name!r}: {_TORCHSCRIPT} ({parent!r})")
        raise ValueError(f"the network has no layer {name!r}; {_nearest(name, layers)}")
    return layers[name]


def _nearest(name: str, known: Collection[str]) -> str:
    parent = name
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    below = [one for one in known if one and one.startswith(f"{parent}." if parent else "")]
    children = [one for one in below if "." not in one[len(parent) + 1 if parent else 0 :]]
    near = list(dict.fromkeys([*difflib.get_close_matches(name, known, n=5), *children]))
    return f"similar names are {listed(near)}" if near else "its only layer is itself, named ''"


def listed(names: Collection[str], most: int = 12) -> str:
    """Return the first names in quotes, and how many more there are."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def layer_outputs(
    module: nn.Module, names: Collection[str], pixels: torch.Tensor, called: str = "the network"
) -> dict[str, Any]:
    """Return the outputs of the named layers in one pass over `pixels`, each from the layer's first call.

    The pass ends after the last of them.

    Args:
        called: Name of the network in messages.

    Raises:
        ValueError: A layer that the network does not have or that its forward never calls; or an error in the network's
            code, with the layer, and the file and line of the code.
        MemoryError, RuntimeError: Not enough memory.
    """
    wanted = {name: find_layer(module, name) for name in names}
    outputs = _outputs(module, list(dict.fromkeys(wanted.values())), pixels, called)
    for name, layer in wanted.items():
        if layer not in outputs:
            reached = [one for _, one in trace(module, pixels, lambda one, _layer, _output: one, called) if one]
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) is never called by the network's forward; "
                f"layers that are: {listed(reached)}"
            )
    return {name: outputs[layer] for name, layer in wanted.items()}


def _outputs(
    module: nn.Module, layers: Collection[nn.Module], pixels: torch.Tensor, called: str
) -> dict[nn.Module, Any]:
    outputs: dict[nn.Module, Any] = {}

    def keep(layer: nn.Module, _inputs: Any, output: Any) -> None:
        if layer in outputs:
            return
        last = len(outputs) + 1 == len(layers)
        # A later layer may change it in place, as ReLU(inplace=True) does.
        outputs[layer] = output.clone() if isinstance(output, torch.Tensor) and not last else output
        if last:
            raise _Enough

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(_hook(layer, keep).remove)
        hooks.enter_context(suppress(_Enough))
        _run(module, pixels, called)
    return outputs


def _hook(layer: nn.Module, hook: Callable[[nn.Module, Any, Any], None]) -> torch.utils.hooks.RemovableHandle:
    # Not layer.register_forward_hook: TorchScript refuses that, but calls existing hooks.
    return nn.Module.register_forward_hook(layer, hook)


def _run(module: nn.Module, pixels: torch.Tensor, called: str) -> None:
    """Run one pass; errors in the network's code become a ``ValueError`` that states the layer and the line."""
    try:
        with _uncompiled():
            module(pixels)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        batch, _, height, width = pixels.shape
        images = f"an image of {height}×{width} pixels" if batch == 1 else f"{batch} images of {height}×{width} pixels"
        raise ValueError(f"{called} fails on {images}{_where(module, error)}") from error


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Disable compilation: hooks inside compiled code do not run, or make torch compile it again."""
    compiles = "torch._dynamo" in sys.modules and not torch.compiler.is_compiling()
    with torch.compiler.set_stance("force_eager") if compiles else nullcontext():
        yield


def _where(module: nn.Module, error: Exception) -> str:
    """Return the place where a pass failed: `` in layer 'head' (Linear): RuntimeError: … (nets.py:12, in forward)``."""
    names: dict[int, str] = {}
    for name, layer in named_layers(module).items():
        names.setdefault(id(layer), name)
    inside = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and (name := names.get(id(owner), "")):
            inside = f" in layer {name!r} ({type(owner).__name__})"
    return f"{inside}: {brief(error)}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """Return the innermost line of the traceback that is not in a library, if any: `` (nets.py:12, in forward)``."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        standard = file.startswith(_STANDARD_LIBRARY) and "site-packages" not in file
        if not standard and not file.startswith((*_NOT_THE_USERS, "<")):
            place = f" ({file}:{line}, in {frame.f_code.co_name})"
    # TorchScript lists its frames in the message.
    if scripted := re.findall(r'^ *File "(.+)", line (\d+), in (\w+)', str(error), re.MULTILINE):
        place = " ({}:{}, in {})".format(*scripted[-1])
    return place


def trace(
    module: nn.Module,
    pixels: torch.Tensor,
    describe: Callable[[str, nn.Module, Any], T],
    called: str = "the network",
) -> list[tuple[int, T]]:
    """Run a whole pass and describe the layers called, in the order in which they first finish.

    Args:
        describe: Function called with (name, layer, output) of a layer's first call; outputs are not kept. A shared
            layer has the first of its names, the network the name ``""``.
        called: Name of the network in messages.

    Returns:
        (calls, description) of each layer.

    Raises:
        as `layer_outputs`.
    """
    names: dict[nn.Module, str] = {}
    for name, layer in named_layers(module).items():
        names.setdefault(layer, name)
    seen: dict[nn.Module, tuple[int, T]] = {}  # in the order of first outputs

    def note(layer: nn.Module, _inputs: Any, output: Any) -> None:
        calls, description = seen[layer] if layer in seen else (0, describe(names[layer], layer, output))
        seen[layer] = calls + 1, description

    with ExitStack() as hooks:
        for layer in names:
            hooks.callback(_hook(layer, note).remove)
        _run(module, pixels, called)
    return list(seen.values())


def describe_output(output: Any) -> str:
    """Return a phrase for the output of a layer: ``tensor (1, 64, 56, 56) float32``, ``tuple (tensor ..., None)``."""
    match output:
        case torch.Tensor():
            return f"tensor {tuple(output.shape)} {str(output.dtype).removeprefix('torch.')}"
        case None:
            return "None"
        case Mapping():
            return f"{type(output).__name__} with keys {', '.join(map(str, output))}"
        case tuple() | list():
            entries = ", ".join(describe_output(entry) for entry in output[:4])
            return f"{type(output).__name__} ({entries}{', ...' if len(output) > 4 else ''})"
    return type(output).__qualname__
