"""Files of baselines that were learned from photographs: tensors, the spec of the features, and other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.checksum import CHECKSUM, ZEROS, check_file
from preimage.io.weights import write_tensors
from preimage.spec import Spec

DICTIONARY, PATCHES = "preimage-dictionary", "preimage-patches"
_VERSION = 2
_CHECKSUM_VERSION = 2  # first version with a checksum
_TITLES = {DICTIONARY: "a paired dictionary", PATCHES: "a database of patches"}


class Header(NamedTuple):
    """Contents of a file without its tensors.

    Attributes:
        spec: Spec of the features.
        values: Other values by name, as text.
        shapes: Shapes of the tensors by name.
    """

    spec: Spec
    values: dict[str, str]
    shapes: dict[str, list[int]]


def write(
    path: StrPath, format: str, spec: Spec, tensors: Mapping[str, torch.Tensor], values: Mapping[str, str]
) -> Path:
    """Write a ``.safetensors`` file, atomically, and return its path. The folder must exist."""
    metadata = {"format": format, "format_version": str(_VERSION), CHECKSUM: ZEROS, "spec": spec.to_json()}
    write_tensors(path, {name: tensor.numpy(force=True) for name, tensor in tensors.items()}, metadata | dict(values))
    return Path(path)


def read(path: StrPath, format: str, names: Sequence[str] = ()) -> tuple[Header, dict[str, torch.Tensor]]:
    """Return the header of a file of that format, and its tensors of those names, without reading others.

    With any names, the whole file is compared with its checksum first.

    Raises:
        FileFormatError: The file is damaged, of another format or version, or lacks one of these tensors.
        FileNotFoundError: The file does not exist.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.pop("format", "") != format:
                raise FileFormatError(path, f'is not {_TITLES[format]} (no "format": "{format}" in its metadata)')
            version = metadata.pop("format_version", "")
            if version not in map(str, range(1, _VERSION + 1)):
                raise FileFormatError(path, f"has format version {version:.40}; this preimage reads 1 to {_VERSION}")
            if names and (int(version) >= _CHECKSUM_VERSION or CHECKSUM in metadata):
                check_file(path, required=True)
            metadata.pop(CHECKSUM, "")
            spec = Spec.from_json(metadata.pop("spec"))
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no dictionary
            if missing := [name for name in names if name not in shapes]:
                raise FileFormatError(path, f"lacks {missing[0]}")
            return Header(spec, metadata, shapes), {name: file.get_tensor(name) for name in names}
    except FileFormatError:
        raise
    except KeyError as error:
        raise FileFormatError(path, f"lacks {error.args[0]}") from error
    except safetensors.SafetensorError as error:
        raise FileFormatError(path, f"is not a safetensors file: {error}") from error
    except ValueError as error:
        raise FileFormatError(path, f"its spec is damaged: {error}") from error
