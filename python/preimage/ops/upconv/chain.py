"""Chains of up-convolutions: checked, cast as autocast asks, and run with or without a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from preimage.ops.upconv import dispatch, passes, torch_passes
from preimage.ops.upconv.chain_backward import Chain, ChainDistance, Parameters, Slope, forward, layers_of


def upconv_chain(
    x: torch.Tensor,  # [B, C0, H, W]
    weights: Sequence[torch.Tensor],  # [C0, C1, 5, 5], [C1, C2, 5, 5], …
    biases: Sequence[torch.Tensor | None],  # [C1], [C2], …
    slopes: Sequence[Slope],
) -> torch.Tensor:  # [B, CL, 2^L H, 2^L W]
    """`upconv` layer after layer, with one backward for all of them.

    Args:
        x: maps (B, C0, H, W), floating, any strides.
        weights: of every layer, in the orientation of ``nn.ConvTranspose2d``, with the maps' dtype and device.
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
    if passes.plain_only():
        return _layer_by_layer(x, parameters, slopes)
    if _needs_gradient(x, parameters):
        result: torch.Tensor = Chain.apply(x, tuple(slopes), *parameters)  # type: ignore[no-untyped-call]
        return result
    return forward(x, parameters, slopes, repeated)[-1]


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
    size = (len(x), weights[-1].shape[1], *(side << len(weights) for side in x.shape[2:]))
    if target.shape != size or target.dtype != torch.uint8 or target.device != x.device:
        raise ValueError(
            f"the targets of this chain are {tuple(size)} uint8 on {x.device}, "
            f"got {tuple(target.shape)} {target.dtype} on {target.device}"
        )
    if passes.plain_only():
        return torch_passes.image_distance(_layer_by_layer(x, parameters, slopes), target, mean)
    if _needs_gradient(x, parameters):
        result: torch.Tensor = ChainDistance.apply(x, target, mean, tuple(slopes), *parameters)  # type: ignore[no-untyped-call]
        return result
    y = forward(x, parameters, slopes, repeated)[-1]
    return dispatch.ops_for(x).image_distance(y, target, mean)


def _layer_by_layer(x: torch.Tensor, parameters: Parameters, slopes: Sequence[Slope]) -> torch.Tensor:
    """The same through torch alone and its own gradients: the reference."""
    for weight, bias, slope in layers_of(parameters, slopes):
        assert weight is not None
        x = torch_passes.forward(x, weight, bias, slope)
    return x


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
        if weight.dim() != 4 or weight.shape[2:] != (5, 5) or weight.shape[0] != channels:
            raise ValueError(
                f"upconv of {channels} channels takes a weight ({channels}, Co, 5, 5), got {tuple(weight.shape)}"
            )
        channels = weight.shape[1]
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
