"""What a run shows while it goes: a progress bar or plain lines, ``metrics.jsonl`` and sample sheets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from preimage.io import write_png
from preimage.io.atomic import atomic_write, naming_full_disk
from preimage.metrics import ErrorReport
from preimage.pipelines.loading import as_pixels
from preimage.pipelines.reconstruct import Comparison
from preimage.representations.registry import class_of
from preimage.spec import Spec
from preimage.training.checkpoint import Progress
from preimage.training.config import TrainConfig
from preimage.viz.sheets import picture_sheet

_SAMPLES = 8  # images on a sample sheet
_SAMPLE_TILE = 512  # pixels of a drawing


class Display:
    """Shows nothing. `BarDisplay` and `LineDisplay` show a run on a terminal and in a log."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(self, config: TrainConfig, progress: Progress, image_count: int, dtype: torch.dtype) -> None:
        """The run begins, or goes on at ``progress.step``."""

    def note(self, sentence: str) -> None:
        """Something about the run that its user should know."""

    def update(self, progress: Progress, loss: float) -> None:
        """A mean loss is there."""

    def validated(self, progress: Progress, report: ErrorReport) -> None:
        """A validation is done."""


class LineDisplay(Display):
    """Plain lines on standard error, one a log interval."""

    def start(self, config: TrainConfig, progress: Progress, image_count: int, dtype: torch.dtype) -> None:
        self._config, self._first, self._first_seconds = config, progress.step, progress.seconds
        begin = f"step {progress.step} of {config.steps}" if progress.step else f"{config.steps} steps"
        self.say(
            f"training {config.representation or config.features}/{config.preset} on {image_count} images: {begin} "
            f"of {config.batch_size} images, {str(dtype).removeprefix('torch.')}"
        )

    def note(self, sentence: str) -> None:
        self.say(sentence)

    def update(self, progress: Progress, loss: float) -> None:
        rate, remaining = self.pace(progress)
        error = f"  error {progress.error:.4f}" if progress.error is not None else ""
        self.say(
            f"step {progress.step}/{self._config.steps}  loss {loss:.4f}{error}  {rate:.0f} images/s  ETA {remaining}"
        )

    def validated(self, progress: Progress, report: ErrorReport) -> None:
        self.say(f"step {progress.step}  normalized error {report.error:.4f} (mean image {report.mean_image:.4f})")

    def pace(self, progress: Progress) -> tuple[float, str]:
        """Images a second since this process began, and the time left as text."""
        steps = progress.step - self._first
        per_step = (progress.seconds - self._first_seconds) / max(steps, 1)
        left = round(per_step * (self._config.steps - progress.step))
        hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
        return self._config.batch_size / max(per_step, 1e-9), f"{hours}:{minutes:02d}:{seconds:02d}"

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class BarDisplay(LineDisplay):
    """A live progress bar on the terminal, with a line for each validation."""

    def __enter__(self) -> BarDisplay:
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415

        columns = (
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
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
        self._task = self._bar.add_task("", total=config.steps, completed=progress.step, text="")

    def update(self, progress: Progress, loss: float) -> None:
        rate, remaining = self.pace(progress)
        error = f" error {progress.error:.4f}" if progress.error is not None else ""
        text = f"loss {loss:.4f}{error} {rate:.0f} images/s ETA {remaining}"
        self._bar.update(self._task, completed=progress.step, text=text)

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False)


class Metrics:
    """``metrics.jsonl``: one JSON object a line, in the order of the steps.

    Args:
        path: the file; what it says of steps after ``keep_until`` is dropped, since they are done again.
        keep_until: step that the run goes on from.
    """

    def __init__(self, path: Path, keep_until: int) -> None:
        self._path = path
        kept = [line for line in self._lines() if line["step"] <= keep_until]
        with atomic_write(path) as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in kept)

    def write(self, **values: float | int | None) -> None:
        """Appends a line."""
        with naming_full_disk(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        if self._path.exists():
            for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    break  # the line that was being written when the run was killed
                if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                    break  # not ours
                lines.append(line)
        return lines


def write_sample_sheet(path: Path, spec: Spec, samples: Comparison) -> None:
    """Write a PNG of the first images of a batch, their features drawn where they can be, and the reconstructions."""
    drawn, rows = class_of(spec.representation), []
    for image, feature, reconstruction in zip(
        as_pixels(samples.target[:_SAMPLES]),
        samples.features[:_SAMPLES].cpu().numpy(),
        as_pixels(samples.reconstruction[:_SAMPLES]),
        strict=True,
    ):
        pictures = [image, drawn.draw(spec, feature, _SAMPLE_TILE), reconstruction]
        rows.append([picture for picture in pictures if picture is not None])
    titles = ["image", *(["features"] if drawn.drawing else []), "reconstruction"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, picture_sheet(rows, titles))
