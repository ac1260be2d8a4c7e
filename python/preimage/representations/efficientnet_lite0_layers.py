"""Blocks and layer names of EfficientNet-Lite0, as plain data."""

from __future__ import annotations

# Expansion, kernel, stride, channels, number of blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
BLOCKS = sum(stage[-1] for stage in STAGES)
LAYERS = ("stem", *(f"block{index}" for index in range(BLOCKS)), "head", "pooled", "scores", "prob")
