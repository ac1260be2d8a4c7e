"""The training loop: images in, an inverter out."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from preimage import representations
from preimage.analysis.metrics import NormalisedError
from preimage.storage.files import atomic_write
from preimage.training import checkpoint, setup
from preimage.training.checkpoint import Progress
from preimage.training.config import TrainConfig
from preimage.training.data import training_batches
from preimage.training.display import Display, Metrics, write_sample_sheet

CHECKPOINT = "checkpoint.safetensors"


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite. The run's last checkpoint is from before that."""


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """What a finished run comes to.

    Attributes:
        folder: the run's folder; `Inverter.load` takes it.
        steps: optimiser steps done.
        images_seen: training images seen, repetitions counted.
        seconds: training time over all resumptions.
        error: normalised error of the saved inverter on the held-out images.
        mean_image_error: the same of the held-out images' mean image.
    """

    folder: Path
    steps: int
    images_seen: int
    seconds: float
    error: float
    mean_image_error: float


def train(config: TrainConfig, *, resume: bool = False, display: Display | None = None) -> TrainSummary:
    """Trains an inverter, validates it on held-out images, and leaves it in ``config.output``.

    The folder holds the inverter (the moving average of the weights at the last validation), the
    checkpoint, ``metrics.jsonl`` and a sample sheet for each validation. Ctrl-C saves a checkpoint first.

    Args:
        config: all settings.
        resume: go on from the folder's checkpoint, if it has one. On a CPU the run then ends with the same
            weights, bit for bit, as one that was never interrupted (same machine, threads and versions).
        display: where progress goes; none by default.

    Raises:
        ValueError: the folder holds a run already and ``resume`` is not set, or holds one with other settings.
        TrainingDivergedError: the loss became non-finite.
        KeyboardInterrupt: Ctrl-C came; the checkpoint is written.
    """
    folder = Path(config.output)
    run = _Run(config, folder)
    path = folder / CHECKPOINT
    if path.exists():
        if not resume:
            raise ValueError(f"{folder} holds a run already: resume it, or train into another folder")
        run.resume_from(path)
    with _interruptible() as interrupted, display or Display() as shown:
        return run.go(shown, interrupted)


class _Run:
    """The state of one training run."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.device = setup.device(config.device)
        self.dtype = setup.precision(config.precision, self.device)
        self.representation = representations.create(config.representation, **config.parameters)
        self.images, self.held_out = setup.image_sets(config)

        torch.manual_seed(config.seed)
        self.model = setup.fresh_inverter(config, self.representation)
        setup.measure_statistics(self.model, self.images, self.representation, config.image_size)
        self.model = self.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimisers = setup.optimisers(self.model, config)
        self.progress = Progress()
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def resume_from(self, path: Path) -> None:
        text, self.progress = checkpoint.read_header(path)
        if changes := self.config.changes(TrainConfig.from_json(text)):
            raise ValueError(f"{self.folder} holds a run with other settings (now != then): {'; '.join(changes)}")
        checkpoint.restore(path, self.model, self.average, self.optimisers)
        self.loss_sum.fill_(self.progress.loss_sum)

    def go(self, display: Display, interrupted: threading.Event) -> TrainSummary:
        config, progress = self.config, self.progress
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / "train.json") as file:
            file.write(config.to_json().encode() + b"\n")
        metrics = Metrics(self.folder / "metrics.jsonl", keep_until=progress.step)
        display.start(config, progress, len(self.images), self.dtype)
        batches = training_batches(
            self.images,
            progress.step,
            config.steps,
            batch_size=config.batch_size,
            size=config.image_size,
            min_crop=config.min_crop,
            seed=config.seed,
            workers=config.workers,
        )
        clock = time.monotonic()
        for batch in batches:
            self.step(batch)
            progress.seconds, clock = progress.seconds + time.monotonic() - clock, time.monotonic()
            done = progress.step == config.steps
            if progress.step % config.log_every == 0 or done:
                loss = self.take_mean_loss()
                metrics.write(step=progress.step, loss=loss, seconds=round(progress.seconds, 3))
                display.update(progress, loss)
            if progress.step % config.validate_every == 0 or done:
                self.validate(metrics, display)
                clock = time.monotonic()
            if interrupted.is_set() or progress.step % config.checkpoint_every == 0 or done:
                self.save_checkpoint()
            if interrupted.is_set():
                batches.close()
                raise KeyboardInterrupt
        return self.summary()

    def step(self, batch: torch.Tensor) -> None:
        """One optimiser step on (B, 3, H, W) uint8."""
        config, progress = self.config, self.progress
        features = self.representation(batch).to(self.device)  # descriptors are computed on the CPU
        images = batch.to(self.device).float().div_(255).contiguous(memory_format=torch.channels_last)
        with self.mixed_precision():
            reconstructions = self.model.reconstruct(features)
        loss = image_loss(images, reconstructions)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        share = _schedule(progress.step, config)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = share * optimiser.defaults["lr"]
            optimiser.step()
        progress.step += 1
        _move_average(self.average, self.model, min(config.ema_decay, progress.step / (progress.step + 9)))
        self.loss_sum += loss.detach()
        progress.loss_count += 1

    def mixed_precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def take_mean_loss(self) -> float:
        """Mean loss since the last call; refuses a non-finite one."""
        mean = self.loss_sum.item() / max(self.progress.loss_count, 1)
        if not math.isfinite(mean):
            kept = self.folder / CHECKPOINT
            state = f"the checkpoint from before that is kept: {kept}" if kept.exists() else "no checkpoint yet"
            raise TrainingDivergedError(
                f"the loss became {mean} by step {self.progress.step}; {state}. "
                "A smaller learning_rate or clip_norm, or precision='float32', may help"
            )
        self.loss_sum.zero_()
        self.progress.loss_count = 0
        return mean

    def save_checkpoint(self) -> None:
        self.progress.loss_sum = self.loss_sum.item()
        if math.isfinite(self.progress.loss_sum):
            checkpoint.save(
                self.folder / CHECKPOINT,
                self.config.to_json(),
                self.progress,
                self.model,
                self.average,
                self.optimisers,
            )

    def validate(self, metrics: Metrics, display: Display) -> None:
        """Judges the averaged weights on the held-out images, and saves them with a sample sheet."""
        measure = NormalisedError()
        samples: list[torch.Tensor] = []
        for part in self.held_out.split(self.config.batch_size):
            features = self.representation(part).to(self.device)
            with torch.inference_mode(), self.mixed_precision():
                reconstructions = self.average(features)
            measure.update(part.to(self.device).float() / 255, reconstructions)
            samples = samples or [part[:8], features[:8].cpu(), reconstructions[:8].cpu()]
        report = measure.report()
        step = self.progress.step
        self.progress.error, self.progress.mean_image_error = report.error, report.mean_image
        metrics.write(step=step, error=report.error, mean_image_error=report.mean_image)
        write_sample_sheet(self.folder / "samples" / f"step-{step:07d}.png", self.representation.spec, *samples)
        self.average.training_notes = self.notes()
        self.average.save(self.folder)
        display.validated(self.progress, report)

    def notes(self) -> dict[str, object]:
        """What the inverter's config tells about its training."""
        config, progress = self.config, self.progress
        return {
            "preset": config.preset,
            "init": config.init,
            "steps": progress.step,
            "batch_size": config.batch_size,
            "image_size": config.image_size,
            "training_images": len(self.images),
            "images_seen": progress.step * config.batch_size,
            "seconds": round(progress.seconds),
            "held_out_images": len(self.held_out),
            "normalised_error": progress.error,
        }

    def summary(self) -> TrainSummary:
        progress = self.progress
        assert progress.error is not None and progress.mean_image_error is not None  # every run ends with a validation
        return TrainSummary(
            folder=self.folder,
            steps=progress.step,
            images_seen=progress.step * self.config.batch_size,
            seconds=progress.seconds,
            error=progress.error,
            mean_image_error=progress.mean_image_error,
        )


def image_loss(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of the root mean squared difference of an image, both (B, 3, H, W).

    The normalised error is a mean of norms too; minimising squared norms instead would spend the network on
    the few images that are hardest.
    """
    lengths = torch.linalg.vector_norm(images - reconstructions, dim=(1, 2, 3))
    return lengths.mean() / math.sqrt(images[0].numel())


def _schedule(step: int, config: TrainConfig) -> float:
    """The share of the full learning rate: a linear rise over the warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def _move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a step ends before the run does; the second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
