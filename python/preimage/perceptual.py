"""LPIPS, where this machine already has the weights it takes: nothing is downloaded."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

# Reconstructions and originals, both (B, 3, H, W) in [0, 1], to one number each.
PerceptualDistance = Callable[[torch.Tensor, torch.Tensor], list[float]]


def perceptual_distance() -> tuple[PerceptualDistance | None, str]:
    """LPIPS on AlexNet (Zhang et al., CVPR 2018) as torchmetrics computes it, and why it is not there if it is not.

    It takes torchvision and the AlexNet weights that torchvision keeps in torch's cache once something has loaded
    them.

    Returns:
        The distance (0 for equal images) and an empty reason; or ``None`` and one sentence.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None, "LPIPS is left out: torchvision, whose AlexNet it takes, is not installed."
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError, OSError) as error:  # one built for another torch, for example
        return None, f"LPIPS is left out: torchvision, whose AlexNet it takes, does not load here ({error})."
    weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(models.AlexNet_Weights.DEFAULT.url).name
    if not weights.is_file():
        return None, f"LPIPS is left out: AlexNet's weights are not in torch's cache (checkpoints/{weights.name})."
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity  # noqa: PLC0415 - torchvision comes along

    metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def distance(reconstructions: torch.Tensor, images: torch.Tensor) -> list[float]:
        with torch.inference_mode():
            pairs = zip(reconstructions.split(1), images.split(1), strict=True)
            return [float(metric(made.clamp(0, 1), image)) for made, image in pairs]

    return distance, ""
