"""Measure what layers of a network keep at one moment of its training: train an inverter for each, and validate it."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from preimage.inverters import Inverter
from preimage.io import FeatureRecord, decode_file, write_png
from preimage.pipelines.image_loading import Pixels, as_batch, as_pixels, batches
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations.network import Network, NetworkRepresentation
from preimage.representations.network_identity import tensors_of
from preimage.store import write_features
from preimage.studies.inputs import check_finite
from preimage.studies.probe_images import Photographs
from preimage.training.config import TrainConfig
from preimage.training.dataset_factory import open_dataset
from preimage.training.statistics import set_statistics
from preimage.training.trainer import TrainSummary, run
from preimage.training.validation import TrainingDivergedError

_NEVER = 1 << 40  # steps between checkpoints and validations; a run ends with one of each


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Settings of the inverters of a probe, see `preimage.Probe`."""

    seconds: float | None
    steps: int | None
    budget: int
    batch_size: int
    lr: float
    device: str
    warm_start: bool
    output_layout: str


@dataclasses.dataclass(frozen=True)
class ProbeScore:
    """Score of one layer at one moment of the training.

    Attributes:
        step: Step of the training.
        weights: Digest of the network's weights.
        layer: Name of the layer.
        error: Normalized error of the reconstructions of the held-out photographs; ``None`` with a `problem`.
        mean_image_error: Normalized error of their mean image; ``None`` with a `problem`.
        inverter_steps: Number of optimizer steps of the inverter, those of earlier probes that it continues included.
        seconds: Wall time of features, training and validation.
        problem: Reason why there is no error; else empty.
    """

    step: int
    weights: str
    layer: str
    error: float | None
    mean_image_error: float | None
    inverter_steps: int
    seconds: float
    problem: str = ""


class _NotFiniteError(ValueError):
    """Features are NaN or infinite."""


def layer_names(layers: Sequence[str]) -> dict[str, str]:
    """Return a file name for each layer: its own, with other letters than those of identifiers replaced."""
    names: dict[str, str] = {}
    for index, layer in enumerate(layers):
        name = re.sub(r"[^A-Za-z0-9._-]", "_", layer).strip(".") or "output"
        names[layer] = name if name.lower() not in (one.lower() for one in names.values()) else f"{name}-{index}"
    return names


def strip_file(folder: Path, name: str, step: int) -> Path:
    """Return the PNG of a layer's reconstructions at a step, one below the other."""
    return folder / "strips" / f"{name}-{step:09d}.png"


def read_strip(path: Path, count: int) -> list[Pixels]:
    """Return the images of `strip_file`."""
    column = decode_file(path)
    side = column.shape[0] // count
    return [column[index * side : (index + 1) * side] for index in range(count)]


def measure_layers(
    network: Network,
    layers: Sequence[str],
    photographs: Photographs,
    folder: Path,
    settings: ProbeSettings,
    step: int,
    trained: dict[str, int],
) -> list[ProbeScore]:
    """Train or continue an inverter of each layer, and return their scores.

    Writes the inverters to ``inverters/<layer>`` and `strip_file` for each layer in the folder.

    Args:
        network: The network with its present weights.
        layers: Names of the layers.
        photographs: The photographs.
        folder: Folder of the probe.
        settings: Settings of the inverters.
        step: Step of the training.
        trained: Number of steps that the inverters of earlier probes were trained, by layer.

    Raises:
        ValueError, TypeError: Errors of the network, see `Network.layers`, and of `preimage.training.run`.
        OSError: A file cannot be written.
    """
    work = folder / "work"
    scores = []
    for layer, name in layer_names(layers).items():
        start = time.perf_counter()
        shutil.rmtree(work, ignore_errors=True)  # also that of a process that was killed
        representation = network.representation(layer, settings.output_layout)
        kept = folder / "inverters" / name
        continued = settings.warm_start and trained.get(layer, 0) > 0
        error = mean_image_error = None
        steps, problem = trained.get(layer, 0) if continued else 0, ""
        try:
            with plain_torch(network):
                _write_features(representation, photographs, work / "features", settings)
            summary = _train(representation, photographs, work, kept if continued else None, settings)
            error, mean_image_error = summary.error, summary.mean_image_error
            steps += summary.steps
            inverter = Inverter.load(work / "run")
            notes = {"training_step": step, "inverter_steps": steps, "init": None}
            inverter.training_notes = {**inverter.training_notes, **notes}
            _write_strip(representation, inverter, photographs, strip_file(folder, name, step), settings)
            inverter.save(kept)
        except (_NotFiniteError, TrainingDivergedError) as problematic:
            problem = str(problematic)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        seconds = time.perf_counter() - start
        scores.append(ProbeScore(step, network.weights, layer, error, mean_image_error, steps, seconds, problem))
    return scores


def device_of(network: Network) -> torch.device:
    """Return the device of a network's weights."""
    return next((tensor.device for tensor in tensors_of(network.module)), torch.device("cpu"))


@contextmanager
def plain_torch(network: Network) -> Iterator[None]:
    """Undo settings of a surrounding training loop that would change a run: autocast, gradient mode, default dtype."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device_of(network).type}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _write_features(
    representation: NetworkRepresentation, photographs: Photographs, store: Path, settings: ProbeSettings
) -> None:
    device, side = device_of(representation.network), (photographs.side, photographs.side)

    def records() -> Iterator[FeatureRecord]:
        for keys, images in batches(photographs.sources, photographs.side, settings.batch_size):
            with torch.no_grad():
                features = representation(images.to(device)).cpu()
            try:
                check_finite(keys, features)
            except ValueError:
                raise _NotFiniteError("the features contain NaN or infinite values") from None
            for key, values in zip(keys, features.numpy(), strict=True):
                yield FeatureRecord(key, values, side, side)

    write_features(store, representation.spec, records())


def _train(
    representation: NetworkRepresentation,
    photographs: Photographs,
    work: Path,
    earlier: Path | None,
    settings: ProbeSettings,
) -> TrainSummary:
    """Train an inverter in ``work/run``, from its beginning or from the inverter of an earlier probe."""
    device = settings.device
    if device == "auto":
        kind = device_of(representation.network)
        device = str(kind) if kind.type == "cuda" else "cpu"
    config = TrainConfig(
        images=tuple(map(str, photographs.paths)),
        features=str(work / "features"),
        output=str(work / "run"),
        val_count=photographs.held_out,
        preset="auto",
        budget=settings.budget,
        steps=settings.steps,
        max_hours=None if settings.seconds is None else settings.seconds / 3600,
        batch_size=settings.batch_size,
        lr=settings.lr,
        warmup_steps=10,
        device=device,
        eval_every=_NEVER,
        save_every=_NEVER,
    )
    with plain_torch(representation.network):
        if earlier is not None:
            config = dataclasses.replace(
                config, init=str(_adapted(earlier, config, work / "init")), preset=None, budget=None
            )
        return run(config, alone=True)


def _adapted(earlier: Path, config: TrainConfig, folder: Path) -> Path:
    """Write an inverter with the spec and the statistics of present features, and the weights of an earlier probe's.

    Raises:
        ValueError: The earlier inverter is for other features than those of earlier weights of the same layer.
    """
    _, dataset = open_dataset(config)
    model = Inverter.load(earlier)
    weights = {"weights": dataset.spec.parameters.get("weights")}
    then = dataclasses.replace(model.spec, parameters={**model.spec.parameters, **weights})
    if differences := dataset.spec.differences(then):
        raise ValueError(f"{earlier} inverts other features (requested != its own): {'; '.join(differences)}")
    model.spec = dataset.spec
    set_statistics(model, dataset)
    return model.save(folder)


def _write_strip(
    representation: NetworkRepresentation,
    inverter: Inverter,
    photographs: Photographs,
    path: Path,
    settings: ProbeSettings,
) -> None:
    device = device_of(representation.network)
    images = as_batch(photographs.pixels())
    with plain_torch(representation.network), torch.no_grad():
        features = representation(images.to(device)).cpu()
        made = Reconstructor(None, inverter, "cpu").invert(features)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, as_pixels(made).reshape(-1, *as_pixels(made).shape[2:]))
