"""Find the amount of noise with which the spread of the samples of a trained inverter matches their error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from preimage.inverters import Inverter
from preimage.pipelines.calibration import Calibration, Draws, SpreadSkill

_COUNT = 8  # draws of each image
_ROUNDS = 3
SMALLEST, LARGEST = 0.5, 2.0


def noise_factor(inverter: Inverter, batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> float:
    """Return the factor of the noise for which the smallest and the largest spread/skill are equally far from 1.

    Equally far means that one is the inverse of the other. The error of the mean hardly depends on the noise, so that
    spread/skill is nearly proportional to it, and a few rounds suffice.

    Args:
        inverter: Inverter that can sample.
        batches: Function that returns batches of features and of the true images, (B, 3, H, W) float32 in [0, 1], on
            the inverter's device.

    Returns:
        From `SMALLEST` to `LARGEST`; 1 if the samples have no spread or no error.
    """
    factor = 1.0
    for _ in range(_ROUNDS):
        ratios = [one.ratio for one in _spread_skill(inverter, batches(), factor) if one.spread > 0 and one.skill > 0]
        if not ratios:
            return 1.0
        factor = min(max(factor / math.sqrt(min(ratios) * max(ratios)), SMALLEST), LARGEST)
    return factor


@torch.no_grad()
def _spread_skill(
    inverter: Inverter, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], factor: float
) -> tuple[SpreadSkill, ...]:
    calibration, done = Calibration(_COUNT), 0
    for features, target in batches:
        positions = range(done, done + len(target))
        draws = Draws(target)
        for images in inverter.draws(features, _COUNT, spread=factor, positions=positions):
            draws.add(images)
        calibration.add(draws, positions)
        done += len(target)
    return calibration.spread_skill()
