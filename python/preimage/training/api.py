"""`preimage.train`: a training run with the parameters of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from preimage.representations import Representation, list_representations
from preimage.spec import Scalar
from preimage.training.config import TrainConfig
from preimage.training.display import Display
from preimage.training.trainer import TrainSummary
from preimage.training.trainer import train as _train

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
    """Train an inverter on a folder of photographs, validate it on held-out images, and leave it in `output`.

    Args:
        representation: what to invert, or its name; ``None`` with ``features=...``, which are your own.
        images: a path or paths (folders, image files, tar shards) to train on.
        output: the run's folder; `preimage.Inverter.load` takes it.
        val_images: a path or paths of held-out images; by default some of `images`.
        resume: go on from the folder's checkpoint, if it has one.
        display: where progress goes; ``preimage.training.LineDisplay()`` prints lines. None by default.
        settings: the other options of ``preimage train``, such as ``steps=20_000``, ``preset="compact"`` and
            ``device="auto"``: all fields of `preimage.training.TrainConfig`, with the same defaults.

    Raises:
        TypeError: a setting that there is not.
        ValueError: a setting out of its range, or any of `preimage.training.train`, which raises more.

    Example:
        >>> preimage.train("hog", "photos/", "runs/mine", steps=20_000).error
    """
    given = None
    if isinstance(representation, Representation):
        given, representation = representation, representation.name
        settings["parameters"] = _parameters(given)
    config = TrainConfig(
        representation=representation,
        images=_as_strings(images),
        output=fspath(output),
        val_images=_as_strings(val_images),
        **settings,
    )
    return _train(config, representation=given, resume=resume, display=display)


def _parameters(representation: Representation) -> dict[str, Scalar]:
    """Return the parameters that are not the defaults, of a representation that has a name of its own."""
    if representation.name not in list_representations():
        return {}
    defaults = {known.name: known.default for known in representation.parameters()}
    values = {name: getattr(representation, name) for name in defaults}
    return {name: value for name, value in values.items() if value != defaults[name]}


def _as_strings(paths: Paths) -> tuple[str, ...]:
    return (fspath(paths),) if isinstance(paths, str | PathLike) else tuple(fspath(path) for path in paths)
