"""Validate the averaged weights of a training run, if they are finite, and save them as its inverter."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch

from preimage.inverters import Inverter
from preimage.metrics import ErrorReport, NormalizedError
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.training.checkpoint import CHECKPOINT, Progress
from preimage.training.config import SAMPLES
from preimage.training.dataset import Dataset
from preimage.training.display import write_sample_sheet
from preimage.training.noise_factor import noise_factor
from preimage.training.step import TrainState

_SCALED_ON = 128  # largest number of images on which the noise of a sampler is scaled
_DRAWS = 8  # number of samples whose mean judges a sampler


class TrainingDivergedError(RuntimeError):
    """The loss or the weights became NaN or infinite. The last checkpoint was saved before that."""


def mean_loss(state: TrainState, progress: Progress, folder: Path) -> float:
    """Return the mean loss since the last log line.

    Raises:
        TrainingDivergedError: It is not finite.
    """
    mean = state.loss_sum.item() / max(progress.loss_count, 1)
    if not math.isfinite(mean):
        _diverged(f"the loss became {mean}", progress, folder)
    return mean


def check_finite(state: TrainState, progress: Progress, folder: Path) -> None:
    """Check loss and weights before they replace the last valid ones.

    Raises:
        TrainingDivergedError: The loss or a weight, averaged or not, is not finite.
    """
    mean_loss(state, progress, folder)
    for module in state.modules.values():
        for name, weight in module.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                _diverged(f"the weights ({name}) became NaN or infinite", progress, folder)


def _diverged(what: str, progress: Progress, folder: Path) -> NoReturn:
    path = folder / CHECKPOINT
    kept = f"the last checkpoint before that is {path}" if path.exists() else "there is no checkpoint yet"
    raise TrainingDivergedError(
        f"{what} by step {progress.step}; {kept}. A smaller lr or grad_clip, or precision='float32', may help"
    )


def with_scaled_noise(state: TrainState, dataset: Dataset) -> tuple[Inverter, float]:
    """Return the averaged weights with the noise of their sampler multiplied by the `noise_factor`, and that factor.

    It is that of at most `_SCALED_ON` of the validation images, evenly spaced.
    """
    every = math.ceil(dataset.val_count / _SCALED_ON)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        done = 0
        for images, features in dataset.val_batches(state.config.batch_size):
            assert features is not None  # a sampler and the network of a representation are not trained together
            rows = slice(-done % every, None, every)
            done += len(images)
            if len(images[rows]):
                target = state.average.target(images[rows].to(state.device))
                yield features[rows].to(state.device), target.float() / 255

    with state.mixed_precision():
        factor = round(noise_factor(state.average, batches), 4)  # the number that is written with the inverter
    inverter = copy.deepcopy(state.average)
    assert inverter.sampler is not None
    inverter.sampler.scale_noise(factor)
    return inverter, factor


def validate(state: TrainState, dataset: Dataset, inverter: Inverter) -> tuple[ErrorReport, Comparison]:
    """Return the error of an inverter on the validation images, and the reconstructions of the first batch.

    A sampler is judged by the mean of a few samples, and its reconstructions are one sample each.
    """
    error, samples = NormalizedError(), None
    reconstructor = Reconstructor(None, inverter, state.device)
    with state.mixed_precision():
        for images, known in dataset.val_batches(state.config.batch_size):
            features = known if state.encoder is None else state.encoder.representation(images.to(state.device))
            comparison = reconstructor.compare(images, features)
            judged = comparison.reconstruction
            if state.config.sampler:
                judged = inverter.moments(comparison.features, _DRAWS)[0].cpu()
                if samples is None:
                    draw = inverter.sample(comparison.features, 1)[:, 0].cpu()
                    comparison = comparison._replace(reconstruction=draw)
            error.update(comparison.target, judged)
            samples = samples or comparison
    assert samples is not None  # there are at least two validation images
    return error.report(), samples


def save_inverter(
    state: TrainState,
    dataset: Dataset,
    inverter: Inverter,
    progress: Progress,
    samples: Comparison,
    folder: Path,
    noise: float | None = None,
) -> None:
    """Save an inverter, with a description of the training, and a sample sheet, in a folder.

    The spec of the inverter of a fine-tuned network is that of its present features; the network is saved beside it.

    Args:
        state: State of the run.
        dataset: Data of the run.
        inverter: The averaged weights.
        progress: Progress of the run.
        samples: Reconstructions for the sample sheet.
        folder: Folder of the run.
        noise: Factor by which the noise of the sampler was multiplied.
    """
    config = state.config
    if state.encoder is not None:
        inverter = copy.copy(inverter)
        inverter.spec = state.encoder.representation.spec
        state.encoder.save(folder)
    write_sample_sheet(folder / SAMPLES / f"step-{progress.step:07d}.png", inverter.spec, samples)
    notes = {
        "preset": config.preset,
        "init": config.init,
        "steps": progress.step,
        "batch_size": config.batch_size,
        "size": config.size,
        "min_size": config.min_size,
        "feature_shape": [dataset.spec.channels, *(dataset.cells or ())],
        "training_images": dataset.image_count,
        "images_seen": progress.step * config.batch_size,
        "seconds": round(progress.seconds),
        "val_images": dataset.val_count,
        "skipped_images": len(dataset.image_list().skipped),
        "normalized_error": progress.error,
    }
    if state.encoder is not None:
        notes["finetuned_from"] = dataset.spec.parameters.get("weights")
    if noise is not None:
        notes["noise_factor"] = noise
    inverter.training_notes = {**state.model.training_notes, "sampler": notes} if config.sampler else notes
    inverter.save(folder)
