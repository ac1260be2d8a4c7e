"""The base class of studies, which write a table, a sheet of images, a plot, and a page that shows them."""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import ClassVar, Literal, NamedTuple

from preimage.io import Listing, atomic_write, write_png
from preimage.io.csv_file import write_csv
from preimage.io.folders import make_folders
from preimage.pipelines.evaluate import Scores
from preimage.pipelines.image_loading import Images, Pixels, decodable_listing
from preimage.viz.html import Figure, Section, Table, html_page
from preimage.viz.sheets import draw_sheet

SAME_ERROR = 0.005  # minimum difference of errors that are ranked
NORMALIZED_ERROR = (
    "Normalized error: mean Euclidean distance between photograph and reconstruction, divided by the average distance "
    "between two of the photographs"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySummary:
    """Result of a study, and the files that it wrote.

    Attributes:
        page: Self-contained HTML page.
        csv: Table of the scores.
        sheet: PNG of images and their reconstructions.
        plot: PNG of the scores; ``None`` if it could not be drawn.
        images: Number of images measured.
        findings: Sentences that state the main results.
        notes: Sentences about what is left out, with the reason.
        seconds: Wall time.
        skipped: (name, problem) of the images left out.
    """

    page: Path
    csv: Path
    sheet: Path
    plot: Path | None
    images: int
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    skipped: tuple[tuple[str, str], ...]


class SheetRow(NamedTuple):
    """A row of the sheet: the image's key, the images in the row, and a caption for each image instead of the key."""

    key: str
    cells: list[Pixels]
    captions: Sequence[str] | None = None


class MeanScores(NamedTuple):
    """Scores of the reconstructions of a set of images.

    Attributes:
        images: Number of images.
        error: Normalized error.
        mean_image_error: Normalized error of the mean image.
        normalizer: Average distance between two images.
        psnr: Mean PSNR in dB.
        ssim: Mean SSIM.
        lpips: Mean LPIPS; ``None`` if it was not computed.
    """

    images: int
    error: float
    mean_image_error: float
    normalizer: float
    psnr: float
    ssim: float
    lpips: float | None


def mean_scores(scores: Scores) -> MeanScores:
    """Return the mean scores; ``ValueError`` for fewer than two images, or only equal ones."""
    report, each = scores.report()
    lpips = [score.lpips for score in each if score.lpips is not None]
    return MeanScores(
        images=len(each),
        error=report.error,
        mean_image_error=report.mean_image,
        normalizer=report.normalizer,
        psnr=fmean(score.psnr for score in each),
        ssim=fmean(score.ssim for score in each),
        lpips=fmean(lpips) if lpips else None,
    )


class ProgressCounter:
    """Counter of the work done, which reports to a function.

    Args:
        total: Total amount of work.
        report: Function called with (work done, total amount); ``None`` for no reports.
    """

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._total, self._report, self._done = total, report, 0

    def add(self, count: int) -> None:
        """Count work that has been done."""
        self._done += count
        if self._report is not None:
            self._report(self._done, self._total)


def check_at_least(*limits: tuple[str, float, float]) -> None:
    """Raise ``ValueError`` for the first (name, value, minimum) whose value is below its minimum."""
    for name, value, least in limits:
        if not value >= least:  # also NaN
            raise ValueError(f"{name} must be at least {least:g}, got {value:g}")


def study_images(images: Images, *, skip_bad: bool, least: int = 2) -> Listing:
    """Return the images of a study; ``ValueError`` if there are fewer than `least`, or a bad one without `skip_bad`."""
    listing = decodable_listing(images, skip_bad=skip_bad)
    if len(listing.sources) < least:
        count = {1: "one image", 2: "two images"}.get(least, f"{least:,} images")
        raise ValueError(f"the study needs at least {count}, got {len(listing.sources)}")
    return listing


class Study(abc.ABC):
    """Scores of a study, and their presentation.

    A subclass states its texts and its scores; the files and the page are written here.

    Attributes:
        name: Name of the table's file.
        title: Heading of the page.
        sheet_rows: Rows of the sheet.
        sheet_heading: Heading of the sheet on the page.
        sheet_alt: Alternative text of the sheet.
        sheet_note: Text below the sheet.
        sheet_span: Width of the sheet on the page, see `preimage.viz.html.Section`.
        plot_heading: Heading of the plot on the page.
        plot_alt: Alternative text of the plot.
        tile: Side of an image on the sheet, pixels.
    """

    name: ClassVar[str]
    title: str
    sheet_rows: Sequence[SheetRow]
    sheet_heading: ClassVar[str]
    sheet_alt: ClassVar[str]
    sheet_note: str = ""
    sheet_span: Literal["page", "window"] = "window"
    plot_heading: ClassVar[str]
    plot_alt: ClassVar[str]
    tile: int = 192

    @property
    @abc.abstractmethod
    def image_count(self) -> int:
        """Number of images measured."""

    @abc.abstractmethod
    def lead(self) -> str:
        """Return the paragraph below the heading, which says what was done."""

    @abc.abstractmethod
    def findings(self) -> Iterator[str]:
        """Yield sentences that state what the scores show."""

    @abc.abstractmethod
    def table(self) -> Iterator[Sequence[object]]:
        """Yield the rows of the CSV file, its header first."""

    def further_tables(self) -> dict[str, Iterator[Sequence[object]]]:
        """Return rows of further CSV files by the end of their names, see `further_table`."""
        return {}

    @abc.abstractmethod
    def tables(self) -> list[Table]:
        """Return the tables of the page."""

    @abc.abstractmethod
    def sheet_titles(self) -> list[str]:
        """Return the titles of the sheet's columns."""

    @abc.abstractmethod
    def remarks(self) -> Iterator[str]:
        """Yield the sentences of the page's footer: definitions, and limits of what the scores show."""

    @abc.abstractmethod
    def plot(self) -> Pixels:
        """Draw the scores; ``ImportError`` without matplotlib."""

    def sections(self) -> list[Section]:
        """Return sections of the page below the sheet and the plot."""
        return []

    def page(self, sheet: Pixels, plot: Pixels | None, notes: Sequence[str], command: str) -> str:
        """Return the self-contained HTML page."""
        sections = [
            Section(self.sheet_heading, [Figure(sheet, "", self.sheet_alt)], note=self.sheet_note, span=self.sheet_span)
        ]
        if plot is not None:
            sections.append(Section(self.plot_heading, [Figure(plot, "", self.plot_alt, on_white=True)], span="page"))
        return html_page(
            title=self.title,
            lead=self.lead(),
            points=self.findings(),
            sections=[*sections, *self.sections()],
            tables=self.tables(),
            command=command,
            footer=" ".join([*self.remarks(), *notes]),
        )

    def write(
        self,
        folder: Path,
        *,
        start: float,
        listings: Sequence[Listing],
        notes: Sequence[str] = (),
        csv: Path | None = None,
        command: str = "",
    ) -> StudySummary:
        """Write table, sheet, plot and page; each file is written atomically.

        Args:
            folder: Folder of the files, which is created if it does not exist; files of an earlier study are replaced.
            start: ``time.perf_counter()`` at the start of the study.
            listings: Listings from which the images were taken.
            notes: Sentences about what is left out, with the reason.
            csv: File of the table; ``None`` is ``<name>.csv`` in the folder.
            command: Command line shown on the page.
        """
        table = folder / f"{self.name}.csv" if csv is None else csv
        make_folders(folder)
        write_csv(table, self.table())
        for end, rows in self.further_tables().items():
            write_csv(further_table(table, end), rows)
        sheet = draw_sheet(
            [row.cells for row in self.sheet_rows],
            self.sheet_titles(),
            [row.key if row.captions is None else row.captions for row in self.sheet_rows],
            tile=self.tile,
        )
        write_png(folder / "sheet.png", sheet)
        notes = list(notes)
        try:
            plot = self.plot()
            write_png(folder / "plot.png", plot)
        except ImportError as error:
            plot = None
            (folder / "plot.png").unlink(missing_ok=True)  # the plot of an earlier study has other scores
            notes.append(f"The plot is left out: {error}.")
        with atomic_write(folder / "index.html") as file:
            file.write(self.page(sheet, plot, notes, command).encode())
        return StudySummary(
            page=folder / "index.html",
            csv=table,
            sheet=folder / "sheet.png",
            plot=None if plot is None else folder / "plot.png",
            images=self.image_count,
            findings=tuple(self.findings()),
            notes=(*notes, *(note for listing in listings for note in listing.notes)),
            seconds=time.perf_counter() - start,
            skipped=tuple(skipped for listing in listings for skipped in listing.skipped),
        )


def further_table(table: Path, end: str) -> Path:
    """Return the file of a further table beside the first: ``scores-images.csv`` for ``scores.csv`` and ``images``."""
    return table.with_name(f"{table.stem}-{end}{table.suffix}")
