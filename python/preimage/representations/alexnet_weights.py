"""Find and read files of AlexNet's weights, and determine their variant."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.stored_arrays import StoredArray
from preimage.io.atomic import StrPath
from preimage.io.weights import WeightFile, open_weights
from preimage.representations.alexnet_variants import DIGEST, LAYERS, VARIANTS, check_variant
from preimage.representations.preprocessing import PREPROCESSINGS

FORMAT = "preimage-weights"  # stated in the header of imported files

USUAL_PREPROCESSING = {"caffenet": "caffe-bgr", "bvlc": "caffe-bgr", "torchvision": "imagenet-rgb"}
PUBLISHED = {  # published file of each variant, for messages
    "caffenet": "bvlc_reference_caffenet.caffemodel",
    "bvlc": "bvlc_alexnet.caffemodel",
    "torchvision": "alexnet-owt-7be5be79.pth",
}
TORCHVISION_NAMES = {  # names of layers in torchvision's state_dict
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
_WRAPPERS = ("module", "_orig_mod")  # prefixes of nn.DataParallel and torch.compile
_MOST_SHOWN = 6  # maximum number of names or differences in a message


@dataclasses.dataclass(frozen=True)
class AlexNetWeights:
    """Contents of a file of AlexNet's weights, according to its header.

    Attributes:
        path: Path of the file.
        variant: Variant of AlexNet.
        preprocessing: Preprocessing of the images that the weights were trained with, a name in `PREPROCESSINGS`.
        arrays: Weights and biases by name (``conv1.weight``), in the order of the layers.
        others: Names of arrays that AlexNet does not have.
    """

    path: Path
    variant: str
    preprocessing: str
    arrays: Mapping[str, StoredArray]
    others: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers whose weights the file contains: conv1 up to some layer."""
        return LAYERS[: len(self.arrays) // 2]

    def load(self) -> dict[str, NDArray[Any]]:
        """Read the weights and biases; float16 is unchanged, other dtypes become float32.

        Raises:
            FileFormatError: Values that are not finite, or a file that is damaged.
        """
        return {name: _values(self.path, array) for name, array in self.arrays.items()}


def weights_folder() -> Path:
    """Return ``$PREIMAGE_WEIGHTS``, or ``$XDG_CACHE_HOME/preimage/weights``, or ``~/.cache/preimage/weights``."""
    if chosen := os.environ.get("PREIMAGE_WEIGHTS"):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "preimage" / "weights"


def file_name(variant: str, digest: str) -> str:
    """Return the name of a file of imported weights."""
    return f"alexnet-{variant}-{digest}.safetensors"


def check_name(path: Path, digest: str) -> None:
    """Raise `FileFormatError` if the digest in the name of an imported file is not that of its arrays."""
    named = re.fullmatch(file_name(r"\w+", f"({DIGEST.pattern})").replace(".", r"\."), path.name)
    if named and named[1] != digest:
        raise FileFormatError(
            path, f"is damaged or renamed: the digest of its weights is {digest}, not that of its name"
        )


def find(variant: str, weights: str = "") -> Path:
    """Return the path of the weights selected by a representation's parameters.

    Args:
        variant: Variant of AlexNet.
        weights: Digest or path of the weights, or ``""`` for the only imported weights of the variant.

    Raises:
        FileNotFoundError: No such weights; the message names the file to download and the command that imports it.
        ValueError: Several imported weights of the variant, and `weights` does not select one.
    """
    if weights and not DIGEST.fullmatch(weights):
        return Path(weights)
    folder = weights_folder()
    found = sorted(folder.glob(file_name(variant, weights or "*")))
    if not found:
        others = ", ".join(f"{name}: {file}" for name, file in PUBLISHED.items() if name != variant)
        raise FileNotFoundError(
            f"no weights {weights}{' ' * bool(weights)}of AlexNet's variant {variant} in {folder}. Get "
            f"{PUBLISHED[variant]} (other variants: {others}) and run: preimage weights import {PUBLISHED[variant]} "
            f"--variant {variant}"
        )
    if len(found) > 1:
        digests = ", ".join(path.stem.rpartition("-")[2] for path in found)
        raise ValueError(
            f"{len(found)} weights of AlexNet's variant {variant} are in {folder}: choose one of {digests}"
        )
    return found[0]


def read(path: StrPath, variant: str | None = None) -> AlexNetWeights:
    """Read the header of a file of weights, and check that the shapes are those of the network.

    Args:
        path: A file that `open_weights` reads: a state_dict or a checkpoint that contains one, with the names of this
            package (``conv1.weight`` … ``fc8.bias``) or torchvision's, for all layers or for conv1 up to some layer.
        variant: Variant of AlexNet; ``None`` to determine it from the file: from the header of imported weights, from
            the order of the layers of a ``.caffemodel`` (or a file converted from one), or from the shapes of
            torchvision's weights.

    Raises:
        FileFormatError: A damaged file, or not the weights of that network; the message names the shapes that differ
            and the missing weights.
        ValueError: An unknown variant, a file of another variant, or a file whose variant cannot be determined.
        OSError: A file that cannot be read.
    """
    if variant is not None:
        check_variant(variant)
    file = open_weights(path)
    header = file.metadata if file.metadata.get("format") == FORMAT else {}
    arrays, others = _named(path, file)
    variant = _variant(path, file, header, arrays, variant)
    _check(path, arrays, variant)
    preprocessing = header.get("preprocessing", USUAL_PREPROCESSING[variant])
    if preprocessing not in PREPROCESSINGS:
        raise FileFormatError(path, f"is damaged: unknown preprocessing {preprocessing!r:.40}")
    return AlexNetWeights(Path(path), variant, preprocessing, arrays, others)


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return 16 hexadecimal digits that identify the weights, independent of the file format.

    The digest is the SHA-256 of names, shapes, and the SHA-256 of the values as little-endian float32 in C order,
    sorted by name.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name], "<f4")
        total.update(f"{name} {_shown(arrays[name].shape)} {hashlib.sha256(values.data).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def _named(file: StrPath, found: WeightFile) -> tuple[dict[str, StoredArray], tuple[str, ...]]:
    """Return the arrays of AlexNet by name, in the order of the layers, and the names of all others.

    Names in the file may contain the parts of wrappers (``module``, ``_orig_mod``) and a common prefix such as
    ``model.``.
    """
    known = {f"{layer}.{kind}": None for layer in LAYERS[:-1] for kind in ("weight", "bias")}
    named: dict[str, list[tuple[str, StoredArray]]] = {}  # by prefix
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
        raise FileFormatError(
            file, f"contains AlexNet's names under several prefixes, {networks}: save one network alone"
        )
    arrays: dict[str, StoredArray] = {}
    for name, array in named.get("", next(iter(named.values()), [])):
        if arrays.setdefault(name, array) is not array:
            raise FileFormatError(file, f"contains {name} twice")
    taken = {id(array) for array in arrays.values()}
    others = tuple(array.name for array in found.arrays if id(array) not in taken)
    if not arrays:
        came = (", ".join(others[:_MOST_SHOWN]) or "nothing") + (", …" if len(others) > _MOST_SHOWN else "")
        raise FileFormatError(
            file,
            f"contains none of AlexNet's names (conv1.weight, or torchvision's features.0.weight), but {came}",
        )
    return {name: arrays[name] for name in known if name in arrays}, others


def _variant(
    file: StrPath, found: WeightFile, header: Mapping[str, str], arrays: Mapping[str, StoredArray], asked: str | None
) -> str:
    """Return the requested variant if the file does not contradict it, or else the variant stated in the file."""
    stated = header.get("variant")
    if stated is not None:
        if stated not in VARIANTS:
            raise FileFormatError(file, f"is damaged: unknown variant {stated!r:.40}")
        if asked not in (None, stated):
            raise ValueError(f"{file}: these are weights of variant {stated!r}, not {asked!r}")
    elif {"pool1", "norm1"} <= set(found.layers):
        stated = "caffenet" if found.layers.index("pool1") < found.layers.index("norm1") else "bvlc"
        if asked not in (None, stated):
            order = "pools, then normalizes" if stated == "caffenet" else "normalizes, then pools"
            raise ValueError(f"{file}: this network {order}, so it is variant {stated}, not {asked}")
    elif "conv1.weight" in arrays and arrays["conv1.weight"].shape == _shapes("torchvision")["conv1.weight"]:
        stated = "torchvision"
    variant = asked or stated
    if variant is None:
        shapes = [_shapes(name)["conv1.weight"] for name in ("caffenet", "torchvision")]
        first = arrays.get("conv1.weight")
        if first is None or first.shape not in shapes:
            found_shape = "is missing" if first is None else f"is {_shown(first.shape)}"
            right = " or, in torchvision's, ".join(map(_shown, shapes))
            raise FileFormatError(file, f"these are not AlexNet's weights: conv1.weight {found_shape}, not {right}")
        raise ValueError(
            f"{file}: does not state which AlexNet this is, as caffenet and bvlc have equal shapes: give the variant "
            "(--variant caffenet, bvlc or torchvision)"
        )
    return variant


def _check(file: StrPath, arrays: Mapping[str, StoredArray], variant: str) -> None:
    """Raise `FileFormatError` unless the arrays are those of the variant, complete from conv1 up to some layer."""
    shapes = _shapes(variant)
    present = [layer for layer in LAYERS if any(name.startswith(f"{layer}.") for name in arrays)]
    wanted = [f"{layer}.{kind}" for layer in LAYERS[: LAYERS.index(present[-1]) + 1] for kind in ("weight", "bias")]
    if missing := [name for name in wanted if name not in arrays]:
        raise FileFormatError(file, f"lacks {', '.join(missing)}, though it has {present[-1]}")
    wrong = [name for name, array in arrays.items() if array.shape != shapes[name]]
    if wrong:
        parts = [f"{name} is {_shown(arrays[name].shape)}, not {_shown(shapes[name])}" for name in wrong]
        dots = "; …" if len(parts) > _MOST_SHOWN else ""
        raise FileFormatError(file, f"these are not {variant}'s weights: {'; '.join(parts[:_MOST_SHOWN])}{dots}")
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise FileFormatError(file, f"{name} must be floating-point, got {array.dtype.name}")


def _shapes(variant: str) -> dict[str, tuple[int, ...]]:
    from preimage.representations.alexnet_network import parameter_shapes

    return parameter_shapes(variant)


def _values(file: StrPath, array: StoredArray) -> NDArray[Any]:
    values = array.load()
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values raise an error below
        kept = np.ascontiguousarray(values, np.float16 if values.dtype == np.float16 else np.float32)
    if not np.isfinite(kept).all():
        raise FileFormatError(file, f"{array.name} contains infinite values or NaN")
    return kept.reshape(values.shape)


def _shown(shape: tuple[int, ...]) -> str:
    """Return a shape as ``96×3×11×11``."""
    return "×".join(map(str, shape))
