"""One optimizer step, as it is read."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import torch
from torch import nn

from preimage.inverters import Inverter
from preimage.representations import Representation
from preimage.training.config import TrainConfig


@dataclasses.dataclass
class TrainState:
    """What a training step works on and changes.

    Attributes:
        config: the run's settings.
        representation: what is inverted; ``None`` where every batch comes with its features.
        model: the network that is trained.
        average: the same with the moving average of its weights.
        optimizers: Adam, and with it Muon where the config says so.
        dtype: of the network's arithmetic.
        loss_sum: [] float64 on the model's device; every step adds its loss.
        feature_shape: of an image's features, where every batch comes with them.
        extraction_device: where a step that is not one graph has the features computed.
        whole: no step is half done: after an error the weights and moments are those of a number of whole steps.
    """

    config: TrainConfig
    representation: Representation | None
    model: Inverter
    average: Inverter
    optimizers: list[torch.optim.Optimizer]
    dtype: torch.dtype
    loss_sum: torch.Tensor
    feature_shape: tuple[int, ...] | None = None
    extraction_device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    whole: bool = True

    @property
    def device(self) -> torch.device:
        return self.loss_sum.device

    def mixed_precision(self) -> torch.autocast:
        """Return a context for the network's arithmetic in `dtype`.

        On a CUDA device casts are not kept: a CUDA graph has to do them anew each time.
        """
        captured = self.device.type == "cuda"
        return torch.autocast(
            self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=not captured
        )


class Step(Protocol):
    """Take a run one optimizer step further."""

    def __call__(self, batch: torch.Tensor, step: int, features: torch.Tensor | None = None) -> None:
        """Take a batch (B, 3, H, W) uint8, and its features if they are there, after `step` steps have been taken."""


class EagerStep:
    """Operation by operation: the definition of the step."""

    def __init__(self, state: TrainState) -> None:
        self._state = state

    def __call__(self, batch: torch.Tensor, step: int, features: torch.Tensor | None = None) -> None:
        state, config = self._state, self._state.config
        if features is None:
            assert state.representation is not None
            with torch.no_grad():
                features = state.representation(batch.to(state.extraction_device))
        loss = batch_loss(state, state.model, features.to(state.device), batch.to(state.device))
        state.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), config.grad_clip)
        share = schedule(step, config)
        state.whole = False
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * optimizer.defaults["lr"]
            optimizer.step()
        _move_average(state.average, state.model, average_decay(step, config))
        state.loss_sum += loss.detach()
        state.whole = True


def batch_loss(
    state: TrainState,
    model: Inverter,
    features: torch.Tensor,  # [B, C, h, w] or [B, C]
    batch: torch.Tensor,  # [B, 3, H, W] uint8
) -> torch.Tensor:  # []
    """Return the mean over the batch of the root mean squared difference of a reconstruction and its image.

    The normalized error is a mean of norms too; minimising squared norms instead would spend the network on
    the few images that are hardest.
    """
    with state.mixed_precision():
        distances = model.distances(features, batch)
    size = batch[0].numel() if model.output_region is None else 3 * model.output_region.size**2
    return distances.mean() / math.sqrt(size)


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the full learning rate: a linear rise over the warm-up, then half a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * share))


def average_decay(step: int, config: TrainConfig) -> float:
    """Return what the moving average keeps of itself: less at first, when it holds the untrained weights."""
    return min(config.ema_decay, (step + 1) / (step + 10))


@torch.no_grad()
def _move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
