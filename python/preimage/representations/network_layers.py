"""What the layers of a network return, by forward hooks: a pass stops as soon as the last wanted layer has answered."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


class _Enough(BaseException):
    """Ends a pass early. No `Exception`, so that no network's own ``except`` swallows it."""


def named_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every layer by its dotted name, the network itself under ``""``; a shared layer under each of its names."""
    return dict(module.named_modules(remove_duplicate=False))


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """The layer of that dotted name.

    Raises:
        TypeError: `name` is no string.
        ValueError: there is none; names the nearest.
    """
    if not isinstance(name, str):
        raise TypeError(f"a layer is named by a string such as 'features.4', got {name!r}")
    layers = named_layers(module)
    if name not in layers:
        raise ValueError(f"the network has no layer {name!r}; {_nearest(name, layers)}")
    return layers[name]


def _nearest(name: str, known: Collection[str]) -> str:
    parent = name
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    below = [one for one in known if one and one.startswith(f"{parent}." if parent else "")]
    children = [one for one in below if "." not in one[len(parent) + 1 if parent else 0 :]]
    near = list(dict.fromkeys([*difflib.get_close_matches(name, known, n=5), *children]))
    return f"near are {listed(near)}" if near else "it has none but itself, named ''"


def listed(names: Collection[str], most: int = 12) -> str:
    """The first names in quotes, and how many more there are."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def layer_outputs(module: nn.Module, names: Collection[str], pixels: torch.Tensor) -> dict[str, Any]:
    """What the named layers return in one pass over `pixels`, each on its first call.

    The pass ends at the last of them: nothing behind it runs.

    Raises:
        ValueError: a name that the network lacks, or a layer that its forward never calls.
    """
    wanted = {name: find_layer(module, name) for name in names}
    answers = _answers(module, list(dict.fromkeys(wanted.values())), pixels)
    for name, layer in wanted.items():
        if layer not in answers:
            reached = [one for _, one in trace(module, pixels, lambda one, _layer, _output: one) if one]
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) is never called by the network's forward; "
                f"layers that are: {listed(reached)}"
            )
    return {name: answers[layer] for name, layer in wanted.items()}


def _answers(module: nn.Module, layers: Collection[nn.Module], pixels: torch.Tensor) -> dict[nn.Module, Any]:
    answers: dict[nn.Module, Any] = {}

    def keep(layer: nn.Module, _inputs: Any, output: Any) -> None:
        if layer in answers:
            return
        last = len(answers) + 1 == len(layers)
        # A layer that still runs may work in place, as ReLU(inplace=True) does.
        answers[layer] = output.clone() if isinstance(output, torch.Tensor) and not last else output
        if last:
            raise _Enough

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(keep).remove)
        hooks.enter_context(suppress(_Enough))
        module(pixels)
    return answers


def trace(module: nn.Module, pixels: torch.Tensor, describe: Callable[[str, nn.Module, Any], T]) -> list[tuple[int, T]]:
    """One whole pass: every layer that it calls, in the order in which they first answer.

    Args:
        describe: makes of (name, layer, output) what is to be kept of a layer's first call; outputs are not kept. A
            shared layer stands under the first of its names, the network under ``""``.

    Returns:
        (calls, description) of each.
    """
    names: dict[nn.Module, str] = {}
    for name, layer in named_layers(module).items():
        names.setdefault(layer, name)
    seen: dict[nn.Module, tuple[int, T]] = {}  # in the order of first answers

    def note(layer: nn.Module, _inputs: Any, output: Any) -> None:
        calls, description = seen[layer] if layer in seen else (0, describe(names[layer], layer, output))
        seen[layer] = calls + 1, description

    with ExitStack() as hooks:
        for layer in names:
            hooks.callback(layer.register_forward_hook(note).remove)
        module(pixels)
    return list(seen.values())


def describe_output(output: Any) -> str:
    """What a layer returned, in a phrase: ``tensor (1, 64, 56, 56) float32``, ``tuple (tensor ..., None)``."""
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
