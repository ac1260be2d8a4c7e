"""Choose the images that a study shows, and check the features that it measures."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def evenly_spaced(total: int, count: int) -> set[int]:
    """Return at most `count` indices below `total`, the first and (if `count` is above 1) the last among them."""
    count = min(count, total)
    return {round(index * (total - 1) / max(1, count - 1)) for index in range(count)}


def check_finite(keys: Sequence[str], features: torch.Tensor, name: str = "the features") -> None:
    """Raise ``ValueError``, which names the image, if features (B, ...) of a batch are not finite."""
    finite = features.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        raise ValueError(f"{keys[finite.tolist().index(False)]}: {name} contain NaN or infinite values")
