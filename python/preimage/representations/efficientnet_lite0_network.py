"""EfficientNet-Lite0 as a torch module.

The network is that of TensorFlow's repository (tpu/models/official/efficientnet/lite): EfficientNet-B0 (Tan & Le, ICML
2019) without squeeze-and-excitation, with ReLU6, and with TensorFlow's "same" padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from preimage.representations.efficientnet_lite0_layers import BLOCKS, STAGES


class SameConv2d(nn.Conv2d):
    """Convolution without bias and with TensorFlow's "same" padding: ⌈n / stride⌉ outputs, the smaller half before."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        if height or width:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class Block(nn.Module):
    """Inverted residual: expand unless `expansion` is 1, convolve depthwise, project, add the input if shapes agree."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion != 1:
            self._expand_conv = SameConv2d(before, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = SameConv2d(inner, after, 1)
        self._bn2 = nn.BatchNorm2d(after, eps=1e-3)
        self.expands, self.is_residual = expansion != 1, stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: images (B, 3, H, W) → class probabilities (B, 1000).

    Its tensors have the names of the published state_dict (``_blocks.3._bn1.weight``). The modules named in `LAYERS`
    have no weights: they give names to the outputs that can be inverted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self.stem = nn.ReLU6()
        self._blocks = nn.ModuleList()
        channels = 32
        for expansion, kernel, stride, after, count in STAGES:
            for index in range(count):
                self._blocks.append(Block(channels, after, kernel, 1 if index else stride, expansion))
                channels = after
        for index in range(BLOCKS):
            self.add_module(f"block{index}", nn.Identity())
        self._conv_head = SameConv2d(channels, 1280, 1)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self.head = nn.ReLU6()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self._fc = nn.Linear(1280, 1000)
        self.scores = nn.Identity()
        self.prob = nn.Softmax(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(self._bn0(self._conv_stem(x.contiguous(memory_format=torch.channels_last))))
        for index, block in enumerate(self._blocks):
            x = self.get_submodule(f"block{index}")(block(x))
        x = self.pooled(self.head(self._bn1(self._conv_head(x))))
        return self.prob(self.scores(self._fc(x)))
