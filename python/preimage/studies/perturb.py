"""Perturb the features of several layers, and measure what the reconstructions lose."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from preimage.pipelines.image_loading import Images, Pixels
from preimage.pipelines.image_writer import output_folder
from preimage.studies.base import SAME_ERROR, SheetRow, Study, StudySummary
from preimage.studies.feature_perturbations import PERCENTAGE, Perturbation, parse_perturbations
from preimage.studies.formatting import listed
from preimage.studies.layers_rows import Inverters, Networks
from preimage.studies.measure import (
    INTACT,
    OUTLIER_DEVIATIONS,
    LayerScore,
    Shown,
    csv_rows,
    layer_table,
    measure_layers,
    measuring_remarks,
    range_text,
)
from preimage.viz.html import Table
from preimage.viz.plots import MOST_SERIES, Values, draw_by_name

PERTURBATIONS = ("binarize", "dropout", "drop-least", "top-5", "not-top-5")

_NOTED_OUTLIERS = 1e-4  # increase of the fraction of features far from their mean that is noted
_DROPS = {
    "drop-least": "Dropping the smallest {} of the non-zero entries and binarizing the others",
    "drop-smallest": "Dropping the smallest {} of the non-zero entries",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerturbSummary(StudySummary):
    """Result of the study of perturbations.

    Attributes:
        shown: Keys of the images on the sheet.
        seed: Seed of random perturbations.
        scores: Scores by layer in the order given; of each layer the intact features first, then its perturbations.
    """

    shown: tuple[str, ...]
    seed: int
    scores: tuple[LayerScore, ...]


def study_perturb(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: Inverters,
    network: Networks = (),
    perturbations: Perturbation | str | Sequence[Perturbation | str] = PERTURBATIONS,
    seed: int = 0,
    show: Images | None = None,
    show_count: int = 3,
    size: int = 256,
    tile: int = 192,
    batch_size: int = 16,
    device: str = "auto",
    csv: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    command: str = "preimage study perturb",
    progress: Callable[[int, int], None] | None = None,
) -> PerturbSummary:
    """Invert intact and perturbed features of photographs from each of several layers, and compare the reconstructions.

    Images, layers and errors are those of `preimage.study_layers`. The inverters are the same for perturbed features as
    for intact ones.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Folders, pretrained names, or inverters, one for each layer, in the order of the plot; also a single
            one.
        network: Networks, or single representations, for inverters of layers that cannot be created by name; also a
            single one.
        perturbations: Perturbations, or their names, see `preimage.studies.feature_perturbations.parse_perturbation`;
            also a single one. Those that keep or remove the largest entries apply to vectors only.
        seed: Seed of random perturbations, at least 0.
        show: Images on the sheet; ``None`` takes the first `show_count` of `images`.
        show_count: Number of images on the sheet without `show`.
        size: Side of the images in pixels for representations that take any size, at least 11.
        tile: Side of an image on the sheet in pixels, at least 32.
        batch_size: Batch size.
        device: Device of the inverters, and of the networks if they support it, see `Reconstructor`.
        csv: File of the table; ``None`` is ``perturb.csv`` in `output`.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image from one layer under one
            perturbation, or intact.

    Raises:
        ValueError: As `preimage.study_layers`; there is no perturbation of a name, there are none, two of one name, or
            more than can be distinguished in the plot; one returns features of another shape, or that are not finite.
        OSError: A network's weights are missing.
    """
    start = time.perf_counter()
    parsed = parse_perturbations(perturbations)
    _check_perturbations(parsed)
    folder = output_folder(output)
    measured = measure_layers(
        images,
        inverter=inverter,
        network=network,
        perturbations=parsed,
        seed=seed,
        show=show,
        show_count=show_count,
        size=size,
        tile=tile,
        batch_size=batch_size,
        device=device,
        skip_bad=skip_bad,
        progress=progress,
    )
    names = [one.name for one in parsed]
    study = PerturbStudy(measured.scores, measured.shown, names=names, seed=seed, tile=tile)
    written = study.write(
        folder,
        start=start,
        listings=measured.listings,
        notes=list(study.notes()),
        csv=None if csv is None else Path(csv),
        command=command,
    )
    shown = tuple(one.key for one in measured.shown)
    return PerturbSummary(**vars(written), shown=shown, seed=seed, scores=measured.scores)


def _check_perturbations(perturbations: Sequence[Perturbation]) -> None:
    if not 1 <= len(perturbations) < MOST_SERIES:  # the intact features are a series, too
        raise ValueError(f"perturbations must be 1 to {MOST_SERIES - 1}, got {len(perturbations)}")
    if any(one.name == INTACT for one in perturbations):
        raise ValueError(f"a perturbation must not be named {INTACT!r}, which is the name of unperturbed features")


class PerturbStudy(Study):
    """Presentation of the scores by layer and perturbation.

    Args:
        scores: Scores by layer, of each the intact features first.
        shown: Images of the sheet.
        names: Names of all perturbations, in their order.
        seed: Seed of random perturbations.
        tile: Side of an image on the sheet, pixels.
    """

    name = "perturb"
    title = "What perturbed features keep"
    sheet_heading = "From intact and from perturbed features"
    sheet_alt = "rows of reconstructions from one layer each, intact and under each perturbation, beside the photograph"
    sheet_note = "A row for each layer. An empty place: the perturbation is not applied to this layer."
    plot_heading = "Error by layer"
    plot_alt = "normalized error of each layer, a curve for each perturbation"

    def __init__(
        self,
        scores: Sequence[LayerScore],
        shown: Sequence[Shown] = (),
        *,
        names: Sequence[str],
        seed: int = 0,
        tile: int = 192,
    ) -> None:
        self.scores, self.tile, self._seed, self._all_names = scores, tile, seed, names
        self._intact = [score for score in scores if score.perturbation == INTACT]
        self._by_name = {(score.label, score.perturbation): score for score in scores}
        applied = {score.perturbation for score in scores}
        self._names = [name for name in names if name in applied]
        self.sheet_rows = [row for one in shown for row in self._rows(one)]

    def _rows(self, shown: Shown) -> Iterator[SheetRow]:
        """Yield the rows of one image, of which the first contains the photograph."""
        empty = np.full((self.tile, self.tile, 3), 255, np.uint8)
        photograph = shown.original
        for score in self._intact:
            cells = [shown.reconstructions.get((score.label, name), empty) for name in (INTACT, *self._names)]
            yield SheetRow(f"{shown.key}, {score.label}", [photograph, *cells])
            photograph = empty

    @property
    def image_count(self) -> int:
        return self._intact[0].images

    def table(self) -> Iterator[Sequence[object]]:
        return csv_rows(self.scores, perturbed=True)

    def sheet_titles(self) -> list[str]:
        return ["photograph", INTACT, *self._names]

    def plot(self) -> Pixels:
        """Draw the error by layer, a curve for each perturbation."""
        scores = self._intact
        series = [Values(name, [self._error(score, name) for score in scores]) for name in (INTACT, *self._names)]
        series.append(Values("mean image", [score.mean_image_error for score in scores], "level"))
        title = "Normalized error by layer (lower is closer)"
        labels, networks = [score.label for score in scores], [score.network for score in scores]
        # From zero, close curves could not be distinguished.
        return draw_by_name(title, labels, series, networks, from_zero=False)

    def _error(self, intact: LayerScore, name: str) -> float | None:
        score = self._by_name.get((intact.label, name))
        return None if score is None else score.error

    def _pairs(self, name: str, reference: str = INTACT) -> list[tuple[LayerScore, LayerScore]]:
        """Return the scores under `reference` and under a perturbation, of all layers to which both are applied."""
        found = [[self._by_name.get((intact.label, one)) for one in (reference, name)] for intact in self._intact]
        return [(first, second) for first, second in found if first is not None and second is not None]

    def findings(self) -> Iterator[str]:
        errors = listed([f"{score.error:.3f} in {score.label}" for score in self._intact])
        mean_image = range_text([score.mean_image_error for score in self._intact], digits=3)
        yield f"With intact features the normalized error is {errors}; the mean image has {mean_image}."
        compared: set[str] = set()
        for name in self._names:
            kind, number = _parts(name)
            if kind in _DROPS and (pairs := self._pairs(name, f"dropout{number}")):
                yield self._drop_finding(name, pairs)
                compared |= {name, f"dropout{number}"}
            if kind == "top" and number and (pairs := self._pairs(name, f"not-{name}")):
                yield from self._largest_findings(number.removeprefix("-"), pairs)
                compared |= {name, f"not-{name}"}
        for name in self._names:
            if name not in compared:
                yield self._change_finding(name)
        nothing = [(name, self._not_below_mean_image(name)) for name in (INTACT, *self._names)]
        if texts := [f"{name} in {listed(labels)}" for name, labels in nothing if labels]:
            yield (
                f"By this measure nothing is recovered, with an error that is not at least {SAME_ERROR} below that of "
                f"the mean image: {listed(texts, '; ')}."
            )

    def _change_finding(self, name: str) -> str:
        """Return by how much a perturbation changes the error of each layer."""
        pairs = self._pairs(name)
        changes = [
            f"{_signed(score.error - intact.error)} in {intact.label} ({intact.error:.3f} to {score.error:.3f})"
            for intact, score in pairs
        ]
        text = f"The perturbation {name} changes the normalized error by {listed(changes)}"
        least = min(pairs, key=lambda pair: pair[1].error - pair[0].error)
        most = max(pairs, key=lambda pair: pair[1].error - pair[0].error)
        if (most[1].error - most[0].error) - (least[1].error - least[0].error) > SAME_ERROR:
            text += f": least in {least[0].label}, most in {most[0].label}"
        return text + "."

    def _drop_finding(self, name: str, pairs: Sequence[tuple[LayerScore, LayerScore]]) -> str:
        """Return whether dropping the smallest entries hurts less than dropping random ones.

        Args:
            name: Perturbation that drops the smallest entries.
            pairs: Scores under dropout of the same percentage, and under this perturbation, by layer.
        """
        kind, number = _parts(name)
        share = f"{number.removeprefix('-') or f'{PERCENTAGE:g}'} %"
        errors = [f"{smallest.error:.3f} against {random.error:.3f} in {random.label}" for random, smallest in pairs]
        differences = {random.label: random.error - smallest.error for random, smallest in pairs}
        groups = {
            "less": [label for label, difference in differences.items() if difference > SAME_ERROR],
            "more": [label for label, difference in differences.items() if difference < -SAME_ERROR],
            f"as much (within {SAME_ERROR})": [
                label for label, difference in differences.items() if abs(difference) <= SAME_ERROR
            ],
        }
        result = listed([f"{how} in {listed(labels)}" for how, labels in groups.items() if labels], "; ")
        return (
            f"{_DROPS[kind].format(share)} ({name}), against dropping a random {share} of all entries "
            f"(dropout{number}), gives a normalized error of {listed(errors)}: it hurts {result}."
        )

    def _largest_findings(self, count: str, pairs: Sequence[tuple[LayerScore, LayerScore]]) -> Iterator[str]:
        """Yield, for each layer, how much of the image is in the largest entries and how much in the others.

        Args:
            count: Number of largest entries.
            pairs: Scores without and with only these entries, by layer.
        """
        for others, top in pairs:
            intact = self._by_name[top.label, INTACT]
            if not others.nonzero:
                yield f"In {intact.label} there are no non-zero entries besides the {count} largest."
                continue
            text = (
                f"With only the {count} largest entries of {intact.label} the normalized error is {top.error:.3f}, "
                f"with all others {others.error:.3f}, with all {intact.error:.3f}"
            )
            floor = intact.mean_image_error
            if min(top.error, others.error) > floor - SAME_ERROR:
                yield f"{text}: by this measure neither part alone gives more than the mean image, {floor:.3f}."
            elif abs(top.error - others.error) <= SAME_ERROR:
                yield f"{text}: by this measure both parts give equally much of the image."
            else:
                where = "in the others" if others.error < top.error else f"in the {count} largest"
                yield f"{text}: by this measure more of the image is {where}."

    def _not_below_mean_image(self, name: str) -> list[str]:
        return [f"{score.label} ({score.error:.3f})" for _, score in self._pairs(name) if not score.below_mean_image]

    def notes(self) -> Iterator[str]:
        """Yield sentences about layers to which a perturbation is not applied, and about features that are all zero."""
        left_out: dict[str, list[str]] = {}
        for intact in self._intact:
            if names := [name for name in self._all_names if (intact.label, name) not in self._by_name]:
                left_out.setdefault(listed(names), []).append(intact.label)
        for names_text, labels in left_out.items():
            yield f"Left out for {listed(labels)}, whose features are maps: {names_text}, for vectors only."
        for intact in self._intact:
            if intact.zero_images:
                yield f"{intact.label}: all features of {intact.zero_images} of {intact.images} images are zero."
            if outliers := [
                f"{100 * score.outliers:.2f} % under {name}"
                for name in self._names
                if (score := self._by_name.get((intact.label, name)))
                and score.outliers > intact.outliers + _NOTED_OUTLIERS
            ]:
                yield (
                    f"{intact.label}: {listed(outliers)} of the features are over {OUTLIER_DEVIATIONS} standard "
                    f"deviations from their mean in training, against {100 * intact.outliers:.2f} % of the intact "
                    "ones; the inverter was not trained for them."
                )
        for name in self._names:
            kind, number = _parts(name)
            for intact, score in self._pairs(name):
                if score.zero_images > intact.zero_images:
                    yield (
                        f"{score.label}: {name} leaves no non-zero entry in {score.zero_images - intact.zero_images} "
                        f"of {score.images} images."
                    )
                if kind == "top" and number and score.nonzero < float(number.removeprefix("-")):
                    yield (
                        f"{score.label}: {name} keeps {score.nonzero:.2f} non-zero entries of an image on average; "
                        "the others of the largest are zero, or do not exist."
                    )

    def lead(self) -> str:
        which = f"each of {len(self._intact)} layers" if len(self._intact) > 1 else self._intact[0].label
        return (
            f"Photographs reconstructed from {which}, with intact features and with features that were changed on "
            "purpose, by the same inverter."
        )

    def remarks(self) -> Iterator[str]:
        yield from measuring_remarks(self.image_count)
        yield f"Seed of random perturbations: {self._seed}."
        yield (
            "The inverters were trained with intact features: a larger error need not mean that the information is "
            "gone, and an inverter trained with perturbed features may recover more."
        )

    def tables(self) -> list[Table]:
        return [
            self._matrix("Normalized error", lambda score: f"{score.error:.3f}"),
            self._matrix("PSNR, dB", lambda score: f"{score.psnr:.1f}"),
            self._matrix("SSIM", lambda score: f"{score.ssim:.3f}"),
            self._matrix("Non-zero entries of an image, mean", lambda score: f"{score.nonzero:,.1f}"),
            dataclasses.replace(layer_table(self._intact), caption="Scores of the intact features"),
        ]

    def _matrix(self, caption: str, text: Callable[[LayerScore], str]) -> Table:
        """Return a table with a row for each layer and a column for each perturbation."""
        lines = []
        for intact in self._intact:
            found = [self._by_name.get((intact.label, name)) for name in (INTACT, *self._names)]
            lines.append([intact.label, *("" if score is None else text(score) for score in found)])
        return Table(caption, ["layer", INTACT, *self._names], lines)


def _parts(name: str) -> tuple[str, str]:
    """Return the kind of a perturbation, and its number with the hyphen before it: ``("dropout", "-30")``."""
    kind, _, number = name.rpartition("-")
    return (kind, f"-{number}") if number.replace(".", "").isdecimal() else (name, "")


def _signed(difference: float) -> str:
    """Return a difference of errors with its sign, ``+0.000`` for zero."""
    return f"{round(difference, 3) + 0.0:+.3f}"
