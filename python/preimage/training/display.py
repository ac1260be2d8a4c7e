"""Show the progress of a training run by a progress bar or plain lines, ``metrics.jsonl`` and sample sheets."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from preimage.errors import parse_json
from preimage.io import write_png
from preimage.io.atomic import atomic_write, naming_full_disk
from preimage.io.folders import make_folders
from preimage.metrics import ErrorReport
from preimage.pipelines.image_loading import as_pixels
from preimage.pipelines.reconstruct import Comparison
from preimage.representations.registry import class_of
from preimage.spec import Spec
from preimage.training.checkpoint import Progress
from preimage.training.config import TrainConfig
from preimage.viz.sheets import draw_sheet

_SAMPLES = 8  # number of images on a sample sheet
_SAMPLE_TILE = 512  # side of a drawing in pixels


class Display:
    """Display that shows nothing. `BarDisplay` shows a run on a terminal, `LineDisplay` in a log."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(self, config: TrainConfig, progress: Progress, image_count: int, dtype: torch.dtype) -> None:
        """Called when the run starts, or resumes at ``progress.step``."""

    def note(self, sentence: str) -> None:
        """Called with a sentence that the user should know."""

    def update(self, progress: Progress, loss: float) -> None:
        """Called with the mean loss of each log interval."""

    def validated(self, progress: Progress, report: ErrorReport) -> None:
        """Called after each validation."""


class LineDisplay(Display):
    """Display that prints plain lines to standard error, one per log interval."""

    def start(self, config: TrainConfig, progress: Progress, image_count: int, dtype: torch.dtype) -> None:
        self._config, self._first, self._first_seconds = config, progress.step, progress.seconds
        resumed = f"from step {progress.step} on, " if progress.step else ""
        network = f" from {config.init}" if config.preset is None else f"/{config.preset}"
        self.say(
            f"training {config.representation or config.features}{network} on {image_count} images: {resumed}"
            f"{_limit(config)} with batches of {config.batch_size} images, {str(dtype).removeprefix('torch.')}"
        )

    def note(self, sentence: str) -> None:
        self.say(sentence)

    def update(self, progress: Progress, loss: float) -> None:
        rate, remaining = self.pace(progress)
        error = f"  error {progress.error:.4f}" if progress.error is not None else ""
        self.say(f"step {self.position(progress)}  loss {loss:.4f}{error}  {rate:.0f} images/s  ETA {remaining}")

    def validated(self, progress: Progress, report: ErrorReport) -> None:
        self.say(f"step {progress.step}  normalized error {report.error:.4f} (mean image {report.mean_image:.4f})")

    def position(self, progress: Progress) -> str:
        """Return the number of the step, out of all steps if they are limited."""
        return str(progress.step) if self._config.steps is None else f"{progress.step}/{self._config.steps}"

    def pace(self, progress: Progress) -> tuple[float, str]:
        """Return the images per second since this process started, and the remaining time as text."""
        config, steps = self._config, progress.step - self._first
        per_step = (progress.seconds - self._first_seconds) / max(steps, 1)
        limits = []
        if config.steps is not None:
            limits.append(per_step * (config.steps - progress.step))
        if config.max_seconds is not None:
            limits.append(max(0.0, config.max_seconds - progress.seconds))
        left = round(min(limits))
        hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
        return config.batch_size / max(per_step, 1e-9), f"{hours}:{minutes:02d}:{seconds:02d}"

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class BarDisplay(LineDisplay):
    """Display that draws a live progress bar on the terminal, and prints a line for each validation."""

    def __enter__(self) -> BarDisplay:
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415

        columns = (
            TextColumn("{task.fields[position]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
        )
        self._bar = Bar(*columns, console=Console(stderr=True))
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, config: TrainConfig, progress: Progress, image_count: int, dtype: torch.dtype) -> None:
        super().start(config, progress, image_count, dtype)
        self._task = self._bar.add_task("", total=1.0, position="", text="")
        self._show(progress, "")

    def update(self, progress: Progress, loss: float) -> None:
        rate, remaining = self.pace(progress)
        error = f" error {progress.error:.4f}" if progress.error is not None else ""
        text = f"loss {loss:.4f}{error} {rate:.0f} images/s ETA {remaining}"
        self._show(progress, text)

    def _show(self, progress: Progress, text: str) -> None:
        config = self._config
        fractions = [progress.step / config.steps] if config.steps else []
        fractions += [progress.seconds / config.max_seconds] if config.max_seconds else []
        self._bar.update(self._task, completed=max(fractions), position=self.position(progress), text=text)

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False)


METRICS = "metrics.jsonl"  # in the folder of a run


class Metrics:
    """The file ``metrics.jsonl``, a JSON object per line in the order of the steps.

    Args:
        path: The file. Lines of steps after ``keep_until`` are dropped, because the run repeats these steps.
        keep_until: Last step whose lines are kept.
    """

    def __init__(self, path: Path, keep_until: int) -> None:
        self._path = path
        kept = [line for line in read_metrics(path) if line["step"] <= keep_until]
        with atomic_write(path) as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in kept)

    def write(self, **values: float | int | None) -> None:
        """Append a line, which is on disk before the checkpoint of its step: a resumed run does not write it again."""
        with naming_full_disk(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` up to the first that is not complete; nothing if there is no file."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = parse_json(text)
            except ValueError:
                break  # the run was killed while it wrote this line
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                break  # not a line of this file's format
            lines.append(line)
    return lines


def write_sample_sheet(path: Path, spec: Spec, samples: Comparison) -> None:
    """Write a PNG of the first images of a batch, drawings of their features if available, and reconstructions."""
    kind, rows = class_of(spec.representation), []
    for image, feature, reconstruction in zip(
        as_pixels(samples.target[:_SAMPLES]),
        samples.features[:_SAMPLES].cpu().numpy(),
        as_pixels(samples.reconstruction[:_SAMPLES]),
        strict=True,
    ):
        cells = [image, kind.draw(spec, feature, _SAMPLE_TILE), reconstruction]
        rows.append([cell for cell in cells if cell is not None])
    titles = ["image", *(["features"] if kind.drawing else []), "reconstruction"]
    make_folders(path.parent)
    write_png(path, draw_sheet(rows, titles))


def _limit(config: TrainConfig) -> str:
    limits = [] if config.steps is None else [f"{config.steps} steps"]
    limits += [] if config.max_hours is None else [f"{config.max_hours:g} hours"]
    return " or ".join(limits)
