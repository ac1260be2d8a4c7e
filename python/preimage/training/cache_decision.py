"""Decide whether a run caches its features, by its settings or by the time that a batch takes."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from preimage.errors import FileFormatError, parse_json
from preimage.io import atomic_write
from preimage.io.checksum import CHECKSUM, ZEROS, check_text, with_checksum
from preimage.old_names import CACHE_DECISION, renamed
from preimage.store import FeatureStore
from preimage.training.cache_builder import CacheBuilder, NoRoomError, bytes_free, bytes_missing
from preimage.training.cached_dataset import CachedDataset, cache_settings
from preimage.training.dataset import CropDataset, Dataset
from preimage.training.distributed import SINGLE_PROCESS, Processes
from preimage.training.images import Note, size_text
from preimage.training.step import TrainState, batch_loss

_DECISION = "cache.json"
_MIN_FRACTION = 0.25  # time of extraction relative to the rest of a step; faster extraction is not worth a cache
_TRIALS = 2


@dataclasses.dataclass(frozen=True)
class Decision:
    """Decision whether a run uses a cache, recorded in its folder so that a resumed run continues in the same way.

    Attributes:
        crops: Number of cached crops of every image; 0 for no cache.
        reason: One sentence.
        extraction: Measured time of computing the features of a batch in seconds, if any.
        step: Measured time of the rest of a training step in seconds, if any.
        requested: Settings ``cache`` and ``cache_crops`` for which the decision was made.
    """

    crops: int
    reason: str
    extraction: float | None = None
    step: float | None = None
    requested: tuple[str, int] = ("auto", 0)


def with_cache(
    dataset: Dataset,
    state: TrainState,
    folder: Path,
    *,
    resume: bool,
    started: bool,
    note: Note,
    interrupted: threading.Event,
    processes: Processes = SINGLE_PROCESS,
) -> Dataset:
    """Return a cached dataset if enabled, or if ``cache="auto"`` and extraction dominates the step time.

    Args:
        dataset: Dataset of the run; precomputed features are not cached.
        state: State of the run, which is not changed.
        folder: Folder of the run.
        resume: Whether to use the decision recorded in the folder.
        started: Whether the run has done steps before.
        note: Function called with the decision and progress.
        interrupted: Event that stops the computation of the cache with a ``KeyboardInterrupt``.
        processes: The processes of the run; the main one decides and computes the cache, which all of them read.

    Raises:
        ValueError: The disk is too small for a requested cache; it is not shared by all processes; or any of
            `CacheBuilder.build`.
    """
    if not isinstance(dataset, CropDataset):
        return dataset
    config = state.config
    if config.cache == "off" or dataset.representation.in_workers or config.finetune:
        return dataset
    caches = Path(config.cache_folder) if config.cache_folder else folder / "cache"
    cached: Dataset = dataset
    if processes.is_main:
        cached = _decided(
            dataset, state, folder, caches, resume=resume, started=started, note=note, interrupted=interrupted
        )
    settings = processes.from_main(lambda: cached.settings if isinstance(cached, CachedDataset) else None)
    if settings is None or processes.is_main:
        return cached
    path = caches / settings.digest()
    if not path.is_dir():
        raise ValueError(
            f"{path} is missing: all processes must see the cache: give a cache_folder that they share, or cache='off'"
        )
    return CachedDataset(dataset, settings, FeatureStore(path))


def _decided(
    dataset: CropDataset,
    state: TrainState,
    folder: Path,
    caches: Path,
    *,
    resume: bool,
    started: bool,
    note: Note,
    interrupted: threading.Event,
) -> Dataset:
    """Return `with_cache` of a single process, for settings that allow a cache."""
    config = state.config
    decision = _recorded(folder, state) if resume else None
    if decision is None and started and config.cache == "auto":
        return dataset  # the run has no recorded decision: it did its first steps without a cache
    if decision is None:
        decision = decide(dataset, state, caches)
        note(decision.reason)
        _record(folder, decision)
    if not decision.crops:
        return dataset
    try:
        return _cached(dataset, decision.crops, caches, note, interrupted)
    except NoRoomError as error:
        if config.cache == "on" or started:
            raise
        # The decision assumed half precision, but the features need float32, or something else has filled the disk.
        _record(folder, dataclasses.replace(decision, crops=0, reason=f"no feature cache: {error}"))
        note(f"no feature cache: {error}")
        return dataset


def _cached(dataset: CropDataset, crops: int, caches: Path, note: Note, interrupted: threading.Event) -> CachedDataset:
    config = dataset.config
    settings = cache_settings(config, dataset.representation, dataset.images, crops)
    builder = CacheBuilder(
        settings,
        caches / settings.digest(),
        dataset.representation,
        dataset.images,
        device=dataset.device,
        workers=config.worker_count(gpu=dataset.device.type == "cuda"),
        note=note,
        interrupted=interrupted,
    )
    return CachedDataset(dataset, settings, builder.build())


def decide(dataset: CropDataset, state: TrainState, caches: Path) -> Decision:
    """Decide whether to cache, and how many crops, by the settings or by the time that a batch takes."""
    config = state.config
    requested = (config.cache, config.cache_crops)
    if config.cache == "on":
        return Decision(config.cache_crops, _reason(dataset, config.cache_crops, caches, ""), requested=requested)
    crops = config.cache_crops
    if config.steps is not None:
        epochs = config.steps * config.batch_size // dataset.image_count
        crops = min(crops, epochs // 2 * 2)
    if crops < 2:
        return Decision(0, "no feature cache: too few steps to use an image twice", requested=requested)
    extraction, step = measure_times(dataset, state)
    costs = f"features of a batch take {extraction:.3g} s, the rest of a step {step:.3g} s"
    found: dict[str, Any] = {"extraction": extraction, "step": step, "requested": requested}
    if extraction <= _MIN_FRACTION * step:
        return Decision(0, f"no feature cache: {costs}", **found)
    settings = cache_settings(config, dataset.representation, dataset.images, crops)
    missing, free = bytes_missing(settings, caches), bytes_free(caches)
    if missing > free:
        reason = f"no feature cache, although {costs}: {size_text(missing)} do not fit on the disk of {caches}"
        return Decision(0, reason, **found)
    return Decision(crops, _reason(dataset, crops, caches, f", because {costs}"), **found)


def _reason(dataset: CropDataset, crops: int, caches: Path, why: str) -> str:
    settings = cache_settings(dataset.config, dataset.representation, dataset.images, crops)
    missing, path = bytes_missing(settings, caches), caches / settings.digest()
    return f"feature cache{why}: {crops} crops of {dataset.image_count} images, {size_text(missing)} to write in {path}"


def measure_times(dataset: CropDataset, state: TrainState) -> tuple[float, float]:
    """Return the seconds for the features of the first batch, and for the network's forward and backward pass."""
    images = dataset.batch(0).images.to(dataset.device)
    model = copy.deepcopy(state.model)
    with torch.no_grad():
        features = dataset.representation(images).to(state.device)
    targets = images.to(state.device)

    def extract() -> None:
        with torch.no_grad():
            dataset.representation(images)

    def train() -> None:
        batch_loss(state, model, features, targets).backward()

    return _seconds(extract, state.device), _seconds(train, state.device)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Return the shortest time of a few trials after a warm-up."""
    times = []
    for _ in range(1 + _TRIALS):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _record(folder: Path, decision: Decision) -> None:
    with atomic_write(folder / _DECISION) as file:
        fields = {CHECKSUM: ZEROS, **dataclasses.asdict(decision)}
        file.write(with_checksum(json.dumps(fields, indent=1).encode() + b"\n"))


def _recorded(folder: Path, state: TrainState) -> Decision | None:
    """Return the recorded decision; ``None`` if there is none for these settings."""
    path, requested = folder / _DECISION, (state.config.cache, state.config.cache_crops)
    try:
        text = path.read_bytes()
        fields = renamed(parse_json(text), CACHE_DECISION)
        if CHECKSUM in fields:  # not in files of version 0.1
            check_text(text, fields.pop(CHECKSUM))
        decision = Decision(**fields | {"requested": tuple(fields["requested"])})
        if type(decision.crops) is not int or decision.crops < 0:
            raise ValueError(f"crops must be an integer of at least 0, got {decision.crops!r}")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"damaged ({error}): remove it and the cache, and start another run"
        raise FileFormatError(path, problem) from error
    return decision if decision.requested == requested else None
