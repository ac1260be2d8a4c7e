"""Open the sources of a report: inverters, training runs and feature stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from preimage.inspection import info
from preimage.inverters import Inverter
from preimage.io import ImageSource, find_images
from preimage.representations import Representation
from preimage.store import FeatureStore
from preimage.studies.layers_rows import Networks, rows_for
from preimage.training.checkpoint import CHECKPOINT, read_header, read_images
from preimage.training.images import inspect
from preimage.training.split import image_digest


@dataclasses.dataclass(frozen=True)
class InverterSource:
    """An inverter, or a training run.

    Attributes:
        name: Name on the page.
        path: Name or folder as given.
        folder: Folder of its files.
        facts: Facts of `preimage.info`.
        inverter: The inverter.
        representation: Representation that computes its features; ``None`` if it cannot be created.
        problem: Reason why there is no representation; else empty.
    """

    name: str
    path: str
    folder: Path
    facts: dict[str, Any]
    inverter: Inverter
    representation: Representation | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class StoreSource:
    """A feature store.

    Attributes:
        name: Name on the page.
        path: Path as given.
        facts: Facts of `preimage.info`.
        store: The store.
    """

    name: str
    path: str
    facts: dict[str, Any]
    store: FeatureStore


Source = InverterSource | StoreSource


def open_source(path: str | PathLike[str], network: Networks = ()) -> Source:
    """Open an inverter, a training run or a feature store.

    Args:
        path: Folder or name of an inverter, folder of a run, or feature store.
        network: Networks of inverters whose representation cannot be created by name.

    Raises:
        ValueError: A file or folder of another kind, a store without images.
        FileFormatError: A damaged file.
        FileNotFoundError: There is no such source.
    """
    facts = info(path)
    name = fspath(path)
    if facts["kind"] == "inverter":
        inverter = Inverter.load(facts["path"])
        try:
            representation = rows_for(inverter, network)[0].representation
        except (ValueError, OSError, ImportError) as error:
            return InverterSource(name, name, facts["path"], facts, inverter, None, " ".join(str(error).split()))
        return InverterSource(name, name, facts["path"], facts, inverter, representation)
    if facts["kind"] != "feature store":
        raise ValueError(
            f"{path}: is {_article(facts['kind'])}, but a report is about an inverter, a training run or a finished "
            "feature store"
        )
    store = FeatureStore(path)
    if not len(store):
        raise ValueError(f"{path}: contains no images: there is nothing to report")
    return StoreSource(name, name, facts, store)


def labeled(sources: Sequence[Source]) -> list[Source]:
    """Return the sources with their last folder as their name, where it is not that of two of them."""
    names = [Path(source.path).name or source.path for source in sources]
    unique = [name if names.count(name) == 1 else source.path for name, source in zip(names, sources, strict=True)]
    return [dataclasses.replace(source, name=name) for source, name in zip(sources, unique, strict=True)]


def _article(kind: str) -> str:
    plural = kind.startswith(("arrays", "weights"))
    return kind if plural else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def validation_images(folder: Path) -> list[ImageSource]:
    """Return the validation images of a training run, in the order of the run.

    Raises:
        LookupError: They are not known or cannot be used any more; the message is a clause that says why.
        FileFormatError: The checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise LookupError("no images were given, and the folder has no checkpoint, which names validation images")
    config, _ = read_header(path)
    if config.features is not None:
        raise LookupError("no images were given, and user-provided features cannot be recomputed from images")
    places = config.val_images or config.images
    try:
        found = {source.key: source for source in find_images(places, skip_bad=True).sources}
    except (OSError, ValueError) as error:
        raise LookupError(f"no images were given, and the run's are not there ({error})") from error
    known = read_images(path).val
    if missing := [key for key in known if key not in found]:
        raise LookupError(
            f"no images were given, and {len(missing)} of the run's {len(known)} validation images are missing, first "
            f"{missing[0]!r}"
        )
    sources = [found[key] for key in known]
    now = inspect(sources, lambda sentence: None)
    for key, digest, image in zip(known, known.values(), now, strict=True):
        if image.problem or image.digest != image_digest(digest):
            raise LookupError(f"no images were given, and the run's validation image {key!r} has changed")
    return sources
