"""Give small inverters an untrained sampler whose samples differ visibly."""

from __future__ import annotations

from pathlib import Path

import torch

from preimage.inverters import Inverter
from preimage.inverters.sampler import Sampler, SamplerConfig

_LOUDER = 10.0  # than the noise of an untrained sampler, whose samples differ by less than 1/255


def save_with_sampler(folder: Path, output: Path) -> Path:
    """Save the inverter of a folder with a sampler, and return the folder."""
    torch.manual_seed(0)
    inverter = Inverter.load(folder)
    inverter.sampler = Sampler(inverter.network, SamplerConfig(vector=4, maps=2))
    for name, weight in inverter.sampler.named_parameters():
        if name.startswith("noise."):
            weight.data *= _LOUDER
    return inverter.save(output)


__all__ = ["save_with_sampler"]
