"""Files of AlexNet's weights: where imported ones lie, what a file tells of itself, and its arrays."""

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
from preimage.io.arrays.stored import StoredArray
from preimage.io.atomic import StrPath
from preimage.io.weights import WeightFile, open_weights
from preimage.representations.alexnet_variants import DIGEST, LAYERS, VARIANTS, check_variant
from preimage.representations.preprocessing import PREPROCESSINGS

FORMAT = "preimage-weights"  # in the header of imported files

USUAL_PREPROCESSING = {"caffenet": "caffe-bgr", "bvlc": "caffe-bgr", "torchvision": "imagenet-rgb"}
PUBLISHED = {  # the files that hold a variant's weights, for messages
    "caffenet": "bvlc_reference_caffenet.caffemodel",
    "bvlc": "bvlc_alexnet.caffemodel",
    "torchvision": "alexnet-owt-7be5be79.pth",
}
TORCHVISION_NAMES = {  # of the layers in torchvision's state_dict
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
_WRAPPERS = ("module", "_orig_mod")  # what nn.DataParallel and torch.compile put into names
_MOST_SHOWN = 6  # names or differences, in a message


@dataclasses.dataclass(frozen=True)
class AlexNetWeights:
    """A file of AlexNet's weights, by its header.

    Attributes:
        path: of the file.
        variant: of AlexNet.
        preprocessing: how these weights want their pixels, a name in `PREPROCESSINGS`.
        arrays: by our names (``conv1.weight``), in the order of the layers.
        others: names of the arrays that AlexNet does not have.
    """

    path: Path
    variant: str
    preprocessing: str
    arrays: Mapping[str, StoredArray]
    others: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Those whose weights are here: conv1 to some layer."""
        return LAYERS[: len(self.arrays) // 2]

    def load(self) -> dict[str, NDArray[Any]]:
        """The weights and biases: float16 as they are, all others as float32.

        Raises:
            FileFormatError: values that are not finite, or a file that is damaged.
        """
        return {name: _values(self.path, array) for name, array in self.arrays.items()}


def weights_folder() -> Path:
    """``$PREIMAGE_WEIGHTS``, or ``$XDG_CACHE_HOME/preimage/weights``, or ``~/.cache/preimage/weights``."""
    if ours := os.environ.get("PREIMAGE_WEIGHTS"):
        return Path(ours).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "preimage" / "weights"


def file_name(variant: str, digest: str) -> str:
    """What the file of imported weights is called."""
    return f"alexnet-{variant}-{digest}.safetensors"


def check_name(path: Path, digest: str) -> None:
    """`FileFormatError` if a file's name, as of an imported one, has another digest than its arrays."""
    named = re.fullmatch(file_name(r"\w+", f"({DIGEST.pattern})").replace(".", r"\."), path.name)
    if named and named[1] != digest:
        raise FileFormatError(path, f"is damaged or another's: it holds the weights {digest}, not those of its name")


def find(variant: str, weights: str = "") -> Path:
    """The file meant by a representation's parameters.

    Args:
        variant: of AlexNet.
        weights: a digest; a path; or ``""`` for the only imported ones of the variant that there are.

    Raises:
        FileNotFoundError: there are none; says what to get and how to import it.
        ValueError: several are there and none is named.
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
        raise ValueError(f"{len(found)} weights of AlexNet's variant {variant} are in {folder}: name one of {digests}")
    return found[0]


def read(path: StrPath, variant: str | None = None) -> AlexNetWeights:
    """Compare a file of weights with the network, by its header.

    Args:
        path: of one of the kinds that `open_weights` reads: a state_dict or a checkpoint with one, with our names
            (``conv1.weight`` … ``fc8.bias``) or torchvision's; all layers, or conv1 to some layer.
        variant: of AlexNet; ``None`` where the file tells: an imported one, a ``.caffemodel`` (and what was converted
            from it) by the order of its layers, torchvision's by its shapes.

    Raises:
        FileFormatError: damaged, or not the weights of that network: says which shapes differ and what is missing.
        ValueError: unknown variant, or one that the file contradicts or does not tell.
        OSError: a file that cannot be read.
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
    """16 hex digits that identify the numbers, whatever file they came from.

    SHA-256 over names, shapes, and the SHA-256 of the values as little-endian float32 in C order, sorted by name.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name], "<f4")
        total.update(f"{name} {_shown(arrays[name].shape)} {hashlib.sha256(values.data).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


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
    if not arrays:
        came = (", ".join(others[:_MOST_SHOWN]) or "nothing") + (", …" if len(others) > _MOST_SHOWN else "")
        raise FileFormatError(
            file,
            f"holds nothing by AlexNet's names, conv1.weight, or torchvision's features.0.weight; it holds {came}",
        )
    return {name: arrays[name] for name in known if name in arrays}, others


def _variant(
    file: StrPath, found: WeightFile, header: Mapping[str, str], arrays: Mapping[str, StoredArray], asked: str | None
) -> str:
    """The variant asked for, if the file does not contradict it, or else the one that the file tells."""
    told = header.get("variant")
    if told is not None:
        if told not in VARIANTS:
            raise FileFormatError(file, f"is damaged: unknown variant {told!r:.40}")
        if asked not in (None, told):
            raise ValueError(f"{file}: these are weights of variant {told!r}, not {asked!r}")
    elif {"pool1", "norm1"} <= set(found.layers):
        told = "caffenet" if found.layers.index("pool1") < found.layers.index("norm1") else "bvlc"
        if asked not in (None, told):
            order = "pools, then normalizes" if told == "caffenet" else "normalizes, then pools"
            raise ValueError(f"{file}: this network {order}, so it is variant {told}, not {asked}")
    elif "conv1.weight" in arrays and arrays["conv1.weight"].shape == _shapes("torchvision")["conv1.weight"]:
        told = "torchvision"
    variant = asked or told
    if variant is None:
        shapes = [_shapes(name)["conv1.weight"] for name in ("caffenet", "torchvision")]
        first = arrays.get("conv1.weight")
        if first is None or first.shape not in shapes:
            held = "is not there" if first is None else f"is {_shown(first.shape)}"
            right = " or, in torchvision's, ".join(map(_shown, shapes))
            raise FileFormatError(file, f"these are no AlexNet's weights: conv1.weight {held}; {right} would be right")
        raise ValueError(
            f"{file}: does not tell which AlexNet this is, as caffenet and bvlc have equal shapes: give the variant "
            "(--variant caffenet, bvlc or torchvision)"
        )
    return variant


def _check(file: StrPath, arrays: Mapping[str, StoredArray], variant: str) -> None:
    """`FileFormatError` unless the arrays are the variant's, conv1 to some layer, each whole."""
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
            raise FileFormatError(file, f"{name} is {array.dtype.name}; weights are floating")


def _shapes(variant: str) -> dict[str, tuple[int, ...]]:
    from preimage.representations.alexnet_network import parameter_shapes

    return parameter_shapes(variant)


def _values(file: StrPath, array: StoredArray) -> NDArray[Any]:
    values = array.load()
    with np.errstate(over="ignore"):  # refused below
        kept = np.ascontiguousarray(values, np.float16 if values.dtype == np.float16 else np.float32)
    if not np.isfinite(kept).all():
        raise FileFormatError(file, f"{array.name} holds values that are infinite or not numbers")
    return kept.reshape(values.shape)


def _shown(shape: tuple[int, ...]) -> str:
    """``96×3×11×11``."""
    return "×".join(map(str, shape))
