"""Imported AlexNet weights: where their files lie, what they say of themselves, and their tensors.

One safetensors file a set of weights, ``alexnet-<variant>-<digest>.safetensors``, written by
`preimage.pipelines.weights`. Its metadata holds a checksum for each tensor, and the digest is taken over these:
reading some layers checks them without reading the others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import torch

from preimage.errors import FileFormatError
from preimage.representations.alexnet_network import LAYERS, VARIANTS, parameter_shapes
from preimage.representations.preprocessing import Preprocessing, caffe_bgr, imagenet_rgb

FORMAT = "preimage-weights"
FORMAT_VERSION = "1"
DIGEST = re.compile(r"[0-9a-f]{16}")

PREPROCESSINGS = {"caffe-bgr": caffe_bgr, "imagenet-rgb": imagenet_rgb}
USUAL_PREPROCESSING = {"caffenet": "caffe-bgr", "bvlc": "caffe-bgr", "torchvision": "imagenet-rgb"}
PUBLISHED = {  # the files that hold a variant's weights, for messages
    "caffenet": "bvlc_reference_caffenet.caffemodel",
    "bvlc": "bvlc_alexnet.caffemodel",
    "torchvision": "alexnet-owt-7be5be79.pth",
}

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ImportedWeights:
    """A file of weights, by its header.

    Attributes:
        path: where it lies.
        variant: of AlexNet.
        preprocessing: how these weights want their pixels, a name in `PREPROCESSINGS`.
        digest: 16 hex digits that identify the numbers, whatever file they came from.
        source: name of the file that they were imported from.
        source_sha256: of that file.
        layers: those whose weights are here: conv1 to some layer.
        checksums: sha256 of each tensor as little-endian float32, by name.
    """

    path: Path
    variant: str
    preprocessing: str
    digest: str
    source: str
    source_sha256: str
    layers: tuple[str, ...]
    checksums: Mapping[str, str]

    def tensors(self, layers: Iterable[str]) -> dict[str, torch.Tensor]:
        """The weights and biases of some layers, float32.

        Raises:
            ValueError: they are not in this file; says which are.
            FileFormatError: the file is damaged, or another one by now.
        """
        wanted = [layer for layer in layers if layer != "prob"]
        if missing := [layer for layer in wanted if layer not in self.layers]:
            raise ValueError(f"{self.path}: these weights hold {spoken(self.layers)} only, not {', '.join(missing)}")
        found = {}
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                for name in (f"{layer}.{kind}" for layer in wanted for kind in ("weight", "bias")):
                    tensor = file.get_tensor(name).float()
                    if checksum(tensor) != self.checksums[name]:
                        raise FileFormatError(self.path, f"is damaged: the checksum of {name} is wrong")
                    found[name] = tensor
        except safetensors.SafetensorError as error:
            raise FileFormatError(self.path, f"no safetensors file: {error}") from error
        return found


def weights_folder() -> Path:
    """``$PREIMAGE_WEIGHTS``, or ``$XDG_CACHE_HOME/preimage/weights``, or ``~/.cache/preimage/weights``."""
    if ours := os.environ.get("PREIMAGE_WEIGHTS"):
        return Path(ours).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "preimage" / "weights"


def preprocessing_of(name: str, variant: str) -> Preprocessing:
    """The preprocessing of that name for images of the variant's size.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PREPROCESSINGS:
        raise ValueError(f"unknown preprocessing {name!r}; known are {', '.join(PREPROCESSINGS)}")
    return PREPROCESSINGS[name](VARIANTS[variant].image_side)


def checksum(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's values as little-endian float32, in C order."""
    return hashlib.sha256(tensor.float().contiguous().numpy().astype("<f4", copy=False).data).hexdigest()


def digest_of(shapes: Mapping[str, Shape], checksums: Mapping[str, str]) -> str:
    """16 hex digits for weights: sha256 over names, shapes and checksums, sorted by name."""
    lines = (f"{name} {shown(shapes[name])} {checksums[name]}\n" for name in sorted(checksums))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def file_name(variant: str, digest: str) -> str:
    """What the file of such weights is called."""
    return f"alexnet-{variant}-{digest}.safetensors"


def metadata(
    *,
    variant: str,
    preprocessing: str,
    digest: str,
    source: str,
    source_sha256: str,
    layers: tuple[str, ...],
    checksums: Mapping[str, str],
) -> dict[str, str]:
    """What the header of a file of weights says beside its tensors, see `ImportedWeights`."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": "alexnet",
        "variant": variant,
        "preprocessing": preprocessing,
        "digest": digest,
        "source": source,
        "source_sha256": source_sha256,
        "layers": ",".join(layers),  # for a person; a reader goes by the tensors
        "checksums": json.dumps(dict(sorted(checksums.items()))),
    }


def read_header(path: Path) -> ImportedWeights:
    """What a file of imported weights says of itself.

    Raises:
        FileNotFoundError: there is no file.
        FileFormatError: it is not such a file, or its header does not agree with itself.
    """
    try:
        with open(path, "rb"), safetensors.safe_open(path, "pt") as file:  # open names a path that is a folder
            metadata = file.metadata() or {}
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
            kinds = {part.get_dtype() for part in parts.values()}
    except safetensors.SafetensorError as error:
        raise FileFormatError(path, f"no safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise FileFormatError(path, "these are no imported weights: run preimage weights import on them")
    if metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version")
        raise FileFormatError(path, f"has format version {found!r}; this preimage reads {FORMAT_VERSION!r}")
    variant, preprocessing, digest, source, source_sha256 = (
        metadata.get(name, "") for name in ("variant", "preprocessing", "digest", "source", "source_sha256")
    )
    try:
        checksums = json.loads(metadata.get("checksums", ""))
        if not isinstance(checksums, dict) or not all(isinstance(value, str) for value in checksums.values()):
            raise ValueError("its checksums are no texts by name")
        if not kinds <= {"F32", "F16"}:
            raise ValueError(f"weights are float32 or float16, got {', '.join(sorted(kinds))}")
        layers = _checked(variant, preprocessing, shapes)
        if checksums.keys() != shapes.keys() or digest_of(shapes, checksums) != digest:
            raise ValueError("its digest is not that of its tensors")
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, f"is damaged: {error}") from error
    return ImportedWeights(path, variant, preprocessing, digest, source, source_sha256, layers, checksums)


def _checked(variant: str, preprocessing: str, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """The layers that tensors of these shapes make up; ``ValueError`` if they do not."""
    if variant not in VARIANTS or preprocessing not in PREPROCESSINGS:
        raise ValueError(f"unknown variant {variant!r} or preprocessing {preprocessing!r}")
    wanted = parameter_shapes(variant)
    layers = tuple(layer for layer in LAYERS if f"{layer}.weight" in shapes)
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    if not layers or layers != LAYERS[: len(layers)] or names != shapes.keys():
        raise ValueError("its tensors are not conv1 up to some layer")
    if wrong := [name for name in names if shapes[name] != wanted[name]]:
        raise ValueError(f"the shape of {min(wrong)} is not {variant}'s")
    return layers


def imported(folder: Path | None = None) -> list[ImportedWeights]:
    """The weights in a folder, by file name, or in the usual one.

    Raises:
        FileFormatError: a file of theirs is damaged.
    """
    return [read_header(path) for path in sorted((folder or weights_folder()).glob("alexnet-*.safetensors"))]


def find(variant: str, weights: str = "") -> ImportedWeights:
    """The weights meant by a representation's parameters.

    Args:
        variant: of AlexNet.
        weights: a digest; a path to an imported file; or ``""`` for the only ones of the variant that there are.

    Raises:
        FileNotFoundError: there are none; says what to get and how to import it.
        ValueError: several are there and none is named, or the file is for another variant.
        FileFormatError: the file is damaged, or is not what its name says.
    """
    if weights and not DIGEST.fullmatch(weights):
        return _of_variant(read_header(Path(weights)), variant)
    folder = weights_folder()
    found = sorted(folder.glob(file_name(variant, weights or "*")))
    if not found:
        named = f"no weights {weights}" if weights else "no weights"
        raise FileNotFoundError(f"{named} of AlexNet's variant {variant} in {folder}. {advice(variant)}")
    if len(found) > 1:
        digests = ", ".join(read_header(path).digest for path in found)
        raise ValueError(f"{len(found)} weights of AlexNet's variant {variant} are in {folder}: name one of {digests}")
    header = _of_variant(read_header(found[0]), variant)
    if weights and header.digest != weights:
        raise FileFormatError(header.path, f"holds the weights {header.digest}, not those of its name")
    return header


def _of_variant(header: ImportedWeights, variant: str) -> ImportedWeights:
    if header.variant != variant:
        raise ValueError(f"{header.path}: these are weights of variant {header.variant!r}, not {variant!r}")
    return header


def advice(variant: str) -> str:
    """What to do where weights are missing."""
    others = ", ".join(f"{name}: {file}" for name, file in PUBLISHED.items() if name != variant)
    return (
        f"Get {PUBLISHED[variant]} (other variants: {others}) and run: "
        f"preimage weights import {PUBLISHED[variant]} --variant {variant}"
    )


def spoken(layers: tuple[str, ...]) -> str:
    """``conv1…conv5``."""
    return layers[0] if len(layers) == 1 else f"{layers[0]}…{layers[-1]}"


def shown(shape: Shape) -> str:
    """``96×3×11×11``."""
    return "×".join(map(str, shape))
