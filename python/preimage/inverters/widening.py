"""Start an inverter of features with more channels from one of their first channels."""

from __future__ import annotations

import torch

from preimage.inverters.inverter import Inverter
from preimage.spec import Spec


def widened(inverter: Inverter, spec: Spec) -> Inverter:
    """Return an inverter of features whose first channels are those of another inverter.

    All weights are copied, and those that read the further channels are zero, so that the reconstructions are the same
    whatever these channels contain. Their mean and deviation are 0 and 1. A sampler is left out.

    Args:
        inverter: Inverter of the first channels.
        spec: Spec of the features with further channels, see `Representation.first_channels`.

    Raises:
        ValueError: The spec has no further channels, or the network cannot be widened.
    """
    if spec.channels <= inverter.spec.channels:
        raise ValueError(f"spec must have more than {inverter.spec.channels} channels, got {spec.channels}")
    wide = Inverter(spec, inverter.config, inverter.training_notes, inverter.output_region)
    state = {name: value for name, value in inverter.state_dict().items() if not name.startswith("sampler.")}
    missing = {"feature_mean": 0.0, "feature_deviation": 1.0}
    with torch.no_grad():
        for name, value in wide.state_dict().items():
            value.copy_(_padded(name, state[name], value.shape, missing.get(name, 0.0)))
    return wide


def _padded(name: str, value: torch.Tensor, shape: torch.Size, filling: float) -> torch.Tensor:
    """Return a tensor with entries appended to the one axis that is longer in `shape`, if any."""
    axes = [axis for axis, (old, new) in enumerate(zip(value.shape, shape, strict=True)) if old != new]
    if not axes:
        return value
    if len(axes) > 1 or value.shape[axes[0]] > shape[axes[0]]:
        raise ValueError(f"{name} of shape {tuple(value.shape)} cannot be widened to {tuple(shape)}")
    further = list(shape)
    further[axes[0]] -= value.shape[axes[0]]
    return torch.cat((value, value.new_full(further, filling)), dim=axes[0])
