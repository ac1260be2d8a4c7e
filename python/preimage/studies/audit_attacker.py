"""Choose or train the inverter of an audit, and the photographs that the attacker has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from preimage.baselines.nearest import Nearest
from preimage.inverters import Inverter
from preimage.io import FeatureFile, FeatureRecord, ImageSource, KeypointFile
from preimage.keypoints import Keypoints
from preimage.pipelines.extract import extract
from preimage.pipelines.image_loading import Images
from preimage.pipelines.inverter_choice import InverterChoice, fitting_inverter, sift_inverter
from preimage.representations import Representation, representation_from_spec
from preimage.representations.sift import Sift
from preimage.spec import Spec
from preimage.store import FeatureStore, write_features
from preimage.studies.audit_index import AuditIndex, photographs
from preimage.studies.mitigations import Items
from preimage.studies.reidentification import Gallery
from preimage.training.api import Paths, train

_FEWEST_TO_TRAIN = 8  # photographs with features: two are held out for validation, and two are audited
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Attacker:
    """Inverter that reconstructs the photographs, and its origin.

    Attributes:
        inverter: The inverter.
        name: Its name or folder.
        audited: Rows of the index whose photographs are reconstructed.
        own: Other rows of the index: photographs that the attacker has.
        minutes: Minutes of training on `own`; ``None`` for an inverter that existed.
    """

    inverter: Inverter
    name: str
    audited: list[int]
    own: list[int]
    minutes: float | None


def make_attacker(
    index: AuditIndex,
    inverter: InverterChoice,
    images: Images,
    folder: Path,
    *,
    minutes: float,
    max_images: int,
    seed: int,
    device: str,
    skip_bad: bool,
    status: Callable[[str], None],
) -> Attacker:
    """Return the chosen inverter, the pretrained one of the features, or else train one on half of the photographs.

    Args:
        index: The index.
        inverter: Name or folder of an inverter; ``None`` as above.
        images: Photographs as given, of which the training takes those that it needs.
        folder: Folder for the inverter that is trained, and temporary files.
        minutes: Training time.
        max_images: Maximum number of photographs that are audited.
        seed: Seed of the split, and of the training.
        device: Device of the training.
        skip_bad: Whether the training leaves out images that cannot be used.
        status: Function called with a line about what begins.

    Raises:
        ValueError: Too few photographs to train on, or images that are not given by path; another inverter.
    """
    order = np.random.default_rng(seed).permutation(len(index.sources)).tolist()
    try:
        chosen, name = _existing(index, inverter)
    except LookupError:
        if inverter is not None:
            raise
        held_out = min(max_images, len(order) // 2)
        audited = sorted(order[:held_out])
        own = _others(index, audited, sorted(order[held_out:]))
        chosen, name = _train(index, images, audited, own, folder, minutes, seed, device, skip_bad, status)
        return Attacker(chosen, name, audited, own, minutes)
    audited = sorted(order[:max_images])
    return Attacker(chosen, name, audited, _others(index, audited, sorted(order[max_images:])), None)


def _existing(index: AuditIndex, inverter: InverterChoice) -> tuple[Inverter, str]:
    """Return the chosen or the pretrained inverter; ``LookupError`` without either."""
    if index.is_keypoints:
        variant = index.spec.variant if index.spec is not None else _detector(index.file)
        keypoints = index.items([0])
        assert isinstance(keypoints, Keypoints)
        return sift_inverter(inverter, variant, color=keypoints.colors is not None)
    assert index.spec is not None
    return fitting_inverter(inverter, index.spec, index.path)


def _detector(file: FeatureFile | KeypointFile) -> str:
    return "opencv" if isinstance(file, KeypointFile) and file.format == "opencv" else "vlfeat"


def _others(index: AuditIndex, audited: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Return the rows whose photographs are not the same files as audited ones."""
    known = {index.sources[row].sha256() for row in audited} if rows else set()
    return [row for row in rows if index.sources[row].sha256() not in known]


def _train(
    index: AuditIndex,
    images: Images,
    audited: Sequence[int],
    own: Sequence[int],
    folder: Path,
    minutes: float,
    seed: int,
    device: str,
    skip_bad: bool,
    status: Callable[[str], None],
) -> tuple[Inverter, str]:
    """Train on the attacker's photographs and their features."""
    if len(own) + len(audited) < _FEWEST_TO_TRAIN or len(own) < _FEWEST_TO_TRAIN // 2:
        raise ValueError(
            f"there is no pretrained inverter for {index.path}: training one needs at least {_FEWEST_TO_TRAIN} "
            f"different photographs with features, got {len(own) + len(audited)} (or name one, --inverter)"
        )
    paths = _paths(images)
    assert index.spec is not None
    status(f"training an inverter for {minutes:g} minutes on {len(own)} photographs; {len(audited)} are held out")
    write_features(folder / "own.features", index.spec, records(index, own))
    made = train(
        None,
        paths,
        folder / "run",
        features=str(folder / "own.features"),
        allow_missing=True,
        skip_bad=skip_bad,
        preset="auto",
        size=index.side,
        val_count=max(2, min(50, len(own) // 8)),
        max_hours=minutes / 60,
        seed=seed,
        device=device,
    )
    return Inverter.load(made.folder), "trained for this audit"


def _paths(images: Images) -> Paths:
    given = [images] if isinstance(images, str) or hasattr(images, "__fspath__") else list(images)
    if any(isinstance(one, ImageSource) for one in given):
        raise ValueError("images must be paths to train an inverter on them, got image sources (or name an inverter)")
    return [str(one) for one in given]


def records(index: AuditIndex, rows: Sequence[int]) -> Iterator[FeatureRecord]:
    """Yield the features of some rows under the keys of their photographs."""
    size = index.side, index.side
    for row in rows:
        values = index.items([row])
        assert isinstance(values, torch.Tensor)
        yield FeatureRecord(index.sources[row].key, values[0].numpy(), size, size)


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The photograph with the nearest features, for each audited one.

    Attributes:
        images: (N, 3, S, S) uint8, whole photographs.
        mean: (3, S, S) float32 in [0, 1], the mean of the photographs that the neighbors were taken from.
        origin: Where the photographs come from, a noun phrase.
        in_gallery: Whether the neighbors are audited photographs themselves.
    """

    images: torch.Tensor
    mean: torch.Tensor
    origin: str
    in_gallery: bool


def find_neighbors(
    index: AuditIndex,
    attacker: Attacker,
    items: Items,
    database: Sequence[ImageSource] | None,
    folder: Path,
    *,
    representation: Representation | None,
    sift: Sift | None,
    device: str,
) -> Neighbors:
    """Return the nearest neighbors: of a database, of the attacker's photographs, or of the other half.

    Of keypoints, the nearest photograph is the one with the most matches.

    Args:
        index: The index.
        attacker: Which photographs are audited, and which ones the attacker has.
        items: Features or keypoints of the audited photographs.
        database: Other photographs, whose features are computed; ``None`` for those of the index.
        folder: Folder for temporary files.
        representation: Representation of the features, for a database; ``None`` creates it from the spec.
        sift: The representation of keypoints.
        device: Device on which features are computed and compared.

    Raises:
        ValueError: Features of the database that cannot be computed, or a bad image (named).
    """
    sources = [index.sources[row] for row in attacker.audited]
    if database is not None:
        same = {source.sha256() for source in sources}
        others = [source for source in database if source.sha256() not in same]
        if not others:
            raise ValueError("the database must contain photographs that are not audited, got none")
        images = photographs(others, index.side)
        if sift is not None:
            found: Items | FeatureStore = Keypoints.cat([sift.keypoints(batch) for batch in images.split(_BATCH)])
        else:
            assert index.spec is not None
            computed = representation_from_spec(index.spec) if representation is None else representation
            extract(computed, others, folder / "database", size=index.side, device=device)
            found = FeatureStore(folder / "database")
        origin, nearest = "a database of other photographs", _nearest(index.spec, items, others, found, device)
    elif attacker.own:
        others = [index.sources[row] for row in attacker.own]
        images = photographs(others, index.side)
        found = index.items(attacker.own) if sift is not None else _written(index, attacker.own, folder / "own")
        origin, nearest = "other photographs of the index", _nearest(index.spec, items, others, found, device)
    else:
        images = photographs(sources, index.side)
        nearest = [-1] * len(sources)
        rows = np.arange(len(sources))
        for half, other in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
            numbers = [attacker.audited[row] for row in other]
            found = index.items(numbers) if sift is not None else _written(index, numbers, folder / f"half{half[0]}")
            part = _selected(items, half.tolist())
            places = _nearest(index.spec, part, [sources[one] for one in other], found, device)
            for row, place in zip(half, places, strict=True):
                nearest[row] = int(other[place])
        return Neighbors(images[nearest], _mean(images), "the other half of the audited photographs", True)
    return Neighbors(images[nearest], _mean(images), f"{origin} ({len(images):,})", False)


def _written(index: AuditIndex, rows: Sequence[int], path: Path) -> FeatureStore:
    assert index.spec is not None
    write_features(path, index.spec, records(index, rows))
    return FeatureStore(path)


def _selected(items: Items, rows: Sequence[int]) -> Items:
    return items[list(rows)] if isinstance(items, torch.Tensor) else Keypoints.cat([items[row] for row in rows])


def _nearest(
    spec: Spec | None, items: Items, sources: Sequence[ImageSource], found: Items | FeatureStore, device: str
) -> list[int]:
    """Return the number of the nearest source for each item."""
    if isinstance(items, Keypoints):
        assert isinstance(found, Keypoints)
        places: list[int] = Gallery(found).matches(items).argmax(axis=1).tolist()
        return places
    assert isinstance(found, FeatureStore) and spec is not None
    numbers = {source.key: number for number, source in enumerate(sources)}
    nearest = Nearest(found, sources, device=device)
    keys = [key for batch in items.split(_BATCH) for key in nearest.neighbors(batch, spec)[0]]
    return [numbers[key] for key in keys]


def _mean(images: torch.Tensor) -> torch.Tensor:
    return (images.double().mean(dim=0) / 255).float()
