"""Compute gradients of chains of up-convolutions in one autograd node that saves only the outputs of the layers.

The backward pass of a layer begins with the gradient before its leaky ReLU. The next layer applies the mask, the sign
of its own input, while it computes the gradient of that input, so that activations need no extra pass over the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from preimage.ops._once_differentiable import once_differentiable
from preimage.ops.upconv import dispatch, passes, torch_passes

Slope = float | None
Parameters = Sequence[torch.Tensor | None]  # weights of all layers, then biases of all layers


class Chain(torch.autograd.Function):
    """Autograd function of `upconv_chain`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slopes: tuple[Slope, ...], *parameters: torch.Tensor | None) -> torch.Tensor:
        maps = forward(x, parameters, slopes, repeated=False)
        ctx.slopes = slopes
        ctx.save_for_backward(*maps, *parameters)
        return maps[-1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layers = len(ctx.slopes)
        maps, parameters = ctx.saved_tensors[: layers + 1], ctx.saved_tensors[layers + 1 :]
        needs, slope = ctx.needs_input_grad[2:], ctx.slopes[-1]
        if slope is None:
            dz, bias_gradient = gradient, torch_passes.bias_gradient(gradient) if needs[-1] else None
        else:
            dz, bias_gradient = dispatch.ops_for(gradient).upconv_activation_backward(gradient, maps[-1], slope)
        gradients = _Gradients(maps[:-1], parameters, ctx.slopes, (ctx.needs_input_grad[0], *needs))
        gradients.go_down(layers - 1, dz, bias_gradient)
        dx, *rest = gradients.last((gradient, *ctx.saved_tensors))
        return dx, None, *rest


class ChainDistance(torch.autograd.Function):
    """Autograd function of `upconv_chain_distance`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        target: torch.Tensor,
        mean: torch.Tensor,
        slopes: tuple[Slope, ...],
        *parameters: torch.Tensor | None,
    ) -> torch.Tensor:
        maps = forward(x, parameters, slopes, repeated=False)
        target = passes.channels_last(target)  # once, also for the backward pass
        distances: torch.Tensor = dispatch.ops_for(x).image_distance(maps[-1], target, mean)
        ctx.slopes = slopes
        ctx.save_for_backward(target, mean, distances, *maps, *parameters)
        return distances

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        target, mean, distances, *saved = ctx.saved_tensors
        layers = len(ctx.slopes)
        maps, parameters = saved[: layers + 1], saved[layers + 1 :]
        # The gradient of a distance of zero is zero, as in torch.linalg.vector_norm.
        scale = torch.where(distances > 0, gradient / distances, 0.0)
        below = ctx.slopes[-2] if layers > 1 else None
        dx, below_gradient, dw, bias_gradient = dispatch.ops_for(target).upconv_distance_backward(
            maps[-2], maps[-1], target, mean, scale, parameters[layers - 1], below
        )
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        gradients = _Gradients(maps[:-1], parameters, ctx.slopes, needs)
        gradients.keep(layers - 1, dw, bias_gradient)
        if layers > 1:
            gradients.go_down(layers - 2, dx, below_gradient)
        else:
            gradients.dx = dx
        dx, *rest = gradients.last((gradient, *ctx.saved_tensors))
        return dx, None, None, None, *rest


class _Gradients:
    """Backward pass of a chain, layer by layer.

    Args:
        inputs: Input of each layer.
        parameters: Weights and biases, see `Parameters`.
        slopes: Slope of each layer.
        needs: Whether the gradient of the chain's input, then of each parameter, is required.
    """

    def __init__(
        self, inputs: Sequence[torch.Tensor], parameters: Parameters, slopes: Sequence[Slope], needs: Sequence[bool]
    ) -> None:
        self.inputs, self.parameters, self.slopes, self.needs = inputs, parameters, slopes, needs
        self.of_parameters: list[torch.Tensor | None] = [None] * len(parameters)
        self.dx: torch.Tensor | None = None

    def go_down(self, top: int, dz: torch.Tensor, bias_gradient: torch.Tensor | None) -> None:
        """Propagate the gradient before the activation of layer `top` down to the chain's input."""
        ops = dispatch.ops_for(dz)
        for layer in range(top, -1, -1):
            x, weight = self.inputs[layer], self.parameters[layer]
            assert weight is not None
            goes_on = self.needs[0] or any(self._needs(below) for below in range(layer))
            slope = self.slopes[layer - 1] if layer else None
            dw = None
            if goes_on and self.needs[1 + layer] and layer and weight.shape[1] <= 4:
                dx, below_gradient, dw = ops.upconv_image_backward(x, dz, weight, slope)
            else:
                if self.needs[1 + layer]:
                    dw = ops.upconv_wgrad(x, dz)
                if goes_on:
                    dx, below_gradient = ops.upconv_dgrad(dz, weight, x if layer else None, slope)
            self.keep(layer, dw, bias_gradient)
            if not goes_on:
                return
            dz, bias_gradient = dx, below_gradient
        self.dx = dz

    def last(self, sources: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Return the gradients of the input and every parameter, which cannot be differentiated again."""
        known = [source for source in sources if source is not None]
        every = (self.dx, *self.of_parameters)
        return [g if g is None else once_differentiable("upconv", g, *known) for g in every]

    def _needs(self, layer: int) -> bool:
        return self.needs[1 + layer] or self.needs[1 + len(self.slopes) + layer]

    def keep(self, layer: int, dw: torch.Tensor | None, bias_gradient: torch.Tensor | None) -> None:
        """Keep the gradients of one layer's weight and bias, if they are required."""
        bias = len(self.slopes) + layer
        if self.needs[1 + layer]:
            self.of_parameters[layer] = dw
        if self.needs[1 + bias] and bias_gradient is not None:
            weight = self.parameters[layer]
            assert weight is not None
            self.of_parameters[bias] = bias_gradient.to(weight.dtype)


def forward(x: torch.Tensor, parameters: Parameters, slopes: Sequence[Slope], repeated: bool) -> list[torch.Tensor]:
    """Compute the chain and return its input and the output of each layer, in channels_last memory format."""
    ops = dispatch.ops_for(x)
    maps = [passes.channels_last(x)]
    for weight, bias, slope in layers_of(parameters, slopes):
        maps.append(ops.upconv(maps[-1], weight, bias, slope, repeated))
    return maps


def layers_of(
    parameters: Parameters, slopes: Sequence[Slope]
) -> zip[tuple[torch.Tensor | None, torch.Tensor | None, Slope]]:
    """Return weight, bias and slope of each layer."""
    return zip(parameters[: len(slopes)], parameters[len(slopes) :], slopes, strict=True)
