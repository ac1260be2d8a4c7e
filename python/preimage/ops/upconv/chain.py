"""Chains of up-convolutions with their gradient: one autograd node that keeps only what the layers put out.

The backward of a layer begins with the gradient before its leaky ReLU. The layer above hands it over in that state,
masked by the sign of the output that it had as its input, so that no pass over the maps is spent on activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from preimage.ops._derivatives import last_derivative
from preimage.ops.upconv import library, plain

Slope = float | None
Parameters = Sequence[torch.Tensor | None]  # weights of all layers, then biases of all layers


def upconv_chain(
    x: torch.Tensor,  # [B, C0, H, W]
    weights: Sequence[torch.Tensor],  # [C1, C0, 5, 5], [C2, C1, 5, 5], …
    biases: Sequence[torch.Tensor | None],  # [C1], [C2], …
    slopes: Sequence[Slope],
) -> torch.Tensor:  # [B, CL, 2^L H, 2^L W]
    """`upconv` layer after layer, with one backward for all of them.

    Args:
        x: maps (B, C0, H, W), floating, any strides.
        weights: of every layer, in the orientation of ``conv2d``, with the maps' dtype and device.
        biases: of every layer, or ``None``.
        slopes: of every layer's leaky ReLU below zero, greater than 0; ``None`` for no activation.

    Returns:
        (B, CL, 2^L · H, 2^L · W), channels_last in memory, of the dtype of ``x`` (under autocast, autocast's).

    Raises:
        ValueError: shapes, devices or slopes that do not fit.
        TypeError: dtypes that differ or are not floating.
        RuntimeError: a second derivative is asked for.
    """
    x, parameters, repeated = _prepared(x, weights, biases, slopes)
    if library.plain_only():
        return _layer_by_layer(x, parameters, slopes)
    if _needs_gradient(x, parameters):
        result: torch.Tensor = _Chain.apply(x, tuple(slopes), *parameters)  # type: ignore[no-untyped-call]
        return result
    return _forward(x, parameters, slopes, repeated)[-1]


def upconv_chain_distance(
    x: torch.Tensor,  # [B, C0, H, W]
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    slopes: Sequence[Slope],
    target: torch.Tensor,  # [B, CL, 2^L H, 2^L W] uint8
    mean: torch.Tensor,  # [CL]
) -> torch.Tensor:  # [B]
    """How far every image is from its target: ‖`upconv_chain` + mean - target / 255‖₂.

    The gradient of the image is formed inside the backward of the last layer, which has no activation, and never
    lies in memory. Gradients flow to the maps, weights and biases.

    Args:
        x, weights, biases, slopes: as for `upconv_chain`; the last slope is ``None``.
        target: images of the chain's output size, uint8, on the maps' device.
        mean: added to every pixel, (CL,) floating.

    Returns:
        (B,) float32.

    Raises:
        ValueError, TypeError, RuntimeError: as `upconv_chain`, and where the target does not fit.
    """
    x, parameters, repeated = _prepared(x, weights, biases, slopes)
    if slopes[-1] is not None:
        raise ValueError(f"the layer that puts out an image has no activation, got the slope {slopes[-1]}")
    size = (len(x), weights[-1].shape[0], *(side << len(weights) for side in x.shape[2:]))
    if target.shape != size or target.dtype != torch.uint8 or target.device != x.device:
        raise ValueError(
            f"the targets of this chain are {tuple(size)} uint8 on {x.device}, "
            f"got {tuple(target.shape)} {target.dtype} on {target.device}"
        )
    if library.plain_only():
        return plain.image_distance(_layer_by_layer(x, parameters, slopes), target, mean)
    if _needs_gradient(x, parameters):
        result: torch.Tensor = _ChainDistance.apply(x, target, mean, tuple(slopes), *parameters)  # type: ignore[no-untyped-call]
        return result
    y = _forward(x, parameters, slopes, repeated)[-1]
    return library.passes(x).image_distance(y, target, mean)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slopes: tuple[Slope, ...], *parameters: torch.Tensor | None) -> torch.Tensor:
        maps = _forward(x, parameters, slopes, repeated=False)
        ctx.slopes = slopes
        ctx.save_for_backward(*maps, *parameters)
        return maps[-1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layers = len(ctx.slopes)
        maps, parameters = ctx.saved_tensors[: layers + 1], ctx.saved_tensors[layers + 1 :]
        dz = gradient if ctx.slopes[-1] is None else plain.masked(gradient, maps[-1], ctx.slopes[-1])
        needs = ctx.needs_input_grad[2:]
        bias_gradient = plain.bias_gradient(dz) if needs[-1] else None
        gradients = _Gradients(maps[:-1], parameters, ctx.slopes, (ctx.needs_input_grad[0], *needs))
        gradients.go_down(layers - 1, dz, bias_gradient)
        return (
            gradients.dx,
            None,
            *(
                g if g is None else last_derivative("upconv", g, gradient, *ctx.saved_tensors)
                for g in gradients.of_parameters
            ),
        )


class _ChainDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        target: torch.Tensor,
        mean: torch.Tensor,
        slopes: tuple[Slope, ...],
        *parameters: torch.Tensor | None,
    ) -> torch.Tensor:
        maps = _forward(x, parameters, slopes, repeated=False)
        distances: torch.Tensor = library.passes(x).image_distance(maps[-1], target, mean)
        ctx.slopes = slopes
        ctx.save_for_backward(target, mean, distances, *maps, *parameters)
        return distances

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        target, mean, distances, *saved = ctx.saved_tensors
        layers = len(ctx.slopes)
        maps, parameters = saved[: layers + 1], saved[layers + 1 :]
        # A distance of zero has no gradient: none is passed on, as torch.linalg.vector_norm does.
        scale = torch.where(distances > 0, gradient / distances, 0.0)
        below = ctx.slopes[-2] if layers > 1 else None
        dx, below_gradient, dw, bias_gradient = library.passes(target).upconv_distance_backward(
            maps[-2], maps[-1], target, mean, scale, parameters[layers - 1], below
        )
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        gradients = _Gradients(maps[:-1], parameters, ctx.slopes, needs)
        gradients.keep(layers - 1, dw, bias_gradient)
        if layers > 1:
            gradients.go_down(layers - 2, dx, below_gradient)
        else:
            gradients.dx = dx
        return (
            gradients.dx,
            None,
            None,
            None,
            *(
                g if g is None else last_derivative("upconv", g, gradient, *ctx.saved_tensors)
                for g in gradients.of_parameters
            ),
        )


class _Gradients:
    """The way back through a chain, layer by layer.

    Args:
        inputs: what every layer read.
        parameters: see `Parameters`.
        slopes: of every layer.
        needs: whether a gradient of the chain's input, then of each parameter, is asked for.
    """

    def __init__(
        self, inputs: Sequence[torch.Tensor], parameters: Parameters, slopes: Sequence[Slope], needs: Sequence[bool]
    ) -> None:
        self.inputs, self.parameters, self.slopes, self.needs = inputs, parameters, slopes, needs
        self.of_parameters: list[torch.Tensor | None] = [None] * len(parameters)
        self.dx: torch.Tensor | None = None

    def go_down(self, top: int, dz: torch.Tensor, bias_gradient: torch.Tensor | None) -> None:
        """From the gradient before layer `top`'s activation down to the chain's input."""
        passes = library.passes(dz)
        for layer in range(top, -1, -1):
            x, weight = self.inputs[layer], self.parameters[layer]
            assert weight is not None
            goes_on = self.needs[0] or any(self._needs(below) for below in range(layer))
            slope = self.slopes[layer - 1] if layer else None
            dw = None
            if goes_on and self.needs[1 + layer] and layer and weight.shape[0] <= 4:
                dx, below_gradient, dw = passes.upconv_image_backward(x, dz, weight, slope)
            else:
                if self.needs[1 + layer]:
                    dw = passes.upconv_wgrad(x, dz)
                if goes_on:
                    dx, below_gradient = passes.upconv_dgrad(dz, weight, x if layer else None, slope)
            self.keep(layer, dw, bias_gradient)
            if not goes_on:
                return
            dz, bias_gradient = dx, below_gradient
        self.dx = dz

    def _needs(self, layer: int) -> bool:
        return self.needs[1 + layer] or self.needs[1 + len(self.slopes) + layer]

    def keep(self, layer: int, dw: torch.Tensor | None, bias_gradient: torch.Tensor | None) -> None:
        """The gradients of one layer's weight and bias, where they are asked for."""
        bias = len(self.slopes) + layer
        if self.needs[1 + layer]:
            self.of_parameters[layer] = dw
        if self.needs[1 + bias] and bias_gradient is not None:
            weight = self.parameters[layer]
            assert weight is not None
            self.of_parameters[bias] = bias_gradient.to(weight.dtype)


def _forward(x: torch.Tensor, parameters: Parameters, slopes: Sequence[Slope], repeated: bool) -> list[torch.Tensor]:
    """The chain's input and what every layer puts out."""
    passes = library.passes(x)
    maps = [library.channels_last(x)]
    for weight, bias, slope in _layers(parameters, slopes):
        maps.append(passes.upconv(maps[-1], weight, bias, slope, repeated))
    return maps


def _layer_by_layer(x: torch.Tensor, parameters: Parameters, slopes: Sequence[Slope]) -> torch.Tensor:
    """The same through torch alone and its own gradients: the reference."""
    for weight, bias, slope in _layers(parameters, slopes):
        assert weight is not None
        x = plain.forward(x, weight, bias, slope)
    return x


def _layers(
    parameters: Parameters, slopes: Sequence[Slope]
) -> zip[tuple[torch.Tensor | None, torch.Tensor | None, Slope]]:
    return zip(parameters[: len(slopes)], parameters[len(slopes) :], slopes, strict=True)


def _needs_gradient(x: torch.Tensor, parameters: Parameters) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters))


def _prepared(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    slopes: Sequence[Slope],
) -> tuple[torch.Tensor, list[torch.Tensor | None], bool]:
    """Checked, in autocast's dtype where it is on; and whether the same weights will come again, unchanged."""
    _check(x, weights, biases, slopes)
    parameters: list[torch.Tensor | None] = [*weights, *biases]
    if not _autocasts(x):
        return x, parameters, True
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), [p if p is None else p.to(dtype) for p in parameters], False


def _autocasts(x: torch.Tensor) -> bool:
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _check(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    slopes: Sequence[Slope],
) -> None:
    if x.dim() != 4:
        raise ValueError(f"upconv takes maps (B, C, H, W), got shape {tuple(x.shape)}")
    if not weights or not len(weights) == len(biases) == len(slopes):
        raise ValueError(
            f"a chain has as many weights as biases and slopes, at least one: "
            f"got {len(weights)}, {len(biases)} and {len(slopes)}"
        )
    autocast = _autocasts(x)
    channels = x.shape[1]
    for weight, bias, slope in zip(weights, biases, slopes, strict=True):
        if weight.dim() != 4 or weight.shape[2:] != (5, 5) or weight.shape[1] != channels:
            raise ValueError(
                f"upconv of {channels} channels takes a weight (Co, {channels}, 5, 5), got {tuple(weight.shape)}"
            )
        channels = weight.shape[0]
        if bias is not None and bias.shape != (channels,):
            raise ValueError(f"a layer of {channels} outputs takes a bias ({channels},), got {tuple(bias.shape)}")
        if slope is not None and not slope > 0:
            raise ValueError(f"negative_slope is greater than 0, or None for no activation; got {slope}")
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is None:
                continue
            if tensor.device != x.device:
                raise ValueError(f"maps on {x.device} take a {name} there, got one on {tensor.device}")
            if not x.is_floating_point() or (tensor.dtype != x.dtype and not autocast):
                raise TypeError(
                    f"upconv takes floating maps, weights and biases of one dtype, got {x.dtype} and "
                    f"a {name} of {tensor.dtype}"
                )
