"""The whole journey on a few real photographs: image, features, file, image."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from preimage import representations
from preimage.io import ImageSource, atomic_write, read_features, read_image, write_png
from preimage.pipelines.choosing import InverterChoices, Pairing, pairings, shipped_representations
from preimage.pipelines.demo_page import DemoResult, DemoSummary, demo_page
from preimage.pipelines.evaluate import SMALLEST_FOR_SSIM, Judge
from preimage.pipelines.extract import extract
from preimage.pipelines.figure import Subject, figure
from preimage.pipelines.invert import invert
from preimage.pipelines.loading import Images, Pixels, as_batch, as_sources, load, part_returned, side_for
from preimage.pipelines.targets import folder_of
from preimage.viz.glyphs import draw_features

# Photographs inside scikit-image's wheel, free to show (CC0 or public domain); others there are drawings,
# textures or micrographs.
PHOTOGRAPHS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "camera.png")
_TILE = 320
_SIZE = 384  # of photographs, where nothing says another
_ORDER = ("hog", "sift", "lbp", "dense-sift")  # the paper's, then the others


def demo(
    output: str | PathLike[str] = "demo",
    *,
    images: Images | None = None,
    inverter: InverterChoices = None,
    size: int | None = None,
    command: str = "preimage demo",
) -> DemoSummary:
    """Extract the features of photographs, forget the photographs, and reconstruct them.

    Args:
        output: a folder, made if it is not there.
        images: other photographs than scikit-image's, at least two.
        inverter: shipped names, folders or inverters, at most one for each representation; ``None`` takes the shipped
            ones, one for each representation that there is one for.
        size: short side resized to this many pixels and the centre square cut out; ``None`` takes the only size that
            a representation knows, or 384.
        command: what to print on the page as the command that made it.

    Raises:
        ImportError: scikit-image, whose photographs these are, is not installed.
        LookupError: no inverter is shipped.
        ValueError: a bad image (named), a single one, `size` under 11 or too small for a representation, or two
            inverters for one representation.
    """
    start = time.perf_counter()
    folder = folder_of(output)
    sources = as_sources(sample_photographs() if images is None else images)
    if len(sources) < 2:
        raise ValueError(f"the demo takes at least two photographs, got {len(sources)}")
    if size is not None and size < SMALLEST_FOR_SSIM:
        raise ValueError(f"size is at least {SMALLEST_FOR_SSIM} pixels, got {size}")
    pairs = pairings(inverter, _shipped() if inverter is None else None)
    for pair in pairs:
        if pair.inverter is None:
            raise LookupError(pair.missing)
    sizes = [_size_for(pair, size) for pair in pairs]
    results, means = [], []
    for pair, side in zip(pairs, sizes, strict=True):
        result, mean_image_error = _reconstructed(pair, sources, folder, side)
        results.append(result)
        means.append(mean_image_error)
    subjects = _subjects(results, sources, sizes)
    summary = DemoSummary(
        sheet=folder / "sheet.png",
        page=folder / "index.html",
        images=len(sources),
        mean_image_error=means[0],
        seconds=time.perf_counter() - start,
        results=tuple(results),
    )
    errors = [[score.error for score in result.scores] for result in results]
    write_png(summary.sheet, figure([result.spec for result in results], subjects, errors, tile=_TILE))
    page = demo_page(summary, subjects, sizes, command, "Photographs: scikit-image." if images is None else "")
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
        raise ImportError("the demo shows photographs of scikit-image: pip install 'preimage[demo]'")
    return present


def _shipped() -> list[representations.Representation]:
    """What there are shipped inverters for, in the order shown; not networks, whose weights are not shipped."""
    specs = {name: spec for name, spec in shipped_representations().items() if "weights" not in spec.parameters}
    names = sorted(specs, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return [representations.from_spec(specs[name]) for name in names]


def _size_for(pair: Pairing, size: int | None) -> int:
    """Of the photographs, for a representation; ``ValueError`` where it has no features of such."""
    side = side_for(pair.representation, pair.inverter, size, _SIZE)
    pair.representation.feature_size(side, side)
    return side


def _reconstructed(pair: Pairing, sources: Sequence[ImageSource], folder: Path, size: int) -> tuple[DemoResult, float]:
    """Features into a file, and pictures back from the file alone; and the error of the mean image."""
    name = pair.representation.name
    path, returned = folder / f"photographs.{name}.safetensors", folder / "reconstructions" / name
    extract(pair.representation, sources, path, size=size, resume=False)
    invert(path, returned, inverter=pair.inverter)
    file = read_features(path)
    assert pair.inverter is not None and pair.name is not None  # every pairing here has its inverter
    whole = [item.pixels for item in load(sources, size) if item.pixels is not None]
    originals = [part_returned(pair.inverter, pixels) for pixels in whole]
    again = [read_image(returned / f"{key}.png") for key in file.keys]
    judge = Judge()
    judge.add(file.keys, as_batch(originals).float() / 255, as_batch(again).float() / 255)
    report, scores = judge.verdict()
    result = DemoResult(file.spec, path, tuple(file[0].shape), returned, pair.name, report.error, scores)
    return result, report.mean_image


def _subjects(results: Sequence[DemoResult], sources: Sequence[ImageSource], sizes: Sequence[int]) -> list[Subject]:
    files = [read_features(result.features) for result in results]
    loaders = {size: load(sources, size) for size in sizes}
    subjects = []
    for index, items in enumerate(zip(*loaders.values(), strict=True)):
        pixels = dict(zip(loaders, (item.pixels for item in items), strict=True))
        drawn: list[Pixels | None] = []
        returned: list[Pixels | None] = []
        for file, result, size in zip(files, results, sizes, strict=True):
            drawn.append(draw_features(file.spec, file[index].numpy(), _TILE, image=pixels[size]))
            returned.append(read_image(result.reconstructions / f"{file.keys[index]}.png"))
        photograph = pixels[max(sizes)]
        assert photograph is not None  # a bad image has stopped the extraction
        subjects.append(Subject(files[0].keys[index], photograph, tuple(drawn), tuple(returned)))
    return subjects
