"""Show the parts of an inverter's error, and what perturbed features keep."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io import ImageSource
from preimage.pipelines.reconstruct import Reconstructor
from preimage.reports.options import Options
from preimage.reports.sources import InverterSource
from preimage.reports.training_sections import plot
from preimage.spec import Spec
from preimage.studies.budget_measurement import BudgetMeasurement
from preimage.studies.budget_page import BudgetStudy
from preimage.studies.formatting import listed
from preimage.studies.image_bands import OctaveBands
from preimage.studies.layers_rows import layer_name, network_name
from preimage.studies.measure import measure_layers
from preimage.viz.html import Figure, Section, Table
from preimage.viz.plots import Values, draw_by_name

_COARSE = 64  # wavelength in pixels from which on a band is coarse, in larger images
_FOLDERS = ("", "perturb")  # of an earlier study, in the folder of an inverter
_TABLE = "perturb.csv"


def budget_sections(
    reconstructor: Reconstructor, images: Sequence[ImageSource], side: int, batch_size: int, notes: list[str]
) -> Iterator[Section]:
    """Yield the section about the parts of the squared error; a sentence about a missing plot is added to `notes`."""
    region = reconstructor.inverter.output_region
    compared = side if region is None else region.size
    bands = OctaveBands(compared, compared)
    limits = sorted(int(limit) for limit in bands.shortest if 1 < limit < math.inf and limit <= compared)
    coarse = max([limit for limit in limits if limit <= _COARSE], default=0)
    if not coarse:
        notes.append(f"The parts of the error are left out: images of {compared} pixels have no bands.")
        return
    measurement = BudgetMeasurement(bands, coarse, set())
    for keys, comparison in reconstructor.compare_all(images, side, batch_size):
        measurement.add(keys, comparison)
    study = BudgetStudy(measurement.budget(), inverter=reconstructor.name, size=compared)
    figures: list[Figure] = []
    try:
        figures.append(plot(study.plot(), study.plot_alt))
    except ImportError as error:
        notes.append(f"The plot of the error by wavelength is left out: {error}.")
    parts, _ = study.tables()
    yield Section(
        "Where the error is",
        figures,
        points=list(study.findings()),
        tables=[dataclasses.replace(parts, caption="")],
        note="Recovered: 1 − squared error / squared distance of the images to their mean image.",
        span="page",
        kind="subsection",
    )


@dataclasses.dataclass(frozen=True)
class _Perturbed:
    """Scores under one perturbation, measured or read from a table."""

    perturbation: str
    error: float
    mean_image_error: float
    psnr: float
    ssim: float
    images: int


def perturb_sections(
    source: InverterSource, images: Sequence[ImageSource], side: int, options: Options, notes: list[str]
) -> Iterator[Section]:
    """Yield the section about perturbed features, measured or of an earlier study; or say in `notes` why not."""
    where = ""
    rows: list[_Perturbed] = []
    if options.perturbations:
        if not images:
            return  # the reason has been stated
        rows = _measured(source, images, side, options, notes)
        if len(rows) < 2:
            return  # all are for vectors, which has been stated
    else:
        for folder in _FOLDERS:
            path = source.folder / folder / _TABLE
            if path.is_file() and (rows := _read(path, source.inverter.spec)):
                where = f"From an earlier study ({Path(folder) / _TABLE} in the folder of the inverter), "
                break
    if len(rows) < 2:
        notes.append("Perturbed features are left out: none were asked for, and the folder has no table of them.")
        return
    names = [row.perturbation for row in rows]
    series = [
        Values("normalized error", [row.error for row in rows]),
        Values("mean image", [row.mean_image_error for row in rows], "level"),
    ]
    figures: list[Figure] = []
    try:
        title = "Normalized error by perturbation (lower is closer)"
        kinds = [re.sub(r"-[0-9.]+$", "", name) for name in names]  # curves join numbers of one perturbation only
        drawn = draw_by_name(title, names, series, kinds)
        figures.append(plot(drawn, "normalized error under each perturbation"))
    except ImportError as error:
        notes.append(f"The plot of perturbed features is left out: {error}.")
    lines = [[row.perturbation, f"{row.error:.3f}", f"{row.psnr:.1f}", f"{row.ssim:.3f}"] for row in rows]
    measured = f"{'measured' if where else 'Measured'} on {rows[0].images:,} photographs. "
    yield Section(
        "Perturbed features",
        figures,
        text=[
            f"{where}{measured}The inverter was trained with intact features: a larger error need not mean that the "
            "information is gone."
        ],
        tables=[Table("", ["perturbation", "normalized error", "PSNR, dB", "SSIM"], lines)],
        span="text",
        kind="subsection",
    )


def _measured(
    source: InverterSource, images: Sequence[ImageSource], side: int, options: Options, notes: list[str]
) -> list[_Perturbed]:
    assert source.representation is not None  # or there are no images
    measured = measure_layers(
        images,
        inverter=source.inverter,
        network=source.representation,
        show=None,
        show_count=1,
        size=side,
        tile=64,
        batch_size=options.batch_size,
        device=options.device,
        skip_bad=False,
        progress=None,
        perturbations=options.perturbations,
        seed=options.seed,
    )
    applied = {score.perturbation for score in measured.scores}
    if missing := [one.name for one in options.perturbations if one.name not in applied]:
        notes.append(f"Left out for these features, which are maps: {listed(missing)}, for vectors only.")
    return [
        _Perturbed(one.perturbation, one.error, one.mean_image_error, one.psnr, one.ssim, one.images)
        for one in measured.scores
    ]


def _read(path: Path, spec: Spec) -> list[_Perturbed]:
    """Return the rows of a study's table for these features, intact first; `FileFormatError` for another table."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        try:
            return [
                _Perturbed(
                    perturbation=row["perturbation"],
                    error=_number(row["normalized_error"]),
                    mean_image_error=_number(row["mean_image_error"]),
                    psnr=_number(row["psnr_db"]),
                    ssim=_number(row["ssim"]),
                    images=int(row["images"]),
                )
                for row in csv.DictReader(file)
                if (row["network"], row["layer"]) == (network_name(spec), layer_name(spec))
            ]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            problem = f"lacks the column {error}" if isinstance(error, KeyError) else str(error)
            raise FileFormatError(path, f"not a table of `preimage study perturb`: {problem}") from error


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {text}")
    return value
