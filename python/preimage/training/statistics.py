"""Compute the mean and standard deviation of a run's features, with which its network normalizes them."""

from __future__ import annotations

import torch

from preimage.inverters import Inverter
from preimage.training.dataset import Dataset

_MIN_DEVIATION = 1e-6
_MIN_RELATIVE_DEVIATION = 0.01  # relative to the mean over the channels


def set_statistics(model: Inverter, dataset: Dataset) -> None:
    """Set a model's mean color and, if it normalizes features, the mean and standard deviation of every channel.

    They are computed over some training images. A channel that hardly varies among them (a dead unit, for example) may
    vary among the others: for the layer of a network, its deviation is at least a hundredth of the channels' mean
    deviation.
    """
    colors, channels = _Moments(3), _Moments(dataset.spec.channels)
    for images, features in dataset.examples(with_features=model.network.standardized):
        colors.add(images)
        if features is not None:
            channels.add(model.measured(features))
    model.image_mean.copy_(colors.mean / 255)
    if model.network.standardized:
        model.feature_mean.copy_(channels.mean)
        model.feature_deviation.copy_(_at_least(model, channels.deviation()))


def set_further_statistics(model: Inverter, dataset: Dataset, first: int) -> None:
    """Set the mean and deviation of the channels from `first` on, if the model normalizes features.

    The others belong to the weights that the model starts from.
    """
    if not model.network.standardized:
        return
    channels = _Moments(dataset.spec.channels)
    for _, features in dataset.examples(with_features=True):
        assert features is not None
        channels.add(model.measured(features))
    model.feature_mean[first:] = channels.mean[first:]
    model.feature_deviation[first:] = _at_least(model, channels.deviation())[first:]


def _at_least(model: Inverter, deviation: torch.Tensor) -> torch.Tensor:
    """Return deviations (C,) by which features can be divided."""
    least = _MIN_DEVIATION
    if model.output_region is not None:
        least = max(least, _MIN_RELATIVE_DEVIATION * deviation.mean().item())
    return deviation.clamp_min(least)


class _Moments:
    """Running mean and standard deviation by channel, in float64."""

    def __init__(self, channels: int) -> None:
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # summed squared differences from the mean
        self._count = 0

    def add(self, values: torch.Tensor) -> None:
        """Add a batch (B, C, ...) of any dtype."""
        for value in values:
            columns = value.detach().cpu().reshape(len(self.mean), -1).double()
            count = columns.shape[1]
            mean, weight = columns.mean(dim=1), self._count * count / (self._count + count)
            squares = (columns - mean[:, None]).square().sum(dim=1)
            self._squares += squares + (mean - self.mean).square() * weight
            self._count += count
            self.mean += (mean - self.mean) * (count / self._count)

    def deviation(self) -> torch.Tensor:
        """Return the standard deviation (C,)."""
        return (self._squares / max(self._count - 1, 1)).sqrt()
