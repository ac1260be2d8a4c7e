"""Write a report about inverters, training runs and feature stores as one self-contained HTML page."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

from preimage.inverters import resolve_device
from preimage.io import atomic_write
from preimage.io.folders import make_folders
from preimage.pipelines.image_loading import Images, decodable_listing
from preimage.pipelines.image_writer import output_folder
from preimage.reports.about_inverter import inverter_part
from preimage.reports.about_store import store_part
from preimage.reports.options import STEPS, Options, Part, ReportScore
from preimage.reports.sources import InverterSource, labeled, open_source
from preimage.studies.base import NORMALIZED_ERROR, ProgressCounter, check_at_least
from preimage.studies.feature_perturbations import Perturbation, parse_perturbations
from preimage.studies.layers_rows import Networks
from preimage.studies.published import PUBLISHED_NOTE
from preimage.viz.html import Section, Table, html_page

Sources = str | PathLike[str] | Sequence[str | PathLike[str]]

_ALONE: dict[str, Literal["section", "subsection"]] = {
    "part": "section",
    "subsection": "section",
    "group": "subsection",
}
_CAUTION = (
    "A reconstruction is one plausible image for the given features. Details and colors that the features do not "
    "determine are blurred, or typical of photographs: it is no evidence of what was in the original."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """Result of `report`.

    Attributes:
        page: Self-contained HTML page.
        bytes: Size of the page in bytes.
        scores: Scores of each source, in the order given.
        notes: Sentences about what is left out, with the reason.
        seconds: Wall time.
        skipped: (name, problem) of the images left out.
    """

    page: Path
    bytes: int
    scores: tuple[ReportScore, ...]
    notes: tuple[str, ...]
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()


def report(
    sources: Sources,
    output: str | PathLike[str],
    *,
    images: Images | None = None,
    database: Images | None = None,
    network: Networks = (),
    perturbations: Perturbation | str | Sequence[Perturbation | str] = (),
    title: str | None = None,
    size: int | None = None,
    show_count: int = 12,
    samples: int = 8,
    seed: int = 0,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage report",
    progress: Callable[[int, int], None] | None = None,
) -> ReportSummary:
    """Write a page about inverters and feature stores that can be read offline, on a phone and in print.

    For an inverter or a training run it contains the spec, the model card, how it was trained, the errors beside those
    of simpler methods and of the paper, reconstructions from the best to the worst, the parts of the error, perturbed
    features, and samples. For a feature store it contains the spec, the sizes and statistics, and reconstructions by
    the inverter of these features among the sources, or else the pretrained one. What cannot be measured is left out,
    and the page says why. Several sources have a table in common at the top.

    Args:
        sources: Folders or names of inverters, folders of training runs, or feature stores; also a single one.
        output: A folder, which is created if it does not exist, for ``index.html``; an earlier one is replaced.
        images: Path or paths (folders, files, tar shards), or sources: at least two images. Inverters are measured on
            all of them, and stores on those whose keys they have. ``None`` takes a training run's validation images,
            and measures nothing of other sources.
        database: Other photographs, from which the nearest neighbor of each image is taken for comparison.
        network: Networks, or single representations, for inverters of layers that cannot be created by name, see
            `preimage.study_layers`; also a single one.
        perturbations: Perturbations of the features to measure, or their names, see `preimage.study_perturb`. Without
            any, the table of an earlier study in the folder of an inverter is shown (``perturb.csv`` there, or in its
            subfolder ``perturb``).
        title: Heading of the page; ``None`` names the sources.
        size: Side to which images are resized and center-cropped for inverters, at least 11 pixels; ``None`` is the
            representation's only size, or 256.
        show_count: Number of photographs shown for each source, at least 3: a third of them the best, a third the worst
            reconstructions.
        samples: Number of samples for the map of what is determined and what is guessed, at least 2; 0 for none.
        seed: Seed of samples, of random perturbations and of the bootstrap resamples.
        batch_size: Batch size.
        device: Device of the inverters and, where possible, of the representations, see `Reconstructor`.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps).

    Raises:
        ValueError: There are no sources, or one that is neither an inverter nor a finished feature store; fewer than
            two images, only equal ones, or a bad one (named); images that are also in the database; an unknown
            perturbation or device; a value out of range.
        FileFormatError: A file of a source is damaged.
        FileNotFoundError: There is no such source.
    """
    start = time.perf_counter()
    check_at_least(("show_count", show_count, 3), ("samples", samples, 0), ("seed", seed, 0))
    check_at_least(("batch_size", batch_size, 1), ("size", 11 if size is None else size, 11))
    if samples == 1:
        raise ValueError("samples must be at least 2, or 0 for none, got 1")
    resolve_device(device)  # raises for an unknown one
    folder = output_folder(output)
    paths = [sources] if isinstance(sources, str | PathLike) else list(sources)
    if not paths:
        raise ValueError("sources must have at least one inverter, training run or feature store, got none")
    opened = labeled([open_source(path, network) for path in paths])
    listing = None if images is None else decodable_listing(images, skip_bad=skip_bad)
    skipped = [] if listing is None else list(listing.skipped)
    options = Options(
        images=None if listing is None else listing.sources,
        database=database,
        perturbations=tuple(parse_perturbations(perturbations)) if perturbations else (),
        size=size,
        show_count=show_count,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        device=device,
        skip_bad=skip_bad,
        inverters={source.name: source.inverter for source in opened if isinstance(source, InverterSource)},
        skipped=skipped,
    )
    steps = ProgressCounter(STEPS * len(opened), progress)
    parts: list[Part] = []
    for source in opened:
        if isinstance(source, InverterSource):
            parts.append(inverter_part(source, options, steps))
        else:
            parts.append(store_part(source, options, steps))
    text = _page(parts, title, command).encode()
    make_folders(folder)
    with atomic_write(folder / "index.html") as file:
        file.write(text)
    return ReportSummary(
        page=folder / "index.html",
        bytes=len(text),
        scores=tuple(part.score for part in parts),
        notes=tuple(f"{part.score.source}: {note}" for part in parts for note in part.notes),
        seconds=time.perf_counter() - start,
        skipped=tuple(dict.fromkeys(skipped)),
    )


def _page(parts: Sequence[Part], title: str | None, command: str) -> str:
    names = [part.name for part in parts]
    remarks = [f"{NORMALIZED_ERROR}."] * any(part.score.error is not None for part in parts)
    remarks += [PUBLISHED_NOTE] * any(part.score.published is not None for part in parts)
    sections = [section for part in parts for section in part.sections]
    if len(parts) == 1:  # the heading of the page is that of the part
        sections = [dataclasses.replace(one, kind=_ALONE[one.kind], title=_title(one)) for one in sections]
    else:
        sections.insert(0, Section("", tables=[_overview(parts)], kind="subsection"))
    return html_page(
        title=title if title is not None else f"Report: {names[0]}" if len(names) == 1 else "Report",
        lead=parts[0].lead if len(parts) == 1 else f"{len(parts)} inverters and feature stores, one section each.",
        sections=sections,
        command=command,
        contents=True,
        footer=" ".join([*remarks, _CAUTION]),
        quality=82,
    )


def _title(section: Section) -> str:
    return "" if section.kind == "part" else section.title


def _overview(parts: Sequence[Part]) -> Table:
    header = ["source", "normalized error", "95 % interval", "mean image", "PSNR, dB", "SSIM"]
    published = any(part.score.published is not None for part in parts)
    rows = []
    for part in parts:
        score = part.score
        rows.append([part.name, *_cells(score)])
        if published:
            rows[-1].append("" if score.published is None else f"{score.published:.2f}")
        rows[-1] += [f"{score.images:,}", score.representation]
    return Table("Overview", [*header, *["paper"] * published, "images", "features"], rows)


def _cells(score: ReportScore) -> list[str]:
    if score.error is None:
        return ["", "", "", "", ""]
    return [
        f"{score.error.mean:.3f}",
        f"{score.error.low:.3f} to {score.error.high:.3f}",
        *(
            "" if value is None else f"{value:.{digits}f}"
            for value, digits in (
                (score.mean_image_error, 3),
                (score.psnr, 1),
                (score.ssim, 3),
            )
        ),
    ]
