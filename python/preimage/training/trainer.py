"""The training loop: images in, an inverter out."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import torch

from preimage import representations
from preimage.inverters import Inverter, checked_device
from preimage.inverters.plan import plan
from preimage.io import list_images
from preimage.io.atomic import atomic_write
from preimage.metrics import NormalisedError
from preimage.representations import Representation
from preimage.training import cached, checkpoint
from preimage.training.checkpoint import Progress
from preimage.training.config import TrainConfig
from preimage.training.dataset import (
    Batch,
    FreshCrops,
    ImageSet,
    Supply,
    are_probabilities,
    open_own,
    prepared,
    whole_images,
    with_some_held_out,
)
from preimage.training.display import Display, Metrics, write_sample_sheet
from preimage.training.graphed_step import GraphedStep, cuda_graph
from preimage.training.muon import Muon
from preimage.training.step import EagerStep, Learner, Step

_IMAGE_SIZE = 256  # of images that nothing says a size of
_LEAST_DEVIATION = 1e-6
_LEAST_SHARE = 0.01  # of the mean deviation


def open_supply(
    config: TrainConfig, representation: representations.Representation | None = None
) -> tuple[TrainConfig, Supply]:
    """Where the run's batches come from, and its settings with the image size settled.

    Args:
        config: the run's settings.
        representation: what its ``representation`` names, where that is made already.

    Raises:
        ValueError: a representation of another name, an image size that the representation or the file of features
            does not have, a cache of features that vary at random, too few images, or images that are both trained on
            and held out.
    """
    if representation is not None and representation.name != config.representation:
        raise ValueError(
            f"the settings name {config.representation!r}, the representation given is {representation.name}"
        )
    if config.features is not None:
        return open_own(config, _IMAGE_SIZE)
    assert config.representation is not None  # or there are features
    if representation is None:
        representation = representations.create(config.representation, **config.parameters)
    if config.cache == "on" and representation.in_workers:
        raise ValueError(f"features of {representation.name} vary at random in training: they are not cached")
    side = representation.image_side
    if side is not None and config.image_size not in (None, side):
        raise ValueError(
            f"{representation.name} takes images of {side}×{side} pixels only, got image_size {config.image_size}"
        )
    config = dataclasses.replace(config, image_size=side or config.image_size or _IMAGE_SIZE)
    images, held_out = image_sets(config)
    return config, FreshCrops(config, representation, images, held_out)


def image_sets(config: TrainConfig) -> tuple[ImageSet, torch.Tensor]:
    """Training images, and the held-out ones (N, 3, H, W) uint8."""
    sources = list_images(config.images)
    if config.validation_images:
        held_out = list_images(config.validation_images)
        twice = {source.key for source in held_out} & {source.key for source in sources}
        if twice:
            raise ValueError(
                f"{len(twice)} images are both trained on and held out, for example {min(twice)!r}: "
                "an error measured on them would mean nothing"
            )
    else:
        sources, held_out = with_some_held_out(sources, config.validation_count)
    return ImageSet(sources), whole_images(ImageSet(held_out), config.side)


def fresh_inverter(config: TrainConfig, supply: Supply) -> Inverter:
    """The network of the run's preset for the supply's features, with its first weights.

    Raises:
        ValueError: no such preset, or an image of which something would be left over; an inverter to start from that
            has another network, view or spec.
    """
    spec, cells, size = supply.spec, supply.cells, config.side
    planned = plan(
        spec,
        config.preset,
        cells=cells,
        image_size=size,
        output_size=config.output_size,
        budget=config.budget,
        probabilities=_gives_probabilities(supply),
    )
    model = Inverter(spec, planned.config, view=planned.view)
    if planned.view is None and cells is not None and (covered := model.covered(*cells)) != (size, size):
        raise ValueError(
            f"{spec.representation} features of {size}×{size} pixels come back as {'×'.join(map(str, covered))}: "
            f"training takes an image_size of which nothing is left over, such as 256 (got {size})"
        )
    if config.init is not None:
        start = Inverter.load(config.init)
        if start.config != planned.config or start.view != planned.view or start.spec != spec:
            raise ValueError(
                f"{config.init} is another network than preset {config.preset!r}, or for another spec or view"
            )
        model.load_state_dict(start.state_dict())
    return model


def _gives_probabilities(supply: Supply) -> bool:
    """Are the features vectors that are never negative and sum to one?"""
    if supply.cells is not None:
        return False
    some = next(iter(supply.examples(with_features=True))).features
    return some is not None and are_probabilities(some)


def measure_statistics(model: Inverter, supply: Supply) -> None:
    """Sets the mean and deviation of every feature channel, where the network wants them, and the mean colour.

    Measured on some training images. A channel that hardly varies among them (a unit that is dead on all, say) may
    among the others: where there is a view, it counts as varying by a hundredth of what the channels do on average.
    """
    colours, channels = _Moments(3), _Moments(supply.spec.channels)
    for images, features in supply.examples(with_features=model.network.standardised):
        colours.add(images)
        if features is not None:
            channels.add(model.measured(features))
    model.image_mean.copy_(colours.mean / 255)
    if not model.network.standardised:
        return
    deviation = channels.deviation()
    least = _LEAST_DEVIATION
    if model.view is not None:
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


def optimisers(model: Inverter, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Adam for all weights; with ``muon``, Muon for the kernels between the features and the image.

    And for the matrix that reads a vector: that is where most of what there is to learn about vectors is learnt.
    """
    muon: list[torch.nn.Parameter] = []
    adam: list[torch.nn.Parameter] = []
    for weight in model.parameters():
        reads_map = weight.dim() > 2 and weight.shape[1] == model.spec.channels
        inner = weight.dim() > 1 and not reads_map and weight.shape[0] != 3
        (muon if inner and config.optimiser == "muon" else adam).append(weight)
    fused = True if adam[0].is_cuda else None
    chosen: list[torch.optim.Optimizer] = [torch.optim.Adam(adam, config.learning_rate, fused=fused)]
    return [*chosen, Muon(muon, config.muon_rate)] if muon else chosen


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return checked_device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # Where the CPU has no bfloat16 instructions, emulating them is slower than float32.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if native() else torch.float32


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
            of `open_supply`.
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
        device = choose_device(config.device)
        config, self.supply = open_supply(config, representation)
        extraction_device = self.supply.compute_on(device)
        self.config, self.folder = config, folder

        torch.manual_seed(config.seed)
        model = fresh_inverter(config, self.supply)
        measure_statistics(model, self.supply)
        model = model.to(device)
        self.learner = Learner(
            config,
            self.supply.representation,
            model,
            average=copy.deepcopy(model).eval().requires_grad_(False),
            optimisers=optimisers(model, config),
            dtype=choose_dtype(config.precision, device),
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


def fastest_step(learner: Learner, step: int, note: Callable[[str], None]) -> Step:
    """The whole step as one CUDA graph where the device can, else `EagerStep`; `note` gets a sentence about why."""
    representation = learner.representation
    if learner.device.type == "cuda" and representation is not None and representation.in_workers:
        note(f"the steps run operation by operation: {representation.name} features come from the CPU")
    elif learner.device.type == "cuda":
        try:
            return GraphedStep(learner, step, cuda_graph)
        except Exception as error:  # whatever it is, the learner is untouched, and eager training may do without it
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            note(f"the steps run operation by operation, more slowly, because no CUDA graph could be made: {reason}")
    return EagerStep(learner)


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
