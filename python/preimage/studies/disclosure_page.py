"""The disclosure study's numbers as CSV, plot, picture strip, sentences and page."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from preimage.io import atomic_write
from preimage.pipelines.loading import Pixels
from preimage.viz.html import Figure, Section, Table, html_page
from preimage.viz.plots import Panel, draw_panels
from preimage.viz.sheets import picture_sheet

_NAMES = {
    "coordinates-only": "coordinates only",
    "positions-only": "positions only",
    "descriptors-only": "descriptors only",
    "mean-image": "the mean image",
}
_FEW = 20  # percent: the share that the first sentence is about, or the next one to it
_SAME = 0.005  # errors closer than this are not ranked


@dataclasses.dataclass(frozen=True)
class ConditionScore:
    """Means over the images under one condition.

    Attributes:
        condition: ``kept``, ``coordinates-only``, ``positions-only``, ``descriptors-only`` or ``mean-image``, which
            answers every image with the set's mean image.
        share: of the keypoints, percent; ``None`` for the mean image.
        images: how many.
        keypoints: in cells of an image's grid; ``None`` for the mean image.
        error: normalized error.
        psnr: dB.
        ssim: at most 1.
        lpips: ``None`` where it could not be computed.
    """

    condition: str
    share: float | None
    images: int
    keypoints: float | None
    error: float
    psnr: float
    ssim: float
    lpips: float | None


@dataclasses.dataclass(frozen=True)
class Shown:
    """A row of the strip: the image's key and its pictures."""

    key: str
    pictures: list[Pixels]


def title(condition: str, share: float | None) -> str:
    """What a person reads: ``20 % kept``, ``positions only``."""
    return _NAMES.get(condition, f"{share or 0:g} % kept")


def write_table(path: Path, scores: Sequence[ConditionScore]) -> None:
    """One row a condition, as CSV; atomic. Cells that do not apply are empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = ["condition", "share", "images", "keypoints_per_image", "normalized_error", "psnr_db", "ssim"]
    table.writerow(columns + ["lpips"] * _perceptual(scores))
    for score in scores:
        share = "" if score.share is None else f"{score.share:g}"
        keypoints = "" if score.keypoints is None else f"{score.keypoints:.2f}"
        measures = [f"{score.error:.6f}", f"{score.psnr:.4f}", f"{score.ssim:.6f}"]
        measures += [] if score.lpips is None else [f"{score.lpips:.6f}"]
        table.writerow([score.condition, share, score.images, keypoints, *measures])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def plot(scores: Sequence[ConditionScore]) -> Pixels:
    """Error and SSIM by share, the other conditions as lines; ``ImportError`` without matplotlib."""
    kept = _kept(scores)
    others = sorted(
        (score for score in scores if score.condition in _NAMES), key=lambda score: score.condition != "mean-image"
    )
    shares = [score.share or 0 for score in kept]
    panels = [
        Panel(
            heading,
            shares,
            [getattr(score, name) for score in kept],
            {_NAMES[score.condition]: getattr(score, name) for score in others},
            least_span=0.1,
        )
        for heading, name in (("Normalized error (lower is closer)", "error"), ("SSIM (higher is closer)", "ssim"))
    ]
    return draw_panels(panels, "keypoints kept, %")


def strip(rows: Sequence[Shown], titles: Sequence[str], tile: int) -> Pixels:
    """One row an image, one column a condition."""
    return picture_sheet([row.pictures for row in rows], titles, [row.key for row in rows], tile=tile)


def findings(scores: Sequence[ConditionScore]) -> Iterator[str]:
    """Sentences that say what the numbers say, and nothing else."""
    kept, by_name = _kept(scores), {score.condition: score for score in scores}
    whole, floor = kept[-1], by_name["mean-image"]
    all_of_them = "all of them" if whole.share == 100 else f"{whole.share:g} %"
    if kept[:-1]:
        few = min(kept[:-1], key=lambda score: abs((score.share or 0) - _FEW))
        yield (
            f"With {few.share:g} % of the keypoints ({few.keypoints:.0f} on an image's grid) the normalized error is "
            f"{few.error:.2f}, against {whole.error:.2f} with {all_of_them} ({whole.keypoints:.0f}) and "
            f"{floor.error:.2f} for always answering with the mean image."
        )
        yield _halfway(kept, floor, all_of_them)
    elif whole.error < floor.error - _SAME:
        yield (
            f"With {whole.share:g} % of the keypoints ({whole.keypoints:.0f} on an image's grid) the normalized error "
            f"is {whole.error:.2f}, against {floor.error:.2f} for always answering with the mean image."
        )
    else:
        yield _nothing(whole, floor, all_of_them)
    yield (
        f"SSIM is {kept[0].ssim:.2f} at {kept[0].share:g} % and {whole.ssim:.2f} at {whole.share:g} %; "
        f"the mean image has {floor.ssim:.2f}."
        if kept[:-1]
        else f"SSIM is {whole.ssim:.2f}; the mean image has {floor.ssim:.2f}."
    )
    coordinates, descriptors = by_name["coordinates-only"], by_name["descriptors-only"]
    yield (
        f"From coordinates, scales and angles without descriptors the error is {coordinates.error:.2f} (from positions "
        f"alone {by_name['positions-only'].error:.2f}); from descriptors without geometry, each in its cell, "
        f"{descriptors.error:.2f}."
    )
    difference = coordinates.error - descriptors.error
    if abs(difference) > _SAME and min(coordinates.error, descriptors.error) < floor.error - _SAME:
        more, less = ("descriptors", "geometry") if difference > 0 else ("geometry", "descriptors")
        yield f"By that measure this inverter makes more of the {more} than of the {less}."


def _halfway(kept: Sequence[ConditionScore], floor: ConditionScore, all_of_them: str) -> str:
    whole = kept[-1]
    if whole.error >= floor.error - _SAME:
        return _nothing(whole, floor, all_of_them)
    with_all = f"with {all_of_them} of the keypoints" if whole.share != 100 else "with all keypoints"
    enough = next(score for score in kept if score.error <= (whole.error + floor.error) / 2)
    if enough is whole:
        return f"No smaller share that was tried comes halfway from the mean image's error to the error {with_all}."
    return (
        f"{enough.share:g} % is the smallest share tried that comes at least halfway from the mean image's error "
        f"to the error {with_all}."
    )


def _nothing(whole: ConditionScore, floor: ConditionScore, all_of_them: str) -> str:
    return (
        f"With {all_of_them} the error, {whole.error:.2f}, is not below the mean image's, {floor.error:.2f}: by this "
        "measure the inverter makes nothing of these keypoints."
    )


def page(
    scores: Sequence[ConditionScore],
    pictures: Pixels,
    curves: Pixels | None,
    *,
    inverter: str,
    size: int,
    seed: int,
    notes: Sequence[str],
    command: str,
) -> str:
    """The self-contained HTML page."""
    whole, lines = _kept(scores)[-1], _lines(scores)
    sections = [
        Section(
            "The same photographs under every condition",
            [Figure(pictures, "", "rows of photographs, their keypoints, and what is reconstructed from them")],
            note="Coordinates only: no descriptors. Positions only: no scales and angles either. Descriptors only: "
            "scales, angles and places within the cell are constants.",
            span="window",
        )
    ]
    if curves is not None:
        sections.append(Section("By share", [Figure(curves, "", "error and SSIM by share of keypoints")], span="page"))
    header = ["condition", "keypoints per image", "normalized error", "PSNR, dB", "SSIM"]
    return html_page(
        title="What SIFT keypoints reveal",
        lead=(
            f"{whole.images} photographs of {size} × {size} pixels were reduced to SIFT keypoints and reconstructed "
            "from nothing else. Then part of the keypoints, or part of what each tells, was taken away."
        ),
        points=findings(scores),
        sections=sections,
        tables=[Table("How close the reconstructions come", header + ["LPIPS"] * _perceptual(scores), lines)],
        command=command,
        footer=" ".join(
            [
                "Normalized error: mean Euclidean distance between photograph and reconstruction, divided by the "
                "average distance between two of the photographs.",
                f"Inverter: {inverter}. Seed of the shares: {seed}.",
                "These are one inverter's reconstructions: another, or one trained for a condition, may recover more.",
                *notes,
            ]
        ),
    )


def _lines(scores: Sequence[ConditionScore]) -> list[list[str]]:
    lines = []
    for score in scores:
        keypoints = "" if score.keypoints is None else f"{score.keypoints:.1f}"
        line = [
            title(score.condition, score.share),
            keypoints,
            f"{score.error:.3f}",
            f"{score.psnr:.1f}",
            f"{score.ssim:.3f}",
        ]
        lines.append(line if score.lpips is None else [*line, f"{score.lpips:.3f}"])
    return lines


def _kept(scores: Sequence[ConditionScore]) -> list[ConditionScore]:
    """By share, rising."""
    return [score for score in scores if score.condition == "kept"]


def _perceptual(scores: Sequence[ConditionScore]) -> bool:
    return all(score.lpips is not None for score in scores)
