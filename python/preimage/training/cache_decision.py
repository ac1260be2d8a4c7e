"""Whether a training run caches its features: as the settings say, or by what a batch costs."""

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

from preimage.io import atomic_write
from preimage.training.cached_dataset import (
    CacheBuilder,
    CachedDataset,
    NoRoomError,
    bytes_free,
    bytes_missing,
    cache_settings,
    size_text,
)
from preimage.training.dataset import CropDataset, Dataset
from preimage.training.images import Note
from preimage.training.step import TrainState, batch_loss

_DECISION = "cache.json"
_LEAST_SHARE = 0.25  # of a step's time: extraction that takes less is not worth a cache
_TRIALS = 2


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether a run uses a cache; kept in its folder, so that it goes on as it began.

    Attributes:
        views: of every image; 0 for no cache.
        reason: a sentence.
        extraction: seconds that the features of a batch took, where that was measured.
        step: seconds that the rest of a training step took.
        asked: the settings that it was made for.
    """

    views: int
    reason: str
    extraction: float | None = None
    step: float | None = None
    asked: tuple[str, int] = ("auto", 0)


def with_cache(
    dataset: Dataset,
    state: TrainState,
    folder: Path,
    *,
    resume: bool,
    begun: bool,
    note: Note,
    interrupted: threading.Event,
) -> Dataset:
    """Return a cached dataset if enabled, or if ``cache="auto"`` and extraction dominates the step time.

    Args:
        dataset: fresh crops; features that are there already are returned as they are.
        state: the run as it begins, or goes on; nothing of it is changed.
        folder: the run's.
        resume: keep to the decision that is recorded in the folder.
        begun: steps have been taken before.
        note: called with sentences about the decision and the work.
        interrupted: once set, ends the building of the cache with a ``KeyboardInterrupt``.

    Raises:
        ValueError: the disk is too small for a cache that is asked for, or another reason of `CacheBuilder.build`.
    """
    if not isinstance(dataset, CropDataset):
        return dataset
    config = state.config
    if config.cache == "off" or dataset.representation.in_workers:
        return dataset
    caches = Path(config.cache_folder) if config.cache_folder else folder / "cache"
    decision = _recorded(folder, state) if resume else None
    if decision is None and begun and config.cache == "auto":
        return dataset  # a run from before there were caches
    if decision is None:
        decision = decide(dataset, state, caches)
        note(decision.reason)
        _record(folder, decision)
    if not decision.views:
        return dataset
    try:
        return _cached(dataset, decision.views, caches, note, interrupted)
    except NoRoomError as error:
        if config.cache == "on" or begun:
            raise
        # What was decided by half precision does not fit in float32, or something else has filled the disk.
        _record(folder, dataclasses.replace(decision, views=0, reason=f"no feature cache: {error}"))
        note(f"no feature cache: {error}")
        return dataset


def _cached(dataset: CropDataset, views: int, caches: Path, note: Note, interrupted: threading.Event) -> CachedDataset:
    config = dataset.config
    settings = cache_settings(config, dataset.representation, dataset.images, views)
    builder = CacheBuilder(
        settings,
        caches / settings.digest(),
        dataset.representation,
        dataset.images,
        device=dataset.device,
        workers=config.workers,
        note=note,
        interrupted=interrupted,
    )
    return CachedDataset(dataset, settings, builder.build())


def decide(dataset: CropDataset, state: TrainState, caches: Path) -> Decision:
    """Decide whether to cache, and how many views, by the settings or else by what a batch costs."""
    config = state.config
    asked = (config.cache, config.cache_crops)
    if config.cache == "on":
        return Decision(config.cache_crops, _told(dataset, config.cache_crops, caches, ""), asked=asked)
    uses = config.steps * config.batch_size // dataset.image_count
    views = min(config.cache_crops, uses // 2 * 2)
    if views < 2:
        return Decision(0, "no feature cache: too few steps for an image to come twice", asked=asked)
    extraction, step = measured(dataset, state)
    costs = f"features of a batch take {extraction:.3g} s, the rest of a step {step:.3g} s"
    found: dict[str, Any] = {"extraction": extraction, "step": step, "asked": asked}
    if extraction <= _LEAST_SHARE * step:
        return Decision(0, f"no feature cache: {costs}", **found)
    settings = cache_settings(config, dataset.representation, dataset.images, views)
    missing, free = bytes_missing(settings, caches), bytes_free(caches)
    if missing > free:
        reason = f"no feature cache, although {costs}: {size_text(missing)} do not fit on the disk of {caches}"
        return Decision(0, reason, **found)
    return Decision(views, _told(dataset, views, caches, f", because {costs}"), **found)


def _told(dataset: CropDataset, views: int, caches: Path, why: str) -> str:
    settings = cache_settings(dataset.config, dataset.representation, dataset.images, views)
    missing, path = bytes_missing(settings, caches), caches / settings.digest()
    return f"feature cache{why}: {views} views of {dataset.image_count} images, {size_text(missing)} to write in {path}"


def measured(dataset: CropDataset, state: TrainState) -> tuple[float, float]:
    """Return the seconds for the features of the first batch, and for the network with it, there and back."""
    images = dataset.batch(0).images.to(dataset.device)
    model = copy.deepcopy(state.model)
    with torch.no_grad():
        features = dataset.representation(images).to(state.device)
    targets = images.to(state.device)

    def extract() -> None:
        with torch.no_grad():
            dataset.representation(images)

    def learn() -> None:
        batch_loss(state, model, features, targets).backward()

    return _seconds(extract, state.device), _seconds(learn, state.device)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Return the shortest of a few trials after one that warms up."""
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
        file.write(json.dumps(dataclasses.asdict(decision), indent=1).encode() + b"\n")


def _recorded(folder: Path, state: TrainState) -> Decision | None:
    """Return what was decided before; ``None`` where nothing was, as in a run from before there were caches."""
    path, asked = folder / _DECISION, (state.config.cache, state.config.cache_crops)
    try:
        fields = json.loads(path.read_bytes())
        decision = Decision(**fields | {"asked": tuple(fields["asked"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and the cache, and start anew") from error
    return decision if decision.asked == asked else None
