"""Describe how an inverter was trained: settings, learning curve and model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from preimage.facts import fact_label, fact_text
from preimage.inverters.hub import CARDS
from preimage.inverters.pretrained import model_card
from preimage.opencv import quiet_opencv
from preimage.pipelines.image_loading import Pixels
from preimage.reports.sources import InverterSource
from preimage.training.display import METRICS, read_metrics
from preimage.viz.html import EncodedImage, Figure, Section
from preimage.viz.plots import Panel, draw_panels

_MOST_POINTS = 60  # of a curve; more are averaged
_LARGEST = 1e12  # of a step or a value; a damaged file may have any number
_SAME_LOSS = 0.02  # minimum length of the value axis


def training_sections(source: InverterSource, notes: list[str]) -> Iterator[Section]:
    """Yield the sections; sentences about those that are left out are added to `notes`."""
    training = source.facts["training"] or {}
    terms = list(_facts(training))
    if terms:
        yield Section("Training", terms=terms, kind="subsection")
    else:
        notes.append("How the inverter was trained is left out: its file does not say.")
    yield from _learning_curve(source.folder, notes)


_LABELS = {
    "init": "started from",
    "normalized_error": "error at its end",
    "seconds": "time",
    "size": "image size, pixels",
    "val_images": "validation images",
}


def _facts(training: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in training.items():
        if value is None or isinstance(value, dict):  # the dict is about the sampler
            continue
        is_time = name == "seconds" and _is_plausible(value)
        text = f"{value / 60:.1f} minutes" if is_time else fact_text(name, value)
        label = _LABELS.get(name, fact_label(name))
        yield label[:1].upper() + label[1:], text


def card_sections(source: InverterSource, notes: list[str]) -> Iterator[Section]:
    """Yield the collapsed section with the model card; without a card, add a note to `notes`."""
    if card := model_card(source.folder):
        yield Section("Model card", details=[(f"Model card of {source.name}", card)], kind="subsection")
    else:
        notes.append(f"The model card is left out: there is no {' or '.join(CARDS)} in the folder.")


def _learning_curve(folder: Path, notes: list[str]) -> Iterator[Section]:
    path = folder / METRICS
    lines = read_metrics(path)
    if not lines:
        notes.append(
            f"The learning curve is left out: {path.name} in the folder has no complete line."
            if path.is_file()
            else f"The learning curve is left out: there is no {METRICS} in the folder."
        )
        return
    panels = []
    for name, title in (("loss", "Training loss"), ("error", "Normalized error on validation images")):
        x, y = _values(lines, name)
        if x:
            _, floors = _values(lines, "mean_image_error")
            levels = {"mean image": floors[-1]} if name == "error" and floors else {}
            panels.append(Panel(title, _averaged(x), _averaged(y), levels, least_span=_SAME_LOSS))
    if not panels:
        notes.append(f"The learning curve is left out: {METRICS} has neither losses nor errors.")
        return
    try:
        drawn = draw_panels(panels, "step")
    except ImportError as error:
        notes.append(f"The learning curve is left out: {error}.")
        return
    last = {name: values[1][-1] for name in ("error", "loss") if (values := _values(lines, name))[0]}
    alt = ", ".join(f"{name} {value:.3f} at the last step" for name, value in last.items())
    yield Section("Learning curve", [plot(drawn, f"Learning curve: {alt}")], span="page", kind="subsection")


def _values(lines: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a quantity."""
    found = [
        (float(line["step"]), float(line[name]))
        for line in lines
        if _is_plausible(line["step"]) and _is_plausible(line.get(name))
    ]
    return [step for step, _ in found], [value for _, value in found]


def _is_plausible(value: Any) -> bool:
    """Return whether a value of a file is a number that can be shown; NaN is not."""
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _averaged(values: list[float]) -> list[float]:
    """Return averages of consecutive values, at most `_MOST_POINTS` of them."""
    if len(values) <= _MOST_POINTS:
        return values
    return [float(part.mean()) for part in np.array_split(np.array(values), _MOST_POINTS)]


@quiet_opencv
def plot(drawn: Pixels, alt: str) -> Figure:
    """Return a plot as a PNG, which is smaller than JPEG for drawings, and sharp."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(drawn[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done  # 8-bit color
    return Figure(EncodedImage(data.tobytes(), "image/png", drawn.shape[1], drawn.shape[0]), "", alt, on_white=True)
