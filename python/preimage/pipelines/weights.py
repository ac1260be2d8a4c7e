"""Importing AlexNet's weights: from a published file, checked, into the folder where representations find them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.stored import StoredArray
from preimage.io.atomic import StrPath
from preimage.io.weights import WeightFile, open_weights, write_tensors
from preimage.representations import alexnet_weights as stored
from preimage.representations.alexnet_network import LAYERS, TORCHVISION_NAMES, check_variant, parameter_shapes

TORCHVISION = "torchvision"
_TORCHVISIONS_FILE = "alexnet-owt-7be5be79.pth"
_WRAPPERS = ("module", "_orig_mod")  # what nn.DataParallel and torch.compile put into names
_MOST_SHOWN = 6  # differences, in a message


@dataclass(frozen=True)
class WeightsSummary:
    """What weights there are, in one file.

    Attributes:
        path: of the imported file.
        variant: of AlexNet.
        preprocessing: how they want their pixels.
        digest: 16 hex digits: `weights` of a representation, and part of its spec.
        layers: whose weights they are.
        parameters: how many numbers.
        source: name of the file that they came from.
        source_sha256: of that file.
        bytes: size of the imported file.
        notes: what a person should know, a sentence each.
    """

    path: Path
    variant: str
    preprocessing: str
    digest: str
    layers: tuple[str, ...]
    parameters: int
    source: str
    source_sha256: str
    bytes: int
    notes: tuple[str, ...] = ()


def import_weights(
    file: StrPath,
    *,
    variant: str | None = None,
    preprocessing: str | None = None,
    folder: StrPath | None = None,
) -> WeightsSummary:
    """Check a published file of AlexNet's weights against the network and keep it as safetensors. Nothing downloads.

    Args:
        file: ``.caffemodel``, ``.npz``, ``.safetensors``, ``.pth``, ``.pt``, ``.pth.tar`` or another of `SUFFIXES`, a
            state_dict or a checkpoint with one, with our names (``conv1.weight`` …
            ``fc8.bias``) or torchvision's; all layers, or conv1 to some layer. float16 stays float16. ``"torchvision"``
            is the file that ``torchvision.models.alexnet`` left in torch's cache.
        variant: ``"caffenet"``, ``"bvlc"`` or ``"torchvision"``; ``None`` where the file tells: a ``.caffemodel`` by
            the order of its layers, torchvision's by its shapes.
        preprocessing: ``"caffe-bgr"`` or ``"imagenet-rgb"``; ``None`` for the variant's usual one.
        folder: to keep them in, made if it is not there; ``None`` for the one that representations look in.

    Raises:
        FileFormatError: damaged, or not the weights of that network: says which shapes differ and what is missing.
        ValueError: unknown variant or preprocessing, a variant that the file contradicts or that it does not tell.
        FileNotFoundError: nothing of torchvision's in torch's cache.
        OSError: files that cannot be read or written.
    """
    if variant is not None:
        check_variant(variant)
    if preprocessing is not None and preprocessing not in stored.PREPROCESSINGS:
        raise ValueError(f"unknown preprocessing {preprocessing!r}; known are {', '.join(stored.PREPROCESSINGS)}")
    if file == TORCHVISION and not Path(TORCHVISION).exists():
        file = _left_by_torchvision()
    found = open_weights(file)
    arrays, others = _named(file, found)
    if not arrays:
        came = ", ".join(array.name for array in found.arrays[:_MOST_SHOWN]) or "nothing"
        more = ", …" if len(found.arrays) > _MOST_SHOWN else ""
        raise FileFormatError(
            file,
            "holds nothing by AlexNet's names, conv1.weight, or torchvision's features.0.weight; it holds "
            f"{came}{more}",
        )
    variant = _variant(file, found, arrays, variant)
    layers = _check(file, arrays, variant)
    tensors = {name: _values(file, array) for name, array in arrays.items()}
    checksums = {name: stored.checksum(torch.from_numpy(values)) for name, values in tensors.items()}
    digest = stored.digest_of({name: values.shape for name, values in tensors.items()}, checksums)
    place = stored.weights_folder() if folder is None else Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    path = place / stored.file_name(variant, digest)
    metadata = stored.metadata(
        variant=variant,
        preprocessing=preprocessing or stored.USUAL_PREPROCESSING[variant],
        digest=digest,
        source=Path(file).name.encode("utf-8", "replace").decode(),
        source_sha256=_sha256(file),
        layers=layers,
        checksums=checksums,
    )
    write_tensors(path, tensors, metadata)
    return _summary(stored.read_header(path), _notes(layers, others))


def _left_by_torchvision() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _TORCHVISIONS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"torchvision has left no weights of AlexNet in {path}: torchvision.models.alexnet(weights='DEFAULT') gets "
            "them where there is a network, or give the path of that file"
        )
    return path


def list_weights(folder: StrPath | None = None) -> list[WeightsSummary]:
    """The imported weights in a folder, or in the usual one, by file name.

    Raises:
        FileFormatError: a file of theirs is damaged.
    """
    return [_summary(header) for header in stored.imported(None if folder is None else Path(folder))]


def _summary(header: stored.ImportedWeights, notes: tuple[str, ...] | None = None) -> WeightsSummary:
    shapes = parameter_shapes(header.variant)
    return WeightsSummary(
        path=header.path,
        variant=header.variant,
        preprocessing=header.preprocessing,
        digest=header.digest,
        layers=header.layers,
        parameters=sum(int(np.prod(shapes[name])) for name in header.checksums),
        source=header.source,
        source_sha256=header.source_sha256,
        bytes=header.path.stat().st_size,
        notes=_notes(header.layers) if notes is None else notes,
    )


def _notes(layers: tuple[str, ...], others: tuple[str, ...] = ()) -> tuple[str, ...]:
    notes = []
    if layers[-1] != "fc8":
        rest = LAYERS[len(layers) :]
        notes.append(f"holds {stored.spoken(layers)} only: there is no {', '.join(f'alexnet-{name}' for name in rest)}")
    if others:
        dots = ", …" if len(others) > _MOST_SHOWN else ""
        notes.append(f"left out what AlexNet does not have: {', '.join(others[:_MOST_SHOWN])}{dots}")
    return tuple(notes)


def _named(file: StrPath, found: WeightFile) -> tuple[dict[str, StoredArray], tuple[str, ...]]:
    """The arrays of AlexNet by our names, in the order of the layers, and the names of the others.

    Names may have parts of wrappers in them (``module``, ``_orig_mod``), and all of them something in front, such as
    ``model.``.
    """
    known = {f"{layer}.{kind}": None for layer in LAYERS[:-1] for kind in ("weight", "bias")}
    named: dict[str, list[tuple[str, StoredArray]]] = {}  # by what stands in front
    for array in found.arrays:
        parts = [part for part in array.name.split(".") if part not in _WRAPPERS]
        for length in (3, 2):  # features.0.weight, conv1.weight
            layer = ".".join(parts[-length:-1])
            name = f"{TORCHVISION_NAMES.get(layer, layer)}.{parts[-1]}"
            if len(parts) >= length and name in known:
                named.setdefault(".".join(parts[:-length]), []).append((name, array))
                break
    if len(named) > 1 and "" not in named:
        networks = ", ".join(f"{front}." for front in named)
        raise FileFormatError(file, f"holds AlexNet's names in several places, {networks}: save one network alone")
    arrays: dict[str, StoredArray] = {}
    for name, array in named.get("", next(iter(named.values()), [])):
        if arrays.setdefault(name, array) is not array:
            raise FileFormatError(file, f"holds {name} twice")
    taken = {id(array) for array in arrays.values()}
    others = tuple(array.name for array in found.arrays if id(array) not in taken)
    return {name: arrays[name] for name in known if name in arrays}, others


def _variant(file: StrPath, found: WeightFile, arrays: Mapping[str, StoredArray], asked: str | None) -> str:
    """The variant asked for, if the file does not contradict it, or else the one that the file tells."""
    told = None
    if {"pool1", "norm1"} <= set(found.layers):
        told = "caffenet" if found.layers.index("pool1") < found.layers.index("norm1") else "bvlc"
        if asked is not None and asked != told:
            order = "pools, then normalises" if told == "caffenet" else "normalises, then pools"
            raise ValueError(f"{file}: this network {order}, so it is variant {told}, not {asked}")
    elif "conv1.weight" in arrays and arrays["conv1.weight"].shape == parameter_shapes("torchvision")["conv1.weight"]:
        told = "torchvision"
    variant = asked or told
    if variant is None:
        shapes = [parameter_shapes(name)["conv1.weight"] for name in ("caffenet", "torchvision")]
        first = arrays.get("conv1.weight")
        if first is None or first.shape not in shapes:
            held = "is not there" if first is None else f"is {stored.shown(first.shape)}"
            right = " or, in torchvision's, ".join(map(stored.shown, shapes))
            raise FileFormatError(file, f"these are no AlexNet's weights: conv1.weight {held}; {right} would be right")
        raise ValueError(
            f"{file}: does not tell which AlexNet this is, as caffenet and bvlc have equal shapes: give the variant "
            "(--variant caffenet, bvlc or torchvision)"
        )
    return variant


def _check(file: StrPath, arrays: Mapping[str, StoredArray], variant: str) -> tuple[str, ...]:
    """The layers that are here; `FileFormatError` unless they are the variant's, conv1 to some layer, each whole."""
    shapes = parameter_shapes(variant)
    present = [layer for layer in LAYERS if any(name.startswith(f"{layer}.") for name in arrays)]
    layers = LAYERS[: LAYERS.index(present[-1]) + 1]
    missing = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias") if f"{layer}.{kind}" not in arrays]
    if missing:
        raise FileFormatError(file, f"lacks {', '.join(missing)}, though it has {stored.spoken((present[-1],))}")
    wrong = [name for name, array in arrays.items() if array.shape != shapes[name]]
    if wrong:
        parts = [f"{name} is {stored.shown(arrays[name].shape)}, not {stored.shown(shapes[name])}" for name in wrong]
        dots = "; …" if len(parts) > _MOST_SHOWN else ""
        raise FileFormatError(file, f"these are not {variant}'s weights: {'; '.join(parts[:_MOST_SHOWN])}{dots}")
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise FileFormatError(file, f"{name} is {array.dtype.name}; weights are floating")
    return layers


def _values(file: StrPath, array: StoredArray) -> NDArray[Any]:
    """An array as it is kept: float16 as it is, all others as float32."""
    values = array.load()
    with np.errstate(over="ignore"):  # refused below
        kept = np.ascontiguousarray(values, np.float16 if values.dtype == np.float16 else np.float32)
    if not np.isfinite(kept).all():
        raise FileFormatError(file, f"{array.name} holds values that are infinite or not numbers")
    return kept.reshape(values.shape)


def _sha256(path: StrPath) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
