"""Train an inverter for each layer of a look within a time limit, and measure it on the held-out photographs."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from preimage.errors import parse_json
from preimage.pipelines.evaluate import ImageScore, Scores
from preimage.pipelines.image_loading import Pixels, as_pixels
from preimage.pipelines.reconstruct import Reconstructor
from preimage.studies.bootstrap import Interval, bootstrap_interval
from preimage.studies.look_layers import folder_name
from preimage.studies.look_photographs import Prepared
from preimage.training.api import train
from preimage.training.display import Display

# For runs of about a hundred steps: small batches give more steps in the same time. Muon, with which each step takes
# longer, had larger errors after the same time.
_SETTINGS: dict[str, Any] = {
    "preset": "auto",
    "lr": 2e-3,
    "warmup_steps": 10,
    "cache": "off",
    "save_every": 1_000_000,
}
_VALIDATIONS = 4  # points of a learning curve
_LOG_LINES = 30
_LEAST_SECONDS = 1.0  # of training, even if the time is over
_TRAINING = 0.7  # share of the time of a run in which it trains, until a run has shown it


@dataclasses.dataclass(frozen=True)
class TrainedLayer:
    """A finished run.

    Attributes:
        label: Label of the layer.
        steps: Number of optimizer steps.
        images_seen: Number of training images in all batches, repetitions included.
        seconds: Wall time of the run with its validations.
        training_seconds: Part of that time in which it trained.
        curve: (seconds of training, normalized error on the held-out photographs) at each validation.
        parameters: Number of parameters of the inverter.
        photographs: Number of photographs trained on.
        squares: Number of squares of them with features.
    """

    label: str
    steps: int
    images_seen: int
    seconds: float
    training_seconds: float
    curve: tuple[tuple[float, float], ...]
    parameters: int
    photographs: int
    squares: int

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> TrainedLayer:
        """Return the run of the fields that ``dataclasses.asdict`` gives, read from JSON."""
        return cls(**{**fields, "curve": tuple((float(x), float(y)) for x, y in fields["curve"])})


@dataclasses.dataclass(frozen=True)
class LookLayer:
    """A layer that was looked into.

    Attributes:
        label: Its name; with ``:class-token``, ``:mean`` or another layout, what is taken of its output.
        folder: Folder of its inverter, for `preimage.load_inverter`.
        features: (C, h, w), or (C,) of vectors.
        output_size: Side of the reconstructions in pixels.
        error: Normalized error on the held-out photographs.
        error_low: Lower end of its 95 % bootstrap interval over the photographs.
        error_high: Upper end.
        mean_image_error: Normalized error of the mean image of the held-out photographs.
        psnr: PSNR in dB.
        ssim: SSIM, at most 1.
        images: Number of held-out photographs.
        run: The training run.
        scores: Scores of each photograph.
    """

    label: str
    folder: Path
    features: tuple[int, ...]
    output_size: int
    error: float
    error_low: float
    error_high: float
    mean_image_error: float
    psnr: float
    ssim: float
    images: int
    run: TrainedLayer
    scores: tuple[ImageScore, ...]


class Schedule:
    """Division of the remaining time among the layers.

    Args:
        deadline: ``time.perf_counter()`` at which everything must be done.
        reserve: Seconds for what follows the training.
        layers: Number of layers to train.
    """

    def __init__(self, deadline: float, reserve: float, layers: int) -> None:
        self._deadline, self._reserve, self._left = deadline, reserve, layers
        self._training = _TRAINING  # share of the time of a run in which it trains

    def seconds(self) -> float:
        """Return the seconds of training of the next layer."""
        share = (self._deadline - self._reserve - time.perf_counter()) / max(1, self._left)
        return max(_LEAST_SECONDS, self._training * share)

    def done(self, run: TrainedLayer) -> None:
        """Count a finished run; the next one is expected to train for the same share of its time."""
        self._left -= 1
        self._training = run.training_seconds / run.seconds


def train_layer(
    label: str,
    output: Path,
    prepared: Prepared,
    features: Path | str,
    *,
    seconds: float,
    settings: Mapping[str, Any],
    display: Display | None,
) -> TrainedLayer:
    """Train the inverter of one layer for some seconds, and return the run.

    Args:
        label: Label of the layer.
        output: Folder of the look; that of the run is below it, and is replaced.
        prepared: Training and held-out squares.
        features: Feature store or file with the features of both.
        seconds: Seconds of training.
        settings: Settings of `preimage.train`.
        display: Display of the run.
    """
    begin = time.perf_counter()
    folder = output / folder_name(label)
    shutil.rmtree(folder, ignore_errors=True)
    summary = train(
        None,
        prepared.train,
        folder,
        val_images=prepared.held_out,
        features=str(features),
        allow_missing=True,  # of the user's features only those of the prepared photographs are used
        max_hours=seconds / 3600,
        log_every=f"{max(0.01, seconds / _LOG_LINES):.3f}s",
        eval_every=f"{max(0.1, seconds / _VALIDATIONS):.3f}s",
        display=display,
        **_SETTINGS | dict(settings),
    )
    return TrainedLayer(
        label=label,
        steps=summary.steps,
        images_seen=summary.images_seen,
        seconds=time.perf_counter() - begin,
        training_seconds=summary.seconds,
        curve=tuple(_curve(folder)),
        parameters=sum(weight.numel() for weight in Reconstructor(None, folder, "cpu").inverter.parameters()),
        photographs=prepared.photographs,
        squares=prepared.squares,
    )


def _curve(folder: Path) -> Iterator[tuple[float, float]]:
    """Yield seconds and error of each validation in ``metrics.jsonl``, whose lines before it have the seconds."""
    seconds = 0.0
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = parse_json(line)
        seconds = values.get("seconds", seconds)
        if "error" in values:
            yield seconds, values["error"]


def measure_layer(
    run: TrainedLayer,
    output: Path,
    keys: Sequence[str],
    images: torch.Tensor,  # (N, 3, S, S) uint8
    features: torch.Tensor,  # (N, ...)
    *,
    batch_size: int,
    device: str,
) -> tuple[LookLayer, list[Pixels]]:
    """Return the scores of a layer's inverter on the held-out photographs, and its reconstructions (H, W, 3) uint8."""
    folder = output / folder_name(run.label)
    reconstructor = Reconstructor(None, folder, device)
    scores, made = Scores(), []
    for first in range(0, len(keys), batch_size):
        part = slice(first, first + batch_size)
        comparison = reconstructor.compare(images[part], features[part])
        scores.add(keys[part], comparison.target, comparison.reconstruction)
        made += list(as_pixels(comparison.reconstruction))
    report, each = scores.report()
    interval: Interval = bootstrap_interval(report.per_image)
    layer = LookLayer(
        label=run.label,
        folder=folder,
        features=tuple(features.shape[1:]),
        output_size=made[0].shape[0],
        error=report.error,
        error_low=interval.low,
        error_high=interval.high,
        mean_image_error=report.mean_image,
        psnr=sum(score.psnr for score in each) / len(each),
        ssim=sum(score.ssim for score in each) / len(each),
        images=len(each),
        run=run,
        scores=each,
    )
    return layer, made
