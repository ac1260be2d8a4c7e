"""Present what the layers of a network kept while it was trained: film strips, curves and a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from preimage.pipelines.image_loading import Pixels
from preimage.studies.base import NORMALIZED_ERROR, SAME_ERROR, SheetRow, Study
from preimage.studies.inputs import evenly_spaced
from preimage.studies.probe_images import Photographs
from preimage.studies.probe_measurement import ProbeScore, layer_names, read_strip, strip_file
from preimage.viz.curves import Curve, draw_curves
from preimage.viz.html import Section, Table

HEADER = ["step", "weights", "layer", "normalized_error", "mean_image_error", "inverter_steps", "seconds", "problem"]


class ProbeStudy(Study):
    """Presentation of the scores of all probes of a training.

    Args:
        scores: Scores in the order of the steps, for each step those of all layers.
        layers: Names of the layers.
        photographs: The photographs.
        folder: Folder of the probe.
        columns: Maximum number of steps on the film strips.
        tile: Side of an image on the film strips, pixels.
        warm_start: Whether inverters continue those of earlier probes.
        network: Name of the network.
    """

    name = "probe"
    title = "What the layers keep during training"
    sheet_heading = "Film strips: time runs from left to right"
    sheet_alt = "rows of held-out photographs, with their reconstructions from each layer at several steps of training"
    plot_heading = "Error by step"
    plot_alt = "normalized error of each layer by step of training"

    def __init__(
        self,
        scores: Sequence[ProbeScore],
        layers: Sequence[str],
        photographs: Photographs,
        folder: Path,
        *,
        columns: int,
        tile: int,
        warm_start: bool,
        network: str,
    ) -> None:
        self.scores, self.layers, self.photographs, self.folder = scores, layers, photographs, folder
        self.tile, self.warm_start, self.network = tile, warm_start, network
        steps = list(dict.fromkeys(score.step for score in scores))
        self.shown_steps = [steps[index] for index in sorted(evenly_spaced(len(steps), columns))]
        self._step_count = len(steps)
        self.sheet_rows = list(self._rows())

    @property
    def image_count(self) -> int:
        return self.photographs.held_out

    def lead(self) -> str:
        count = len(self.photographs.paths) - self.photographs.held_out
        return (
            f"Photographs reconstructed from layers of {self.network} while it is trained. At each probe an inverter "
            f"of each layer is trained on the features of {count} photographs, and judged on {self.image_count} others."
        )

    def findings(self) -> Iterator[str]:
        for layer in self.layers:
            rows = [score for score in self._of(layer) if score.error is not None]
            if not rows:
                continue
            first, last = rows[0], rows[-1]
            assert last.mean_image_error is not None
            line = f"{_called(layer)}: error {last.error:.2f} at step {last.step:,}"
            if first is not last:
                line += f", {first.error:.2f} at step {first.step:,}"
            yield f"{line}; the mean image has {last.mean_image_error:.2f}."
        for score in self.scores:
            if score.problem:
                yield f"{_called(score.layer)} at step {score.step:,}: no error, because {score.problem}."

    def table(self) -> Iterator[Sequence[object]]:
        yield HEADER
        for score in self.scores:
            errors = ["" if one is None else f"{one:.6f}" for one in (score.error, score.mean_image_error)]
            tail = [score.inverter_steps, f"{score.seconds:.2f}", score.problem]
            yield [score.step, score.weights, score.layer, *errors, *tail]

    def sections(self) -> list[Section]:
        if self._step_count == len(self.shown_steps):
            return []
        note = f"The film strips show {len(self.shown_steps)} of {self._step_count} probes, evenly spaced."
        return [Section("Further probes", note=f"{note} The plot and {self.name}.csv have all.")]

    def tables(self) -> list[Table]:
        header = ["layer", *(f"step {step:,}" for step in self.shown_steps), "mean image"]
        rows = []
        for layer in self.layers:
            found = {score.step: score for score in self._of(layer)}
            last = [score.mean_image_error for score in found.values() if score.mean_image_error is not None][-1:]
            errors = [found[step].error if step in found else None for step in self.shown_steps]
            texts = ["" if one is None else f"{one:.3f}" for one in errors]
            rows.append([_called(layer), *texts, f"{last[0]:.3f}" if last else ""])
        seconds: dict[int, float] = {}
        for score in self.scores:
            seconds[score.step] = seconds.get(score.step, 0.0) + score.seconds
        rows.append(["seconds in all", *(f"{seconds[step]:.1f}" for step in self.shown_steps), ""])
        return [Table("Normalized error, lower is closer", header, rows)]

    def sheet_titles(self) -> list[str]:
        return ["photograph", *(f"step {step:,}" for step in self.shown_steps)]

    def plot(self) -> Pixels:
        curves, floors = [], []
        levels: list[list[float]] = []
        for layer in self.layers:
            rows = self._of(layer)
            curves.append(Curve(_called(layer), [row.step for row in rows], [row.error for row in rows]))
            known = [row for row in rows if row.mean_image_error is not None]
            level = [row.mean_image_error or 0.0 for row in known]
            if known and not any(_close(one, level) for one in levels):
                levels.append(level)
                name = "mean image" if len(levels) == 1 else f"mean image, {_called(layer)}"
                floors.append(Curve(name, [row.step for row in known], level, level=True))
        return draw_curves("Normalized error by step (lower is closer)", [*curves, *floors], "step of training")

    def remarks(self) -> Iterator[str]:
        yield f"{NORMALIZED_ERROR}."
        if self.warm_start:
            yield (
                "To keep a probe short, each inverter continues the one of the probe before it, with new statistics of "
                "the features. Its error therefore also falls because it is trained for longer in all: compare with a "
                "probe of a network that does not learn before reading a small decrease as a change of the layer."
            )
        else:
            yield "Each probe trains its inverters from the beginning, for the same time."
        yield "These are reconstructions by small inverters that were trained briefly: others may recover more."

    def _of(self, layer: str) -> list[ProbeScore]:
        return [score for score in self.scores if score.layer == layer]

    def _rows(self) -> Iterator[SheetRow]:
        originals, shown = self.photographs.pixels(), self.photographs.shown
        for layer, name in layer_names(self.layers).items():
            strips = [self._strip(strip_file(self.folder, name, step)) for step in self.shown_steps]
            found = {score.step: score for score in self._of(layer)}
            errors = [found[step].error if step in found else None for step in self.shown_steps]
            texts = ["no error" if error is None else f"error {error:.2f}" for error in errors]
            for number, (index, original) in enumerate(zip(shown, originals, strict=True)):
                cells = [original, *(original * 0 + 255 if strip is None else strip[number] for strip in strips)]
                last = number == len(shown) - 1
                captions = [
                    f"{_called(layer)}: {self.photographs.names[index]}",
                    *(texts if last else [""] * len(texts)),
                ]
                yield SheetRow(self.photographs.names[index], cells, captions)

    def _strip(self, path: Path) -> list[Pixels] | None:
        return read_strip(path, len(self.photographs.shown)) if path.exists() else None


def _called(layer: str) -> str:
    return layer or "output"


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < SAME_ERROR for a, b in zip(one, other, strict=True))
