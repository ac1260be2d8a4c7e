"""The demonstration: real photographs through every representation, as a sheet and a page."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from preimage import representations
from preimage.io import ImageSource, atomic_write, decode_file, write_png
from preimage.metrics import SMALLEST_FOR_SSIM
from preimage.optional import OPTIONAL
from preimage.pipelines.choosing import InverterChoices, pairings, pretrained_representations
from preimage.pipelines.evaluate import ImageScore, Scores
from preimage.pipelines.extract import extract
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.invert import invert
from preimage.pipelines.loading import Images, Pixels, as_batch, as_sources, load
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sheet import SheetRow, figure, name_of_representation
from preimage.spec import Spec
from preimage.store import FeatureStore
from preimage.viz.glyphs import draw_features
from preimage.viz.html import Figure, Section, Table, html_page

_DRAWN = {
    "hog": "edge strokes",
    "sift": "circles as large as the keypoints, with hands in their direction",
    "lbp": "edges colored by their brighter side",
    "dense-sift": "stars of gradients",
}


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """Record how well one representation came back.

    Attributes:
        spec: of the features.
        features: the feature file that the reconstructions were made from.
        shape: (C, h, w) or (C,) of a photograph's features.
        reconstructions: folder of what came back, a PNG a photograph.
        inverter: name or folder of the inverter used.
        error: normalized reconstruction error over the photographs.
        scores: one entry a photograph.
    """

    spec: Spec
    features: Path
    shape: tuple[int, ...]
    reconstructions: Path
    inverter: str
    error: float
    scores: tuple[ImageScore, ...]


@dataclasses.dataclass(frozen=True)
class DemoSummary:
    """Record what the demonstration wrote, and its errors.

    Attributes:
        sheet: PNG of all photographs with their features and reconstructions.
        page: the same as a self-contained HTML page with the errors.
        images: how many photographs.
        mean_image_error: normalized error of answering every photograph with their mean image.
        seconds: wall time.
        results: one entry a representation.
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
    """The page as text.

    Args:
        summary: of the demonstration.
        photographs: the photographs, in the order of the scores.
        sizes: of the photographs, pixels, for each representation.
        command: what to print as the command that made it.
        credit: whose photographs they are, a sentence.
    """
    names = [name_of_representation(result.spec) for result in summary.results]
    several = len(names) > 1
    size = " or ".join(f"{side} × {side}" for side in sorted(set(sizes)))
    blind = ", which see no color" if all(result.spec.representation in _DRAWN for result in summary.results) else ""
    which = "The lower row was" if several else "The right-hand pictures were"
    return html_page(
        title=f"Photographs from their {_enumerated(names)} features",
        lead=(
            f"Each photograph ({size} pixels) was reduced to the numbers described below{blind}, and forgotten. "
            f"{which} made from those numbers alone, each in one pass of a network; colors and brightness are its "
            "best guess."
        ),
        terms=[(name, _explained(result)) for name, result in zip(names, summary.results, strict=True)],
        sections=[_section(summary, row, index) for index, row in enumerate(photographs)],
        tables=_tables(summary, photographs, names),
        command=command,
        footer=(
            "Normalized error: Euclidean distance between photograph and reconstruction, divided by the average "
            f"distance between two of the photographs. Inverters: {', '.join(r.inverter for r in summary.results)}. "
            + credit
        ),
    )


def _explained(result: DemoResult) -> str:
    """Return a sentence about what the representation keeps of an image."""
    spec, cells = result.spec, " × ".join(map(str, result.shape[1:]))
    cell = f"{spec.stride} × {spec.stride} pixels"
    bins = spec.parameters.get("bin_size")
    sentences = {
        "hog": f"how strongly edges of each direction run through each cell of {cell}: {cells} cells of 31 numbers.",
        "sift": (
            "a few hundred points that stand out, each with its place, scale, direction, and 128 numbers about the "
            f"gradients around it, at most one in a cell of {cell}; nothing is told of what lies between them."
        ),
        "lbp": (
            f"for each cell of {cell} how often each of 58 patterns occurs of which neighbors are brighter than a "
            f"pixel, by however little: {cells} cells."
        ),
        "dense-sift": (
            f"every {spec.stride} pixels how strong the gradients of 8 directions are in each of 4 × 4 bins of "
            f"{bins} pixels: {cells} descriptors of 128 numbers."
        ),
    }
    sentence = sentences.get(spec.representation, f"{' × '.join(map(str, result.shape))} numbers.")
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
    name, drawn, returned = name_of_representation(spec), row.drawn[which], row.returned[which]
    if drawn is not None:
        how = _DRAWN.get(spec.representation, "pictures")
        yield Figure(drawn, f"{name} features", f"{row.key}, its {name} features, drawn as {how}")
    if returned is not None:
        yield Figure(returned, f"From {name}: {error}", f"{row.key}, reconstructed from its {name} features")


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
        Table("How close each comes: normalized error", ["photograph", *names], errors),
        Table("Means over the photographs", header, measures),
    ]


def _enumerated(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# Photographs inside scikit-image's wheel, free to show (CC0 or public domain); others there are drawings,
# textures or micrographs.
PHOTOGRAPHS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "camera.png")
_TILE = 320
_SIZE = 384  # of photographs, where nothing says another
_ORDER = ("hog", "sift", "lbp", "dense-sift")  # the paper's, then the others


def demo(
    images: Images | None = None,
    output: str | PathLike[str] = "demo",
    *,
    inverter: InverterChoices = None,
    size: int | None = None,
    device: str = "auto",
    command: str = "preimage demo",
) -> DemoSummary:
    """Extract the features of photographs, forget the photographs, and reconstruct them.

    Args:
        images: other photographs than scikit-image's, at least two.
        output: a folder, made if it is not there.
        inverter: pretrained names, folders or inverters, at most one for each representation; ``None`` takes the
            pretrained
            ones, one for each representation that there is one for.
        size: short side resized to this many pixels and the center square cut out; ``None`` takes the only size that
            a representation knows, or 384.
        device: where features are computed and inverted.
        command: what to print on the page as the command that made it.

    Raises:
        ImportError: scikit-image, whose photographs these are, is not installed.
        LookupError: no inverter is pretrained.
        ValueError: a bad image (named), a single one, `size` under 11 or too small for a representation, or two
            inverters for one representation.
    """
    start = time.perf_counter()
    folder = output_folder(output)
    sources = as_sources(sample_photographs() if images is None else images)
    if len(sources) < 2:
        raise ValueError(f"the demo takes at least two photographs, got {len(sources)}")
    if size is not None and size < SMALLEST_FOR_SSIM:
        raise ValueError(f"size is at least {SMALLEST_FOR_SSIM} pixels, got {size}")
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
    write_png(summary.sheet, figure([result.spec for result in results], photographs, errors, tile=_TILE))
    page = demo_page(summary, photographs, sizes, command, "Photographs: scikit-image." if images is None else "")
    with atomic_write(summary.page) as stream:
        stream.write(page.encode())
    return dataclasses.replace(summary, seconds=time.perf_counter() - start)


def sample_photographs() -> list[str]:
    """Paths of the photographs that scikit-image brings along; nothing is downloaded.

    Raises:
        ImportError: scikit-image is not installed, or its wheel has other contents.
    """
    found = importlib.util.find_spec("skimage")
    locations = list(found.submodule_search_locations or ()) if found is not None else []
    paths = [os.path.join(place, "data", name) for place in locations for name in PHOTOGRAPHS]
    present = [path for path in paths if os.path.isfile(path)]
    if len(present) < 2:
        needs = OPTIONAL["scikit-image"]
        raise ImportError(f"{needs.purpose} are those of scikit-image, which has none here: {needs.install}")
    return present


def _pretrained() -> list[representations.Representation]:
    """What there are pretrained inverters for, in the order shown; not networks, whose weights are not pretrained."""
    specs = {name: spec for name, spec in pretrained_representations().items() if "weights" not in spec.parameters}
    names = sorted(specs, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return [representations.from_spec(specs[name]) for name in names]


def _reconstructed(
    reconstructor: Reconstructor, sources: Sequence[ImageSource], folder: Path, size: int
) -> tuple[DemoResult, float]:
    """Features into a file, and pictures back from the file alone; and the error of the mean image."""
    inverter, device = reconstructor.inverter, str(reconstructor.device)
    name = inverter.spec.representation
    path, returned = folder / f"photographs.{name}", folder / "reconstructions" / name
    extract(reconstructor.representation, sources, path, size=size, device=device, resume=False)
    invert(path, returned, inverter=inverter, device=device)
    file = FeatureStore(path)
    originals = as_batch([item.pixels for item in load(sources, size) if item.pixels is not None])
    if inverter.view is not None:
        originals = inverter.view.cropped(originals)
    scores = Scores()
    again = as_batch([decode_file(returned / f"{key}.png") for key in file])
    scores.add(list(file), originals.float() / 255, again.float() / 255)
    report, each = scores.report()
    result = DemoResult(file.spec, path, tuple(file[0].shape), returned, reconstructor.name, report.error, each)
    return result, report.mean_image


def _photographs(results: Sequence[DemoResult], sources: Sequence[ImageSource], sizes: Sequence[int]) -> list[SheetRow]:
    files = [FeatureStore(result.features) for result in results]
    loaders = {size: load(sources, size) for size in sizes}
    photographs = []
    for index, items in enumerate(zip(*loaders.values(), strict=True)):
        pixels = dict(zip(loaders, (item.pixels for item in items), strict=True))
        drawn: list[Pixels | None] = []
        returned: list[Pixels | None] = []
        for file, result, size in zip(files, results, sizes, strict=True):
            drawn.append(draw_features(file.spec, file[index], _TILE, image=pixels[size]))
            returned.append(decode_file(result.reconstructions / f"{file.key(index)}.png"))
        photograph = pixels[max(sizes)]
        assert photograph is not None  # a bad image has stopped the extraction
        photographs.append(SheetRow(files[0].key(index), photograph, tuple(drawn), tuple(returned)))
    return photographs
