"""Report on a feature store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from preimage.facts import fact_text
from preimage.inverters import Inverter
from preimage.io import ImageSource, decode_image, resize_and_center_crop
from preimage.metrics import SMALLEST_FOR_SSIM, Originals
from preimage.pipelines.evaluate import ImageScore, Scores
from preimage.pipelines.image_loading import Pixels, as_batch, as_pixels, at_once, in_windows, inverting_bytes
from preimage.pipelines.inverter_choice import fitting_inverter
from preimage.pipelines.reconstruct import Comparison as Batch
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sheet import title_of
from preimage.reports.about_inverter import features_name, score_numbers, score_table
from preimage.reports.options import STEPS, Options, Part, ReportScore, left_out
from preimage.reports.pictures import (
    DRAWING_SIDE,
    Picture,
    drawing_figure,
    ranked_sections,
    reconstruction_figure,
)
from preimage.reports.sources import StoreSource
from preimage.representations.registry import class_of
from preimage.store import FeatureStore
from preimage.studies.base import ProgressCounter
from preimage.studies.bootstrap import bootstrap_interval
from preimage.studies.formatting import listed
from preimage.studies.inputs import evenly_spaced
from preimage.studies.published import Published, published
from preimage.viz.html import Comparison, Figure, Section, Table

_MOST_NAMED = 3  # images that are left out
_MOST_READ = 1000  # images whose features are read for the statistics
_FACTS = {  # facts of `preimage.info`, with their labels
    "spec": "Spec",
    "images": "Images",
    "sizes": "Height × width, pixels",
    "different_sizes": "Different sizes",
    "first_keys": "First keys",
    "kind": "Kind of file",
    "shards": "Shards",
    "dtype": "Stored as",
    "bytes": "Size on disk",
    "checksum": "Checksum",
}


def store_part(source: StoreSource, options: Options, steps: ProgressCounter) -> Part:
    """Return the part of a report about a feature store, see `preimage.report`."""
    store, notes = source.store, list[str]()
    spec = store.spec
    score = ReportScore(source=source.path, representation=features_name(spec), inverter="", images=len(store))
    facts = list(_facts(source))
    sections = [Section("Features", terms=facts, kind="subsection"), _statistics(store)]
    steps.add(1)
    heading = Section(source.name, kind="part")
    found = _inverter(source, options, notes)
    if found is not None:
        inverter, name = found
        reconstructor = Reconstructor(None, inverter, options.device)
        measured = _measured(reconstructor, store, options, notes)
        steps.add(2)
        text = f"Reconstructed by {name}."
        if measured is None:
            shown = sorted(evenly_spaced(len(store), options.show_count))
            sections += _without_photographs(reconstructor, store, shown, text, notes)
            score = dataclasses.replace(score, inverter=name)
        else:
            score = _score(score, name, measured, published(spec), options.seed)
            heading = Section(source.name, numbers=score_numbers(score), kind="part")
            text += f" Measured on {score.images:,} of the {len(store):,} images, whose photographs were given."
            sections.append(Section("Errors", text=[text], tables=[score_table(score, spec)], kind="subsection"))

            def pictures(which: list[int]) -> Iterator[Picture]:
                return _pictures(reconstructor, store, measured, which)

            sections += ranked_sections(measured.scores, options.show_count, spec, pictures)
        steps.add(STEPS - 3)
    else:
        steps.add(STEPS - 1)
    if not any(inverter.spec == spec for inverter in options.inverters.values()):
        notes.append("Training, samples and the parts of the error belong to an inverter: name it among the sources.")
    sections += left_out(notes)
    lead = f"What a feature store of {title_of(spec)} contains, and what can be reconstructed from it."
    return Part(name=source.name, score=score, lead=lead, sections=(heading, *sections), notes=tuple(notes))


def _facts(source: StoreSource) -> Iterator[tuple[str, str]]:
    for name, label in _FACTS.items():
        if source.facts[name] is not None and (name, source.facts[name]) != ("different_sizes", 1):
            yield label, fact_text(name, source.facts[name]).replace("`", "")


def _statistics(store: FeatureStore) -> Section:
    """Return the section about the values of the features, of at most `_MOST_READ` evenly spaced images."""
    read = sorted(evenly_spaced(len(store), _MOST_READ))
    count = zeros = unusable = 0
    total = squares = 0.0
    least, most = np.inf, -np.inf
    norms: list[float] = []
    shapes: list[tuple[int, ...]] = []
    for index in read:
        features = store[index]
        shapes.append(tuple(features.shape))
        values = np.asarray(features, np.float64).ravel()
        finite = values[np.isfinite(values)]
        unusable += values.size - finite.size
        count += finite.size
        zeros += int((finite == 0).sum())
        total += float(finite.sum())
        squares += float(np.square(finite).sum())
        norms.append(float(np.sqrt(np.square(finite).sum())))
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
    if not count:
        return Section("Statistics", text=["All features are NaN or infinite."], kind="subsection")
    mean = total / count
    rows = [
        ["mean", f"{mean:.4g}"],
        ["standard deviation", f"{max(0.0, squares / count - mean * mean) ** 0.5:.4g}"],
        ["smallest", f"{least:.4g}"],
        ["largest", f"{most:.4g}"],
        ["zeros", f"{100 * zeros / count:.1f} %"],
        ["NaN or infinite", f"{unusable:,}"],
        ["Euclidean norm of an image's features, mean", f"{np.mean(norms):.4g}"],
        ["Euclidean norm of an image's features, range", f"{min(norms):.4g} to {max(norms):.4g}"],
    ]
    different = len(set(shapes))
    several = "" if different == 1 else f", of {different} different shapes"
    text = f"Of {len(read):,} images{several}, the first {' × '.join(map(str, shapes[0]))} numbers."
    return Section("Statistics", text=[text], tables=[Table("", ["statistic", "value"], rows)], kind="subsection")


def _inverter(source: StoreSource, options: Options, notes: list[str]) -> tuple[Inverter, str] | None:
    """Return the inverter of the features and its name; ``None`` without one, with a note in `notes`."""
    for name, inverter in options.inverters.items():
        if inverter.spec == source.store.spec:
            return inverter, name
    try:
        return fitting_inverter(None, source.store.spec, source.name)
    except LookupError as error:
        notes.append(f"Reconstructions are left out: {error}. An inverter among the sources of the report is used.")
        return None


class _Measured(NamedTuple):
    """Scores of a store's images, with their positions in the store and the photographs."""

    scores: Sequence[ImageScore]
    positions: list[int]
    photographs: list[ImageSource]
    mean_image_error: float


def _measured(
    reconstructor: Reconstructor, store: FeatureStore, options: Options, notes: list[str]
) -> _Measured | None:
    """Return the scores of the images that are given; ``None`` if there are too few, with a note in `notes`."""
    if options.images is None:
        notes.append("Errors are left out: the photographs were not given.")
        return None
    given = {source.key: source for source in options.images}
    pairs = [(index, given[key]) for index, key in enumerate(store) if key in given]
    sizes = {tuple(store.processed_sizes[index].tolist()) for index, _ in pairs}
    problem = ""
    region = reconstructor.inverter.output_region
    if len(pairs) < 2:
        problem = f"{len(pairs)} of the {len(given):,} images have a key of the store, and at least two are needed"
    elif len(sizes) > 1:
        problem = f"the features are of images of {len(sizes)} different sizes, and the normalized error needs one"
    elif min(region.size if region is not None else SMALLEST_FOR_SSIM, *next(iter(sizes))) < SMALLEST_FOR_SSIM:
        problem = f"SSIM needs images of at least {SMALLEST_FOR_SSIM} pixels"
    if problem:
        notes.append(f"Errors are left out: {problem}.")
        return None
    originals = Originals()
    scores = Scores(originals)
    kept: list[tuple[int, ImageSource]] = []
    height, width = next(iter(sizes))
    together = at_once(inverting_bytes(height, width), options.batch_size)
    for window in in_windows(pairs, together):
        loaded = [(pair, pixels) for pair in window if (pixels := _photograph(store, *pair)) is not None]
        usable = [(pair, pixels) for pair, pixels in loaded if np.isfinite(store[pair[0]]).all()]
        if usable:
            indices = [index for (index, _), _ in usable]
            batch = _inverted(reconstructor, store, indices, [pixels for _, pixels in usable])
            originals.add(batch.target)
            scores.add([store.key(index) for index in indices], batch.target, batch.reconstruction)
            kept += [pair for pair, _ in usable]
    if lost := len(pairs) - len(kept):
        notes.append(
            f"{lost} of {len(pairs)} photographs are left out: they have another size than the images of the features, "
            "or their features are not finite."
        )
    if not originals.differ():
        notes.append(f"Errors are left out: {len(kept)} photographs fit the features, and two that differ are needed.")
        return None
    report, each = scores.report()
    return _Measured(each, [index for index, _ in kept], [source for _, source in kept], report.mean_image)


def _photograph(store: FeatureStore, index: int, source: ImageSource) -> Pixels | None:
    """Return a photograph as the features were computed from it; ``None`` if it cannot be the same image."""
    pixels = decode_image(source.read(), name=source.name)
    if pixels.shape[:2] != tuple(store.original_sizes[index].tolist()):
        return None
    height, width = store.processed_sizes[index].tolist()
    if pixels.shape[:2] != (height, width):
        if height != width:
            return None
        pixels = resize_and_center_crop(pixels, height)
    return pixels


def _inverted(
    reconstructor: Reconstructor, store: FeatureStore, indices: Sequence[int], photographs: Sequence[Pixels]
) -> Batch:
    features = torch.from_numpy(np.stack([np.asarray(store[index], np.float32) for index in indices]))
    return reconstructor.compare(as_batch(photographs), features)


def _pictures(
    reconstructor: Reconstructor, store: FeatureStore, measured: _Measured, which: Sequence[int]
) -> Iterator[Picture]:
    kind = class_of(store.spec.representation)
    for one in which:
        index, source = measured.positions[one], measured.photographs[one]
        pixels = _photograph(store, index, source)
        assert pixels is not None  # or it would not have been measured
        batch = _inverted(reconstructor, store, [index], [pixels])
        drawing = kind.draw(store.spec, np.asarray(store[index], np.float32), DRAWING_SIDE, pixels)
        yield Picture(as_pixels(batch.target)[0], drawing, as_pixels(batch.reconstruction)[0])


def _without_photographs(
    reconstructor: Reconstructor, store: FeatureStore, shown: Sequence[int], text: str, notes: list[str]
) -> Iterator[Section]:
    """Yield the section with reconstructions beside the drawings of the features, if they can be drawn.

    Images that are left out, because their features are not finite, are named in `notes`.
    """
    kind, spec = class_of(store.spec.representation), store.spec
    rows, figures = [], []
    unusable: list[str] = []
    for index in shown:
        features = np.asarray(store[index], np.float32)
        if not np.isfinite(features).all():
            unusable.append(store.key(index))
            continue
        height, width = store.processed_sizes[index].tolist()
        whole = None if reconstructor.inverter.output_region is not None else (height, width)
        key = store.key(index)
        made = reconstruction_figure(key, as_pixels(torch.from_numpy(reconstructor.invert(features, whole))), spec)
        drawing = kind.draw(spec, features, DRAWING_SIDE)
        if drawing is None:
            figures.append(Figure(made.image, key, made.alt))
        else:
            rows.append(Comparison(drawing_figure(key, drawing, spec), made, title=key, slider=False))
    if unusable:
        notes.append(
            f"Reconstructions of {len(unusable)} of {len(shown)} images are left out, because their features contain "
            f"NaN or infinite values: {listed([repr(key) for key in unusable[:_MOST_NAMED]])}"
            f"{', …' if len(unusable) > _MOST_NAMED else ''}."
        )
    if rows or figures:
        yield Section("Reconstructions", figures, text=[text], comparisons=rows, kind="subsection")


def _score(score: ReportScore, inverter: str, measured: _Measured, paper: Published | None, seed: int) -> ReportScore:
    each = measured.scores
    return dataclasses.replace(
        score,
        inverter=inverter,
        images=len(each),
        error=bootstrap_interval([one.error for one in each], seed=seed),
        mean_image_error=measured.mean_image_error,
        psnr=float(np.mean([one.psnr for one in each])),
        ssim=float(np.mean([one.ssim for one in each])),
        published=None if paper is None else paper.error,
    )
