"""The training loop: images in, an inverter out."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import torch

from preimage.io.atomic import atomic_write
from preimage.metrics import NormalisedError
from preimage.representations import Representation
from preimage.training import cached, checkpoint, setup
from preimage.training.checkpoint import Progress
from preimage.training.config import TrainConfig
from preimage.training.data import Batch, prepared
from preimage.training.display import Display, Metrics, write_sample_sheet
from preimage.training.step import Learner, Step, fastest_step

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
        waited: of that, seconds in which the next batch was not ready yet.
        error: normalised error of the saved inverter on the held-out images.
        mean_image_error: the same of the held-out images' mean image.
    """

    folder: Path
    steps: int
    images_seen: int
    seconds: float
    waited: float
    error: float
    mean_image_error: float


def train(
    config: TrainConfig,
    *,
    representation: Representation | None = None,
    resume: bool = False,
    display: Display | None = None,
) -> TrainSummary:
    """Trains an inverter, validates it on held-out images, and leaves it in ``config.output``.

    The folder holds the inverter (the moving average of the weights at the last validation), the
    checkpoint, ``metrics.jsonl`` and a sample sheet for each validation. Ctrl-C saves a checkpoint first. On a CUDA
    device the whole step runs as one CUDA graph where that is possible; ``display`` tells where it is not.

    Args:
        config: all settings.
        representation: what ``config.representation`` names, for one that its name and parameters do not make.
        resume: go on from the folder's checkpoint, if it has one. On a CPU the run then ends with the same
            weights, bit for bit, as one that was never interrupted (same machine, threads and versions).
        display: where progress goes; none by default.

    Raises:
        ValueError: the folder holds a run already and ``resume`` is not set, or holds one with other settings; or any
            of `preimage.training.setup.open_supply`.
        TrainingDivergedError: the loss became non-finite.
        KeyboardInterrupt: Ctrl-C came; the checkpoint is written.
    """
    folder = Path(config.output)
    run = _Run(config, folder, representation)
    path = folder / CHECKPOINT
    if path.exists():
        if not resume:
            raise ValueError(f"{folder} holds a run already: resume it, or train into another folder")
        run.resume_from(path)
    with _interruptible() as interrupted, display or Display() as shown:
        return run.go(shown, interrupted, resume)


class _Run:
    """The state of one training run."""

    def __init__(self, config: TrainConfig, folder: Path, representation: Representation | None) -> None:
        device = setup.device(config.device)
        config, self.supply = setup.open_supply(config, representation)
        extraction_device = self.supply.compute_on(device)
        self.config, self.folder = config, folder

        torch.manual_seed(config.seed)
        model = setup.fresh_inverter(config, self.supply)
        setup.measure_statistics(model, self.supply)
        model = model.to(device)
        self.learner = Learner(
            config,
            self.supply.representation,
            model,
            average=copy.deepcopy(model).eval().requires_grad_(False),
            optimisers=setup.optimisers(model, config),
            dtype=setup.precision(config.precision, device),
            loss_sum=torch.zeros((), dtype=torch.float64, device=device),
            extraction_device=extraction_device,
        )
        self.progress = Progress()

    def resume_from(self, path: Path) -> None:
        text, self.progress = checkpoint.read_header(path)
        if changes := self.config.changes(TrainConfig.from_json(text)):
            raise ValueError(f"{self.folder} holds a run with other settings (now != then): {'; '.join(changes)}")
        learner, spec = self.learner, checkpoint.read_spec(path)
        if spec is not None and (differences := learner.model.spec.differences(spec)):
            raise ValueError(f"{self.folder} holds a run on other features (now != then): {'; '.join(differences)}")
        checkpoint.restore(path, learner.model, learner.average, learner.optimisers)
        learner.loss_sum.fill_(self.progress.loss_sum)

    def go(self, display: Display, interrupted: threading.Event, resume: bool) -> TrainSummary:
        config, progress = self.config, self.progress
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / "train.json") as file:
            file.write(config.to_json().encode() + b"\n")
        metrics = Metrics(self.folder / "metrics.jsonl", keep_until=progress.step)
        display.start(config, progress, self.supply.image_count, self.learner.dtype)
        if progress.step == config.steps:
            return self.summary()
        self.supply = cached.where_it_pays(
            self.supply,
            self.learner,
            self.folder,
            resume=resume,
            begun=progress.step > 0,
            note=display.note,
            interrupted=interrupted,
        )
        self.learner.feature_shape = self.supply.feature_shape
        step = fastest_step(self.learner, progress.step, display.note)
        with closing(prepared(self.supply.batch, progress.step, config.steps, config.workers)) as batches:
            self.take_steps(step, batches, metrics, display, interrupted)
        return self.summary()

    def take_steps(
        self, step: Step, batches: Iterable[Batch], metrics: Metrics, display: Display, interrupted: threading.Event
    ) -> None:
        """One for each batch, with what is due after it."""
        config, progress = self.config, self.progress
        clock = asked = time.monotonic()
        for batch in batches:
            progress.waited += time.monotonic() - asked
            step(batch.images, progress.step, batch.features)
            progress.step += 1
            progress.loss_count += 1
            progress.seconds, clock = progress.seconds + time.monotonic() - clock, time.monotonic()
            done = progress.step == config.steps
            if progress.step % config.log_every == 0 or done:
                loss = self.take_mean_loss()
                seconds, waited = round(progress.seconds, 3), round(progress.waited, 3)
                metrics.write(step=progress.step, loss=loss, seconds=seconds, waited=waited)
                display.update(progress, loss)
            if progress.step % config.validate_every == 0 or done:
                self.validate(metrics, display)
                clock = time.monotonic()
            if interrupted.is_set() or progress.step % config.checkpoint_every == 0 or done:
                self.save_checkpoint()
            if interrupted.is_set():
                raise KeyboardInterrupt
            asked = time.monotonic()

    def take_mean_loss(self) -> float:
        """Mean loss since the last call; refuses a non-finite one."""
        mean = self.learner.loss_sum.item() / max(self.progress.loss_count, 1)
        if not math.isfinite(mean):
            kept = self.folder / CHECKPOINT
            state = f"the checkpoint from before that is kept: {kept}" if kept.exists() else "no checkpoint yet"
            raise TrainingDivergedError(
                f"the loss became {mean} by step {self.progress.step}; {state}. "
                "A smaller learning_rate or clip_norm, or precision='float32', may help"
            )
        self.learner.loss_sum.zero_()
        self.progress.loss_count = 0
        return mean

    def save_checkpoint(self) -> None:
        self.progress.loss_sum = self.learner.loss_sum.item()
        if math.isfinite(self.progress.loss_sum):
            checkpoint.save(
                self.folder / CHECKPOINT,
                self.config.to_json(),
                self.progress,
                self.learner.model,
                self.learner.average,
                self.learner.optimisers,
            )

    def validate(self, metrics: Metrics, display: Display) -> None:
        """Judges the averaged weights on the held-out images, and saves them with a sample sheet."""
        measure, average, device = NormalisedError(), self.learner.average, self.learner.device
        samples: list[torch.Tensor] = []
        for part, features in self.supply.held_out(self.config.batch_size):
            assert features is not None
            with torch.inference_mode(), self.learner.mixed_precision():
                reconstructions = average(features.to(device))
            target = average.target(part.to(device))
            measure.update(target.float() / 255, reconstructions)
            samples = samples or [target[:8].cpu(), features[:8].cpu(), reconstructions[:8].cpu()]
        report = measure.report()
        step = self.progress.step
        self.progress.error, self.progress.mean_image_error = report.error, report.mean_image
        metrics.write(step=step, error=report.error, mean_image_error=report.mean_image)
        write_sample_sheet(self.folder / "samples" / f"step-{step:07d}.png", average.spec, *samples)
        average.training_notes = self.notes()
        average.save(self.folder)
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
            "feature_shape": [self.supply.spec.channels, *(self.supply.cells or ())],
            "training_images": self.supply.image_count,
            "images_seen": progress.step * config.batch_size,
            "seconds": round(progress.seconds),
            "held_out_images": self.supply.held_out_count,
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
            waited=progress.waited,
            error=progress.error,
            mean_image_error=progress.mean_image_error,
        )


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
