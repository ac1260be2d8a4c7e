"""Present an audit: the page, the tables and the curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from preimage.pipelines.image_loading import Pixels
from preimage.studies.audit_measurement import (
    BY_SIFT,
    MEAN_IMAGE,
    NEAREST,
    UNCHANGED,
    ConditionScore,
    ImageScore,
)
from preimage.studies.base import NORMALIZED_ERROR, SheetRow, Study
from preimage.studies.bootstrap import Interval
from preimage.studies.formatting import number, percent, two_digits
from preimage.studies.mitigations import KNOWLEDGE
from preimage.studies.reidentification import MAX_KEYPOINTS, RankRates
from preimage.viz.dots import Dots, draw_dots
from preimage.viz.html import Figure, Section, Table, html_page
from preimage.viz.tradeoffs import Tradeoff, TradeoffPanel, draw_tradeoffs

_NO_BREAK = "\N{NO-BREAK SPACE}"
_TITLES = {UNCHANGED: "reconstruction"}
_HEADING = "How much comes back"
_KNOWLEDGE = "What the attacker has and knows"
_USEFUL = 0.9  # recall above which a change still leaves what the features are kept for


@dataclasses.dataclass(frozen=True)
class AuditSetting:
    """What was audited, and by whom.

    Attributes:
        index: Path of the index.
        features: The features in prose, with their parameters.
        images: Number of photographs that were reconstructed.
        side: Side of the photographs in pixels.
        compared: Side of the part that the inverter returns, in pixels.
        inverter: Name or folder of the inverter.
        minutes: Minutes for which it was trained for this audit; ``None`` for an inverter that existed.
        own: Number of photographs with features that the attacker has, none of them audited.
        neighbors_from: Where the nearest neighbors come from, a noun phrase.
        retrieval: Name of the recall: ``"recall@10"`` or ``"match recall"``.
        retrieval_chance: Recall of features without any information; ``None`` for keypoints.
        embedding: Name of the embedding; ``None`` without one.
        seed: Seed of the split, the changes and the intervals.
    """

    index: str
    features: str
    images: int
    side: int
    compared: int
    inverter: str
    minutes: float | None
    own: int
    neighbors_from: str
    retrieval: str
    retrieval_chance: float | None
    embedding: str | None
    seed: int

    def knowledge(self) -> dict[str, str]:
        """Return what the attacker has, knows and does not know, by topic."""
        if self.minutes is None:
            made = f"the inverter {self.inverter}, trained by someone on other photographs with such features"
        else:
            made = (
                f"{self.own} other photographs of the same kind with their features, and an inverter that was trained "
                f"on them for {two_digits(self.minutes)} minutes"
            )
        changes = "; ".join(f"{kind}: {what}" for kind, what in KNOWLEDGE.items() if self._applies(kind))
        return {
            "Has": f"the features of {self.images} photographs, as they are stored, and {made}.",
            "Knows": f"how the features are computed: {self.features}.",
            "Searches": f"for each reconstruction the right photograph, among {self.images} that are at hand.",
            "Of changes": f"{changes}. The inverter is not trained on changed features.",
        }

    def _applies(self, kind: str) -> bool:
        return kind != "fewer keypoints" or self.retrieval == "match recall"


class AuditStudy(Study):
    """Presentation of an audit.

    Args:
        scores: Scores of the unchanged features, the baselines, and the changes.
        each: Scores of each photograph.
        setting: What was audited, and by whom.
        sheet_rows: Rows of the sheet.
        drawn: Whether the sheet contains drawings of the features.
        tile: Side of an image on the sheet, pixels.
    """

    name = "audit"
    title = "What comes back from an index of features"
    sheet_heading = "Photographs and what comes back"
    sheet_alt = "rows of photographs, their features, the reconstruction, the photograph that it matches best"
    sheet_note = (
        "From the lowest to the highest error, evenly spaced. The best match is the photograph with the most SIFT "
        "matches with the reconstruction; below it is the number of matches."
    )
    plot_heading = "What changes of the features cost, and what they hide"
    plot_alt = "normalized error and re-identification against the recall, one curve for each kind of change"

    def __init__(
        self,
        scores: Sequence[ConditionScore],
        each: Sequence[ImageScore],
        setting: AuditSetting,
        sheet_rows: Sequence[SheetRow] = (),
        *,
        drawn: bool = False,
        tile: int = 192,
    ) -> None:
        self.scores, self.each, self.setting, self.sheet_rows, self.drawn = scores, each, setting, sheet_rows, drawn
        self.tile = tile
        by_name = {score.name: score for score in scores}
        self._unchanged, self._mean = by_name[UNCHANGED], by_name[MEAN_IMAGE]
        self._nearest = by_name[NEAREST]
        self._changes = [score for score in scores if score.kind]

    @property
    def image_count(self) -> int:
        return len(self.each)

    def lead(self) -> str:
        setting = self.setting
        return (
            f"{setting.images} photographs of {setting.side} × {setting.side} pixels were reconstructed from "
            f"{setting.index} alone ({setting.features}), and each reconstruction was compared with all of them."
        )

    def findings(self) -> Iterator[str]:
        yield (
            f"The normalized error is {_interval(self._unchanged.error)}; the photograph with the nearest features has "
            f"{_interval(self._nearest.error)}, and the mean image {_interval(self._mean.error)}."
        )
        for how, rates in self._unchanged.reidentification.items():
            by = "SIFT matching" if how == BY_SIFT else f"the embedding {how}"
            yield (
                f"By {by}, the best match among {self.setting.images} photographs is the right one for "
                f"{_share(rates.rank1)} of the reconstructions, and the right one is among the best ten for "
                f"{_share(rates.rank10)}; by chance {percent(self._chance(1))} and {percent(self._chance(10))}."
            )
        yield from self._change_findings()

    def _change_findings(self) -> Iterator[str]:
        if not self._changes:
            return
        retrieval, rates = self.setting.retrieval, self._unchanged.reidentification[BY_SIFT]
        recognized = rates.rank1.low > self._chance(1)
        if not recognized:
            yield "SIFT matching does not recognize more reconstructions than chance, with or without a change."
        useful = [score for score in self._changes if _mean(score.recall) >= _USEFUL]
        if not useful:
            yield f"No change that was measured leaves a {retrieval} of at least {100 * _USEFUL:g} %."
        else:
            best = min(useful, key=lambda score: ((score.rank1 or 0) if recognized else 0, -score.error.mean))
            yield (
                f"Of the changes that leave a {retrieval} of at least {100 * _USEFUL:g} %, "
                + (self._rank_effect(best) if recognized else f"{best.name} raises the error most: to ")
                + f"{number(best.error.mean)}, at a {retrieval} of {percent(_mean(best.recall))}."
            )
        halved = [score for score in self._changes if (score.rank1 or 0) <= rates.rank1.mean / 2]
        if recognized and halved:
            cheapest = max(halved, key=lambda score: _mean(score.recall))
            yield (
                f"The change that at least halves rank 1 at the least cost is {cheapest.name}: "
                f"{percent(cheapest.rank1)}, at a {retrieval} of {percent(_mean(cheapest.recall))}."
            )
        elif recognized:
            yield "No change that was measured halves rank 1."

    def _rank_effect(self, best: ConditionScore) -> str:
        """Return the first part of a sentence about the change that leaves the lowest rank 1."""
        if (best.rank1 or 0) >= (self._unchanged.rank1 or 0):
            return f"none lowers rank 1; {best.name} raises the error most: to "
        return f"{best.name} lowers rank 1 most: to {percent(best.rank1)} with an error of "

    def _chance(self, rank: int) -> float:
        return min(1.0, rank / self.setting.images)

    def table(self) -> Iterator[Sequence[object]]:
        ways = list(self._unchanged.reidentification)
        names = ["normalized_error", "psnr_db", "ssim"]
        names += [f"{rank}_{way}" for way in ways for rank in ("rank1", "rank10")] + ["recall"]
        yield [
            *("condition", "kind", "setting", "images"),
            *(f"{name}{end}" for name in names for end in ("", "_low", "_high")),
        ]
        for score in self.scores:
            intervals: list[Interval | None] = [score.error, score.psnr, score.ssim]
            for way in ways:
                rates = score.reidentification.get(way)
                intervals += [None, None] if rates is None else [rates.rank1, rates.rank10]
            intervals.append(score.recall)
            values = [
                f"{value:.6f}" if interval is not None else ""
                for interval in intervals
                for value in (_ends(interval) if interval is not None else (0.0, 0.0, 0.0))
            ]
            yield [score.name, score.kind, score.setting, self.image_count, *values]

    def further_tables(self) -> dict[str, Iterator[Sequence[object]]]:
        return {"images": self._image_table()}

    def _image_table(self) -> Iterator[Sequence[object]]:
        yield ["key", "normalized_error", "nearest_error", "match", "matches", "right_matches"]
        for one in self.each:
            yield [one.key, f"{one.error:.6f}", f"{one.nearest_error:.6f}", one.match, one.matches, one.right_matches]

    def sheet_titles(self) -> list[str]:
        return [
            "photograph",
            *["its features"] * self.drawn,
            f"reconstruction\nerror {self._unchanged.error.mean:.2f}",
            "its best match",
            f"{NEAREST}\nerror {self._nearest.error.mean:.2f}",
        ]

    def plot(self) -> Pixels:
        """Draw error and re-identification against the recall, or without changes with their intervals."""
        if not self._changes:
            return self._dots()
        kinds = dict.fromkeys(score.kind for score in self._changes)

        def curves(value: Mapping[str, float]) -> list[Tradeoff]:
            groups = [(kind, [score for score in self._changes if score.kind == kind]) for kind in kinds]
            return [
                Tradeoff(
                    kind,
                    [1.0, *(_mean(score.recall) for score in group)],
                    [value[UNCHANGED], *(value[score.name] for score in group)],
                    ["", *(score.setting for score in group)],
                )
                for kind, group in groups
            ]

        errors = {score.name: score.error.mean for score in self.scores}
        rates = {score.name: score.rank1 or 0 for score in self.scores}
        panels = [
            TradeoffPanel("Normalized error (higher hides more)", curves(errors), {MEAN_IMAGE: self._mean.error.mean}),
            TradeoffPanel("Best SIFT match is right (lower hides more)", curves(rates), {"chance": self._chance(1)}),
        ]
        least = min((_mean(score.recall) for score in self._changes), default=0.0)
        return draw_tradeoffs(panels, self.setting.retrieval, x_limits=(max(0.0, least - 0.05), 1 + 0.12 * (1 - least)))

    def _dots(self) -> Pixels:
        """Draw errors and rank 1 with their intervals."""
        rates = [score.reidentification.get(BY_SIFT) for score in self.scores]
        panels = [
            Dots(
                "Normalized error",
                [score.error.mean for score in self.scores],
                [(score.error.low, score.error.high) for score in self.scores],
                [f"{score.error.mean:.2f}" for score in self.scores],
            ),
            Dots(
                "Best SIFT match is right",
                [None if rate is None else rate.rank1.mean for rate in rates],
                [None if rate is None else (rate.rank1.low, rate.rank1.high) for rate in rates],
                ["" if rate is None else percent(rate.rank1.mean) for rate in rates],
                level=self._chance(1),
                level_label="chance",
            ),
        ]
        return draw_dots([_TITLES.get(score.name, score.name) for score in self.scores], panels)

    def remarks(self) -> Iterator[str]:
        setting = self.setting
        yield f"{NORMALIZED_ERROR}. The mean image is that of {setting.neighbors_from}, as are the nearest neighbors."
        if setting.compared < setting.side:
            yield f"Images are compared as the inverter returns them, at {setting.compared} pixels a side."
        yield (
            "Intervals are bootstrap percentile intervals of 95 % over the photographs. SIFT matching: the number of "
            f"mutual nearest neighbors of at most {MAX_KEYPOINTS} keypoints of each image whose distance is below 0.8 "
            "of that to the second nearest; equal numbers are in random order."
        )
        if setting.retrieval == "match recall":
            yield (
                "Match recall: the share of the right matches between the stored keypoints and those of a second view "
                "(rotated by 15°, at 0.8 of the size) that is left, within 3 pixels."
            )
        else:
            yield (
                f"{setting.retrieval}: the share of each photograph's nearest neighbors among the others, by the "
                f"Euclidean distance of unchanged features, that are still nearest with changed ones; by chance "
                f"{percent(setting.retrieval_chance)}."
            )
        yield (
            "These are reconstructions by one inverter: another one, or one that is trained on changed features, may "
            "recover more. Nearest neighbors that are audited "
            "photographs themselves are not matched."
        )
        yield f"Seed: {setting.seed}."

    def tables(self) -> list[Table]:
        first = [score for score in self.scores if not score.kind]
        ways = list(self._unchanged.reidentification)
        header = ["image", "normalized error", "95 % interval", "PSNR, dB", "SSIM"]
        for way in ways:
            header += [f"rank 1, {way}", "95 % interval", f"rank 10, {way}", "95 % interval"]
        rows = [self._row(_TITLES.get(score.name, score.name), score, ways) for score in first]
        chance = ["chance", "", "", "", ""]
        for _ in ways:
            chance += [percent(self._chance(1)), "", percent(self._chance(10)), ""]
        found = [Table(_HEADING, header, [*rows, chance])]
        if self._changes:
            header = ["change", "normalized error", "95 % interval", "rank 1, sift", "95 % interval"]
            header.append(self.setting.retrieval)
            lines = [_change_row(score) for score in (self._unchanged, *self._changes)]
            found.append(Table("What changes of the features hide, and what they cost", header, lines))
        return found

    def _row(self, title: str, score: ConditionScore, ways: Sequence[str]) -> list[str]:
        row = [title, f"{score.error.mean:.3f}", _range(score.error)]
        row += [f"{_mean(score.psnr):.1f}", f"{_mean(score.ssim):.3f}"]
        for way in ways:
            row += _rate_cells(score.reidentification.get(way))
        return row

    def page(self, sheet: Pixels, plot: Pixels | None, notes: Sequence[str], command: str) -> str:
        """Return the self-contained HTML page: numbers, curves, then pictures."""
        tables = [dataclasses.replace(table, caption="") for table in self.tables()]
        figures = []
        if plot is not None:
            figures.append(Figure(plot, "", self.plot_alt if self._changes else _HEADING, on_white=True))
        sections = [
            Section("", numbers=list(self._numbers()), points=list(self.findings())),
            Section(_KNOWLEDGE, terms=list(self.setting.knowledge().items())),
            Section(_HEADING, tables=tables[:1], figures=[] if self._changes else figures, span="page"),
        ]
        if self._changes:
            sections.append(Section(self.plot_heading, figures, tables=tables[1:], span="page"))
        sections.append(
            Section(self.sheet_heading, [Figure(sheet, "", self.sheet_alt)], note=self.sheet_note, span="page")
        )
        return html_page(
            title=self.title,
            lead=self.lead(),
            sections=sections,
            command=command,
            footer=" ".join([*self.remarks(), *notes]),
        )

    def _numbers(self) -> Iterator[tuple[str, str]]:
        """Yield the few numbers in large type, with their meaning."""
        yield (
            number(self._unchanged.error.mean),
            f"normalized error; mean image {number(self._mean.error.mean)}, nearest features "
            f"{number(self._nearest.error.mean)}",
        )
        for how, rates in self._unchanged.reidentification.items():
            by = "SIFT matching" if how == BY_SIFT else how
            yield (
                percent(rates.rank1.mean),
                f"are recognized among {self.setting.images} photographs by {by}; by chance {percent(self._chance(1))}",
            )


def _change_row(score: ConditionScore) -> list[str]:
    rates = score.reidentification[BY_SIFT]
    row = [score.name, f"{score.error.mean:.3f}", _range(score.error)]
    return [*row, percent(rates.rank1.mean), _percent_range(rates.rank1), percent(_mean(score.recall))]


def _rate_cells(rates: RankRates | None) -> list[str]:
    if rates is None:
        return ["", "", "", ""]
    return [
        *(percent(rates.rank1.mean), _percent_range(rates.rank1)),
        *(percent(rates.rank10.mean), _percent_range(rates.rank10)),
    ]


def _mean(interval: Interval | None) -> float:
    return 0.0 if interval is None else interval.mean


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _interval(interval: Interval) -> str:
    return f"{number(interval.mean)} (95 % interval {number(interval.low)} to {number(interval.high)})"


def _share(interval: Interval) -> str:
    return f"{percent(interval.mean)} (95 % interval {_percent_range(interval)})".replace(_NO_BREAK, " ")


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}".replace(" ", _NO_BREAK)


def _percent_range(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {percent(interval.high)}".replace(" ", _NO_BREAK)
