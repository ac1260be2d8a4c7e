"""Show what the layers of a network keep while it is trained, by a callback for any training loop."""

from __future__ import annotations

import csv
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from preimage.errors import FileFormatError
from preimage.inverters import resolve_device
from preimage.io import Listing
from preimage.io.folders import make_folders
from preimage.optional import import_optional
from preimage.pipelines.image_loading import Images
from preimage.pipelines.image_writer import output_folder
from preimage.representations.network import Network
from preimage.representations.network_identity import Preprocess
from preimage.studies.base import check_at_least
from preimage.studies.probe_images import Photographs, held_out_count, keep_photographs, photograph_source
from preimage.studies.probe_measurement import ProbeScore, ProbeSettings, measure_layers
from preimage.studies.probe_page import HEADER, ProbeStudy
from preimage.training.distributed import is_main_process
from preimage.training.process_state import kept_random_state
from preimage.viz.plots import MOST_SERIES
from preimage.viz.sheets import SMALLEST_TILE

_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")  # the same library under two names


class Probe:
    """Callback for a training loop that shows what layers of the network keep.

    At the first call, and then every `every` steps, it takes the present weights, computes the features of photographs,
    trains a small inverter for each layer for a bounded time, and measures its reconstructions of held-out photographs.
    It adds a row for each layer to ``probe.csv``, and writes ``index.html`` again: film strips with one column for each
    probe, and the error by step. The inverters are in ``inverters/<layer>``, for `preimage.load_inverter`.

    To keep a probe short, an inverter continues the one of the probe before, because features change slowly from one to
    the next; with ``warm_start=False`` each probe trains from the beginning.

    The training is not affected: the network keeps its mode, gradients, device and weights, and the random generators
    of Python, NumPy and torch their states, so that its losses are the same as without a probe. Forward hooks on the
    layers run, as in any pass. In distributed training only the process of rank 0 probes, and the others wait for it.

    Args:
        network: Network that is trained; or a module, with `preprocess`.
        images: Path or paths (folders, image files, tar shards), or sources; or a tensor (N, 3, H, W), uint8 or
            floating in [0, 1]. They are resized and center-cropped to the input size of the network, and kept in
            ``output/images``.
        output: A folder, which is created if it does not exist.
        layers: Names of one to eight layers, see `preimage layers`.
        every: Number of steps between two probes.
        preprocess: Preprocessing for a module.
        output_layout: Axis order of the outputs of the layers, see `Network`.
        seconds: Training time of an inverter in seconds, at each probe and for each layer; ``None`` for no limit
            besides `steps`.
        steps: Maximum number of optimizer steps of an inverter at each probe; ``None`` for no limit besides `seconds`.
        val_count: Number of held-out photographs; ``None`` is a fifth of them, at least 2 and at most 64.
        show_count: Number of held-out photographs on the film strips.
        columns: Maximum number of probes on the film strips, evenly spaced; curves and CSV have all.
        tile: Side of an image on the film strips in pixels, at least 32.
        budget: Maximum number of parameters of an inverter.
        batch_size: Batch size.
        lr: Peak learning rate of the inverters.
        device: Device of the inverters; ``"auto"`` is that of the network. Features are computed where the network is.
        warm_start: Whether an inverter continues that of the probe before.
        resume: Continue the probe in the folder, for a training that is resumed. Its rows of later steps than the first
            one here are dropped.
        skip_bad: Whether images that cannot be read are left out, instead of raising an error.

    Raises:
        TypeError: A module without `preprocess`, or any of `Network`.
        ValueError: No such layer, more than eight, or one whose output cannot be features; too few photographs; a value
            out of range; the folder contains a probe and `resume` is not set, or a probe of other layers.

    Example:
        >>> probe = preimage.Probe(network, "photos/", "probe/", layers=["conv1", "conv3"], every=1000)
        >>> for step, batch in enumerate(loader):
        ...     train_on(batch)
        ...     probe(step)
    """

    def __init__(
        self,
        network: Network | nn.Module,
        images: Images | torch.Tensor,
        output: str | PathLike[str],
        *,
        layers: Sequence[str],
        every: int = 1000,
        preprocess: Preprocess | None = None,
        output_layout: str = "auto",
        seconds: float | None = 20.0,
        steps: int | None = None,
        val_count: int | None = None,
        show_count: int = 4,
        columns: int = 8,
        tile: int = 128,
        budget: int = 1_000_000,
        batch_size: int = 16,
        lr: float = 2e-3,
        device: str = "auto",
        warm_start: bool = True,
        resume: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self._network = _as_network(network, preprocess)
        if isinstance(layers, str):
            raise TypeError(f"layers must be a list of names, got the string {layers!r}")
        self.layers = tuple(dict.fromkeys(layers))
        if not 1 <= len(self.layers) <= MOST_SERIES:
            raise ValueError(f"layers must be one to {MOST_SERIES} names, got {len(self.layers)}")
        if seconds is None and steps is None:
            raise ValueError("seconds or steps must be given: otherwise a probe would never end")
        check_at_least(
            ("every", every, 1), ("show_count", show_count, 1), ("columns", columns, 2), ("tile", tile, SMALLEST_TILE)
        )
        check_at_least(
            ("steps", 1 if steps is None else steps, 1), ("batch_size", batch_size, 1), ("budget", budget, 1)
        )
        if not (seconds is None or seconds > 0) or not lr > 0:
            raise ValueError(f"seconds and lr must be above 0, got {seconds} and {lr}")
        if device != "auto":
            resolve_device(device)
        self.every, self.folder = every, output_folder(output)
        self._settings = ProbeSettings(
            seconds=seconds,
            steps=steps,
            budget=budget,
            batch_size=batch_size,
            lr=lr,
            device=device,
            warm_start=warm_start,
            output_layout=output_layout,
        )
        self._show: dict[str, Any] = {"columns": columns, "tile": tile, "warm_start": warm_start}
        self._names, self._images = photograph_source(images, skip_bad=skip_bad)
        held_out_count(len(self._names), val_count)
        self._keep: dict[str, Any] = {"val_count": val_count, "show_count": show_count, "skip_bad": skip_bad}
        self._photographs: Photographs | None = None
        self._resume = resume and self.csv.exists()
        if self.csv.exists() and not resume and _is_main():
            raise ValueError(
                f"{self.folder} contains a probe already: continue it (resume=True), or use another folder"
            )
        self._scores = _read_scores(self.csv, self.layers) if self._resume else []
        with kept_random_state():
            self._network.shapes(self.layers, output_layout)
        self._last: int | None = None
        self._count = 0

    @property
    def csv(self) -> Path:
        """Table of the scores."""
        return self.folder / "probe.csv"

    @property
    def page(self) -> Path:
        """Self-contained HTML page."""
        return self.folder / "index.html"

    @property
    def scores(self) -> tuple[ProbeScore, ...]:
        """Scores of all probes so far, for each step those of all layers."""
        return tuple(self._scores)

    def __call__(self, step: int) -> tuple[ProbeScore, ...]:
        """Probe if it is due: at the first call, and when a multiple of `every` has been reached since the last probe.

        Errors of the first probe are raised. Later ones do not end the training: they are warnings.

        Args:
            step: Number of the training step.

        Returns:
            The scores of this probe; none if it was not due.
        """
        if not _is_main() or (self._last is not None and step // self.every <= self._last // self.every):
            return ()
        first = self._last is None
        self._last = step
        try:
            return self.measure(step)
        except Exception as error:
            if first:
                raise
            warnings.warn(f"the probe at step {step} failed: {type(error).__name__}: {error}", stacklevel=2)
            return ()

    def step(self) -> tuple[ProbeScore, ...]:
        """Count a step, and probe if it is due: for loops without a number. The first call has the number 0."""
        self._count += 1
        return self(self._count - 1)

    def measure(self, step: int) -> tuple[ProbeScore, ...]:
        """Probe now, and return the scores of this probe.

        Raises:
            ValueError: An image that cannot be read (named), or features that are refused.
            OSError: A file cannot be written.
        """
        start = time.perf_counter()
        with kept_random_state():
            photographs = self._kept_photographs()
            self._scores = [score for score in self._scores if score.step < step]
            trained = {score.layer: score.inverter_steps for score in self._scores}
            # Another object, because torch does not count writes through `parameter.data`: nothing is kept from before.
            network = self._network.with_module(self._network.module)
            found = measure_layers(network, self.layers, photographs, self.folder, self._settings, step, trained)
            self._scores += found
            self._last = step
            study = ProbeStudy(self._scores, self.layers, photographs, self.folder, network=network.name, **self._show)
            study.write(self.folder, start=start, listings=[Listing([])])
        return tuple(found)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Probe before the first step of a trainer of PyTorch Lightning."""
        self(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Probe if it is due after a step of a trainer of PyTorch Lightning."""
        self(trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Probe once more at the end of the training, unless the last step was probed."""
        if _is_main() and self._last is not None and self._last < trainer.global_step:
            self._last = -self.every  # due now
            self(trainer.global_step)

    def lightning(self) -> Any:
        """Return this probe as a callback of PyTorch Lightning, for ``Trainer(callbacks=[probe.lightning()])``.

        Raises:
            ImportError: Neither ``lightning`` nor ``pytorch_lightning`` is installed.
        """
        loaded = [name for name in _LIGHTNING if sys.modules.get(name) is not None]
        package = sys.modules[loaded[0]] if loaded else _import_lightning()
        hooks = ("on_train_start", "on_train_batch_end", "on_train_end")
        members = {name: staticmethod(getattr(self, name)) for name in hooks}
        return type("ProbeCallback", (package.Callback,), members)()

    def _kept_photographs(self) -> Photographs:
        if self._photographs is None:
            make_folders(self.folder)
            self._photographs = keep_photographs(
                self._names,
                self._images,
                self.folder / "images",
                side=self._network.image_size,
                resume=self._resume,
                **self._keep,
            )
            self._images = []  # they may take much memory
        return self._photographs


def _as_network(network: Network | nn.Module, preprocess: Preprocess | None) -> Network:
    if isinstance(network, Network):
        if preprocess is not None:
            raise TypeError("preprocess must be left out with a preimage.Network, which has its own")
        return network
    if preprocess is None:
        raise TypeError(
            "preprocess must be given with a module, such as preimage.Preprocessing(224); or pass a "
            f"preimage.Network(module, preprocess, ...), got {type(network).__name__} alone"
        )
    return Network(network, preprocess)


def _is_main() -> bool:
    """Return whether this process probes: rank 0 of a process group, or of those started by ``torchrun``."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return is_main_process()


def _import_lightning() -> Any:
    try:
        return import_module(_LIGHTNING[1])
    except ImportError:
        return import_optional("lightning", _LIGHTNING[0])


def _read_scores(path: Path, layers: tuple[str, ...]) -> list[ProbeScore]:
    """Return the scores in ``probe.csv``; ``ValueError`` for other layers, `FileFormatError` for another table."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != HEADER:
        raise FileFormatError(path, f"is not the table of a probe: its first line must be {','.join(HEADER)}")
    try:
        scores = [
            ProbeScore(
                step=int(row["step"]),
                weights=row["weights"],
                layer=row["layer"],
                error=float(row["normalized_error"]) if row["normalized_error"] else None,
                mean_image_error=float(row["mean_image_error"]) if row["mean_image_error"] else None,
                inverter_steps=int(row["inverter_steps"]),
                seconds=float(row["seconds"]),
                problem=row["problem"],
            )
            for row in (dict(zip(HEADER, line, strict=True)) for line in rows[1:])
        ]
    except ValueError as error:
        raise FileFormatError(path, f"is damaged: {error}") from error
    if (known := list(dict.fromkeys(score.layer for score in scores))) and set(known) != set(layers):
        raise ValueError(f"{path} has layers {', '.join(known)}, got {', '.join(layers)}: use another folder")
    return scores
