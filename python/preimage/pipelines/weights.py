"""Importing AlexNet's weights into the folder where representations find them; converting any network's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.weights import open_weights, write_tensors
from preimage.representations import alexnet_weights
from preimage.representations.alexnet_network import LAYERS, check_variant

TORCHVISION = "torchvision"
_MOST_SHOWN = 6  # names, in a note


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
    bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvertSummary:
    """What was converted.

    Attributes:
        path: of the file written.
        shapes: of its tensors, by name.
        bytes: its size.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    bytes: int


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
    if preprocessing is not None:
        alexnet_weights.check_preprocessing(preprocessing)
    if file == TORCHVISION and not Path(TORCHVISION).exists():
        file = _left_by_torchvision()
    found = alexnet_weights.read(file, variant)
    tensors = found.load()
    digest = alexnet_weights.digest(tensors)
    found.check_digest(digest)
    place = alexnet_weights.weights_folder() if folder is None else Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    path = place / alexnet_weights.file_name(found.variant, digest)
    metadata = {
        "format": alexnet_weights.FORMAT,
        "variant": found.variant,
        "preprocessing": preprocessing or found.preprocessing,
        "digest": digest,
        "source": found.source.encode("utf-8", "replace").decode(),
    }
    write_tensors(path, tensors, metadata)
    return _summary(path, found.others)


def _left_by_torchvision() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / alexnet_weights.PUBLISHED[TORCHVISION]
    if not path.is_file():
        raise FileNotFoundError(
            f"torchvision has left no weights of AlexNet in {path}: torchvision.models.alexnet(weights='DEFAULT') gets "
            "them where there is a network, or give the path of that file"
        )
    return path


def list_weights(folder: StrPath | None = None) -> list[WeightsSummary]:
    """The imported weights in a folder, or in the usual one, by file name; their digests are not checked.

    Raises:
        FileFormatError: a file of theirs is damaged.
    """
    place = alexnet_weights.weights_folder() if folder is None else Path(folder)
    return [_summary(path) for path in sorted(place.glob("alexnet-*.safetensors"))]


def _summary(path: Path, left_out: tuple[str, ...] = ()) -> WeightsSummary:
    found = alexnet_weights.read(path)
    notes = []
    if found.layers[-1] != "fc8":
        rest = ", ".join(f"alexnet-{name}" for name in LAYERS[len(found.layers) :])
        notes.append(f"ends with {found.layers[-1]}: there is no {rest}")
    if left_out:
        dots = ", …" if len(left_out) > _MOST_SHOWN else ""
        notes.append(f"left out what AlexNet does not have: {', '.join(left_out[:_MOST_SHOWN])}{dots}")
    return WeightsSummary(
        path=path,
        variant=found.variant,
        preprocessing=found.preprocessing,
        digest=found.told,
        layers=found.layers,
        parameters=sum(math.prod(array.shape) for array in found.arrays.values()),
        source=found.source,
        bytes=path.stat().st_size,
        notes=tuple(notes),
    )


def convert_weights(file: StrPath, output: StrPath) -> ConvertSummary:
    """Write the weights of any network as plain safetensors, for its factory to load.

    Args:
        file: of one of `SUFFIXES`. The arrays of a ``.caffemodel`` get the names of their layers: ``conv1.weight``,
            ``conv1.bias``; the header keeps the order of the layers.
        output: ends with ``.safetensors``.

    Raises:
        ValueError: an output of another suffix.
        FileFormatError: a damaged file, or one of another kind.
        OSError: files that cannot be read or written.
    """
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"converted weights end with .safetensors, got {Path(output).name!r}")
    found = open_weights(file)
    if not found.arrays:
        raise FileFormatError(file, "holds no floating-point arrays by name")
    tensors: dict[str, NDArray[Any]] = {array.name: array.load() for array in found.arrays}
    write_tensors(output, tensors, {"layers": ",".join(found.layers)} if found.layers else {})
    shapes = {array.name: array.shape for array in found.arrays}
    return ConvertSummary(Path(output), shapes, Path(output).stat().st_size)
