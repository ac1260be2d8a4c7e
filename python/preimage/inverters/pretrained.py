"""Read and write the folder of an inverter (``config.json``, ``model.safetensors``), and find pretrained inverters."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from preimage.errors import FileFormatError, parse_json
from preimage.inverters import hub
from preimage.io.atomic import atomic_write, move_into_place
from preimage.io.checksum import CHECKSUM, ZEROS, check_text, with_checksum
from preimage.io.folders import make_folders
from preimage.old_names import INVERTER_FIELDS, renamed
from preimage.spec import Spec

FORMAT = "preimage-inverter"
FORMAT_VERSION = 4  # since 4 with a sampler, if any
CHECKSUM_VERSION = 3  # first format version whose config has a checksum
CONV2D_VERSION = 1  # format version with the weights of up-convolutions in the orientation of `conv2d`
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MAX_CONFIG_BYTES = 16 << 20
_LARGEST_CARD = 1 << 20  # bytes

_NEXT_WEIGHTS = "model.next.safetensors"  # new weights until their config is written


def write(folder: Path, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write both files, so that an inverter in the folder is replaced as a whole or not at all.

    The config contains its own digest and that of the weights. New weights wait beside the old ones until the config is
    replaced.
    """
    make_folders(folder)
    weights = safetensors.torch.save(dict(tensors))
    digest = hashlib.sha256(weights).hexdigest()
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, CHECKSUM: ZEROS, "weights_sha256": digest}
    text = json.dumps(head | dict(fields), indent=2) + "\n"
    _settle(folder)  # an earlier save may have been killed
    try:
        with atomic_write(folder / _NEXT_WEIGHTS) as file:
            file.write(weights)
        with atomic_write(folder / CONFIG) as file:
            file.write(with_checksum(text.encode()))
    except BaseException:
        _settle(folder)
        raise
    move_into_place(folder / _NEXT_WEIGHTS, folder / WEIGHTS)
    return folder


def _settle(folder: Path) -> None:
    """Move new weights into place if their config is written, or else delete them."""
    new = folder / _NEXT_WEIGHTS
    if not new.exists():
        return
    name = ""
    with contextlib.suppress(FileFormatError, OSError):
        name = _read_files(folder)[2]
    with contextlib.suppress(OSError):  # an error while writing is the one to report, and `read` finds the file here
        if name == _NEXT_WEIGHTS:
            move_into_place(new, folder / WEIGHTS)
        else:
            new.unlink()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the fields and tensors that `write` wrote; `FileFormatError` for anything else."""
    fields, data, name = _read_files(folder)
    try:
        return fields, safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise FileFormatError(folder / name, f"is not a safetensors file: {error}") from error


def _read_files(folder: Path) -> tuple[dict[str, Any], bytes, str]:
    """Return the fields of the config, the contents of the file of weights that belongs to it, and its name."""
    fields = read_config(folder)
    while True:
        for name in (_NEXT_WEIGHTS, WEIGHTS):  # in this order they cannot be missed while they are moved into place
            with contextlib.suppress(FileNotFoundError):
                data = (folder / name).read_bytes()
                if hashlib.sha256(data).hexdigest() == fields["weights_sha256"]:
                    return fields, data, name
        before, fields = fields, read_config(folder)
        if fields["weights_sha256"] == before["weights_sha256"]:
            break  # otherwise another process has replaced the inverter meanwhile
    if not (folder / WEIGHTS).exists():
        raise FileFormatError(folder / WEIGHTS, "is missing, but there is a config.json")
    raise FileFormatError(folder / WEIGHTS, "is damaged, or does not belong to its config.json (another SHA-256)")


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config, with old names translated, but not the weights."""
    path = folder / CONFIG
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError as error:
        raise FileFormatError(folder, f"is not an inverter: it has no {CONFIG}") from error
    if len(text) > _MAX_CONFIG_BYTES:
        raise FileFormatError(path, f"must have at most {_MAX_CONFIG_BYTES} bytes")
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise FileFormatError(path, f"is not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise FileFormatError(path, f'is not the config of an inverter (no "format": "{FORMAT}")')
    version = fields.get("format_version")
    if type(version) is not int or not CONV2D_VERSION <= version <= FORMAT_VERSION:
        known = f"{CONV2D_VERSION} to {FORMAT_VERSION}"
        raise FileFormatError(path, f"has format version {version!r:.40}; this preimage reads {known}")
    if version >= CHECKSUM_VERSION or CHECKSUM in fields:
        try:
            check_text(text, fields.get(CHECKSUM))
        except ValueError as error:
            raise FileFormatError(path, f"{error} (or edited)") from error
    if missing := sorted({"spec", "network", "training", "weights_sha256"} - set(fields)):
        raise FileFormatError(path, f"lacks {', '.join(missing)}")
    return renamed(fields, INVERTER_FIELDS)


def model_card(folder: Path) -> str:
    """Return the text of the model card in an inverter's folder, the first of `hub.CARDS`, or an empty string.

    Raises:
        FileFormatError: A model card over a megabyte.
    """
    path = next((folder / name for name in hub.CARDS if (folder / name).is_file()), None)
    if path is None:
        return ""
    if path.stat().st_size > _LARGEST_CARD:
        raise FileFormatError(path, f"a model card must have at most {_LARGEST_CARD:,} bytes")
    return path.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Convert an error about the values of a config to one that names the file."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise FileFormatError(folder / CONFIG, str(error)) from error


def list_inverters(*, cached: bool = False) -> list[str]:
    """Return the names of the pretrained inverters in the package, sorted.

    Args:
        cached: Append the inverters in the local cache of the Hugging Face Hub, ``user/name``, sorted as well.

    Raises:
        ImportError: `cached` needs huggingface_hub, which is not installed.
    """
    folder = _weights_folder()
    names = sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG).is_file()) if folder.is_dir() else []
    return names + (_cached_inverters() if cached else [])


def _cached_inverters() -> list[str]:
    """Return the repositories of the Hub's cache that contain an inverter, sorted."""
    found = set()
    for repository, folder in hub.cached(CONFIG):
        with contextlib.suppress(FileFormatError, OSError):  # configs of other models
            read_config(folder)
            found.add(repository)
    return sorted(found)


def pretrained_folder(name: str) -> Path:
    """Return the folder of a pretrained inverter, even if the current folder contains one of the same name."""
    return _weights_folder() / name


def pretrained_samplers() -> list[str]:
    """Return the names of the pretrained inverters that can sample."""
    return [name for name in list_inverters() if read_config(pretrained_folder(name)).get("sampler") is not None]


def pretrained_specs() -> dict[str, Spec]:
    """Return the specs of the features that the pretrained inverters take, by name."""
    return {name: Spec.from_dict(read_config(pretrained_folder(name))["spec"]) for name in list_inverters()}


def find_inverter(spec: Spec) -> str:
    """Return the name of a pretrained inverter for features of this spec.

    Raises:
        LookupError: There is no such inverter; the message names the fields in which the nearest one differs.
    """
    candidates = {}
    for name, other in pretrained_specs().items():
        differences = other.differences(spec)
        if not differences:
            return name
        candidates[name] = differences
    if not candidates:
        raise LookupError("this installation has no pretrained inverters: train one and name it")
    name, differences = min(candidates.items(), key=lambda item: len(item[1]))
    raise LookupError(
        f"no pretrained inverter takes these features; the nearest, {name}, differs in {'; '.join(differences)} "
        "(inverter != features): train one for these features and name it"
    )


def is_inverter_name(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a pretrained inverter or of a repository of the Hugging Face Hub."""
    return str(name) in list_inverters() or hub.split_name(name) is not None


def resolve(
    name_or_folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the folder of an inverter, from its path, the name of a pretrained one, or a repository's name.

    A folder comes before a name; a repository is downloaded if it is not in the Hub's cache.

    Args:
        name_or_folder: Folder, name of a pretrained inverter, or ``user/name`` or ``user/name@revision`` on the Hub.
        revision: Branch, tag or commit of the repository.
        cache_dir: Folder of the Hub's cache.

    Raises:
        ValueError: None of them, or a revision of something other than a repository.
        FileFormatError: A repository without the files of an inverter.
        ImportError: A repository's name, but huggingface_hub is not installed.
    """
    path, is_pretrained = Path(name_or_folder), str(name_or_folder) in list_inverters()
    if path.is_dir() or is_pretrained:
        if revision is not None:
            kind = "a folder" if path.is_dir() else "a pretrained inverter"
            raise ValueError(f"revision must be None for {kind}, {name_or_folder}, got {revision!r}")
        return path if path.is_dir() else pretrained_folder(str(name_or_folder))
    if name := hub.split_name(name_or_folder):
        repository, named_revision = name
        if revision is not None and named_revision is not None:
            raise ValueError(f"revision must be None for {name_or_folder}, which contains one, got {revision!r}")
        at = named_revision if revision is None else revision
        return hub.fetch(repository, (CONFIG, WEIGHTS), read_config, revision=at, cache_dir=cache_dir)
    known = ", ".join(list_inverters()) or "none"
    raise ValueError(
        f"{name_or_folder}: neither a folder nor the name of a pretrained inverter ({known}); an inverter on the "
        "Hugging Face Hub is named user/name"
    )


def _weights_folder() -> Path:
    return Path(str(resources.files("preimage") / "inverters" / "weights"))
