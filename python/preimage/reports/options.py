"""Options of a report, and the parts that it consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from preimage.inverters import Inverter
from preimage.io import ImageSource
from preimage.pipelines.image_loading import Images
from preimage.studies.bootstrap import Interval
from preimage.studies.feature_perturbations import Perturbation
from preimage.viz.html import Section

STEPS = 5  # of the progress, for each source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all parts of a report, see `preimage.report`.

    Attributes:
        images: The images; ``None`` for a run's validation images.
        inverters: Inverters among the sources by name, which invert stores of their features.
        skipped: List to which (name, problem) of images that are left out are added.
    """

    images: Sequence[ImageSource] | None
    database: Images | None
    perturbations: tuple[Perturbation, ...]
    size: int | None
    show_count: int
    samples: int
    seed: int
    batch_size: int
    device: str
    skip_bad: bool
    inverters: Mapping[str, Inverter]
    skipped: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportScore:
    """Scores of one source of a report.

    Attributes:
        source: Folder or name of the source.
        representation: Representation in prose.
        inverter: Folder or name of the inverter; empty for a store without one.
        images: Number of images measured, or for a store the number of images in it.
        error: Normalized error with its bootstrap interval of 95 %; ``None`` if nothing was measured.
        mean_image_error: Normalized error of the mean image.
        nearest_error: Normalized error of the nearest neighbor in the database, with its interval.
        psnr: Mean PSNR in dB.
        ssim: Mean SSIM.
        published: Published error of the representation.
    """

    source: str
    representation: str
    inverter: str
    images: int
    error: Interval | None = None
    mean_image_error: float | None = None
    nearest_error: Interval | None = None
    psnr: float | None = None
    ssim: float | None = None
    published: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a report about one source.

    Attributes:
        name: Name of the source on the page.
        score: Scores of the source.
        lead: Sentence that says what the source is.
        sections: Sections of the page.
        notes: Sentences about what is left out, with the reason.
    """

    name: str
    score: ReportScore
    lead: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


def left_out(notes: Sequence[str]) -> list[Section]:
    """Return the section with the sentences about what is left out; nothing if there are none."""
    return [Section("Not in this report", points=notes, kind="subsection")] if notes else []
