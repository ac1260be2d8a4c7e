"""Importing AlexNet's weights into the folder where representations find them; converting any network's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.weights import open_weights, write_tensors
from preimage.representations import alexnet_weights
from preimage.representations.alexnet_variants import LAYERS
from preimage.representations.preprocessing import check_preprocessing

_MOST_SHOWN = 6  # names, in a note


@dataclass(frozen=True)
class WeightsSummary:
    """What was imported.

    Attributes:
        path: of the file written.
        variant: of AlexNet.
        preprocessing: how the weights want their pixels.
        digest: 16 hex digits: `weights` of a representation, and part of its spec.
        layers: whose weights they are.
        parameters: how many numbers.
        bytes: size of the file written.
        notes: what a person should know, a sentence each.
    """

    path: Path
    variant: str
    preprocessing: str
    digest: str
    layers: tuple[str, ...]
    parameters: int
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
        file: see `preimage.representations.alexnet_weights.read`; float16 stays float16.
        variant: ``"caffenet"``, ``"bvlc"`` or ``"torchvision"``; ``None`` where the file tells.
        preprocessing: ``"caffe-bgr"`` or ``"imagenet-rgb"``; ``None`` for the variant's usual one.
        folder: to keep them in, made if it is not there; ``None`` for the one that representations look in.

    Raises:
        FileFormatError: damaged, or not the weights of that network: says which shapes differ and what is missing.
        ValueError: unknown variant or preprocessing, a variant that the file contradicts or that it does not tell.
        OSError: files that cannot be read or written.
    """
    if preprocessing is not None:
        check_preprocessing(preprocessing)
    found = alexnet_weights.read(file, variant)
    tensors = found.load()
    digest = alexnet_weights.digest(tensors)
    alexnet_weights.check_name(found.path, digest)
    place = alexnet_weights.weights_folder() if folder is None else Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    path = place / alexnet_weights.file_name(found.variant, digest)
    preprocessing = preprocessing or found.preprocessing
    header = {"format": alexnet_weights.FORMAT, "variant": found.variant, "preprocessing": preprocessing}
    write_tensors(path, tensors, header)
    notes = []
    if found.layers[-1] != "fc8":
        rest = ", ".join(f"alexnet-{name}" for name in LAYERS[len(found.layers) :])
        notes.append(f"ends with {found.layers[-1]}: there is no {rest}")
    if found.others:
        dots = ", …" if len(found.others) > _MOST_SHOWN else ""
        notes.append(f"left out what AlexNet does not have: {', '.join(found.others[:_MOST_SHOWN])}{dots}")
    parameters = sum(math.prod(array.shape) for array in found.arrays.values())
    size = path.stat().st_size
    return WeightsSummary(path, found.variant, preprocessing, digest, found.layers, parameters, size, tuple(notes))


def convert_weights(file: StrPath, output: StrPath) -> dict[str, tuple[int, ...]]:
    """Write the weights of any network as plain safetensors, for its factory to load; return shapes by name.

    Args:
        file: of one of `preimage.io.weights.SUFFIXES`. The arrays of a ``.caffemodel`` are named after their layers,
            ``conv1.weight``, ``conv1.bias``, and the header keeps the order of the layers.
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
    header = {"layers": ",".join(found.layers)} if found.layers else {}
    write_tensors(output, {array.name: array.load() for array in found.arrays}, header)
    return {array.name: array.shape for array in found.arrays}
