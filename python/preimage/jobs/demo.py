"""The whole journey on a few real photographs: image, features, file, image."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage import representations
from preimage.jobs.choosing import InverterChoice
from preimage.jobs.evaluate import ImageScore, Judge
from preimage.jobs.extract import extract
from preimage.jobs.invert import invert
from preimage.jobs.loading import Images, Pixels, as_batch, as_sources, load
from preimage.jobs.sheet import column_titles
from preimage.report.glyphs import draw_features
from preimage.report.html import Figure, Section, Table, html_page
from preimage.report.sheet import picture_sheet
from preimage.storage import FeatureFile, atomic_write, read_features, read_image, write_png

# Photographs inside scikit-image's wheel, free to show (CC0 or public domain); others there are drawings,
# textures or micrographs.
PHOTOGRAPHS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "camera.png")
_TILE = 320


@dataclasses.dataclass(frozen=True)
class DemoSummary:
    """What the demonstration wrote, and how well it went.

    Attributes:
        sheet: PNG of all photographs with their features and reconstructions.
        page: the same as a self-contained HTML page with the errors.
        features: the feature file that the reconstructions were made from.
        inverter: name or folder of the inverter used.
        error: normalised reconstruction error over the photographs.
        mean_image_error: the same of answering every photograph with their mean image.
        seconds: wall time.
        scores: one entry a photograph.
    """

    sheet: Path
    page: Path
    features: Path
    inverter: str
    error: float
    mean_image_error: float
    seconds: float
    scores: tuple[ImageScore, ...]


def demo(
    output: str | PathLike[str] = "demo",
    *,
    images: Images | None = None,
    inverter: InverterChoice = None,
    size: int = 384,
    command: str = "preimage demo",
) -> DemoSummary:
    """Extract the HOG features of photographs, forget the photographs, and reconstruct them.

    Args:
        output: a folder, made if it is not there.
        images: other photographs than scikit-image's, at least two.
        inverter: a shipped name or a folder; ``None`` takes the shipped one.
        size: short side resized to this many pixels and the centre square cut out.
        command: what to print on the page as the command that made it.

    Raises:
        ImportError: scikit-image, whose photographs these are, is not installed.
        LookupError: no shipped inverter fits.
    """
    start = time.perf_counter()
    folder = Path(output)
    sources = as_sources(sample_photographs() if images is None else images)
    features_path = folder / "photographs.hog.safetensors"
    extract(representations.create("hog"), sources, features_path, size=size, resume=False)
    inverted = invert(features_path, folder / "reconstructions", inverter=inverter)

    file = read_features(features_path)
    originals = [item.pixels for item in load(sources, size) if item.pixels is not None]
    returned = [read_image(folder / "reconstructions" / f"{key}.png") for key in file.keys]
    judge = Judge()
    judge.add(file.keys, as_batch(originals).float() / 255, as_batch(returned).float() / 255)
    report, scores = judge.verdict()

    rows = _rows(file, originals, returned)
    captions = [f"{score.key}: normalised error {score.error:.2f}" for score in scores]
    sheet_path, page_path = folder / "sheet.png", folder / "index.html"
    write_png(sheet_path, picture_sheet(rows, column_titles(file.spec), captions, tile=_TILE))
    summary = DemoSummary(
        sheet=sheet_path,
        page=page_path,
        features=features_path,
        inverter=inverted.inverter,
        error=report.error,
        mean_image_error=report.mean_image,
        seconds=time.perf_counter() - start,
        scores=scores,
    )
    page = _page(file, rows, summary, size, command)
    with atomic_write(page_path) as stream:
        stream.write(page.encode())
    return summary


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


def _rows(file: FeatureFile, originals: Sequence[Pixels], returned: Sequence[Pixels]) -> list[list[Pixels]]:
    rows = []
    for index, (original, picture) in enumerate(zip(originals, returned, strict=True)):
        drawn = draw_features(file.spec, file[index].numpy(), _TILE)
        assert drawn is not None  # HOG has a drawing
        rows.append([original, drawn, picture])
    return rows


def _page(file: FeatureFile, rows: Sequence[Sequence[Pixels]], summary: DemoSummary, size: int, command: str) -> str:
    titles = column_titles(file.spec)
    described = ("the photograph", "its HOG features, drawn as edge strokes", "reconstructed from the features")
    sections = [
        Section(
            score.key.replace("_", " ").capitalize(),
            [
                Figure(picture, title, f"{score.key}, {words}")
                for picture, title, words in zip(row, titles, described, strict=True)
            ],
            note=f"Normalised error {score.error:.2f}",
        )
        for score, row in zip(summary.scores, rows, strict=True)
    ]
    lines = [[score.key, f"{score.error:.3f}", f"{score.psnr:.1f}", f"{score.ssim:.3f}"] for score in summary.scores]
    lines.append(["all (mean)", f"{summary.error:.3f}", *_means(summary.scores)])
    lines.append(["always the mean image", f"{summary.mean_image_error:.3f}", "", ""])
    cells = " × ".join(map(str, file[0].shape))
    return html_page(
        title="Photographs from their HOG features",
        lead=(
            f"Each photograph ({size} × {size} pixels) was reduced to {cells} numbers that only tell how strongly "
            "edges of each direction run through each cell of 8 pixels, from a grey image. The right-hand picture "
            "was made from those numbers alone; its colours and brightness are the network's best guess."
        ),
        sections=sections,
        tables=[Table("How close they come", ["photograph", "normalised error", "PSNR, dB", "SSIM"], lines)],
        command=command,
        footer=(
            "Normalised error: mean Euclidean distance between photograph and reconstruction, divided by the average "
            f"distance between two of the photographs. Inverter: {summary.inverter}. Photographs: scikit-image."
        ),
    )


def _means(scores: Sequence[ImageScore]) -> list[str]:
    psnr, ssim = (torch.tensor([[s.psnr, s.ssim] for s in scores]).mean(dim=0)).tolist()
    return [f"{psnr:.1f}", f"{ssim:.3f}"]
