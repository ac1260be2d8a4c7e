"""Give small inverters an untrained sampler whose samples differ visibly."""

from __future__ import annotations

from pathlib import Path

import torch

from preimage.inverters import Inverter
from preimage.inverters.sampler import Sampler, SamplerConfig

_LOUDER = 10.0  # than the noise of an untrained sampler


def louder(inverter: Inverter) -> Inverter:
    """Increase the noise of an untrained sampler."""
    assert inverter.sampler is not None
    inverter.sampler.scale_noise(_LOUDER)
    return inverter.eval()


def save_with_sampler(folder: Path, output: Path) -> Path:
    """Save the inverter of a folder with a sampler, and return the folder."""
    torch.manual_seed(0)
    inverter = Inverter.load(folder)
    inverter.sampler = Sampler(inverter.network, SamplerConfig(vector=4, maps=2))
    return louder(inverter).save(output)


__all__ = ["louder", "save_with_sampler"]
