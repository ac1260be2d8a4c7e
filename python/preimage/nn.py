"""Layers for other networks."""

from __future__ import annotations

import math

import torch
from torch import nn

from preimage.ops import torch_ops  # noqa: F401 - the descriptors' ops
from preimage.ops.upconv import upconv, upconv_chain, upconv_chain_distance


class UpConv2d(nn.Module):
    """Up-convolution ×2: zero-insertion, 5×5 convolution, bias, optional leaky ReLU, in one pass.

    Dosovitskiy & Brox, "Inverting Visual Representations with Convolutional Networks" (CVPR 2016), section 3.
    Maps (B, in_channels, H, W) become (B, out_channels, 2H, 2W), see `preimage.upconv`; for several, `UpConvChain`.

    Args:
        in_channels: Ci.
        out_channels: Co.
        negative_slope: slope of the leaky ReLU below zero; ``None`` for no activation (the last layer of a network).

    Attributes:
        weight: (Ci, Co, 5, 5), that of ``nn.ConvTranspose2d(Ci, Co, 5, stride=2, padding=2, output_padding=1)``, whose
            state_dict can be loaded; channels_last in memory, as its gradient. He-initialized for the 25/4 taps that
            meet a value rather than an inserted zero; a last layer starts ten times smaller, so that training begins
            near the mean image.
        bias: (Co,), initially zero.
    """

    def __init__(self, in_channels: int, out_channels: int, negative_slope: float | None = 0.2) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"channels start at 1, got {in_channels} in and {out_channels} out")
        self.negative_slope = negative_slope
        weight = torch.empty(in_channels, out_channels, 5, 5, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        gain = math.sqrt(2 / (1 + negative_slope**2)) if negative_slope is not None else 0.1
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=gain / math.sqrt(in_channels * 25 / 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upconv(x, self.weight, self.bias, self.negative_slope)

    def extra_repr(self) -> str:
        in_channels, out_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, negative_slope={self.negative_slope}"


class UpConvChain(nn.Sequential):
    """Layers in sequence, of which consecutive up-convolutions run as one, see `preimage.ops.upconv.upconv_chain`.

    Such a run has a single backward pass, which keeps only the outputs of its layers and needs no pass for their
    activations. Parameters and names are those of an ``nn.Sequential`` of the layers. Each layer, an
    `UpConv2d` or any other module, has as many inputs as the one before has outputs.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layers for maps (B, C, H, W)."""
        for run in self._runs():
            x = upconv_chain(x, *_parameters(run)) if isinstance(run, list) else run(x)
        return x

    def distance(self, x: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Return distances ‖forward(x) + mean - target / 255‖₂, (B,), see `preimage.ops.upconv.upconv_chain_distance`.

        Raises:
            ValueError: the last layer is not an up-convolution without activation, or the target has another shape.
        """
        *before, last = self._runs()
        if not isinstance(last, list):
            raise ValueError(f"the last layer must be an UpConv2d, got {type(last).__name__}")
        for run in before:
            x = upconv_chain(x, *_parameters(run)) if isinstance(run, list) else run(x)
        return upconv_chain_distance(x, *_parameters(last), target, mean)

    def _runs(self) -> list[nn.Module | list[UpConv2d]]:
        """Return the layers, consecutive up-convolutions as a list."""
        runs: list[nn.Module | list[UpConv2d]] = []
        for layer in self:
            if not isinstance(layer, UpConv2d) or _does_more(layer):
                runs.append(layer)
            elif runs and isinstance(runs[-1], list):
                runs[-1].append(layer)
            else:
                runs.append([layer])
        return runs


def _does_more(layer: UpConv2d) -> bool:
    """Return whether a layer has hooks or a forward method of a subclass, and must be called."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is not UpConv2d or any(hooks)


def _parameters(layers: list[UpConv2d]) -> tuple[list[torch.Tensor], list[torch.Tensor | None], list[float | None]]:
    return [layer.weight for layer in layers], [layer.bias for layer in layers], [x.negative_slope for x in layers]
