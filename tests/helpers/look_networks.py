"""Small networks of the kinds that people look into."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

SIDE = 32


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.downsample = nn.Conv2d(before, after, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv2(self.conv1(x).relu()) + self.downsample(x)).relu()


class ResNet(nn.Module):
    """Stem, four stages of two blocks, pooling and classes, with torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv1, self.relu = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()
            widths = (8, 8, 16, 24, 32)
            for stage in range(4):
                before, after = widths[stage], widths[stage + 1]
                blocks = _Residual(before, after, 2 if stage else 1), _Residual(after, after, 1)
                self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv1(x))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(self.avgpool(x).flatten(1))


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x)) + x.mean(1, keepdim=True)


class ViT(nn.Module):
    """Patches, a class token, blocks, norm, with timm's names.

    Args:
        class_token: Whether there is a class token, which `head` takes; otherwise the mean of the tokens.
        pools: Whether the pooled vector is the output of a layer, ``fc_norm``.
        classes: Number of classes of a last layer, ``head``; 0 for no such layer.
        tokens_out: Whether it returns the tokens.
    """

    def __init__(
        self,
        depth: int = 6,
        *,
        class_token: bool = True,
        pools: bool = True,
        classes: int = 0,
        tokens_out: bool = False,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patch_embed = nn.Conv2d(3, 12, 8, 8)
            self.cls_token = nn.Parameter(torch.randn(1, 1, 12)) if class_token else None
            self.blocks = nn.Sequential(*(_Attention(12) for _ in range(depth)))
            self.norm = nn.LayerNorm(12)
            self.fc_norm = nn.Identity() if pools else None
            self.head = nn.Linear(12, classes) if classes else None
        self.tokens_out = tokens_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens))
        if self.tokens_out:
            return tokens
        pooled = tokens[:, 0] if self.cls_token is not None else tokens.mean(1)
        pooled = pooled if self.fc_norm is None else self.fc_norm(pooled)
        return pooled if self.head is None else self.head(pooled)


def plain() -> nn.Sequential:
    """Return convolutions and activations in a row."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = (3, 8, 8, 16, 16)
        convolutions = [nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths)]
        return nn.Sequential(*(part for one in convolutions for part in (one, nn.ReLU())))
