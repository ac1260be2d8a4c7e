"""Compare inverters with other methods of turning features into images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from preimage.baselines.base import Baseline
from preimage.inverters import resolve_device
from preimage.io import ImageSource, Listing
from preimage.io.locks import temporary_folder
from preimage.pipelines.image_loading import Images, at_once, batches, decodable_listing, working_bytes
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice
from preimage.representations import Representation
from preimage.studies.base import ProgressCounter, StudySummary, check_at_least, further_table, study_images
from preimage.studies.compare_measurement import Measurement, View
from preimage.studies.compare_methods import Method, Photographs, create_methods
from preimage.studies.compare_report import CompareStudy, MethodScore, Setting
from preimage.studies.formatting import listed
from preimage.studies.inputs import evenly_spaced
from preimage.viz.sheets import SMALLEST_TILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareSummary(StudySummary):
    """Result of a comparison of methods.

    Attributes:
        image_csv: Table of the scores of each image.
        setting: What the methods have in common.
        scores: Scores of every method, in the order given.
        learned: Files of learned methods, for ``NAME=FILE`` in another comparison.
    """

    image_csv: Path
    setting: Setting
    scores: tuple[MethodScore, ...]
    learned: tuple[Path, ...]


def compare(
    images: Images,
    output: str | PathLike[str],
    *,
    representation: Representation | str | None = None,
    methods: Sequence[str | Baseline] = ("ours", "nearest", "mean"),
    inverter: InverterChoice = None,
    database: Images | None = None,
    size: int | None = None,
    seed: int = 0,
    show_count: int = 5,
    tile: int = 192,
    batch_size: int = 16,
    device: str = "auto",
    csv: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    command: str = "preimage compare",
    progress: Callable[[int, int], None] | None = None,
    status: Callable[[str], None] | None = None,
) -> CompareSummary:
    """Invert the features of photographs by several methods, and measure and show the reconstructions.

    All methods get the same features, and their images are compared with the same part of the photographs, at the same
    size. Images are kept in memory in float16 (0.5 MB for 256² pixels with their luminance) for the normalized error;
    reconstructions are not.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images, and at least four if a
            method learns without `database`.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        representation: Representation, or its name; ``None`` is that of `inverter`, or HOG.
        methods: Methods in the order of the columns, by name or as baselines. ``"ours"`` is the inverter,
            ``"gradient"`` or ``"gradient=STEPS"`` gradient descent, ``"dictionary"`` a paired dictionary (HOG),
            ``"patches"`` patches of photographs (sparse SIFT), ``"nearest"`` the photograph with the nearest features,
            ``"mean"`` the mean of photographs. ``"dictionary=FILE"`` and ``"patches=FILE"`` were learned before.
            ``"paper=FOLDER"`` and ``"autoencoder=FOLDER"`` are training runs of these networks, and
            ``"NAME=FOLDER"`` is any other inverter of these features.
        inverter: Inverter of the method ``"ours"``, its name or folder; ``None`` is the pretrained one.
        database: Photographs that the methods ``dictionary``, ``patches``, ``nearest`` and ``mean`` learn from, none of
            which may be among `images`. ``None`` inverts each half of `images` with what was learned from the other.
        size: Side in pixels to which images are resized and center-cropped, at least 11; ``None`` is the
            representation's only size, or 256.
        seed: Seed of the methods and of the bootstrap resamples.
        show_count: Number of photographs on the sheet, evenly spaced over all of them.
        tile: Side of an image on the sheet in pixels, at least 32.
        batch_size: Number of images that a method inverts at once.
        device: Device of the methods and, where possible, of the representation, see `Reconstructor`.
        csv: File of the table; ``None`` is ``compare.csv`` in `output`. The scores of each image are written to a file
            of this name with ``-images`` at its end.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image by one method, or a
            photograph that a method learns from.
        status: Function called with a line when a method begins to learn, and after its first batch with the time that
            it will take for all images, if that is long.

    Raises:
        ValueError: There are too few images, only equal ones, a bad one (named), or some that methods also learn from;
            a method is unknown, given twice, or does not invert these features; its images, or the features of an
            image or of a reconstruction, contain NaN or infinite values; there is an inverter or a database that no
            method uses; there is no such device or inverter; a value is out of range.
        LookupError: There is no pretrained inverter for the method ``"ours"``.
    """
    start = time.perf_counter()
    check_at_least(("tile", tile, SMALLEST_TILE), ("show_count", show_count, 1))
    check_at_least(("batch_size", batch_size, 1), ("seed", seed, 0))
    resolve_device(device)  # raises for an unknown one
    chosen = [methods] if isinstance(methods, str) else methods
    compared, found = create_methods(chosen, representation, inverter, seed=seed, device=device)
    if database is not None and all(method.learn is None for method in found):
        names = ", ".join(method.name for method in found)
        raise ValueError(f"a database is given, but no method learns from photographs: {names}")
    view = View(compared, found, size)
    folder = output_folder(output)
    listing = study_images(images, skip_bad=skip_bad)
    other = None if database is None else decodable_listing(database, skip_bad=skip_bad)
    folds = _folds(listing, other, found)
    count = len(listing.sources)
    learning = [method for method in found if method.learn is not None]
    steps = ProgressCounter(count * len(found) + sum(len(fold.learned) for fold in folds) * len(learning), progress)
    shown = evenly_spaced(count, show_count)
    together = at_once(working_bytes(compared, view.side, view.side, inverted=True), batch_size)
    measurement = Measurement(
        *(compared, found, view),
        count=count,
        shown=shown,
        tile=tile,
        device=device,
        steps=steps,
        status=status or (lambda line: None),
    )
    learned: list[Path] = []
    with temporary_folder(folder, ".features-") as temporary:
        for number, fold in enumerate(folds):
            photographs = Photographs(
                sources=fold.learned,
                representation=compared,
                side=view.side,
                folder=temporary / str(number),
                seed=seed,
                device=device,
            )
            baselines: list[Baseline] = []
            for which, method in enumerate(found):
                baselines.append(measurement.learn(which, photographs))
                if database is not None and method.saved:  # before anything else can fail
                    baselines[-1].save(folder / method.saved)  # type: ignore[attr-defined] # only such have a file
                    learned.append(folder / method.saved)
            sources = [listing.sources[position] for position in fold.positions]
            first = 0
            for keys, originals in batches(sources, view.side, together):
                positions = fold.positions[first : first + len(keys)]
                measurement.add(keys, originals, positions, baselines)
                first += len(keys)
            baselines.clear()  # they map files of the temporary folder
    scores = measurement.scores(seed)
    setting = Setting(
        representation=compared.title or compared.name,
        side=view.side,
        crop=view.region.crop,
        size=view.region.size,
        batch_size=min(together, max(len(fold.positions) for fold in folds)),
        mean_image_error=measurement.mean_image_error(),
        learned_from=_learned_from(scores, None if other is None else len(other.sources)),
    )
    study = CompareStudy(scores, setting, measurement.rows(), drawn=measurement.drawn, tile=tile)
    table = folder / f"{study.name}.csv" if csv is None else Path(csv)
    listings = [listing] if other is None else [listing, other]
    written = study.write(folder, start=start, listings=listings, notes=measurement.notes(), csv=table, command=command)
    return CompareSummary(
        **vars(written),
        image_csv=further_table(table, "images"),
        setting=setting,
        scores=scores,
        learned=tuple(learned),
    )


class _Fold(NamedTuple):
    """Positions of images that are inverted, and the photographs that methods learn from for them."""

    positions: list[int]
    learned: list[ImageSource]


def _folds(listing: Listing, database: Listing | None, methods: Sequence[Method]) -> list[_Fold]:
    """Return one fold, or the two halves; ``ValueError`` if a photograph would be both inverted and learned from."""
    sources = listing.sources
    everything = list(range(len(sources)))
    learning = [method.name for method in methods if method.learn is not None]
    if not learning:
        return [_Fold(everything, [])]
    if database is not None:
        folds = [_Fold(everything, database.sources)]
    else:
        if len(sources) < 4:
            raise ValueError(
                f"{', '.join(learning)} learn from one half of the images for the other, which takes at least four "
                f"images, got {len(sources)}: add images, or photographs to learn from (--database PHOTOS)"
            )
        halves = everything[::2], everything[1::2]
        folds = [
            _Fold(half, [sources[position] for position in other])
            for half, other in ((halves[0], halves[1]), (halves[1], halves[0]))
        ]
    known = {source.sha256(): source.name for source in folds[0].learned}
    both = [(sources[position].name, known.get(sources[position].sha256())) for position in folds[0].positions]
    if equal := [(name, twin) for name, twin in both if twin is not None]:
        where = "the database" if database is not None else "the other half of the images, which methods learn from"
        raise ValueError(
            f"{len(equal)} of {len(both)} images are also in {where}: {equal[0][0]} is the same file as {equal[0][1]}"
        )
    return folds


def _learned_from(scores: Sequence[MethodScore], photographs: int | None) -> str:
    """Return a sentence about what methods learned from: photographs of a database, or halves of the compared ones."""
    titles = [score.title for score in scores if score.learning_seconds is not None]
    if not titles:
        return ""
    if photographs is None:
        return f"Learned from one half of the photographs for the other half: {listed(titles)}."
    return f"Learned from {photographs:,} other photographs: {listed(titles)}."
