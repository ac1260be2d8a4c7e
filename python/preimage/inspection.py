"""Describe a file or folder: features, keypoints, an inverter, a training run, weights, or a learned baseline."""

from __future__ import annotations

from collections import Counter
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preimage.io.urls import is_url, masked, was_url

if TYPE_CHECKING:
    from preimage.inverters import Inverter
    from preimage.store import Index


def info(path: str | PathLike[str], *, keypoint_format: str | None = None) -> dict[str, Any]:
    """Describe a file or folder.

    Args:
        path: Feature store, file of arrays, keypoint file, weights, file of a baseline, a training run's folder,
            or the folder or name of an inverter, also one on the Hugging Face Hub.
        keypoint_format: Format of a keypoint file, see `preimage.read_keypoints`; ``None`` recognizes it by the suffix.

    Returns:
        Facts by name, among them ``path`` and ``kind``.

    Raises:
        FileNotFoundError: There is no such file, folder or pretrained inverter.
        FileFormatError: The file is damaged or of an unknown format.
        ValueError: The path is a URL, or ``user/name`` and there is no such folder or repository.
    """
    if (is_url(path) or was_url(path)) and not Path(path).exists():
        raise ValueError(f"{masked(str(path))}: path must be a file or folder on disk; only images are read from URLs")
    path = Path(path)
    return _facts(path) if keypoint_format is None else _keypoints(path, keypoint_format)


def _facts(path: Path) -> dict[str, Any]:
    from preimage.errors import FileFormatError
    from preimage.inverters.pretrained import is_inverter_name, resolve
    from preimage.io import is_keypoint_file
    from preimage.io.arrays import is_array_file
    from preimage.store import read_index

    if not path.exists() and is_inverter_name(path) and not is_array_file(path):
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
        raise FileFormatError(path, "is a folder without config.json: neither an inverter nor a finished run")
    if is_keypoint_file(path):
        return _keypoints(path)
    if is_array_file(path):
        return _arrays(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            kind = (file.metadata() or {}).get("format", "")
    except SafetensorError:
        kind = ""  # not a safetensors file: the reader of feature stores raises the error
    readers = {
        "preimage-checkpoint": _checkpoint,
        "preimage-weights": _weights,
        "preimage-dictionary": _dictionary,
        "preimage-patches": _patches,
    }
    return readers.get(kind, _features)(path)


def _features(path: Path) -> dict[str, Any]:
    from preimage.store import FeatureStore

    file = FeatureStore(path)
    sizes = Counter(map(tuple, file.processed_sizes.tolist()))
    return {
        "path": path,
        "kind": "feature store",
        "bytes": file.bytes,
        "shards": None if file.index is None else len(file.index.shards),
        "checksum": "valid for keys and sizes; `preimage verify` checks the features",
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
    facts: dict[str, Any] = {"path": path, "kind": "keypoint file", "format": file.format}
    if path.is_file():
        facts["bytes"] = path.stat().st_size
    return facts | {
        "normalization": file.normalization,
        "images": len(file),
        "images_without_keypoints": known.count(0),
        "keypoints": sum(known) if len(known) == len(file) else None,
        "max_per_image": max(known, default=None),
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
        "bytes": sum(file.stat().st_size for file in (path / "config.json", *path.glob("model*.safetensors"))),
        "checksum": "valid",
        "spec": inverter.spec,
        "architecture": inverter.config.architecture,
        "parameters": sum(value.numel() for value in inverter.parameters()),
        "reconstructs": _output_region(inverter),
        "can_sample": inverter.can_sample,
        "training": inverter.training_notes,
    }
    checkpoint = path / "checkpoint.safetensors"
    if checkpoint.is_file():
        facts["checkpoint"] = {name: value for name, value in _checkpoint(checkpoint).items() if name == "step"}
    return facts


def _output_region(inverter: Inverter) -> str:
    """Return a phrase for the part of an image that the inverter reconstructs."""
    region = inverter.output_region
    if region is None:
        return "images of any size"
    image, crop, size = (f"{side}×{side}" for side in (region.image_size, region.crop, region.size))
    if region.crop == region.image_size:
        return f"images of {image}" + ("" if region.size == region.crop else f", as {size}")
    return f"the central {crop} of images of {image}" + ("" if region.size == region.crop else f", as {size}")


def _checkpoint(path: Path) -> dict[str, Any]:
    from preimage.io.checksum import has_checksum
    from preimage.training.checkpoint import read_header

    config, progress = read_header(path)
    return {
        "path": path,
        "kind": "training checkpoint",
        "bytes": path.stat().st_size,
        "checksum": "valid" if has_checksum(path) else "none in this version",
        "representation": config.representation or config.features,
        "preset": config.preset,
        "step": progress.step,
        "steps": config.steps,
        "max_hours": config.max_hours,
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
        "checksum": "valid",
        "variant": found.variant,
        "preprocessing": found.preprocessing,
        "digest": here,
        "layers": list(found.layers),
    }


def _dictionary(path: Path) -> dict[str, Any]:
    from preimage.baselines import PairedDictionary
    from preimage.io.checksum import has_checksum

    dictionary = PairedDictionary.load(path, device="cpu")
    return {
        "path": path,
        "kind": "paired dictionary",
        "bytes": path.stat().st_size,
        "checksum": "valid" if has_checksum(path) else "none in this version",
        "spec": dictionary.spec,
        "atoms": len(dictionary.hog_atoms),
        "level": dictionary.level,
        "contrast": dictionary.contrast,
        "penalty": dictionary.penalty,
    }


def _patches(path: Path) -> dict[str, Any]:
    """Describe a database of patches by its header, because the patches take hundreds of megabytes."""
    from preimage.baselines._files import PATCHES, read

    header, _ = read(path, PATCHES)
    count, side, *_ = header.shapes.get("patches", (0, 0))
    return {
        "path": path,
        "kind": "database of patches",
        "bytes": path.stat().st_size,
        "checksum": "compared on loading, if the file has one",
        "spec": header.spec,
        "patches": count,
        "patch_size": side,
        "photographs": int(header.values.get("photographs", 0)),
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
    """Describe arrays by the headers of their file."""
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
        from preimage.io.arrays.hdf5 import open_hdf5

        arrays, notes = open_hdf5(path)
    spec = notes.get("spec")
    facts = {
        "path": path,
        "kind": "arrays without a spec" if spec is None else "arrays with a spec",
        "bytes": path.stat().st_size,
        "checksum": "compared on reading, if the file has one" if suffix != ".npy" else "none in this format",
        "array_count": len(arrays),
        "arrays": {array.name: {"shape": list(array.shape), "dtype": array.dtype.name} for array in arrays[:8]},
    }
    return facts if spec is None else facts | {"spec": spec, "convention": notes["convention"]}
