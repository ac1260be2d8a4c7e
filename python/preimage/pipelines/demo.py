"""Reconstruct photographs from every representation, and write a sheet and an HTML page."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from preimage.io import ImageSource, atomic_write, decode_file, write_png
from preimage.metrics import SMALLEST_FOR_SSIM
from preimage.optional import OPTIONAL
from preimage.pipelines.evaluate import ImageScore, Scores
from preimage.pipelines.extract import extract
from preimage.pipelines.image_loading import Images, Pixels, as_batch, as_sources, load
from preimage.pipelines.image_writer import deviation_name, output_folder, sample_name
from preimage.pipelines.invert import invert
from preimage.pipelines.inverter_choice import InverterChoices, pairings, pretrained_representations
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sampling import from_gray_levels
from preimage.pipelines.sheet import SheetRow, draw, sample_titles, title_of
from preimage.representations import Representation, representation_from_spec
from preimage.representations.registry import class_of
from preimage.spec import Spec
from preimage.store import FeatureStore
from preimage.viz.deviation_map import MEANING, TITLE, draw_deviation, draw_scale
from preimage.viz.html import Figure, Section, Table, html_page
from preimage.viz.sheets import fit_into


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """The reconstructions from one representation.

    Attributes:
        spec: Spec of the features.
        features: Feature store from which the photographs were reconstructed.
        shape: (C, h, w) or (C,) of the features of a photograph.
        reconstructions: Folder of the reconstructions, a PNG for each photograph.
        inverter: Name or folder of the inverter.
        error: Normalized reconstruction error over the photographs.
        scores: One for each photograph.
        samples: Number of samples of each photograph beside its reconstruction; 0 if the inverter cannot sample.
    """

    spec: Spec
    features: Path
    shape: tuple[int, ...]
    reconstructions: Path
    inverter: str
    error: float
    scores: tuple[ImageScore, ...]
    samples: int = 0


@dataclasses.dataclass(frozen=True)
class DemoSummary:
    """The result of `demo`.

    Attributes:
        sheet: PNG of all photographs with their features and reconstructions.
        page: Self-contained HTML page with the same images and the errors.
        images: Number of photographs.
        mean_image_error: Normalized error of reconstructing every photograph as their mean image.
        seconds: Wall time.
        results: One for each representation.
    """

    sheet: Path
    page: Path
    images: int
    mean_image_error: float
    seconds: float
    results: tuple[DemoResult, ...]


def demo_page(
    summary: DemoSummary, photographs: Sequence[SheetRow], sizes: Sequence[int], command: str, credit: str = ""
) -> str:
    """Return the page as HTML.

    Args:
        summary: Summary of the demonstration.
        photographs: Rows of the sheet, in the order of the scores.
        sizes: Side of the photographs for each representation, pixels.
        command: Command line to show on the page.
        credit: Source of the photographs, a sentence.
    """
    names = [title_of(result.spec) for result in summary.results]
    several = len(names) > 1
    size = " or ".join(f"{side} × {side}" for side in sorted(set(sizes)))
    colors = any(class_of(result.spec.representation).keeps_color for result in summary.results)
    blind = "" if colors else ", which keep no color"
    which = "The lower row was" if several else "The images on the right were"
    return html_page(
        title=f"Photographs from their {_enumerated(names)} features",
        lead=(
            f"Each photograph ({size} pixels) was reduced to the numbers described below{blind}, and then discarded. "
            f"{which} reconstructed from those numbers alone, each in one pass of a network; colors and brightness are "
            "its best guess."
        ),
        terms=[(name, _explained(result)) for name, result in zip(names, summary.results, strict=True)],
        sections=[
            *(_section(summary, row, index) for index, row in enumerate(photographs)),
            *(
                _samples_section(result, names[which], photographs, which)
                for which, result in enumerate(summary.results)
                if result.samples
            ),
        ],
        tables=_tables(summary, photographs, names),
        command=command,
        footer=(
            "Normalized error: Euclidean distance between photograph and reconstruction, divided by the average "
            f"distance between two of the photographs. Inverters: {', '.join(r.inverter for r in summary.results)}. "
            + credit
        ),
    )


def _explained(result: DemoResult) -> str:
    """Return a sentence about the information in the features of an image."""
    sentence = class_of(result.spec.representation).explain(result.spec, result.shape)
    return sentence[0].upper() + sentence[1:]


def _section(summary: DemoSummary, row: SheetRow, index: int) -> Section:
    title = row.key.replace("_", " ").capitalize()
    photograph = Figure(row.pixels, "Photograph", f"{row.key}, the photograph")
    errors = [result.scores[index].error for result in summary.results]
    columns = [
        list(_features_and_reconstruction(row, which, result.spec, f"error {error:.2f}"))
        for which, (result, error) in enumerate(zip(summary.results, errors, strict=True))
    ]
    if len(columns) > 1:
        return Section(title, columns=[[photograph], *columns])
    return Section(title, [photograph, *columns[0]])


def _features_and_reconstruction(row: SheetRow, which: int, spec: Spec, error: str) -> Iterator[Figure]:
    name, drawn, returned = title_of(spec), row.drawings[which], row.reconstructions[which]
    if drawn is not None:
        how = class_of(spec.representation).drawing
        yield Figure(drawn, f"{name} features", f"{row.key}, its {name} features, drawn as {how}")
    if returned is not None:
        yield Figure(returned, f"From {name}: {error}", f"{row.key}, reconstructed from its {name} features")


def _samples_section(result: DemoResult, name: str, photographs: Sequence[SheetRow], which: int) -> Section:
    """Return reconstructions, samples and the map of their deviation, a row for each photograph."""
    columns: list[list[Figure]] = [[] for _ in range(_SHOWN + 2)]
    titles = ["From the features", *sample_titles(_SHOWN)]
    for row in photographs:
        images = [row.reconstructions[which], *row.samples[which]]
        for column, image, title in zip(columns, images, titles, strict=True):
            assert image is not None
            small = fit_into(image, min(_SAMPLE_TILE, max(image.shape[:2])))
            column.append(Figure(small, title, f"{row.key}, {name}: {title[0].lower()}{title[1:]}"))
    scale = Figure(draw_scale(_SCALE_WIDTH, _TILE), "", f"Scale of the map. {' '.join(MEANING)}")
    return Section(
        f"{TITLE}: {name}",
        [scale],
        f"Many images have the same {name} features, and the samples are {_SHOWN} of them, drawn at random. Where they "
        "agree, the features determine the image; where they differ, the inverter guesses. The map shows the standard "
        f"deviation of {result.samples} samples.",
        span="page",
        columns=columns,
    )


def _tables(summary: DemoSummary, photographs: Sequence[SheetRow], names: Sequence[str]) -> list[Table]:
    results = summary.results
    errors = [
        [row.key, *(f"{result.scores[index].error:.3f}" for result in results)] for index, row in enumerate(photographs)
    ]
    errors.append(["all (mean)", *(f"{result.error:.3f}" for result in results)])
    errors.append(["always the mean image", *[f"{summary.mean_image_error:.3f}"] * len(results)])
    measures = [
        [
            name,
            f"{result.error:.3f}",
            f"{statistics.mean(score.psnr for score in result.scores):.1f}",
            f"{statistics.mean(score.ssim for score in result.scores):.3f}",
        ]
        for name, result in zip(names, results, strict=True)
    ]
    header = ["features", "normalized error", "PSNR, dB", "SSIM"]
    return [
        Table("Normalized error of each reconstruction", ["photograph", *names], errors),
        Table("Means over the photographs", header, measures),
    ]


def _enumerated(words: Sequence[str]) -> str:
    """Join words as ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# Photographs in scikit-image's wheel that may be shown freely (CC0 or public domain); its other images are drawings,
# textures or micrographs.
PHOTOGRAPHS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "camera.png")
_TILE = 320
_SIZE = 384  # default side of photographs
_DRAWS = 8  # samples of a photograph, for the map of their deviation
_SHOWN = 4  # samples on the page
_SAMPLE_TILE = 256  # maximum side of a sample on the page; six are side by side
_SCALE_WIDTH = 960


def demo(
    images: Images | None = None,
    output: str | PathLike[str] = "demo",
    *,
    inverter: InverterChoices = None,
    size: int | None = None,
    device: str = "auto",
    command: str = "preimage demo",
) -> DemoSummary:
    """Extract the features of photographs, and reconstruct the photographs from their features alone.

    Args:
        images: At least two photographs; ``None`` for those in scikit-image's package.
        output: Folder of the results, created if it does not exist.
        inverter: Names, folders or inverters, at most one for each representation; ``None`` for all pretrained
            ones, one for each representation.
        size: Side in pixels to which the photographs are resized and center-cropped; ``None`` for the only size that a
            representation supports, or 384.
        device: Device of the inverters and, where possible, of the representations.
        command: Command line to show on the page.

    Raises:
        ImportError: Scikit-image, which contains the default photographs, is not installed.
        LookupError: No pretrained inverters.
        ValueError: An image that cannot be used (named), a single image, a `size` below 11 or too small for a
            representation, or two inverters for one representation.
    """
    start = time.perf_counter()
    folder = output_folder(output)
    sources = as_sources(sample_photographs() if images is None else images)
    if len(sources) < 2:
        raise ValueError(f"the demo needs at least two photographs, got {len(sources)}")
    if size is not None and size < SMALLEST_FOR_SSIM:
        raise ValueError(f"size must be at least {SMALLEST_FOR_SSIM} pixels, got {size}")
    reconstructors = [
        Reconstructor.from_pairing(pair, device)
        for pair in pairings(inverter, _pretrained() if inverter is None else None)
    ]
    sizes = [reconstructor.side(size, _SIZE) for reconstructor in reconstructors]
    results, means = [], []
    for reconstructor, side in zip(reconstructors, sizes, strict=True):
        result, mean_image_error = _reconstructed(reconstructor, sources, folder, side)
        results.append(result)
        means.append(mean_image_error)
    photographs = _photographs(results, sources, sizes)
    summary = DemoSummary(
        sheet=folder / "sheet.png",
        page=folder / "index.html",
        images=len(sources),
        mean_image_error=means[0],
        seconds=time.perf_counter() - start,
        results=tuple(results),
    )
    errors = [[score.error for score in result.scores] for result in results]
    on_sheet = [dataclasses.replace(row, samples=()) for row in photographs]  # the samples are on the page only
    write_png(summary.sheet, draw([result.spec for result in results], on_sheet, errors, tile=_TILE))
    page = demo_page(summary, photographs, sizes, command, "Photographs: scikit-image." if images is None else "")
    with atomic_write(summary.page) as stream:
        stream.write(page.encode())
    return dataclasses.replace(summary, seconds=time.perf_counter() - start)


def sample_photographs() -> list[str]:
    """Return the paths of photographs in scikit-image's package; nothing is downloaded.

    Raises:
        ImportError: Scikit-image is not installed, or has other contents.
    """
    found = importlib.util.find_spec("skimage")
    locations = list(found.submodule_search_locations or ()) if found is not None else []
    paths = [os.path.join(place, "data", name) for place in locations for name in PHOTOGRAPHS]
    present = [path for path in paths if os.path.isfile(path)]
    if len(present) < 2:
        needs = OPTIONAL["scikit-image"]
        raise ImportError(f"{needs.purpose} are not in the installed scikit-image: {needs.install}")
    return present


def _pretrained() -> list[Representation]:
    """Return the representations with pretrained inverters, those of the paper first."""
    specs = pretrained_representations()
    names = sorted(specs, key=lambda name: ("paper" not in class_of(name).presets, name))
    return [representation_from_spec(specs[name]) for name in names]


def _reconstructed(
    reconstructor: Reconstructor, sources: Sequence[ImageSource], folder: Path, size: int
) -> tuple[DemoResult, float]:
    """Extract features to a file and reconstruct images from it; also return the error of the mean image."""
    inverter, device = reconstructor.inverter, str(reconstructor.device)
    name = inverter.spec.representation
    path, returned = folder / f"photographs.{name}", folder / "reconstructions" / name
    extract(reconstructor.representation, sources, path, size=size, device=device, resume=False)
    samples = _DRAWS if inverter.can_sample else 0
    invert(path, returned, inverter=inverter, device=device, samples=samples)
    file = FeatureStore(path)
    originals = as_batch([item.pixels for item in load(sources, size) if item.pixels is not None])
    if inverter.output_region is not None:
        originals = inverter.output_region.cropped(originals)
    scores = Scores()
    again = as_batch([decode_file(returned / f"{key}.png") for key in file])
    scores.add(list(file), originals.float() / 255, again.float() / 255)
    report, each = scores.report()
    shape = tuple(file[0].shape)
    result = DemoResult(file.spec, path, shape, returned, reconstructor.name, report.error, each, samples)
    return result, report.mean_image


def _samples(result: DemoResult, key: str, reconstruction: Pixels) -> tuple[Pixels, ...]:
    """Return the samples to show and the map of their deviation; nothing if there are none."""
    if not result.samples:
        return ()
    shown = [decode_file(result.reconstructions / f"{sample_name(key, i)}.png") for i in range(1, _SHOWN + 1)]
    levels = decode_file(result.reconstructions / f"{deviation_name(key)}.png")[:, :, 0]
    return (*shown, draw_deviation(reconstruction, from_gray_levels(levels)))


def _photographs(results: Sequence[DemoResult], sources: Sequence[ImageSource], sizes: Sequence[int]) -> list[SheetRow]:
    files = [FeatureStore(result.features) for result in results]
    loaders = {size: load(sources, size) for size in sizes}
    photographs = []
    for index, items in enumerate(zip(*loaders.values(), strict=True)):
        pixels = dict(zip(loaders, (item.pixels for item in items), strict=True))
        drawn: list[Pixels | None] = []
        returned: list[Pixels | None] = []
        samples: list[tuple[Pixels, ...]] = []
        for file, result, size in zip(files, results, sizes, strict=True):
            drawn.append(class_of(file.spec.representation).draw(file.spec, file[index], _TILE, pixels[size]))
            key = file.key(index)
            reconstruction = decode_file(result.reconstructions / f"{key}.png")
            returned.append(reconstruction)
            samples.append(_samples(result, key, reconstruction))
        photograph = pixels[max(sizes)]
        assert photograph is not None  # an image that cannot be read stops the extraction
        photographs.append(SheetRow(files[0].key(index), photograph, tuple(drawn), tuple(returned), tuple(samples)))
    return photographs
