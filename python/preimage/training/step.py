"""The optimizer step, operation by operation."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import torch
from torch import nn

from preimage.inverters import Inverter
from preimage.representations import Representation
from preimage.training.config import TrainConfig
from preimage.training.distributed import Processes
from preimage.training.energy_score import energy_score
from preimage.training.finetuning import Encoder
from preimage.training.image_store import ImageStore


@dataclasses.dataclass
class TrainState:
    """State that a training step reads and updates.

    Attributes:
        config: Settings of the run.
        representation: The representation to invert; ``None`` if every batch contains its features.
        model: The network in training.
        average: A copy of the network with the exponential moving average of its weights.
        optimizers: Adam, followed by Muon if it is used, and by Adam for the encoder if there is one.
        dtype: Precision of the network's arithmetic.
        loss_sum: [] float64 on the model's device, to which every step adds the loss of the whole batch.
        feature_shape: Shape of an image's features, if every batch contains them.
        store: The training images in the device's memory, if batches are crops of them.
        extraction_device: Device on which `EagerStep` computes the features.
        encoder: The representation's network, if it is fine-tuned; it then computes the features.
        consistent: ``False`` while the weights are being updated, or if an error interrupted that.
        processes: The processes of the run, each with a copy of the network and equal optimizers.
    """

    config: TrainConfig
    representation: Representation | None
    model: Inverter
    average: Inverter
    optimizers: list[torch.optim.Optimizer]
    dtype: torch.dtype
    loss_sum: torch.Tensor
    feature_shape: tuple[int, ...] | None = None
    store: ImageStore | None = None
    extraction_device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    encoder: Encoder | None = None
    consistent: bool = True
    processes: Processes = dataclasses.field(default_factory=Processes)

    @property
    def device(self) -> torch.device:
        return self.loss_sum.device

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All weights of the run, by their prefix in a checkpoint."""
        modules: dict[str, nn.Module] = {"model": self.model, "average": self.average}
        if self.encoder is not None:
            modules |= {"encoder": self.encoder.module, "encoder_average": self.encoder.average}
        return modules

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that a step updates."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        return [*weights, *(self.encoder.parameters if self.encoder is not None else ())]

    def mixed_precision(self) -> torch.autocast:
        """Return a context in which the network computes in `dtype`.

        Casts of weights are not cached: a CUDA graph has to repeat them at each replay, and inside of a caller's
        autocast context the cache would outlive a step, after which the weights are others.
        """
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False)


class Step(Protocol):
    """One optimizer step."""

    def __call__(
        self, batch: torch.Tensor, step: int, features: torch.Tensor | None = None, *, seconds: float = 0.0
    ) -> None:
        """Update the state with a batch.

        Args:
            batch: (B, 3, H, W) uint8; with `TrainState.store`, crops as numbers, (B, 7) float32.
            step: Number of steps done before.
            features: (B, C, h, w) or (B, C) float32, if the step does not compute them.
            seconds: Training time used before, which determines the learning rate of a run that is limited by time.
        """


class EagerStep:
    """Run the step operation by operation.

    Several processes average their gradients while the backward pass computes further ones, and then update their
    weights alike.
    """

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._loss = state.processes.data_parallel(BatchLoss(state))

    def __call__(
        self, batch: torch.Tensor, step: int, features: torch.Tensor | None = None, *, seconds: float = 0.0
    ) -> None:
        state, config = self._state, self._state.config
        images = batch.to(state.device, non_blocking=True)  # does not wait for a GPU if the batch is in pinned memory
        if state.store is not None:
            batch = images = state.store.cut(images)
        if features is None and state.encoder is None:
            assert state.representation is not None
            device = state.extraction_device
            with torch.no_grad():
                features = state.representation((batch if device.type == "cpu" else images).to(device))
        if features is not None:
            features = features.to(state.device, non_blocking=True)
        with state.processes.naming_failures():
            loss = self._loss(images, features, step)
            mean_loss = state.processes.mean(loss.detach())
            for optimizer in state.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(state.trained, config.grad_clip)
        scale, loss = schedule(step, config, seconds), mean_loss()
        state.consistent = False
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = scale * optimizer.defaults["lr"]
            optimizer.step()
        _update_average(state.average, state.model, average_decay(step, config))
        if state.encoder is not None:
            _update_average(state.encoder.average, state.encoder.module, average_decay(step, config))
        state.loss_sum += loss
        state.consistent = True


class BatchLoss(nn.Module):
    """Compute `batch_loss`, as a module of all parameters that a step updates.

    It has no buffers, which `Processes.data_parallel` would exchange in every step, although they are constants.
    """

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self._state = state
        self.trained = nn.ParameterList(state.trained)

    def forward(self, images: torch.Tensor, features: torch.Tensor | None, step: int) -> torch.Tensor:
        state = self._state
        if state.encoder is not None:
            features = state.encoder(images)
        assert features is not None  # without an encoder, they are computed before
        return batch_loss(state, state.model, features, images, step)


def batch_loss(
    state: TrainState,
    model: Inverter,
    features: torch.Tensor,  # [B, C, h, w] or [B, C]
    batch: torch.Tensor,  # [B, 3, H, W] uint8
    step: int = 0,
) -> torch.Tensor:  # []
    """Return the root mean squared difference between reconstruction and image, averaged over the batch.

    The normalized error averages norms too; minimizing squared norms instead would spend the network's capacity on the
    few most difficult images. The loss of a sampler is `energy_score`, with other noise in every step.
    """
    if state.config.sampler:
        return _sampler_loss(state, model, features, batch, step)
    with state.mixed_precision():
        distances = model.distances(features, batch)
    size = batch[0].numel() if model.output_region is None else 3 * model.output_region.size**2
    return distances.mean() / math.sqrt(size)


def _sampler_loss(
    state: TrainState, model: Inverter, features: torch.Tensor, batch: torch.Tensor, step: int
) -> torch.Tensor:
    """Return the energy score of two samples for each image."""
    config = state.config
    rows = range(config.batch_size)[state.processes.rows(config.batch_size)]
    positions = [step * config.batch_size + row for row in rows]
    with state.mixed_precision():
        with torch.no_grad():
            encoded = model.encode(features)
        first, second = (
            model.draw(features, encoded, seed=config.seed, positions=positions, draw=draw) for draw in (0, 1)
        )
    return energy_score(model.target(batch).float() / 255, first, second)


def schedule(step: int, config: TrainConfig, seconds: float = 0.0) -> float:
    """Return the factor of the peak learning rate: a linear warm-up times half a cosine.

    Args:
        step: Number of steps done before.
        config: Settings of the run.
        seconds: Training time used before.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return warmup * 0.5 * (1 + math.cos(math.pi * fraction_done(step, config, seconds)))


def fraction_done(step: int, config: TrainConfig, seconds: float) -> float:
    """Return the fraction of the run's limit that is used: of its steps after the warm-up, or of its time if larger."""
    fraction = 0.0
    if config.steps is not None:
        fraction = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    if config.max_seconds is not None:
        fraction = max(fraction, seconds / config.max_seconds)
    return min(max(fraction, 0.0), 1.0)


def average_decay(step: int, config: TrainConfig) -> float:
    """Return the decay of the moving average: less in the first steps, when it consists of the initial weights."""
    return min(config.ema_decay, (step + 1) / (step + 10))


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
