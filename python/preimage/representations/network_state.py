"""Prepare a user's module for a pass: wrappers, missing weights, evaluation mode, copies on other devices."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from preimage.errors import brief, is_out_of_memory
from preimage.representations.network_layers import listed


def unwrapped(module: nn.Module) -> nn.Module:
    """Return a network without the wrappers of `torch.compile` and of data parallelism, at the top and inside.

    The layers keep the names that they had before wrapping, and their hooks run. The module itself is not changed: a
    submodule that contains a wrapped one is replaced by a shallow copy, which shares its parameters.
    """
    return _unwrapped(module, {})


def _unwrapped(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    module = _without_wrapper(module)
    if module in done or isinstance(module, torch.jit.ScriptModule):
        return done.get(module, module)
    done[module] = module  # for a module that contains itself
    parts = {name: None if part is None else _unwrapped(part, done) for name, part in module._modules.items()}
    if any(part is not module._modules[name] for name, part in parts.items()):
        done[module] = copy.copy(module)
        done[module]._modules = parts
    return done[module]


def _without_wrapper(module: nn.Module) -> nn.Module:
    while True:
        inner = getattr(module, "_orig_mod", None)  # attribute of torch.compile's wrapper
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def check_weights(module: nn.Module, called: str) -> None:
    """Raise ``ValueError`` for weights without values (meta device, lazy layers), or distributed weights (FSDP)."""
    with_names = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, tensor in with_names if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(f"{called} has lazy layers without weights ({listed(lazy, 3)}): run it on an image first")
    meta = [name for name, tensor in with_names if tensor.is_meta]
    if meta:
        raise ValueError(
            f"{called} has weights on the meta device, which have no values ({listed(meta, 3)}): create it on the CPU, "
            "or allocate memory with to_empty(device='cpu') and load its state_dict"
        )
    sharded = [
        name for name, tensor in with_names if hasattr(tensor, "full_tensor") or hasattr(tensor, "_is_flat_param")
    ]
    if sharded:
        raise ValueError(
            f"{called} is distributed over several processes ({listed(sharded, 3)}): load its full state_dict into a "
            "plain network"
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode and freeze the weights; restore both for every submodule at the end.

    The flags are set one by one, because the ``eval`` method of a module may do more, such as merge weights, or fail.
    """
    training = [part for part in module.modules() if getattr(part, "training", False)]
    learning = [one for one in module.parameters() if one.requires_grad] if torch.is_grad_enabled() else []
    try:
        for part in training:
            part.training = False
        for parameter in learning:  # TorchScript lacks requires_grad_ for all of them
            parameter.requires_grad_(False)
        yield
    finally:
        for part in training:
            part.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


@torch.inference_mode(False)  # a copy created in inference mode never has gradients
@torch.no_grad()  # otherwise the weights of a copied TorchScript module depend on the original's
def copied_to(module: nn.Module, device: torch.device, called: str) -> nn.Module:
    """Return a copy of a module on another device, without a second copy of its weights on the first.

    Raises:
        ValueError: The module cannot be copied.
        MemoryError, RuntimeError: Not enough memory.
    """
    try:
        parameters = list(module.parameters())  # kept alive, as deepcopy identifies them by address
        buffers = list(module.buffers())
        moved: dict[int, Any] = {id(one): nn.Parameter(one.detach().to(device), False) for one in parameters}
        moved |= {id(one): one.detach().to(device) for one in buffers}
        return copy.deepcopy(module, moved).to(device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{called} cannot be copied to {device}: {brief(error)}; move it there first") from error
