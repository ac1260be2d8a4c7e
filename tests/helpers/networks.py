"""Define small networks of several types for tests of layers."""

from __future__ import annotations

import torch
from torch import nn

SIDE = 32


class Cnn(nn.Module):
    """Convolutions with in-place steps between them, a layer that is never called, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1)
        )
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 5))
        self.spare = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.again(self.features(x)))
        return self.classifier(self.pool(x))


class Block(nn.Module):
    """Block of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal = self.norm1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Vision transformer with `prefix` tokens before the 4 × 4 tokens of the image."""

    def __init__(self, prefix: int = 1, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, prefix, width))
        self.positions = nn.Parameter(torch.randn(1, prefix + 16, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(3)])
        self.head = nn.Linear(width, 5)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input of the first block."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1) + self.positions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.tokens(x))[:, 0])


class Mixer(nn.Module):
    """Network whose tokens, without class token, are mixed by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.across, self.within = nn.Linear(16, 16), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2)
        tokens = (tokens + self.across(tokens)).transpose(1, 2)
        return self.norm(tokens + self.within(tokens))


class Odd(nn.Module):
    """Network with a layer that returns a given function of the images."""

    def __init__(self, make: object) -> None:
        super().__init__()
        self.odd = Lambda(make)

    def forward(self, x: torch.Tensor) -> object:
        return self.odd(x)


class Lambda(nn.Module):
    def __init__(self, make: object) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> object:
        return self.make(x)  # type: ignore[operator]


class Shared(nn.Module):
    """Network with one convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class Counting(nn.Module):
    """Layer that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return x


class Careful(nn.Module):
    """Network that continues after any error of its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.after = nn.Conv2d(3, 2, 1), Counting()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            x = self.inner(x)
        except Exception:
            x = x.new_zeros(len(x), 2, SIDE, SIDE)
        return self.after(x)


class Rows(nn.Module):
    """A recurrent network over the rows of the image; its layer returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(96, 7, batch_first=True), nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0])
