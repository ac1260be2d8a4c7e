"""Gradient descent with momentum on a batch of images, each of which has its own learning rate and stops on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

# Objectives and feature errors (B,) of images (B, C, H, W) with these indices, at a progress from 0 to 1.
Objective = Callable[[torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]

GROWTH, DECAY = 1.05, 0.8  # factors of the learning rate after a step, and when the objective has risen
SLACK = 0.01  # relative increase of the objective over its smallest value at which it has risen
FIRST = 0.1  # length of the first step, relative to the maximum
WINDOWS = 10  # number of windows of steps, within each of which the feature error of an image has to fall
_LOWEST = 1 / 32  # cycles per pixel; lower frequencies have the same weight


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of `descend`.

    Attributes:
        steps: Maximum number of steps.
        lr: Maximum root mean square of a step without its momentum, in the units of the images.
        momentum: Weight of the former step, in [0, 1).
        preconditioning: Exponent p: the gradient at frequency f is multiplied by f^-p.
        tolerance: Relative decrease of the feature error within a tenth of the steps below which an image stops.
    """

    steps: int
    lr: float
    momentum: float
    preconditioning: float
    tolerance: float


def descend(
    start: torch.Tensor, objective: Objective, settings: Settings, report: Callable[[int], None]
) -> torch.Tensor:
    """Return the states with the smallest feature errors on the way from `start` to a minimum of the objective.

    The learning rate of an image is chosen so that its first step has a certain length, whatever the scale of the
    objective, and then grows. When the objective exceeds its smallest value since the momentum was last discarded by
    more than `SLACK`, the learning rate decreases and the momentum is discarded. A small increase is allowed, as
    objectives of HOG are not continuous.
    Images stay in [-0.5, 0.5].

    Args:
        start: (B, C, H, W).
        objective: Function of images (B', C, H, W), their indices (B',) and the progress.
        settings: Settings.
        report: Function called with the number of steps, over all images, that are done or not needed any more.
    """
    images, best = start.clone(), start.clone()
    count, device = len(images), start.device
    weights = _weights(tuple(images.shape[2:]), settings.preconditioning, device)
    active = torch.arange(count, device=device)  # indices of the images that have not stopped; `images` are these
    momentum = torch.zeros_like(images)
    rate = torch.zeros(count, device=device)
    lowest = torch.full((count,), torch.inf, device=device)  # objectives since the momentum was discarded
    least, least_before = lowest.clone(), lowest.clone()  # feature errors
    window = max(1, settings.steps // WINDOWS)
    for step in range(settings.steps):
        images.requires_grad_(True)
        value, error = objective(images, active, step / settings.steps)
        (gradient,) = torch.autograd.grad(value.sum(), images)
        images, value, error = images.detach(), value.detach(), error.detach()
        better = error < least[active]
        least[active[better]], best[active[better]] = error[better], images[better]

        if step and step % window == 0:
            falls = least[active] < (1 - settings.tolerance) * least_before[active]
            least_before = least.clone()
            report((len(active) - int(falls.sum())) * (settings.steps - step))
            active, images, momentum = active[falls], images[falls], momentum[falls]
            gradient, value = gradient[falls], value[falls]
            if not len(active):
                return best

        if weights is not None:
            gradient = torch.fft.irfft2(torch.fft.rfft2(gradient) * weights, s=images.shape[2:])
        length = gradient.flatten(1).square().mean(dim=1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        rises = value > (1 + SLACK) * lowest[active]
        lowest[active] = torch.where(rises, value, torch.minimum(value, lowest[active]))
        scale = FIRST * settings.lr / length if step == 0 else rate[active] * torch.where(rises, DECAY, GROWTH)
        scale = scale.clamp(max=settings.lr / length)
        rate[active] = scale
        momentum[rises] = 0
        momentum = settings.momentum * momentum - scale.view(-1, 1, 1, 1) * gradient
        images = (images + momentum).clamp(-0.5, 0.5)
        report(len(active))
    with torch.no_grad():
        _, error = objective(images, active, 1.0)
    better = error < least[active]
    best[active[better]] = images[better]
    return best


def _weights(size: tuple[int, ...], exponent: float, device: torch.device) -> torch.Tensor | None:
    """Return the weights (H, W // 2 + 1) of the frequencies of `torch.fft.rfft2`; ``None`` if all are 1."""
    if exponent == 0:
        return None
    rows = torch.fft.fftfreq(size[0], device=device)[:, None]
    columns = torch.fft.rfftfreq(size[1], device=device)
    return (rows.square() + columns.square()).sqrt().clamp_min(_LOWEST) ** -exponent
