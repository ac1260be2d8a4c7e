"""Compute up-convolutions and chains of them: check arguments, apply autocast, and run with or without autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.overrides import handle_torch_function, has_torch_function_unary

from preimage.ops.upconv import dispatch, passes, torch_passes
from preimage.ops.upconv.chain_backward import Chain, ChainDistance, Parameters, Slope, forward, layers_of


def upconv(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None = None,  # [Co]
    negative_slope: float | None = 0.2,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Compute an up-convolution: zero insertion ×2, 5×5 convolution, bias and leaky ReLU, in one pass.

    Defined by Dosovitskiy & Brox, "Inverting Visual Representations with Convolutional Networks" (CVPR 2016), section
    3. Equal to ``leaky_relu(conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1), negative_slope)``
    and to `preimage.reference.upconv` up to rounding.

    Args:
        x: Feature maps (B, Ci, H, W), floating point, any strides; channels_last maps are not copied.
        weight: (Ci, Co, 5, 5), as in ``nn.ConvTranspose2d``, with the dtype and device of ``x``; on the CPU it is
            fastest in channels_last memory format.
        bias: (Co,) or ``None``.
        negative_slope: Slope of the leaky ReLU for negative values, above 0; ``None`` for no activation (the last layer
            of a network).

    Returns:
        (B, Co, 2H, 2W) in channels_last memory format, with the dtype of ``x`` or of autocast. Sums are float32.

    Raises:
        ValueError: The shape of ``x``, ``weight`` or ``bias`` is wrong, they are on different devices, or the slope is
            not positive.
        TypeError: The dtypes differ or are not floating point.
        RuntimeError: A second derivative is requested.
    """
    return upconv_chain(x, [weight], [bias], [negative_slope])


def upconv_chain(
    x: torch.Tensor,  # [B, C0, H, W]
    weights: Sequence[torch.Tensor],  # [C0, C1, 5, 5], [C1, C2, 5, 5], …
    biases: Sequence[torch.Tensor | None],  # [C1], [C2], …
    slopes: Sequence[Slope],
) -> torch.Tensor:  # [B, CL, 2^L H, 2^L W]
    """Compute a sequence of `upconv` layers with a single autograd node.

    Args:
        x: Feature maps (B, C0, H, W), floating point, any strides.
        weights: Weight of each layer as in ``nn.ConvTranspose2d``, with the dtype and device of ``x``.
        biases: Bias of each layer, or ``None``.
        slopes: Slope of each layer's leaky ReLU for negative values, above 0; ``None`` for no activation.

    Returns:
        (B, CL, 2^L · H, 2^L · W) in channels_last memory format, with the dtype of ``x`` or of autocast.

    Raises:
        ValueError: Shapes, devices or slopes are wrong.
        TypeError: The dtypes differ or are not floating point.
        RuntimeError: A second derivative is requested.
    """
    if has_torch_function_unary(x):
        replaced: torch.Tensor = handle_torch_function(upconv_chain, (x,), x, weights, biases, slopes)
        return replaced
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
    """Compute the distance of each output image of a chain to its target, ‖`upconv_chain` + mean - target / 255‖₂.

    The backward pass of the last layer computes the gradient of the image on the fly, without storing it. Gradients
    are computed for the feature maps, weights and biases.

    Args:
        x: Feature maps as in `upconv_chain`.
        weights: Weights as in `upconv_chain`.
        biases: Biases as in `upconv_chain`.
        slopes: Slopes as in `upconv_chain`; the last one must be ``None``.
        target: Target images of the size of the chain's output, uint8, on the device of ``x``.
        mean: Mean color that is added to every pixel, (CL,), floating point.

    Returns:
        (B,) float32.

    Raises:
        ValueError, TypeError, RuntimeError: As in `upconv_chain`, or the target has another shape, dtype or device.
    """
    x, parameters, repeated = _prepared(x, weights, biases, slopes)
    if slopes[-1] is not None:
        raise ValueError(f"the last of slopes must be None, got {slopes[-1]}")
    size = (len(x), weights[-1].shape[1], *(side << len(weights) for side in x.shape[2:]))
    if target.shape != size or target.dtype != torch.uint8 or target.device != x.device:
        raise ValueError(
            f"target must be {tuple(size)} uint8 on {x.device}, "
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
    """Compute the chain with torch functions and their gradients."""
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
    """Check arguments and apply autocast; also return whether the weights are the caller's, and can be cached."""
    _check(x, weights, biases, slopes)
    parameters: list[torch.Tensor | None] = [*weights, *biases]
    casts = _autocasts(x)
    if casts:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, parameters = x.to(dtype), [p if p is None else p.to(dtype) for p in parameters]
    if x.is_cuda:  # once for forward and backward passes; most weights are in this format already
        parameters = [p if p is None or p.dim() != 4 else passes.channels_last(p) for p in parameters]
    return x, parameters, not casts


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
        raise ValueError(f"x must have shape (B, C, H, W), got {tuple(x.shape)}")
    if not weights or not len(weights) == len(biases) == len(slopes):
        raise ValueError(
            f"weights, biases and slopes must be of equal length, at least 1, got {len(weights)}, {len(biases)} and "
            f"{len(slopes)}"
        )
    autocast = _autocasts(x)
    channels = x.shape[1]
    for weight, bias, slope in zip(weights, biases, slopes, strict=True):
        if weight.dim() != 4 or weight.shape[2:] != (5, 5) or weight.shape[0] != channels:
            raise ValueError(
                f"weight must have shape ({channels}, Co, 5, 5) for {channels} channels, got {tuple(weight.shape)}"
            )
        channels = weight.shape[1]
        if bias is not None and bias.shape != (channels,):
            raise ValueError(f"bias must have shape ({channels},), got {tuple(bias.shape)}")
        if slope is not None and not slope > 0:
            raise ValueError(f"negative_slope must be above 0, or None for no activation, got {slope}")
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is None:
                continue
            if tensor.device != x.device:
                raise ValueError(f"{name} must be on {x.device}, the device of x, got {tensor.device}")
            if not x.is_floating_point() or (tensor.dtype != x.dtype and not autocast):
                raise TypeError(f"x and {name} must have one floating-point dtype, got {x.dtype} and {tensor.dtype}")
