"""Support the transforms of `torch.func`: autograd functions, vmap rules, and an error for forward-mode derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from preimage.ops._schemas import LIBRARY

Outputs = torch.Tensor | tuple[torch.Tensor, ...]


def save_images(ctx: Any, images: torch.Tensor, *parameters: Any) -> None:
    """Save the inputs of an op for its backward: images, and parameters that are not tensors."""
    ctx.save_for_backward(images)
    ctx.parameters = parameters


def transformable(
    function: type[torch.autograd.Function], forward: Callable[..., Any], save: Callable[..., None] = save_images
) -> type[torch.autograd.Function]:
    """Return an autograd function in the form that `torch.func` needs, to be used through `applied`.

    It is used only inside transforms: torch inspects the signature of `forward` in every call of this form, which
    takes longer than the op for small images.

    Args:
        function: Autograd function, whose ``forward`` takes a context.
        forward: Same as its ``forward``, without the context.
        save: Function that saves the inputs of `forward` in a context, its first argument, for `function.backward`.
    """

    class Transformable(function):  # type: ignore[valid-type,misc]
        generate_vmap_rule = True  # from the rules of the ops in `forward` and in the backward

        @staticmethod
        def forward(*inputs: Any) -> Any:
            return forward(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            save(ctx, *inputs)

    return Transformable


def applied(function: Any, transformable_function: Any, *inputs: Any) -> Any:
    """Apply an autograd function, or inside a transform of `torch.func` the form that `transformable` returned."""
    chosen = transformable_function if torch._C._are_functorch_transforms_active() else function
    return chosen.apply(*inputs)


def check_no_tangent(name: str, images: torch.Tensor) -> None:
    """Raise ``RuntimeError`` for images with a tangent, which the op `name` would drop without an error."""
    level: int = forward_ad._current_level
    if level >= 0 and forward_ad.unpack_dual(images).tangent is not None:
        raise RuntimeError(
            f"{name} has no forward-mode derivative (torch.func.jvp, jacfwd, hessian): use reverse mode "
            "(torch.func.grad, vjp, jacrev) where it has a gradient"
        )


def batch_over_images(op: str, gradients: int = 0) -> None:
    """Register a vmap rule that makes one batch of all images, so that the op `op` is called once.

    Args:
        op: Name of an op, which takes `gradients` tensors, then images, then parameters that are not tensors.
        gradients: Number of tensors before the images. If there are any, the result has the shape of the images.
    """
    call: Callable[..., Outputs] = getattr(torch.ops.preimage, op).default

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Outputs, int | tuple[int, ...]]:
        size: int = info.batch_size
        tensors = [_leading(args[i], in_dims[i], size) for i in range(gradients + 1)]
        images = tensors[-1]
        if images.dim() < 5:  # (size, H, W) and (size, C, H, W): the op takes the former as batches of one
            missing = 5 - images.dim()
            tensors[-1] = images.reshape(size, *(1,) * missing, *images.shape[1:])
        batch = tensors[-1].shape[1]
        outputs = call(*(tensor.flatten(0, 1) for tensor in tensors), *args[gradients + 1 :])
        if gradients:
            assert isinstance(outputs, torch.Tensor)
            return outputs.reshape(images.shape), 0
        if isinstance(outputs, torch.Tensor):
            return outputs.unflatten(0, (size, batch)), 0
        return tuple(output.unflatten(0, (size, batch)) for output in outputs), (0,) * len(outputs)

    torch.library.register_vmap(f"preimage::{op}", rule, lib=LIBRARY)


def _leading(tensor: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    """Return a tensor with the axis of vmap first, which is added if it has none."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
