"""Build what the benchmark of training trains: images, a state, and the trainer's own step."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import skimage.data
import torch

from _timing import Cell, Cells, Table
from _turns import Times
from preimage.inverters import checked_device
from preimage.io import write_png
from preimage.training import TrainConfig, trainer
from preimage.training.dataset import Dataset
from preimage.training.precision import choose_dtype
from preimage.training.step import TrainState

OURS = "preimage"
LOSS_LIMIT = 0.05  # of the mean loss: bfloat16's rounding, some steps long
COLUMNS = (
    *("preset", "image_size", "batch", "dtype", "threads", "contender", "images_per_second"),
    *("median", "min", "ratio", "spread", "waiting", "remark"),
)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # those that come with scikit-image, in colour
CROPS = 24  # of each


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is."""

    preset: str
    image_size: int
    batch_size: int
    steps: int  # in a row, before the next contender's turn
    seconds: float  # of turns


def write_crops(folder: Path) -> Path:
    """Squares of photographs at random places, at least half as high as they: images to train on."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        photograph = getattr(skimage.data, name)()
        height, width = photograph.shape[:2]
        for index in range(CROPS):
            side = int(random.integers(height // 2, height + 1))
            top, left = (int(random.integers(0, size - side + 1)) for size in (height, width))
            write_png(folder / f"{name}-{index:02d}.png", photograph[top : top + side, left : left + side])
    return folder


def config(scale: Scale, images: str, output: Path, device: str, workers: int) -> TrainConfig:
    """A run without a warm-up of the learning rate, so that every step changes the weights."""
    return TrainConfig(
        representation="hog",
        images=(images,),
        output=str(output),
        validation_count=2,
        preset=scale.preset,
        image_size=scale.image_size,
        batch_size=scale.batch_size,
        warmup_steps=0,
        steps=1_000_000,
        device=device,
        workers=workers,
    )


def train_state(settings: TrainConfig) -> tuple[TrainState, Dataset]:
    """The same as a training run begins with: equal settings give equal weights. And where its batches come from."""
    device = checked_device(settings.device)
    settings, dataset = trainer.open_dataset(settings)
    torch.manual_seed(settings.seed)
    model = trainer.fresh_inverter(settings, dataset)
    trainer.measure_statistics(model, dataset)
    model = model.to(device)
    made = TrainState(
        settings,
        dataset.representation,
        model,
        average=copy.deepcopy(model).eval().requires_grad_(False),
        optimisers=trainer.optimisers(model, settings),
        dtype=choose_dtype(settings.precision, device),
        loss_sum=torch.zeros((), dtype=torch.float64, device=device),
    )
    return made, dataset


class TrainingTable(Table):
    """Rows of the benchmark of training."""

    def __init__(self, path: Path, machine: Cells) -> None:
        super().__init__(path, {name: str(value) for name, value in machine.items()}, COLUMNS, line=_line)

    def measured(
        self, about: Cells, scale: Scale, contender: str, times: Times, ours: Times, waiting: float | None = None
    ) -> None:
        """A contender's row; `waiting` is the share of its time in which it waited for images."""
        cells: dict[str, Cell] = {
            **about,
            "preset": scale.preset,
            "image_size": scale.image_size,
            "batch": scale.batch_size,
            "contender": contender,
            "images_per_second": 1e3 * scale.batch_size / times.median,
            "median": times.median,
            "min": times.least,
            "ratio": times.ratio(ours),
            "spread": times.spread,
            "waiting": waiting,
            "remark": f"{len(times.milliseconds)} measurements",
        }
        self.add(**cells)

    def wrong(self, about: Cells, scale: Scale, contender: str, problem: str) -> None:
        """A contender that does not learn as ours does, or does not run."""
        cells: dict[str, Cell] = {
            **about,
            "preset": scale.preset,
            "image_size": scale.image_size,
            "batch": scale.batch_size,
            "contender": contender,
            "remark": f"WRONG: {problem}",
        }
        self.add(**cells)


def _line(cells: Cells) -> str:
    settings = f"{cells['preset']} {cells['image_size']}² batch {cells['batch']} {cells['dtype']}"
    parts = [f"{settings:30} {cells['contender']:36}"]
    speed, median, ratio, spread, waiting = (
        cells.get(name) for name in ("images_per_second", "median", "ratio", "spread", "waiting")
    )
    if isinstance(speed, float) and isinstance(spread, float):
        parts.append(f"{speed:9.1f} images/s {median:9.2f} ms ±{100 * spread:.0f}% {ratio:6.2f} x")
    if isinstance(waiting, float):
        parts.append(f"waiting {100 * waiting:.1f} %")
    return " ".join([*parts, str(cells.get("remark") or "")])


def disagreements(losses: dict[str, float]) -> dict[str, str]:
    """Contender -> what is wrong: after equally many steps on the same images, all mean losses are near ours."""
    found = {}
    for name, loss in losses.items():
        if not abs(loss / losses[OURS] - 1) <= LOSS_LIMIT:
            found[name] = f"its mean loss is {loss:.5f}, {OURS}'s {losses[OURS]:.5f}"
    return found
