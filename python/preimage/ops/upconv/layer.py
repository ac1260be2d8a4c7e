"""The up-convolution layer."""

from __future__ import annotations

import torch

from preimage.ops.upconv.chain import upconv_chain


def upconv(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None = None,  # [Co]
    negative_slope: float | None = 0.2,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Zero-insertion ×2 and a 5×5 convolution, with bias and leaky ReLU, in one pass.

    Dosovitskiy & Brox, "Inverting Visual Representations with Convolutional Networks" (CVPR 2016), section 3. Equal to
    ``leaky_relu(conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1), negative_slope)`` and to
    `preimage.reference.upconv` up to rounding.

    Args:
        x: maps (B, Ci, H, W), floating, any strides; channels_last is read as it lies.
        weight: (Ci, Co, 5, 5), as ``nn.ConvTranspose2d`` has it, of the dtype and on the device of ``x``; on a CPU
            it is fastest channels_last in memory.
        bias: (Co,) or ``None``.
        negative_slope: slope of the leaky ReLU below zero, greater than 0; ``None`` for no activation (a network's
            last layer).

    Returns:
        (B, Co, 2H, 2W), channels_last in memory, the dtype of ``x`` (under autocast, autocast's). Sums are float32.

    Raises:
        ValueError: ``x`` is not 4-D, ``weight`` not (Ci, Co, 5, 5) with Ci the channels of ``x``, ``bias`` not (Co,);
            they lie on different devices; the slope is not greater than 0.
        TypeError: dtypes that differ or are not floating.
        RuntimeError: a second derivative is asked for.
    """
    return upconv_chain(x, [weight], [bias], [negative_slope])
