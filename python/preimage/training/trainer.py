"""The training loop: images in, an inverter out."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

import torch

from preimage.errors import FileFormatError
from preimage.inverters import Inverter, checked_device
from preimage.inverters.layers import upconv_weights
from preimage.inverters.plan import plan
from preimage.io.atomic import atomic_write, folder_lock
from preimage.metrics import NormalizedError
from preimage.pipelines.prefetch import in_order
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.representations import Representation
from preimage.spec import Spec
from preimage.training import cache_decision, checkpoint
from preimage.training.checkpoint import Progress
from preimage.training.config import SAMPLES, TrainConfig
from preimage.training.dataset import Batch, Dataset, are_probabilities, open_dataset
from preimage.training.display import Display, Metrics, write_sample_sheet
from preimage.training.graphed_step import GraphedStep, cuda_graph
from preimage.training.images import ImageList, of_image
from preimage.training.muon import Muon
from preimage.training.precision import choose_dtype
from preimage.training.step import EagerStep, Step, TrainState

CHECKPOINT = "checkpoint.safetensors"

_SETTINGS = "train.json"
_METRICS = "metrics.jsonl"
_LEAST_DEVIATION = 1e-6
_LEAST_SHARE = 0.01  # of the mean deviation


class TrainingDivergedError(RuntimeError):
    """The loss or the weights became NaN or infinite. The run's last checkpoint is from before that."""


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """What a finished run comes to.

    Attributes:
        folder: the run's folder; `Inverter.load` takes it.
        steps: optimizer steps done.
        images_seen: training images seen, repetitions counted.
        seconds: training time over all resumptions.
        waited: of that, seconds in which the next batch was not ready yet.
        error: normalized error of the saved inverter on the held-out images.
        mean_image_error: the same of the held-out images' mean image.
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


def train(
    config: TrainConfig,
    *,
    representation: Representation | None = None,
    resume: bool = False,
    display: Display | None = None,
) -> TrainSummary:
    """Train an inverter, validate it on held-out images, and leave it in ``config.output``.

    The folder holds the inverter (the moving average of the weights at the last validation), the
    checkpoint, ``metrics.jsonl`` and a sample sheet for each validation. Ctrl-C saves a checkpoint first, and so does
    an error that ends the run. On a CUDA device the whole step runs as one CUDA graph where that is possible;
    ``display`` tells where it is not.

    Args:
        config: all settings.
        representation: what ``config.representation`` names, for one that its name and parameters do not make.
        resume: go on from the folder's checkpoint, if it has one. On a CPU the run then ends with the same
            weights, bit for bit, as one that was never interrupted (same machine, threads and versions).
        display: where progress goes; none by default.

    Raises:
        ValueError: the folder holds a run already and ``resume`` is not set, or holds one with other settings or of
            other images; another run is training into it; or any of `open_dataset`.
        OSError: the folder cannot be written, or the disk is full.
        FileFormatError: the checkpoint is damaged or of a newer version, or an image turned out to be damaged.
        TrainingDivergedError: the loss or the weights became non-finite.
        KeyboardInterrupt: Ctrl-C came; the checkpoint is written.
    """
    folder = Path(config.output)
    _check_folder(folder)
    path = folder / CHECKPOINT
    stamp = _stamp(path)
    if stamp is not None and not resume:
        raise ValueError(f"{folder} holds a run already: resume it, or train into another folder")
    if folder.exists():
        with folder_lock(folder, lambda waited: _refuse(folder)):
            pass  # another run is reported at once, not after a look at all images
    with display or Display() as shown:
        earlier = None if stamp is None else _read_earlier(path, config)
        run = _Run(config, folder, representation, earlier, resume, shown)
        with folder_lock(folder, lambda waited: _refuse(folder)), _interruptible() as interrupted:
            if _stamp(path) != stamp:
                raise ValueError(f"another run has written {path} meanwhile: start again")
            if earlier is not None:
                checkpoint.restore(path, run.state.model, run.state.average, run.state.optimizers)
            return run.go(interrupted, resume)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before hours of work are lost to that."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file; the output of a run is a folder", str(place))
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, "is a folder that cannot be written to", str(place))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; ``None`` where there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _refuse(folder: Path) -> None:
    raise ValueError(f"another run is training into {folder}: wait for it, or train into another folder")


class _Earlier(NamedTuple):
    """Return the run in the folder as its checkpoint describes it."""

    config: TrainConfig
    progress: Progress
    spec: Spec
    images: ImageList


def _read_earlier(path: Path, config: TrainConfig) -> _Earlier:
    """Return what the checkpoint says about its run; ``ValueError`` if its settings are not these."""
    text, progress = checkpoint.read_header(path)
    try:
        earlier = TrainConfig.from_json(text)
    except (ValueError, TypeError) as error:
        raise FileFormatError(path, f"holds a run with settings that this version does not have: {error}") from error
    # What size images have is settled only when they are opened.
    _check_settings(dataclasses.replace(config, size=config.size or earlier.size), earlier)
    return _Earlier(earlier, progress, checkpoint.read_spec(path), checkpoint.read_images(path))


def _check_settings(now: TrainConfig, then: TrainConfig) -> None:
    if changes := now.changes(then):
        raise ValueError(f"{now.output} holds a run with other settings (now != then): {'; '.join(changes)}")


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        representation: Representation | None,
        earlier: _Earlier | None,
        resume: bool,
        display: Display,
    ) -> None:
        device = checked_device(config.device)
        known = None if earlier is None else earlier.images
        config, self.dataset = open_dataset(config, representation, known=known, note=display.note)
        if earlier is not None:
            _check_settings(config, earlier.config)
        extraction_device = self.dataset.compute_on(device)
        self.config, self.folder, self.display = config, folder, display

        torch.manual_seed(config.seed)
        model = fresh_inverter(config, self.dataset)
        if earlier is not None and (other := model.spec.differences(earlier.spec)):
            raise ValueError(f"{folder} holds a run on other features (now != then): {'; '.join(other)}")
        measure_statistics(model, self.dataset)
        model = model.to(device)
        self.progress = Progress() if earlier is None else earlier.progress
        self._saved = self.progress.step  # the step of the last checkpoint
        self._listed = -1  # images that train.json lists as left out
        self.state = TrainState(
            config,
            self.dataset.representation,
            model,
            average=copy.deepcopy(model).eval().requires_grad_(False),
            optimizers=optimizers(model, config),
            dtype=choose_dtype(config.precision, device),
            loss_sum=torch.full((), self.progress.loss_sum, dtype=torch.float64, device=device),
            extraction_device=extraction_device,
        )
        for sentence in self._warnings(earlier, resume):
            display.note(sentence)

    def _warnings(self, earlier: _Earlier | None, resume: bool) -> Iterator[str]:
        """Yield what the user should know before the run goes on."""
        if earlier is None and resume:
            yield f"there is no {self.folder / CHECKPOINT} to go on from: the run begins at the first step"
        images = self.dataset.image_list()
        if earlier is None and self.config.init is not None and (sentence := _init_warning(self.config.init, images)):
            yield sentence
        if images.skipped:
            yield f"{len(images.skipped)} images are left out, the first: {images.skipped[0].problem}"

    def go(self, interrupted: threading.Event, resume: bool) -> TrainSummary:
        config, progress = self.config, self.progress
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_settings()
        # What was due after the last step is done again if it was cut short.
        metrics = Metrics(self.folder / _METRICS, keep_until=progress.step if progress.settled else progress.step - 1)
        self.display.start(config, progress, self.dataset.image_count, self.state.dtype)
        if not progress.settled:
            self.settle(metrics)
        if progress.step == config.steps:
            return self.summary()
        self.dataset = cache_decision.with_cache(
            self.dataset,
            self.state,
            self.folder,
            resume=resume,
            begun=progress.step > 0,
            note=self.display.note,
            interrupted=interrupted,
        )
        self.state.feature_shape = self.dataset.feature_shape
        step = fastest_step(self.state, progress.step, self.display.note)
        try:
            steps, ahead = range(progress.step, config.steps), config.workers + 2
            batches = in_order(self.dataset.batch, steps, workers=config.workers, ahead=ahead, name="batch")
            with closing(batches):
                self.take_steps(step, batches, metrics, interrupted)
        except TrainingDivergedError:
            raise
        except Exception:
            self.save_what_is_done()
            raise
        return self.summary()

    def take_steps(self, step: Step, batches: Iterable[Batch], metrics: Metrics, interrupted: threading.Event) -> None:
        """Take one for each batch, and do what is due after it."""
        progress = self.progress
        clock = asked = time.monotonic()
        for batch in batches:
            progress.waited += time.monotonic() - asked
            step(batch.images, progress.step, batch.features)
            progress.step += 1
            progress.loss_count += 1
            progress.settled = False
            progress.seconds, clock = progress.seconds + time.monotonic() - clock, time.monotonic()
            if self.settle(metrics):
                clock = time.monotonic()
            if interrupted.is_set():
                if self._saved != progress.step:
                    self.save_checkpoint()
                raise KeyboardInterrupt
            asked = time.monotonic()

    def settle(self, metrics: Metrics) -> bool:
        """Do what is due after the last step: a logged line, a validation, a checkpoint. Return whether it validated.

        The sum of the losses is begun anew only at the end, so that all of it can be done again after an error.
        """
        config, progress = self.config, self.progress
        done = progress.step == config.steps
        logged = progress.step % config.log_every == 0 or done
        validated = progress.step % config.eval_every == 0 or done
        if logged:
            loss = self.mean_loss()
            seconds, waited = round(progress.seconds, 3), round(progress.waited, 3)
            metrics.write(step=progress.step, loss=loss, seconds=seconds, waited=waited)
            self.display.update(progress, loss)
        if validated:
            self.refuse_divergence()
            self.validate(metrics)
        if logged:
            self.state.loss_sum.zero_()
            progress.loss_count = 0
        progress.settled = True
        if progress.step % config.save_every == 0 or done:
            self.save_checkpoint()
        return validated

    def mean_loss(self) -> float:
        """Return the mean loss since the last logged line; refuse a non-finite one."""
        mean = self.state.loss_sum.item() / max(self.progress.loss_count, 1)
        if not math.isfinite(mean):
            self._diverged(f"the loss became {mean}")
        return mean

    def refuse_divergence(self) -> None:
        """Refuse to go on with weights that are not finite: they must not replace the last good ones."""
        self.mean_loss()
        for module in (self.state.model, self.state.average):
            for name, weight in module.named_parameters():
                if not bool(torch.isfinite(weight).all()):
                    self._diverged(f"the weights ({name}) became NaN or infinite")

    def _diverged(self, what: str) -> NoReturn:
        kept = self.folder / CHECKPOINT
        kept_text = f"the checkpoint from before that is kept: {kept}" if kept.exists() else "no checkpoint yet"
        raise TrainingDivergedError(
            f"{what} by step {self.progress.step}; {kept_text}. "
            "A smaller lr or grad_clip, or precision='float32', may help"
        )

    def save_checkpoint(self) -> None:
        self.refuse_divergence()
        self.progress.loss_sum = self.state.loss_sum.item()
        checkpoint.save(
            self.folder / CHECKPOINT,
            self.config.to_json(),
            self.progress,
            self.state.model,
            self.state.average,
            self.state.optimizers,
            self.dataset.image_list(),
        )
        self._saved = self.progress.step
        self.write_settings()

    def save_what_is_done(self) -> None:
        """Save the steps since the last checkpoint after an error, if none of them is half done."""
        if self._saved == self.progress.step or not self.state.whole:
            return
        with contextlib.suppress(Exception):  # the error that ended the run is the one to tell
            self.save_checkpoint()
            self.display.note(f"all {self.progress.step} steps are saved in {self.folder / CHECKPOINT}")

    def write_settings(self) -> None:
        """Write ``train.json`` if there is something new to say: the settings, and the images that are left out."""
        skipped = self.dataset.image_list().skipped
        if len(skipped) == self._listed:
            return
        fields = json.loads(self.config.to_json())
        if skipped:
            fields["skipped"] = [bad.problem for bad in skipped]
        with atomic_write(self.folder / _SETTINGS) as file:
            file.write(json.dumps(fields).encode() + b"\n")
        self._listed = len(skipped)

    def validate(self, metrics: Metrics) -> None:
        """Judge the averaged weights on the held-out images, and save them with a sample sheet."""
        error, average = NormalizedError(), self.state.average
        reconstructor = Reconstructor(None, average, self.state.device)
        samples: Comparison | None = None
        with self.state.mixed_precision():
            for images, features in self.dataset.held_out(self.config.batch_size):
                comparison = reconstructor.compare(images, features)
                error.update(comparison.target, comparison.reconstruction)
                samples = samples or comparison
        assert samples is not None  # at least two images are held out
        report = error.report()
        step = self.progress.step
        self.progress.error, self.progress.mean_image_error = report.error, report.mean_image
        metrics.write(step=step, error=report.error, mean_image_error=report.mean_image)
        write_sample_sheet(self.folder / SAMPLES / f"step-{step:07d}.png", average.spec, samples)
        average.training_notes = self.notes()
        average.save(self.folder)
        self.display.validated(self.progress, report)

    def notes(self) -> dict[str, object]:
        """Return what the inverter's config tells about its training."""
        config, progress = self.config, self.progress
        return {
            "preset": config.preset,
            "init": config.init,
            "steps": progress.step,
            "batch_size": config.batch_size,
            "image_size": config.size,
            "feature_shape": [self.dataset.spec.channels, *(self.dataset.cells or ())],
            "training_images": self.dataset.image_count,
            "images_seen": progress.step * config.batch_size,
            "seconds": round(progress.seconds),
            "held_out_images": self.dataset.held_out_count,
            "skipped_images": len(self.dataset.image_list().skipped),
            "normalized_error": progress.error,
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
            skipped=tuple((bad.key, bad.problem) for bad in self.dataset.image_list().skipped),
        )


def _init_warning(init: str, images: ImageList) -> str | None:
    """Return a sentence about held-out images that the inverter to start from was trained on."""
    folder = Path(init)
    if not folder.is_dir():
        return None  # a pretrained one
    path = folder / CHECKPOINT
    try:
        trained = checkpoint.read_images(path) if path.exists() else None
    except FileFormatError:
        trained = None  # its weights are in other files
    if trained is None:
        return f"which images {init} was trained on is not known there: some of those held out now may be among them"
    seen = {of_image(digest) for digest in trained.trained.values()}
    twice = [key for key, digest in images.held_out.items() if of_image(digest) in seen]
    if not twice:
        return None
    return (
        f"{init}, which the run starts from, was trained on {len(twice)} of the {len(images.held_out)} images held out "
        f"now, first {twice[0]!r}: the error measured on them says little about images never seen"
    )


def fresh_inverter(config: TrainConfig, dataset: Dataset) -> Inverter:
    """Return the network of the run's preset for the dataset's features, with its first weights.

    Raises:
        ValueError: no such preset, or an image of which something would be left over; an inverter to start from that
            has another network, output region or spec.
    """
    spec, cells, size = dataset.spec, dataset.cells, config.side
    planned = plan(
        spec,
        config.preset,
        cells=cells,
        image_size=size,
        output_size=config.output_size,
        budget=config.budget,
        probabilities=_gives_probabilities(dataset),
    )
    model = Inverter(spec, planned.config, output_region=planned.output_region)
    if planned.output_region is None and cells is not None and (covered := model.covered(*cells)) != (size, size):
        raise ValueError(
            f"{spec.representation} features of {size}×{size} pixels come back as {'×'.join(map(str, covered))}: "
            f"training takes an image_size of which nothing is left over, such as 256 (got {size})"
        )
    if config.init is not None:
        start = Inverter.load(config.init)
        if start.config != planned.config or start.output_region != planned.output_region or start.spec != spec:
            raise ValueError(
                f"{config.init} is another network than preset {config.preset!r}, or for another spec or output region"
            )
        model.load_state_dict(start.state_dict())
    return model


def _gives_probabilities(dataset: Dataset) -> bool:
    """Return whether the features are vectors that are never negative and sum to one."""
    if dataset.cells is not None:
        return False
    some = next(iter(dataset.examples(with_features=True))).features
    return some is not None and are_probabilities(some)


def measure_statistics(model: Inverter, dataset: Dataset) -> None:
    """Set the mean and deviation of every feature channel, where the network wants them, and the mean color.

    Measured on some training images. A channel that hardly varies among them (a unit that is dead on all, say) may
    among the others: with an output region it counts as varying by a hundredth of what the channels do on average.
    """
    colors, channels = _Moments(3), _Moments(dataset.spec.channels)
    for images, features in dataset.examples(with_features=model.network.standardized):
        colors.add(images)
        if features is not None:
            channels.add(model.measured(features))
    model.image_mean.copy_(colors.mean / 255)
    if not model.network.standardized:
        return
    deviation = channels.deviation()
    least = _LEAST_DEVIATION
    if model.output_region is not None:
        least = max(least, _LEAST_SHARE * deviation.mean().item())
    model.feature_mean.copy_(channels.mean)
    model.feature_deviation.copy_(deviation.clamp_min(least))


class _Moments:
    """Mean and deviation by channel of what comes batch by batch, in float64."""

    def __init__(self, channels: int) -> None:
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # of the distances from the mean
        self._count = 0

    def add(self, values: torch.Tensor) -> None:
        """(B, C, ...) of any type."""
        for value in values:
            columns = value.detach().cpu().reshape(len(self.mean), -1).double()
            count = columns.shape[1]
            mean, apart = columns.mean(dim=1), self._count * count / (self._count + count)
            squares = (columns - mean[:, None]).square().sum(dim=1)
            self._squares += squares + (mean - self.mean).square() * apart
            self._count += count
            self.mean += (mean - self.mean) * (count / self._count)

    def deviation(self) -> torch.Tensor:
        return (self._squares / max(self._count - 1, 1)).sqrt()


def optimizers(model: Inverter, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return Adam for all weights; with ``muon``, Muon for the kernels between the features and the image.

    And for the matrix that reads a vector: that is where most of what there is to learn about vectors is learnt.
    """
    transposed = upconv_weights(model)
    muon: tuple[list[torch.nn.Parameter], ...] = ([], [])  # by the axis of their output channels
    adam: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        rows = int(name in transposed)
        reads_map = weight.dim() > 2 and weight.shape[1 - rows] == model.spec.channels
        inner = weight.dim() > 1 and not reads_map and weight.shape[rows] != 3
        (muon[rows] if inner and config.optimizer == "muon" else adam).append(weight)
    fused = True if adam[0].is_cuda else None
    chosen: list[torch.optim.Optimizer] = [torch.optim.Adam(adam, config.lr, fused=fused)]
    groups = [{"params": weights, "rows": rows} for rows, weights in enumerate(muon) if weights]
    return [*chosen, Muon(groups, config.muon_lr)] if groups else chosen


def fastest_step(state: TrainState, step: int, note: Callable[[str], None]) -> Step:
    """Return the whole step as one CUDA graph where the device can, else `EagerStep`; `note` gets a sentence why."""
    representation = state.representation
    if state.device.type == "cuda" and representation is not None and representation.in_workers:
        note(f"the steps run operation by operation: {representation.name} features come from the CPU")
    elif state.device.type == "cuda":
        try:
            return GraphedStep(state, step, cuda_graph)
        except Exception as error:  # whatever it is, the state is untouched, and eager training may do without it
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            note(f"the steps run operation by operation, more slowly, because no CUDA graph could be made: {reason}")
    return EagerStep(state)


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
