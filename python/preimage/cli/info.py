"""``preimage info``: what a file or folder of ours is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preimage.cli._shared import Json, Output, bytes_text, describe_spec, reporting
from preimage.spec import Spec

if TYPE_CHECKING:
    from preimage.inverters import Inverter
    from preimage.store import Index


@reporting
def info(
    path: Annotated[
        Path,
        typer.Argument(help="Features, keypoints, an inverter (folder or pretrained name), a run's folder, weights."),
    ],
    keypoint_format: Annotated[
        str | None, typer.Option(help="Format of a keypoint file, if its suffix misleads, as of `preimage invert`.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a file or folder of ours holds, and whether it is sound."""
    show = Output(json)
    facts = _facts(path) if keypoint_format is None else _keypoints(path, keypoint_format)
    for name, value in facts.items():
        show.say(f"{name.replace('_', ' '):<16} {_text(name, value)}")
    show.finish(facts)


def _facts(path: Path) -> dict[str, Any]:
    from preimage import inverters
    from preimage.errors import FileFormatError
    from preimage.inverters.pretrained import resolve
    from preimage.io import is_keypoint_file
    from preimage.io.arrays import is_foreign
    from preimage.store import read_index

    if not path.exists() and str(path) in inverters.list_inverters():
        path = resolve(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder, and no pretrained inverter of that name")
    if path.is_dir():
        if (path / "config.json").is_file():
            return _inverter(path)
        if (path / "index.json").is_file():
            index = read_index(path)
            return _features(path) if index.complete else _unfinished(path, index)
        if is_keypoint_file(path):
            return _keypoints(path)
        raise FileFormatError(path, "is a folder without config.json: no inverter, and no finished run")
    if is_keypoint_file(path):
        return _keypoints(path)
    if is_foreign(path):
        return _arrays(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            kind = (file.metadata() or {}).get("format", "")
    except SafetensorError:
        kind = ""  # damaged or foreign: the feature file's reader says which
    readers = {"preimage-checkpoint": _checkpoint, "preimage-weights": _weights}
    return readers.get(kind, _features)(path)


def _features(path: Path) -> dict[str, Any]:
    from preimage.store import FeatureStore

    file = FeatureStore(path)
    sizes = Counter(map(tuple, file.processed_sizes.tolist()))
    return {
        "path": path,
        "kind": "feature store" if file.index is not None else "feature file",
        "bytes": file.bytes,
        "shards": None if file.index is None else len(file.index.shards),
        "checksum": "good of keys and sizes; `preimage verify` checks the features",
        "spec": file.spec,
        "images": len(file),
        "dtype": file.dtype,
        "sizes": {f"{height}×{width}": count for (height, width), count in sizes.most_common(8)},
        "different_sizes": len(sizes),
        "first_keys": list(file)[:5],
    }


def _keypoints(path: Path, format: str | None = None) -> dict[str, Any]:
    from preimage.io import read_keypoints

    file = read_keypoints(path, format=format)
    known = [count for count in file.counts if count is not None]
    sizes = Counter(size for size in file.sizes if size is not None)
    facts: dict[str, Any] = {"path": path, "kind": "keypoint file", "format": file.origin}
    if path.is_file():
        facts["bytes"] = path.stat().st_size
    return facts | {
        "normalization": file.normalization,
        "images": len(file),
        "images_without_keypoints": known.count(0),
        "keypoints": sum(known) if len(known) == len(file) else None,
        "most_in_an_image": max(known, default=None),
        "sizes": {f"{height}×{width}": count for (height, width), count in sizes.most_common(8)},
        "different_sizes": len(sizes),
        "first_keys": list(file)[:5],
    }


def _inverter(path: Path) -> dict[str, Any]:
    from preimage.inverters import Inverter

    inverter = Inverter.load(path)
    facts = {
        "path": path,
        "kind": "inverter",
        "bytes": sum((path / name).stat().st_size for name in ("config.json", "model.safetensors")),
        "checksum": "good",
        "spec": inverter.spec,
        "network": type(inverter.config).__name__,
        "parameters": sum(value.numel() for value in inverter.parameters()),
        "comes_back": _returned(inverter),
        "training": inverter.training_notes,
    }
    checkpoint = path / "checkpoint.safetensors"
    if checkpoint.is_file():
        facts["checkpoint"] = {name: value for name, value in _checkpoint(checkpoint).items() if name == "step"}
    return facts


def _returned(inverter: Inverter) -> str:
    """What of the images comes back, for a person."""
    region = inverter.output_region
    if region is None:
        return "all of images of any size"
    image, crop, size = (f"{side}×{side}" for side in (region.image_size, region.crop, region.size))
    if region.crop == region.image_size:
        return f"all of images of {image}" + ("" if region.size == region.crop else f", as {size}")
    return f"the middle {crop} of images of {image}" + ("" if region.size == region.crop else f", as {size}")


def _checkpoint(path: Path) -> dict[str, Any]:
    from preimage.training import TrainConfig
    from preimage.training.checkpoint import read_header

    text, progress = read_header(path)
    config = TrainConfig.from_json(text)
    return {
        "path": path,
        "kind": "training checkpoint",
        "bytes": path.stat().st_size,
        "checksum": "none in this format",
        "representation": config.representation or config.features,
        "preset": config.preset,
        "step": progress.step,
        "steps": config.steps,
        "seconds": progress.seconds,
        "error": progress.error,
    }


def _weights(path: Path) -> dict[str, Any]:
    from preimage.representations.alexnet_weights import check_name, digest, read

    found = read(path)
    check_name(path, here := digest(found.load()))
    return {
        "path": path,
        "kind": "weights of AlexNet",
        "bytes": path.stat().st_size,
        "checksum": "good",
        "variant": found.variant,
        "preprocessing": found.preprocessing,
        "digest": here,
        "layers": list(found.layers),
    }


def _unfinished(path: Path, index: Index) -> dict[str, Any]:
    return {
        "path": path,
        "kind": "unfinished feature store",
        "spec": index.spec,
        "images": index.count,
        "dtype": index.dtype,
        "shards_done": len(index.shards),
        "shards": len(index.wanted),
    }


def _arrays(path: Path) -> dict[str, Any]:
    """Arrays in a file of another format, by their headers; a spec only if the file tells it."""
    from preimage.io import arrays as formats

    suffix = path.suffix.lower()
    notes: dict[str, Any] = {}
    if suffix in formats.NUMPY_SUFFIXES:
        from preimage.io.arrays.npy import open_arrays

        arrays = open_arrays(path)
    elif suffix == ".mat":
        from preimage.io.arrays.mat import open_mat

        arrays, notes = open_mat(path)
    else:
        from preimage.io.arrays.h5 import open_hdf5

        arrays, notes = open_hdf5(path)
    spec = notes.get("spec")
    facts = {
        "path": path,
        "kind": "plain arrays, spec unknown" if spec is None else "arrays that tell their spec",
        "bytes": path.stat().st_size,
        "checksum": "compared when read, where the file has one" if suffix != ".npy" else "none in this format",
        "array_count": len(arrays),
        "arrays": {array.name: {"shape": list(array.shape), "dtype": array.dtype.name} for array in arrays[:8]},
    }
    return facts if spec is None else facts | {"spec": spec, "layout": notes["layout"]}


def _text(name: str, value: Any) -> str:
    """A fact for a person."""
    match value:
        case Spec():
            text = describe_spec(value)
        case None:
            text = "-"
        case dict() | list() if not value:
            text = "-"
        case dict():
            text = ", ".join(f"{key.replace('_', ' ')} {_text(key, entry)}" for key, entry in value.items())
        case list():
            text = ", ".join(_text(name, entry) for entry in value)
        case int() if name in ("bytes", "memory"):
            text = bytes_text(value)
        case int():
            text = f"{value:,}"
        case float():
            text = f"{value:.0f}" if name == "seconds" else f"{value:.4g}"
        case _:
            text = str(value)
    return text
