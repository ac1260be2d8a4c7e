"""Other methods of turning features into images, to compare inverters with.

Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preimage.baselines.autoencoder import Autoencoder as Autoencoder
    from preimage.baselines.base import Baseline as Baseline
    from preimage.baselines.dictionary import PairedDictionary as PairedDictionary
    from preimage.baselines.gradient import GradientDescent as GradientDescent
    from preimage.baselines.mean import Mean as Mean
    from preimage.baselines.nearest import Nearest as Nearest
    from preimage.baselines.patches import PatchDatabase as PatchDatabase
    from preimage.baselines.trained import TrainedInverter as TrainedInverter
    from preimage.baselines.trained import train_paper as train_paper

_LAZY_NAMES = {
    "Autoencoder": "autoencoder",
    "Baseline": "base",
    "GradientDescent": "gradient",
    "Mean": "mean",
    "Nearest": "nearest",
    "PairedDictionary": "dictionary",
    "PatchDatabase": "patches",
    "TrainedInverter": "trained",
    "train_paper": "trained",
}

_SUMMARIES = {
    "gradient": "Gradient descent on the image until it has the same features; any differentiable representation.",
    "dictionary": "Paired dictionary of HOG windows and image patches (HOGgles).",
    "patches": "Patches of photographs with the most similar SIFT descriptors, blended.",
    "nearest": "The photograph with the nearest features in a feature store.",
    "mean": "The mean of photographs, which ignores the features.",
    "paper": "The paper's own network, trained on the same photographs for the same time.",
    "autoencoder": "The representation's network, fine-tuned along with its inverter.",
}

__all__ = [
    "Autoencoder",
    "Baseline",
    "GradientDescent",
    "Mean",
    "Nearest",
    "PairedDictionary",
    "PatchDatabase",
    "TrainedInverter",
    "list_baselines",
    "train_paper",
]


def list_baselines() -> dict[str, str]:
    """Return the names of all baselines with one-line summaries, without importing them."""
    return dict(_SUMMARIES)


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        value = getattr(import_module(f"preimage.baselines.{_LAZY_NAMES[name]}"), name)
        globals()[name] = value  # found directly from now on
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
