"""Look into an encoder: train an inverter for several layers within a few minutes, and show what they recover."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch

from preimage.inverters import resolve_device
from preimage.io import ImageSource, Listing, decode_file
from preimage.io.folders import new_folders
from preimage.metrics import SMALLEST_FOR_SSIM
from preimage.pipelines.image_loading import Images, Pixels, as_batch, as_listing
from preimage.pipelines.image_writer import output_folder
from preimage.representations.preprocessing import Preprocessing
from preimage.store import FeatureStore
from preimage.studies.base import SheetRow, StudySummary, check_at_least
from preimage.studies.formatting import listed
from preimage.studies.look_layers import DEFAULT_COUNT
from preimage.studies.look_page import LookStudy
from preimage.studies.look_photographs import PhotographReader, Prepared, Square, prepare, training_squares
from preimage.studies.look_record import RECORD, check_settings, read_record, read_runs, write_record
from preimage.studies.look_source import (
    Encoder,
    FileFeatures,
    NetworkFeatures,
    check_inverter,
    open_network,
    refuse_with_features,
)
from preimage.studies.look_training import LookLayer, Schedule, TrainedLayer, measure_layer, train_layer
from preimage.training.config import MIN_VAL_IMAGES
from preimage.training.display import Display
from preimage.training.split import hold_out
from preimage.viz.sheets import SMALLEST_TILE

Source = NetworkFeatures | FileFeatures

_CACHE = "cache"
_PREPARING = 0.35  # share of the time for preparing photographs and features; with less, vectors are overfitted
_MOST_HELD_OUT = 64
_LEAST_PHOTOGRAPHS = 4
_SAY_EVERY = 10.0  # seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookSummary(StudySummary):
    """Result of a look.

    Attributes:
        json: File with the settings, the runs and the scores of each photograph.
        network: Name of the network, or of the file of features.
        random_weights: Whether the weights of the network are known to be random.
        photographs: Number of photographs trained on.
        layers: Each layer with its scores, in the order of the columns.
    """

    json: Path
    network: str
    random_weights: bool
    photographs: int
    layers: tuple[LookLayer, ...]


def look(
    network: Encoder | None,
    images: Images,
    output: str | PathLike[str] = "look",
    *,
    layers: Sequence[str] | None = None,
    layer_count: int = DEFAULT_COUNT,
    minutes: float = 10.0,
    features: str | PathLike[str] | None = None,
    weights: str | None = None,
    preprocessing: Preprocessing | str | None = None,
    input_size: int | None = None,
    val_count: int | None = None,
    output_size: int = 128,
    budget: int = 1_000_000,
    batch_size: int = 8,
    steps: int | None = None,
    device: str = "auto",
    seed: int = 0,
    tile: int = 144,
    skip_bad: bool = False,
    command: str = "",
    status: Callable[[str], None] | None = None,
    display: Display | None = None,
) -> LookSummary:
    """Train an inverter for several layers of an encoder within a time limit, and write a page of reconstructions.

    Some photographs are held out. The others are prepared in a third of the time, as many of them as it allows: the
    features of the center of each are computed at all layers in one pass, then those of random crops. The rest of the
    time is divided evenly among the layers. The inverter of ``blocks.3`` is in the folder ``blocks.3`` of the output,
    and is loaded by ``preimage.load_inverter("look/blocks.3")``.

    A second call with the same settings trains only the layers that are not done, and writes the page anew.

    Args:
        network: A `preimage.Network`; any torch module, see `preprocessing`; ``timm:NAME``, ``hf:NAME``,
            ``torch:package.module:factory``, or the name of a representation that is a layer of a network, such as
            ``efficientnet-lite0``. ``None`` with `features`. Nothing is downloaded.
        images: Path or paths (folders, files, tar shards), or sources; at least four photographs.
        output: Folder that is created, or the folder of an earlier look with the same settings.
        layers: Names of layers, such as ``["blocks.5", "norm"]``; a layout may follow, such as ``norm:class-token``,
            see `preimage.Network.representation`. ``None`` chooses `layer_count` layers by depth, see
            `preimage.studies.look_layers.choose_layers`.
        layer_count: Number of layers without `layers`.
        minutes: Time limit for everything, in minutes. Each layer is trained for at least a second.
        features: File of features of the images instead of a network, see `preimage.train`.
        weights: Weights of a network given by name: a file, or for timm and transformers ``"random"``. By default the
            trained ones, which must be on this machine.
        preprocessing: Preprocessing of the images: ``"imagenet-rgb"``, ``"caffe-bgr"`` or ``"unit"``; for a module also
            a `preimage.Preprocessing`. By default that of timm or transformers for their networks. A module that is
            not of timm needs it.
        input_size: Side of the images in pixels; by default that of the network, else 224. With `features` the side of
            the images that they were computed from, by default that in the file, or 256.
        val_count: Number of held-out photographs, at least 2. By default a tenth, at most 64.
        output_size: Side of the reconstructions in pixels, approximately.
        budget: Maximum number of parameters of an inverter.
        batch_size: Batch size.
        steps: Maximum number of steps of each layer.
        device: Device, see `preimage.train`.
        seed: Seed.
        tile: Side of an image on the sheet in pixels, at least 32.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        status: Function called with a sentence about each stage.
        display: Display of the training runs, see `preimage.train`.

    Raises:
        ValueError: A value out of range; a bad image (named); too few photographs, or held-out ones that are all equal;
            no such network or layer, or weights that are not on this machine; the output contains other files, or a
            look with other settings.
        TypeError: An encoder or a preprocessing of another type, or a layer whose output is not one tensor.
        ImportError: timm or transformers is not installed.
        TrainingDivergedError: The loss of an inverter became NaN or infinite.
    """
    start = time.perf_counter()
    deadline = start + 60 * minutes
    say = status or (lambda sentence: None)
    check_at_least(("tile", tile, SMALLEST_TILE), ("seed", seed, 0), ("layer_count", layer_count, 1))
    check_at_least(("output_size", output_size, SMALLEST_FOR_SSIM), ("batch_size", batch_size, 1))
    check_at_least(("steps", 1 if steps is None else steps, 1))
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a number above 0, got {minutes:g}")
    resolve_device(device)
    folder = output_folder(output)
    record = read_record(folder)
    listing = as_listing(images, skip_bad=skip_bad)
    if features is not None:
        refuse_with_features(network=network, layers=layers, weights=weights, preprocessing=preprocessing)
        file = FileFeatures(fspath(features), listing, folder, input_size, say)
        source, listing = cast(Source, file), file.listing
    elif network is None:
        raise ValueError("network or features must be given, got neither")
    else:
        source = open_network(
            network, layers, layer_count, weights=weights, preprocessing=preprocessing, input_size=input_size
        )
    for label, shape in source.shapes.items():
        check_inverter(label, shape, source.side, output_size, budget)
    if source.is_random:
        say(f"the weights of {source.name} are random: nothing has trained this network")
    say(f"{source.name}, images of {source.side} pixels; layers: {listed(list(source.specs))}")
    held_out, others = _split(listing, val_count)
    run = {"output_size": output_size, "budget": budget, "batch_size": batch_size, "steps": steps, "seed": seed}
    settings = {
        "specs": {label: spec.to_dict() for label, spec in source.specs.items()},
        "photographs": {"count": len(listing.sources), "keys": _digest(listing.sources), "held_out": len(held_out)},
        "image_size": source.side,
        "minutes": minutes,
        **run,
    }
    runs = read_runs(record, folder)
    if runs:
        check_settings(folder, record, settings)
    missing = [label for label in source.specs if label not in runs]
    with _temporary(folder) as cache:
        prepared = _prepared(
            source,
            held_out,
            others if missing else [],
            cache,
            PhotographReader(source.side, seed, skip_bad=skip_bad),
            seconds=_PREPARING * 60 * minutes,
            device=device,
            say=say,
        )
        shown = _shown(source, prepared, held_out)
        write_record(folder, settings, runs.values())
        schedule = Schedule(deadline, min(0.1 * 60 * minutes, 4.0 + 1.5 * len(source.specs)), len(missing))
        for label in missing:
            seconds = schedule.seconds()
            say(f"{label}: training for {seconds:.0f} s")
            runs[label] = train_layer(
                label,
                folder,
                prepared,
                source.path if isinstance(source, FileFeatures) else prepared.stores[label],
                seconds=seconds,
                settings={**run, "size": source.side, "device": device},
                display=display,
            )
            schedule.done(runs[label])
            write_record(folder, settings, runs.values())
        measured = [
            _measured(source, prepared, runs[label], folder, shown, batch_size, device) for label in source.specs
        ]
        scores = [layer for layer, _ in measured]
        rows = [
            SheetRow(key, [original, *(made[index] for _, made in measured)])
            for index, (key, original) in enumerate(zip(shown.names, shown.images, strict=True))
        ]
        study = LookStudy(
            source.name, scores, rows, side=source.side, minutes=minutes, random=source.is_random, tile=tile
        )
        listing = dataclasses.replace(listing, skipped=(*listing.skipped, *prepared.skipped))
        notes = [f"{prepared.duplicates} photographs, the same as held-out ones, are left out."] * bool(
            prepared.duplicates
        )
        written = study.write(folder, start=start, listings=[listing], notes=notes, command=command)
        write_record(folder, settings, runs.values(), scores)
    return LookSummary(
        **vars(written),
        json=folder / RECORD,
        network=source.name,
        random_weights=source.is_random,
        photographs=max(layer.run.photographs for layer in scores),
        layers=tuple(scores),
    )


@contextlib.contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """Create the output, give the path of prepared photographs in it, and remove them at the end, also after an error.

    An output that did not exist and in which nothing else was written is removed as well.
    """
    with new_folders(output):
        try:
            yield output / _CACHE
        finally:
            shutil.rmtree(output / _CACHE, ignore_errors=True)


def _digest(sources: Sequence[ImageSource]) -> str:
    return hashlib.sha256("\n".join(source.key for source in sources).encode()).hexdigest()[:16]


def _split(listing: Listing, val_count: int | None) -> tuple[list[ImageSource], list[ImageSource]]:
    """Return the held-out photographs, evenly spaced, and the others."""
    count = len(listing.sources)
    if count < _LEAST_PHOTOGRAPHS:
        raise ValueError(f"a look needs at least {_LEAST_PHOTOGRAPHS} photographs, got {count}")
    if val_count is None:
        val_count = max(MIN_VAL_IMAGES, min(_MOST_HELD_OUT, count // 10))
    check_at_least(("val_count", val_count, MIN_VAL_IMAGES))
    others, held_out = hold_out(listing.sources, val_count)
    return held_out, others


def _prepared(
    source: Source,
    held_out: Sequence[ImageSource],
    others: Sequence[ImageSource],
    folder: Path,
    reader: PhotographReader,
    *,
    seconds: float,
    device: str,
    say: Callable[[str], None],
) -> Prepared:
    """Prepare the photographs; those with user-provided features keep their keys, and only their centers are used."""
    by_key = isinstance(source, FileFeatures)
    squares = training_squares(others, reader.seed)
    if by_key:
        squares = [Square(one.source, one.source.key) for one in squares if not one.version]
    last = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > _SAY_EVERY:
            last = time.perf_counter()
            say(f"prepared {done} of {total} squares")

    prepared = prepare(
        None if isinstance(source, FileFeatures) else source,
        [Square(one, one.key if by_key else _held_out_key(index)) for index, one in enumerate(held_out)],
        squares,
        folder,
        reader,
        seconds=seconds,
        device=device,
        progress=progress,
    )
    if squares:
        say(f"{prepared.squares} squares of {prepared.photographs} photographs to train on, {len(held_out)} held out")
    return prepared


def _held_out_key(index: int) -> str:
    return f"held-out-{index:04d}"


class _Shown(NamedTuple):
    """Held-out photographs: their names, keys of their features, and pixels (S, S, 3) uint8."""

    names: list[str]
    keys: list[str]
    images: list[Pixels]


def _shown(source: Source, prepared: Prepared, held_out: Sequence[ImageSource]) -> _Shown:
    """Return the held-out photographs that could be read."""
    shown = _Shown([], [], [])
    for index, one in enumerate(held_out):
        key = one.key if isinstance(source, FileFeatures) else _held_out_key(index)
        path = prepared.held_out / f"{key}.png"
        if path.is_file():
            shown.names.append(one.key)
            shown.keys.append(key)
            shown.images.append(decode_file(path))
    if len(shown.keys) < MIN_VAL_IMAGES:
        raise ValueError(f"at least {MIN_VAL_IMAGES} held-out photographs must be readable, got {len(shown.keys)}")
    return shown


def _measured(
    source: Source, prepared: Prepared, run: TrainedLayer, folder: Path, shown: _Shown, batch_size: int, device: str
) -> tuple[LookLayer, list[Pixels]]:
    if isinstance(source, FileFeatures):
        features = source.rows(shown.keys)
    else:
        store = FeatureStore(prepared.stores[run.label])
        features = torch.from_numpy(np.stack([store[key] for key in shown.keys])).float()
    images = as_batch(shown.images)
    return measure_layer(run, folder, shown.names, images, features, batch_size=batch_size, device=device)
