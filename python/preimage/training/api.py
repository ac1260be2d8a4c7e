"""Provide `preimage.train`, with the parameters of the command ``preimage train``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from preimage.representations import Representation, list_representations
from preimage.spec import Scalar
from preimage.training.config import TrainConfig
from preimage.training.display import Display
from preimage.training.trainer import TrainSummary, run

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


def train(
    representation: Representation | str | None,
    images: Paths,
    output: str | PathLike[str],
    *,
    val_images: Paths = (),
    resume: bool = False,
    display: Display | None = None,
    **settings: Any,
) -> TrainSummary:
    """Train an inverter on photographs, validate it on held-out ones, and save it in `output`.

    Args:
        representation: The representation to invert, or its name; ``None`` with user-provided ``features=...``.
        images: A path or paths (folders, image files, tar shards) to train on.
        output: Folder of the run, from which `preimage.load_inverter` loads the inverter.
        val_images: A path or paths of validation images; by default some of `images` are held out.
        resume: Resume from the folder's checkpoint, if it has one.
        display: Shows progress, for example ``preimage.training.LineDisplay()``; ``None`` shows nothing.
        settings: The other options of ``preimage train``, such as ``steps=20_000``, ``preset="wide"`` and
            ``device="auto"``: all fields of `preimage.training.TrainConfig`, with the same defaults.

    Returns:
        Errors and times of the run.

    Raises:
        TypeError: A setting has an unknown name.
        ValueError: A setting has an invalid value, or any of `preimage.training.run`, which raises other errors too.

    Example:
        >>> preimage.train("hog", "photos/", "runs/mine", steps=20_000).error
    """
    named = {"representation", "parameters", "images", "output", "val_images"}
    known = {field.name for field in dataclasses.fields(TrainConfig)} - named
    if unknown := sorted(set(settings) - known):
        raise TypeError(f"train() has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    instance = representation if isinstance(representation, Representation) else None
    if instance is not None:
        settings["parameters"] = _parameters(instance)
    config = TrainConfig(
        representation=representation.name if isinstance(representation, Representation) else representation,
        images=_as_strings(images),
        output=fspath(output),
        val_images=_as_strings(val_images),
        **settings,
    )
    return run(config, representation=instance, resume=resume, display=display)


def _parameters(representation: Representation) -> dict[str, Scalar]:
    """Return the parameters that differ from the defaults, of a representation that can be created by name."""
    if representation.name not in list_representations():
        return {}
    defaults = {known.name: known.default for known in representation.parameters()}
    values = {name: getattr(representation, name) for name in defaults}
    return {name: value for name, value in values.items() if value != defaults[name]}


def _as_strings(paths: Paths) -> tuple[str, ...]:
    return (fspath(paths),) if isinstance(paths, str | PathLike) else tuple(fspath(path) for path in paths)
