"""The paper's figure: photographs, their features drawn, and what comes back from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from preimage.pipelines.loading import Pixels
from preimage.spec import Spec
from preimage.viz.glyphs import has_drawing
from preimage.viz.sheet import picture_sheet

_NAMES = {"hog": "HOG", "lbp": "LBP", "sift": "SIFT", "dense-sift": "dense SIFT"}
_NO_INVERTER = "\nThere is no inverter\nfor these features."
_BELOW = "Reconstructions, each from\nthe features above it alone."
ERROR_MEANS = "Error: distance from the photograph, over the average distance between two of these photographs."


@dataclasses.dataclass(frozen=True)
class Subject:
    """A photograph, and its features and reconstruction for each representation.

    Attributes:
        key: what it is called.
        pixels: the photograph.
        drawn: its features; ``None`` where they have no drawing.
        returned: what came back; ``None`` where there is no inverter.
    """

    key: str
    pixels: Pixels
    drawn: tuple[Pixels | None, ...]
    returned: tuple[Pixels | None, ...]


def name_of_representation(spec: Spec) -> str:
    """As a person writes it: ``dense SIFT``."""
    return _NAMES.get(spec.representation, spec.representation)


def column_titles(spec: Spec) -> list[str]:
    """Of photograph, features (if they can be drawn) and reconstruction, for a single representation."""
    middle = [f"Its {name_of_representation(spec)} features"] if has_drawing(spec) else []
    return ["Photograph", *middle, "From the features alone"]


def figure(
    specs: Sequence[Spec], subjects: Sequence[Subject], errors: Sequence[Sequence[float] | None], *, tile: int
) -> Pixels:
    """One picture of all.

    Of one representation: photograph, features and reconstruction in a row. Of several, as in the paper: two rows a
    photograph, the features above, a column each, and below them the reconstructions.

    Args:
        specs: of the representations.
        subjects: the photographs.
        errors: for each representation the normalised error of each photograph, or ``None``.
        tile: side of a picture in pixels.
    """
    footer = ERROR_MEANS if any(given is not None for given in errors) else ""
    if len(specs) > 1:
        rows, captions = _pairs_of_rows(subjects, errors)
        names = [name_of_representation(spec) for spec in specs]
        return picture_sheet(
            rows, ["Photograph", *(name[0].upper() + name[1:] for name in names)], captions, tile=tile, footer=footer
        )
    single = [[subject.pixels, *subject.drawn, *subject.returned] for subject in subjects]
    titles = column_titles(specs[0])
    if subjects[0].returned[0] is None:
        titles = titles[:-1]
    notes = [
        subject.key + (f": normalised error {errors[0][index]:.2f}" if errors[0] is not None else "")
        for index, subject in enumerate(subjects)
    ]
    there = [[picture for picture in row if picture is not None] for row in single]
    return picture_sheet(there, titles, notes, tile=tile, footer=footer)


def _pairs_of_rows(
    subjects: Sequence[Subject], errors: Sequence[Sequence[float] | None]
) -> tuple[list[list[Pixels | str]], list[list[str]]]:
    """Pictures and captions: features with the photograph before them, then reconstructions, if there are any."""
    rows: list[list[Pixels | str]] = []
    captions: list[list[str]] = []
    for index, subject in enumerate(subjects):
        rows.append([subject.pixels, *("" if drawn is None else drawn for drawn in subject.drawn)])
        if all(picture is None for picture in subject.returned):
            captions.append([subject.key, *[""] * len(subject.drawn)])
            continue
        captions.append([""])
        rows.append([f"{subject.key}\n{_BELOW}", *(_NO_INVERTER if p is None else p for p in subject.returned)])
        captions.append(["", *("" if given is None else f"error {given[index]:.2f}" for given in errors)])
    return rows, captions
