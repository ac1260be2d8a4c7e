"""Audit an index of features: how much of the photographs comes back, and what hides it at which cost."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

import preimage
from preimage.facts import describe_spec
from preimage.inverters import Inverter
from preimage.io import atomic_write
from preimage.io.arrays import is_array_file
from preimage.io.locks import temporary_folder
from preimage.keypoints import Keypoints
from preimage.metrics import SMALLEST_FOR_SSIM
from preimage.pipelines.image_loading import Images, Pixels, as_pixels, decodable_listing
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice, named_inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation, create_representation
from preimage.representations.registry import class_of
from preimage.representations.sift import Sift
from preimage.spec import Spec
from preimage.studies.audit_attacker import Attacker, Neighbors, find_neighbors, make_attacker
from preimage.studies.audit_index import LEAST, AuditIndex, open_index, photographs
from preimage.studies.audit_measurement import (
    MEAN_IMAGE,
    NEAREST,
    AuditMeasurement,
    ConditionScore,
    ImageScore,
    Retrieval,
)
from preimage.studies.audit_page import AuditSetting, AuditStudy
from preimage.studies.base import ProgressCounter, SheetRow, StudySummary, check_at_least, study_images
from preimage.studies.inputs import evenly_spaced
from preimage.studies.mitigations import Items, list_mitigations

INVERTER = "inverter"  # folder of the inverter that is trained, in the output folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditSummary(StudySummary):
    """Result of an audit.

    Attributes:
        json: File with all numbers.
        image_csv: Table of the scores of each photograph.
        setting: What was audited, and by whom.
        knowledge: What the attacker has, knows and does not know, by topic.
        scores: Scores of the unchanged features, of the baselines and of the changed features.
        each: Scores of each photograph.
    """

    json: Path
    image_csv: Path
    setting: AuditSetting
    knowledge: dict[str, str]
    scores: tuple[ConditionScore, ...]
    each: tuple[ImageScore, ...]


def audit(
    features: str | PathLike[str],
    images: Images,
    output: str | PathLike[str] = "audit",
    *,
    inverter: InverterChoice = None,
    representation: Representation | str | None = None,
    keys: str | PathLike[str] | None = None,
    database: Images | None = None,
    embedding: Representation | str | None = None,
    minutes: float = 10.0,
    mitigations: bool = True,
    neighbors: int = 10,
    max_images: int = 200,
    size: int | None = None,
    show_count: int = 6,
    tile: int = 192,
    seed: int = 0,
    batch_size: int = 16,
    device: str = "auto",
    csv: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    command: str = "preimage audit",
    progress: Callable[[int, int], None] | None = None,
    status: Callable[[str], None] | None = None,
) -> AuditSummary:
    """Measure how much of photographs comes back from their features, and what hides it at which cost.

    Photographs are reconstructed from the features, and each reconstruction is compared with all of them by matching
    SIFT keypoints. Then the features are changed, and the same is measured again, beside the recall of the nearest
    neighbors that the features are kept for. The inverter is the given one, the pretrained one of the features, or one
    that is trained on half of the photographs to reconstruct the other half.

    Args:
        features: Feature store; ``.npz``, ``.npy``, HDF5 or Parquet file of arrays; flat FAISS index; or keypoints with
            SIFT descriptors in any file that `preimage.read_keypoints` reads.
        images: Path or paths (folders, files, tar shards) of the photographs, or sources; matched by key.
        output: A folder, which is created if it does not exist; files of an earlier audit are replaced.
        inverter: Inverter, its name or folder; ``None`` as described above.
        representation: Representation of features whose file contains no spec, or its name; also for a layer of a
            network, to compute the features of `database`.
        keys: File with the keys of the rows of an array or FAISS index, one per line. ``None`` takes those in the file
            or next to it, or else the keys of the photographs in sorted order.
        database: Other photographs, among which the nearest neighbors are searched; their features are computed.
            ``None`` searches among photographs of `images` that are not audited.
        embedding: Representation, or its name, by which reconstructions from unchanged features are compared with
            photographs too (cosine similarity; maps are averaged over their cells).
        minutes: Training time of the inverter, if one is trained.
        mitigations: Whether changed features are measured.
        neighbors: Number of nearest neighbors whose overlap is the recall.
        max_images: Maximum number of photographs that are reconstructed, drawn by `seed`, at least 4.
        size: Side in pixels of the photographs, for features that do not state it; ``None`` is 256.
        show_count: Number of photographs on the sheet, evenly spaced by their error.
        tile: Side of an image on the sheet in pixels, at least 32.
        seed: Seed of the split, the training, the changes and the intervals.
        batch_size: Number of features inverted at once.
        device: Device of the inverter, see `Reconstructor`.
        csv: File of the table; ``None`` is ``audit.csv`` in `output`.
        skip_bad: Whether photographs that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image under one condition.
        status: Function called with a line about what begins.

    Raises:
        ValueError: Fewer than four photographs have features; a bad one (named), or one with features that are not
            finite; features of several shapes; another inverter; there is no such device, inverter or representation;
            a value is out of range.
        FileFormatError: The features are damaged or in another format.
        ImportError: An optional package for this format is not installed.
    """
    start = time.perf_counter()
    check_at_least(("max_images", max_images, LEAST), ("neighbors", neighbors, 1), ("show_count", show_count, 1))
    check_at_least(("seed", seed, 0), ("batch_size", batch_size, 1), ("size", size or 256, SMALLEST_FOR_SSIM))
    if not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes:g}")
    say = status or (lambda line: None)
    folder = output_folder(output)
    known = create_representation(representation) if isinstance(representation, str) else representation
    compared = create_representation(embedding) if isinstance(embedding, str) else embedding
    chosen = None if inverter is None else named_inverter(inverter)[0]
    listing = study_images(images, skip_bad=skip_bad, least=LEAST)
    other = None if database is None else decodable_listing(database, skip_bad=skip_bad)
    index = open_index(
        features, listing, spec=_spec(features, known, chosen), size=_side(size, known, chosen), keys=keys
    )
    with temporary_folder(folder, ".audit-") as temporary:
        attacker = make_attacker(
            index,
            inverter,
            images,
            temporary,
            minutes=minutes,
            max_images=max_images,
            seed=seed,
            device=device,
            skip_bad=skip_bad,
            status=say,
        )
        if attacker.minutes is not None:
            attacker.inverter.save(folder / INVERTER)
        reconstructor = Reconstructor(None, attacker.inverter, device)
        _check_side(reconstructor, index)
        items = index.items(attacker.audited)
        nearest = find_neighbors(
            index,
            attacker,
            items,
            None if other is None else other.sources,
            temporary,
            representation=known,
            sift=_sift(reconstructor, index),
            device=device,
        )
    say(f"reconstructing {len(attacker.audited)} photographs")
    scores, study = _measured(
        index,
        attacker,
        reconstructor,
        items,
        nearest,
        embedding=compared,
        with_mitigations=mitigations,
        neighbors=neighbors,
        seed=seed,
        batch_size=batch_size,
        show_count=show_count,
        tile=tile,
        progress=progress,
    )
    listings = [listing] if other is None else [listing, other]
    notes = list(index.notes)
    table = None if csv is None else Path(csv)
    written = study.write(folder, start=start, listings=listings, notes=notes, csv=table, command=command)
    summary = AuditSummary(
        **vars(written),
        json=folder / "audit.json",
        image_csv=written.csv.with_name(f"{written.csv.stem}-images{written.csv.suffix}"),
        setting=study.setting,
        knowledge=study.setting.knowledge(),
        scores=scores,
        each=tuple(study.each),
    )
    with atomic_write(summary.json) as file:
        file.write(json.dumps(_as_json(summary, index), indent=1, allow_nan=False).encode())
    return summary


def _spec(
    features: str | PathLike[str], representation: Representation | None, inverter: Inverter | None
) -> Spec | None:
    """Return the spec of features whose file contains none, if it is known."""
    if representation is not None:
        return representation.spec
    return inverter.spec if inverter is not None and is_array_file(features) else None


def _side(size: int | None, representation: Representation | None, inverter: Inverter | None) -> int | None:
    """Return the side of the photographs: the one that inverter or representation require, or else the given one."""
    region = None if inverter is None else inverter.output_region
    only = region.image_size if region is not None else None if representation is None else representation.image_side
    if only is not None and size not in (None, only):
        raise ValueError(f"size must be {only}, the side of the images of these features, got {size}")
    return size if only is None else only


def _check_side(reconstructor: Reconstructor, index: AuditIndex) -> None:
    region = reconstructor.inverter.output_region
    if region is not None and region.image_size != index.side:
        raise ValueError(
            f"{index.path}: its features are of images of {index.side} pixels, and the inverter {reconstructor.name} "
            f"is for images of {region.image_size}: give the right size (--size)"
        )


def _sift(reconstructor: Reconstructor, index: AuditIndex) -> Sift | None:
    if not index.is_keypoints:
        return None
    assert isinstance(reconstructor.representation, Sift)
    return reconstructor.representation


def _measured(
    index: AuditIndex,
    attacker: Attacker,
    reconstructor: Reconstructor,
    items: Items,
    nearest: Neighbors,
    *,
    embedding: Representation | None,
    with_mitigations: bool,
    neighbors: int,
    seed: int,
    batch_size: int,
    show_count: int,
    tile: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[tuple[ConditionScore, ...], AuditStudy]:
    """Return the scores, and the study that presents them."""
    changes = list_mitigations(items, seed) if with_mitigations else []
    sources = [index.sources[row] for row in attacker.audited]
    counter = ProgressCounter(len(sources) * (3 + len(changes)), progress)
    images = photographs(sources, index.side)
    measurement = AuditMeasurement(
        [source.key for source in sources],
        images,
        reconstructor,
        embedding=embedding,
        seed=seed,
        batch_size=batch_size,
        progress=counter.add,
    )
    unchanged, made = measurement.reconstructions(items)
    near = measurement.part(nearest.images)
    mean = measurement.part(nearest.mean[None]).expand(len(sources), -1, -1, -1)
    scores = [
        unchanged,
        measurement.baseline(NEAREST, near, ranked=not nearest.in_gallery),
        measurement.baseline(MEAN_IMAGE, mean, ranked=True),
    ]
    retrieval = Retrieval(items, images, neighbors)
    for change in changes:
        changed = change(items)
        scores.append(measurement.mitigation(change, changed, retrieval.kept(changed)))
    each = measurement.image_scores()
    setting = AuditSetting(
        index=Path(index.path).name,
        features=describe_spec(reconstructor.inverter.spec if index.spec is None else index.spec),
        images=len(sources),
        side=index.side,
        compared=measurement.targets.shape[2],
        inverter=attacker.name,
        minutes=attacker.minutes,
        own=len(attacker.own),
        neighbors_from=nearest.origin,
        retrieval=retrieval.name,
        retrieval_chance=retrieval.chance,
        embedding=None if embedding is None else embedding.name,
        seed=seed,
    )
    rows, drawn = _rows(reconstructor, index, items, measurement, made, near, each, show_count, tile)
    return tuple(scores), AuditStudy(scores, each, setting, rows, drawn=drawn, tile=tile)


def _rows(
    reconstructor: Reconstructor,
    index: AuditIndex,
    items: Items,
    measurement: AuditMeasurement,
    made: torch.Tensor,
    near: torch.Tensor,
    each: Sequence[ImageScore],
    show_count: int,
    tile: int,
) -> tuple[list[SheetRow], bool]:
    """Return the rows of the sheet, and whether they contain drawings of the features."""
    order = np.argsort([one.error for one in each], kind="stable")
    rows, drawn = [], False
    for place in sorted(evenly_spaced(len(order), show_count)):
        number = int(order[place])
        one = each[number]
        match = measurement.keys.index(one.match)
        drawing = _drawing(reconstructor, index, items, number, tile)
        drawn = drawing is not None
        cells = [as_pixels(measurement.targets[number]), *([drawing] if drawing is not None else [])]
        cells += [as_pixels(made[number]), as_pixels(measurement.targets[match]), as_pixels(near[number])]
        which = "right" if one.match == one.key else f"wrong: {one.match}"
        captions = [one.key, *[""] * drawn, f"error {one.error:.2f}", f"{which}, {one.matches} matches"]
        rows.append(SheetRow(one.key, cells, [*captions, f"error {one.nearest_error:.2f}"]))
    return rows, drawn


def _drawing(reconstructor: Reconstructor, index: AuditIndex, items: Items, number: int, tile: int) -> Pixels | None:
    """Return a drawing of the features of an image, if they can be drawn."""
    spec = reconstructor.inverter.spec
    kind = class_of(spec.representation)
    if not kind.drawing:
        return None
    if isinstance(items, Keypoints):
        sift = reconstructor.representation
        assert isinstance(sift, Sift)
        return kind.draw(spec, sift.grid(items[number], (index.side, index.side))[0].numpy(), tile)
    return kind.draw(spec, items[number].numpy(), tile)


def _as_json(summary: AuditSummary, index: AuditIndex) -> dict[str, Any]:
    """Return all numbers, what they were measured with, and what the attacker knew."""
    return {
        "versions": {"preimage": preimage.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "index": index.path,
        "spec": None if index.spec is None else index.spec.to_dict(),
        "attacker": summary.knowledge,
        **{name: dataclasses.asdict(summary)[name] for name in ("setting", "findings", "notes", "scores", "each")},
        "skipped": [list(one) for one in summary.skipped],
        "chance": {"rank1": 1 / summary.setting.images, "rank10": min(1.0, 10 / summary.setting.images)},
    }
