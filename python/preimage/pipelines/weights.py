"""Import AlexNet weights, and convert the weights of any network to safetensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.folders import make_folders
from preimage.io.weights import open_weights, write_tensors
from preimage.representations import alexnet_weights
from preimage.representations.alexnet_variants import LAYERS
from preimage.representations.preprocessing import check_preprocessing

_MAX_NAMES = 6  # maximum number of names in a note


@dataclass(frozen=True)
class WeightsSummary:
    """Summary of an import.

    Attributes:
        path: File written.
        variant: Variant of AlexNet.
        preprocessing: Preprocessing of the images that the weights were trained with.
        digest: 16 hex digits, the representation's parameter `weights` and part of its spec.
        layers: Layers with weights.
        parameters: Number of parameters.
        bytes: Size of the file written.
        notes: Remarks, one sentence each.
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
    output: StrPath | None = None,
) -> WeightsSummary:
    """Check a published file of AlexNet weights and install it as safetensors, without downloading anything.

    Args:
        file: File of weights, see `preimage.representations.alexnet_weights.read`; float16 stays float16.
        variant: ``"caffenet"``, ``"bvlc"`` or ``"torchvision"``; ``None`` is the variant stated in the file.
        preprocessing: ``"caffe-bgr"`` or ``"imagenet-rgb"``; ``None`` is the variant's default.
        output: Folder for the weights, created if needed; ``None`` is the folder where representations look for them.

    Raises:
        FileFormatError: The file is damaged or does not fit the network; the message names missing weights and wrong
            shapes.
        ValueError: Unknown variant or preprocessing, or a variant that the file contradicts, or none although the file
            does not state it.
        OSError: A file cannot be read or written.
    """
    if preprocessing is not None:
        check_preprocessing(preprocessing)
    found = alexnet_weights.read(file, variant)
    tensors = found.load()
    digest = alexnet_weights.digest(tensors)
    alexnet_weights.check_name(found.path, digest)
    target = alexnet_weights.weights_folder() if output is None else Path(output)
    make_folders(target)
    path = target / alexnet_weights.file_name(found.variant, digest)
    preprocessing = preprocessing or found.preprocessing
    header = {"format": alexnet_weights.FORMAT, "variant": found.variant, "preprocessing": preprocessing}
    write_tensors(path, tensors, header)
    notes = []
    if found.layers[-1] != "fc8":
        rest = ", ".join(f"alexnet-{name}" for name in LAYERS[len(found.layers) :])
        notes.append(f"ends with {found.layers[-1]}, without {rest}")
    if found.others:
        dots = ", …" if len(found.others) > _MAX_NAMES else ""
        notes.append(f"skipped weights that AlexNet does not have: {', '.join(found.others[:_MAX_NAMES])}{dots}")
    parameters = sum(math.prod(array.shape) for array in found.arrays.values())
    size = path.stat().st_size
    return WeightsSummary(path, found.variant, preprocessing, digest, found.layers, parameters, size, tuple(notes))


def convert_weights(file: StrPath, output: StrPath) -> dict[str, tuple[int, ...]]:
    """Write the weights of any network as safetensors; return the shapes by name.

    Args:
        file: File with one of the suffixes `preimage.io.weights.SUFFIXES`. The arrays of a ``.caffemodel`` are named by
            layer, ``conv1.weight``, ``conv1.bias``, and the header contains the order of the layers.
        output: File to write, with suffix ``.safetensors``.

    Raises:
        ValueError: The output has another suffix.
        FileFormatError: The file is damaged or of another format.
        OSError: A file cannot be read or written.
    """
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"output must end with .safetensors, got {Path(output).name!r}")
    found = open_weights(file)
    if not found.arrays:
        raise FileFormatError(file, "contains no named floating-point arrays")
    header = {"layers": ",".join(found.layers)} if found.layers else {}
    write_tensors(output, {array.name: array.load() for array in found.arrays}, header)
    return {array.name: array.shape for array in found.arrays}
