"""What the demonstration tells: its summary, and a page of pictures, explanations and errors."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from preimage.pipelines.evaluate import ImageScore
from preimage.pipelines.figure import Subject, name_of_representation
from preimage.spec import Spec
from preimage.viz.html import Figure, Section, Table, html_page

_DRAWN = {
    "hog": "edge strokes",
    "sift": "circles as large as the keypoints, with hands in their direction",
    "lbp": "edges coloured by their brighter side",
    "dense-sift": "stars of gradients",
}


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """How one representation fared.

    Attributes:
        spec: of the features.
        features: the feature file that the reconstructions were made from.
        shape: (C, h, w) or (C,) of a photograph's features.
        reconstructions: folder of what came back, a PNG a photograph.
        inverter: name or folder of the inverter used.
        error: normalised reconstruction error over the photographs.
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
    """What the demonstration wrote, and how well it went.

    Attributes:
        sheet: PNG of all photographs with their features and reconstructions.
        page: the same as a self-contained HTML page with the errors.
        images: how many photographs.
        mean_image_error: normalised error of answering every photograph with their mean image.
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
    summary: DemoSummary, subjects: Sequence[Subject], sizes: Sequence[int], command: str, credit: str = ""
) -> str:
    """The page as text.

    Args:
        summary: of the demonstration.
        subjects: the photographs, in the order of the scores.
        sizes: of the photographs, pixels, for each representation.
        command: what to print as the command that made it.
        credit: whose photographs they are, a sentence.
    """
    names = [name_of_representation(result.spec) for result in summary.results]
    several = len(names) > 1
    size = " or ".join(f"{side} × {side}" for side in sorted(set(sizes)))
    blind = ", which see no colour" if all(result.spec.representation in _DRAWN for result in summary.results) else ""
    which = "The lower row was" if several else "The right-hand pictures were"
    return html_page(
        title=f"Photographs from their {_enumerated(names)} features",
        lead=(
            f"Each photograph ({size} pixels) was reduced to the numbers described below{blind}, and forgotten. "
            f"{which} made from those numbers alone, each in one pass of a network; colours and brightness are its "
            "best guess."
        ),
        terms=[(name, _explained(result)) for name, result in zip(names, summary.results, strict=True)],
        sections=[_section(summary, subject, index) for index, subject in enumerate(subjects)],
        tables=_tables(summary, subjects, names),
        command=command,
        footer=(
            "Normalised error: Euclidean distance between photograph and reconstruction, divided by the average "
            f"distance between two of the photographs. Inverters: {', '.join(r.inverter for r in summary.results)}. "
            + credit
        ),
    )


def _explained(result: DemoResult) -> str:
    """What the representation tells of an image, in a sentence."""
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
            f"for each cell of {cell} how often each of 58 patterns occurs of which neighbours are brighter than a "
            f"pixel, by however little: {cells} cells."
        ),
        "dense-sift": (
            f"every {spec.stride} pixels how strong the gradients of 8 directions are in each of 4 × 4 bins of "
            f"{bins} pixels: {cells} descriptors of 128 numbers."
        ),
    }
    sentence = sentences.get(spec.representation, f"{' × '.join(map(str, result.shape))} numbers.")
    return sentence[0].upper() + sentence[1:]


def _section(summary: DemoSummary, subject: Subject, index: int) -> Section:
    title = subject.key.replace("_", " ").capitalize()
    photograph = Figure(subject.pixels, "Photograph", f"{subject.key}, the photograph")
    errors = [result.scores[index].error for result in summary.results]
    columns = [
        list(_features_and_reconstruction(subject, which, result.spec, f"error {error:.2f}"))
        for which, (result, error) in enumerate(zip(summary.results, errors, strict=True))
    ]
    if len(columns) > 1:
        return Section(title, columns=[[photograph], *columns])
    return Section(title, [photograph, *columns[0]])


def _features_and_reconstruction(subject: Subject, which: int, spec: Spec, error: str) -> Iterator[Figure]:
    name, drawn, returned = name_of_representation(spec), subject.drawn[which], subject.returned[which]
    if drawn is not None:
        how = _DRAWN.get(spec.representation, "pictures")
        yield Figure(drawn, f"{name} features", f"{subject.key}, its {name} features, drawn as {how}")
    if returned is not None:
        yield Figure(returned, f"From {name}: {error}", f"{subject.key}, reconstructed from its {name} features")


def _tables(summary: DemoSummary, subjects: Sequence[Subject], names: Sequence[str]) -> list[Table]:
    results = summary.results
    errors = [
        [subject.key, *(f"{result.scores[index].error:.3f}" for result in results)]
        for index, subject in enumerate(subjects)
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
    header = ["features", "normalised error", "PSNR, dB", "SSIM"]
    return [
        Table("How close each comes: normalised error", ["photograph", *names], errors),
        Table("Means over the photographs", header, measures),
    ]


def _enumerated(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
