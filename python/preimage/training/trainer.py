"""The training loop: images in, an inverter out."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import torch

from preimage.io.atomic import atomic_write
from preimage.io.folders import make_folders
from preimage.representations import Representation
from preimage.training import cache_decision, checkpoint, interval
from preimage.training.builders import build_state, choose_step, init_warning
from preimage.training.checkpoint import CHECKPOINT, Progress
from preimage.training.config import SETTINGS, TrainConfig
from preimage.training.dataset import Batch
from preimage.training.dataset_factory import open_dataset
from preimage.training.display import METRICS, Display, Metrics
from preimage.training.distributed import SINGLE_PROCESS, Processes, ProcessFailedError, joined_processes
from preimage.training.image_store import store_images
from preimage.training.noise_factor import LARGEST, SMALLEST
from preimage.training.process_state import cudnn_benchmark, freed_memory_kept, interruptible
from preimage.training.resuming import Earlier, check_folder, check_settings, only_run, stamp
from preimage.training.step import Step
from preimage.training.streaming import batches_ahead
from preimage.training.validation import (
    TrainingDivergedError,
    check_finite,
    mean_loss,
    save_inverter,
    validate,
    with_scaled_noise,
)


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """Result of a finished run.

    Attributes:
        folder: Folder of the run, from which `preimage.load_inverter` loads the inverter.
        steps: Number of optimizer steps.
        images_seen: Number of training images in all batches, repetitions included.
        seconds: Training time, summed over resumptions.
        waited: Part of that time in which the next batch was not ready.
        error: Normalized error of the saved inverter on the validation images.
        mean_image_error: Normalized error of the validation images' mean image.
        skipped: (key, problem) of the images left out.
    """

    folder: Path
    steps: int
    images_seen: int
    seconds: float
    waited: float
    error: float
    mean_image_error: float
    skipped: tuple[tuple[str, str], ...] = ()


def run(
    config: TrainConfig,
    *,
    representation: Representation | None = None,
    resume: bool = False,
    display: Display | None = None,
    alone: bool = False,
) -> TrainSummary:
    """Train and validate an inverter, and save it in ``config.output``.

    The folder contains the inverter (the moving average of the weights at the last validation), the checkpoint,
    ``metrics.jsonl`` and a sample sheet for each validation; with ``finetune`` also the network that was trained along
    with the inverter, see `preimage.training.finetuning`. Ctrl-C saves a checkpoint first, and so does an error that
    ends the run. On a CUDA device the step runs as one CUDA graph if possible; otherwise ``display`` shows the reason.

    Under ``torchrun``, all processes call this function, and train one inverter together; the main one writes to the
    folder and shows progress.

    Args:
        config: All settings.
        representation: The representation ``config.representation``, if its name and parameters are not enough to
            create it.
        resume: Resume from the folder's checkpoint, if it has one. On a CPU the run then ends with the same weights as
            an uninterrupted one, bit for bit, given the same machine, processes (at most two, see the
            documentation), threads and versions and no ``max_hours``.
        display: Shows progress; ``None`` shows nothing.
        alone: Whether to train in this process alone, also under ``torchrun``.

    Raises:
        ValueError: The folder contains a run and ``resume`` is not set, or a run with other settings or images; another
            run is training into it; or any of `open_dataset` and `joined_processes`.
        OSError: The folder cannot be written, or the disk is full.
        FileFormatError: The checkpoint is damaged or of a newer version, or an image turned out to be damaged.
        TrainingDivergedError: The loss or the weights became non-finite.
        ProcessFailedError: Another process failed. On a CPU, finished steps are saved.
        KeyboardInterrupt: Ctrl-C was pressed, in any process, or it got SIGTERM; the checkpoint is written.
    """
    folder = Path(config.output)
    path = folder / CHECKPOINT

    def stored() -> dict[str, torch.Tensor] | None:
        if stamp(path) != before:
            raise ValueError(f"another run has written {path} meanwhile: start again")
        return None if earlier is None else checkpoint.read_tensors(path)

    with nullcontext(SINGLE_PROCESS) if alone else joined_processes(config.device) as processes:
        locked = only_run(folder) if processes.is_main else nullcontext()
        with display if display is not None and processes.is_main else Display() as shown:
            before, earlier = processes.from_main(lambda: check_folder(config, resume=resume))
            trainer = Trainer(config, representation, earlier, resume=resume, display=shown, processes=processes)
            with locked, interruptible() as interrupted:
                if (tensors := processes.from_main(stored)) is not None:
                    checkpoint.restore(path, trainer.state.modules, trainer.state.optimizers, tensors)
                return trainer.train(interrupted)


class Trainer:
    """State of a training run, and its loop.

    Args:
        config: All settings.
        representation: Representation, as in `run`.
        earlier: The run that is resumed.
        resume: Whether to resume, as in `run`.
        display: Display that shows progress.
        processes: The processes of the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        representation: Representation | None,
        earlier: Earlier | None,
        *,
        resume: bool,
        display: Display,
        processes: Processes,
    ) -> None:
        device, rows = processes.device(config.device), processes.rows(config.batch_size)
        known = None if earlier is None else earlier.images
        config, self.dataset = open_dataset(config, representation, known=known, note=display.note, processes=processes)
        self.dataset.local_rows = rows
        if earlier is not None:
            check_settings(config, earlier.config)
        self.config, self.folder, self.display, self.resume = config, Path(config.output), display, resume
        self.processes = processes
        if earlier is not None and (differences := self.dataset.spec.differences(earlier.spec)):
            raise ValueError(
                f"{self.folder} contains a run on other features (requested != stored): {'; '.join(differences)}"
            )
        self.state = build_state(config, self.dataset, device, processes)
        self.progress = Progress() if earlier is None else earlier.progress
        self._writer = checkpoint.CheckpointWriter(self.folder / CHECKPOINT, self.progress.step)
        gpu = device.type == "cuda"
        self._intervals = {name: config.interval(name, gpu=gpu) for name in interval.NAMES}
        self._timed = config.max_hours is not None or any(one.steps is None for one in self._intervals.values())
        self._last = dict.fromkeys(interval.NAMES, self.progress.seconds)  # training time at the last of these events
        self._skipped = -1  # number of left-out images in train.json
        self.state.loss_sum.fill_(self.progress.loss_sum)
        for warning in self._warnings(earlier):
            display.note(warning)

    def _warnings(self, earlier: Earlier | None) -> Iterator[str]:
        if self.processes.size > 1:
            share = self.config.batch_size // self.processes.size
            yield f"{self.processes.size} processes train, each on {share} of the images of a batch"
        if earlier is None and self.resume:
            yield f"there is no {self.folder / CHECKPOINT} to resume from: the run starts at the first step"
        if others := self.dataset.other_sides:
            yield (
                f"in half of the steps the images have {others[0]} to {others[-1]} pixels a side, so that there is no "
                "cache of features, and no images in a GPU's memory"
            )
        images = self.dataset.image_list()
        if earlier is None and self.config.init is not None and (warning := init_warning(self.config.init, images)):
            yield warning
        if images.skipped:
            yield f"{len(images.skipped)} images are left out, the first: {images.skipped[0].problem}"

    @property
    def done(self) -> bool:
        """Whether the run has reached its limit of steps or time."""
        return self.config.is_done(self.progress.step, self.progress.seconds)

    def train(self, interrupted: threading.Event) -> TrainSummary:
        """Run the loop to its end, or until `interrupted` is set, which raises a ``KeyboardInterrupt``."""
        if self.processes.is_main:
            make_folders(self.folder)
        device = self.state.device
        with closing(self._writer), cudnn_benchmark(device), freed_memory_kept(device):
            return self._train(interrupted)

    def _train(self, interrupted: threading.Event) -> TrainSummary:
        config, progress = self.config, self.progress
        metrics = None
        # A log line and validation that were interrupted are repeated.
        last = progress.step if progress.step_finished else progress.step - 1
        if self.processes.is_main:
            self.write_settings()
            metrics = Metrics(self.folder / METRICS, keep_until=last)
        self.display.start(config, progress, self.dataset.image_count, self.state.dtype)
        if not progress.step_finished:
            self.finish_step(metrics)
        if self.done:
            return self.summary()
        if not self.dataset.other_sides:
            self.dataset = cache_decision.with_cache(
                self.dataset,
                self.state,
                self.folder,
                resume=self.resume,
                started=progress.step > 0,
                note=self.display.note,
                interrupted=interrupted,
                processes=self.processes,
            )
        self.state.feature_shape = self.dataset.feature_shape
        self._store_images(interrupted)
        step = choose_step(self.state, progress.step, self.display.note)
        steps = itertools.count(progress.step) if config.steps is None else range(progress.step, config.steps)
        try:
            only_numbers = self.state.store is not None and self.state.feature_shape is None  # no images, no features
            workers = config.worker_count(gpu=self.state.device.type == "cuda" and not only_numbers)
            batches = batches_ahead(self.dataset, steps, self.state.device, workers=workers)
            with closing(batches):
                self.run_steps(step, batches, metrics, interrupted)
            self._writer.wait()
        except TrainingDivergedError:
            raise
        except ProcessFailedError:
            if self.state.device.type == "cpu":  # a GPU may still wait for the gradients of the process that failed
                self.save_finished_steps()
            raise
        except Exception:
            self.save_finished_steps()
            raise
        return self.summary()

    def _store_images(self, interrupted: threading.Event) -> None:
        """Keep the training images in the device's memory, unless the workers cut or use them."""
        config, dataset = self.config, self.dataset
        if dataset.other_sides or (dataset.representation is not None and dataset.representation.in_workers):
            return
        steps = math.inf if config.steps is None else config.steps - self.progress.step
        dataset.store = self.state.store = store_images(
            dataset.images,
            config.side,
            config.min_crop,
            self.state.device,
            crops=steps * config.batch_size / self.processes.size,
            note=self.display.note,
            interrupted=interrupted,
        )

    def run_steps(
        self, step: Step, batches: Iterable[Batch], metrics: Metrics | None, interrupted: threading.Event
    ) -> None:
        """Run a step for each batch, followed by due logging, validation and checkpoints, until the run is done."""
        progress = self.progress
        clock = requested = time.monotonic()
        for batch in batches:
            progress.waited += time.monotonic() - requested
            step(batch.images, progress.step, batch.features, seconds=progress.seconds)
            progress.step += 1
            progress.loss_count += 1
            progress.step_finished = False
            progress.seconds, clock = progress.seconds + time.monotonic() - clock, time.monotonic()
            if self._timed:
                progress.seconds = self.processes.agree(progress.seconds)
            self._writer.poll()
            if self.finish_step(metrics):
                clock = time.monotonic()
            if self.done:
                return
            if self.processes.any(interrupted.is_set()):
                self.processes.from_main(self._save_last_steps)
                raise KeyboardInterrupt
            requested = time.monotonic()

    def finish_step(self, metrics: Metrics | None) -> bool:
        """Log, validate and save if they are due after the last step. Return whether the run was validated.

        The sum of losses is reset only at the end, so that this method can be repeated after an error.

        Args:
            metrics: The file of metrics, in the main process.
        """
        progress = self.progress
        log, evaluate, save = (self._is_due(name) for name in ("log_every", "eval_every", "save_every"))
        if evaluate or save:
            self._share_bad_images()
        if metrics is not None:
            self._report(metrics, log=log, evaluate=evaluate)
        if log:
            self.state.loss_sum.zero_()
            progress.loss_count = 0
        progress.step_finished = True
        if save and self.processes.is_main:
            self.save_checkpoint()
        if evaluate or save:
            self.processes.barrier()  # the others wait for the main one, however long it validates
        return evaluate

    def _report(self, metrics: Metrics, *, log: bool, evaluate: bool) -> None:
        progress = self.progress
        if log:
            loss = mean_loss(self.state, progress, self.folder)
            seconds, waited = round(progress.seconds, 3), round(progress.waited, 3)
            metrics.write(step=progress.step, loss=loss, seconds=seconds, waited=waited)
            self.display.update(progress, loss)
        if evaluate:
            check_finite(self.state, progress, self.folder)
            self.validate(metrics)

    def _share_bad_images(self) -> None:
        """Let all processes know the images that any of them found to be bad, which the main one lists in files."""
        if self.config.skip_bad and self.processes.size > 1:
            for found in self.processes.gather(dict(list(self.dataset.images.bad.items()))):
                self.dataset.images.bad.update(found)

    def _is_due(self, name: str) -> bool:
        """Return whether an event is due after the last step, and if so, start its interval anew."""
        seconds = self.progress.seconds
        due = self.done or self._intervals[name].is_over(self.progress.step, seconds - self._last[name])
        if due:
            self._last[name] = seconds
        return due

    def save_checkpoint(self) -> None:
        """Start to write a checkpoint, and save the settings if more images have been left out."""
        check_finite(self.state, self.progress, self.folder)
        self.progress.loss_sum = self.state.loss_sum.item()
        contents = checkpoint.snapshot(
            self.config.to_json(),
            self.progress,
            self.state.model.spec,
            self.state.modules,
            self.state.optimizers,
            self.dataset.image_list(),
        )
        self._writer.start(contents, self.progress.step)
        self.write_settings()

    def _save_last_steps(self) -> None:
        """Save the steps since the last checkpoint, and wait until it is written."""
        self._writer.wait()
        if self._writer.step != self.progress.step:
            self.save_checkpoint()
            self._writer.wait()

    def save_finished_steps(self) -> None:
        """Save the steps since the last checkpoint after an error, unless it interrupted an update of the weights."""
        if not self.processes.is_main:
            return
        with contextlib.suppress(Exception):  # it may be the error that ended the run
            self._writer.wait()
        if self._writer.step == self.progress.step or not self.state.consistent:
            return
        with contextlib.suppress(Exception):  # the error that ended the run is the one to report
            self.save_checkpoint()
            self._writer.wait()
            self.display.note(f"all {self.progress.step} steps are saved in {self.folder / CHECKPOINT}")

    def write_settings(self) -> None:
        """Write ``train.json``, the settings and the images that are left out, unless it is up to date."""
        skipped = self.dataset.image_list().skipped
        if len(skipped) == self._skipped:
            return
        fields = json.loads(self.config.to_json())
        if skipped:
            fields["skipped"] = [bad.problem for bad in skipped]
        with atomic_write(self.folder / SETTINGS) as file:
            file.write(json.dumps(fields).encode() + b"\n")
        self._skipped = len(skipped)

    def validate(self, metrics: Metrics) -> None:
        """Measure the averaged weights on the validation images, and save them with a sample sheet.

        At the end of the training of a sampler, the noise is scaled before.
        """
        progress, inverter, noise = self.progress, self.state.average, None
        if self.config.sampler and self.done:
            inverter, noise = with_scaled_noise(self.state, self.dataset)
            reached = "the spread of the samples then matches their error"
            if noise in (SMALLEST, LARGEST):
                reached = "this is the limit, and the spread of the samples does not match their error yet"
            self.display.note(f"the noise is multiplied by {noise:.2f}: {reached}")
        report, samples = validate(self.state, self.dataset, inverter)
        progress.error, progress.mean_image_error = report.error, report.mean_image
        metrics.write(step=progress.step, error=report.error, mean_image_error=report.mean_image)
        save_inverter(self.state, self.dataset, inverter, progress, samples, self.folder, noise)
        self.display.validated(progress, report)

    def summary(self) -> TrainSummary:
        """Return the result of the finished run, in all processes."""
        return self.processes.from_main(self._summary)

    def _summary(self) -> TrainSummary:
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
            skipped=tuple((bad.key, bad.problem) for bad in self.dataset.image_list().skipped),
        )
