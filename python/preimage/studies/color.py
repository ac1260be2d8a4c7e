"""Measure color: predicted against true chroma, and how reconstructions and class scores follow a shift of the hue."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from os import PathLike
from typing import NamedTuple

import torch

from preimage.pipelines.image_loading import Images, Pixels, as_pixels, at_once, batches, working_bytes
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.representations import Representation
from preimage.studies.base import ProgressCounter, SheetRow, StudySummary, check_at_least, study_images
from preimage.studies.color_chroma import ChromaMeasurement, ChromaScores
from preimage.studies.color_hue_page import HueStudy
from preimage.studies.color_page import CHROMA_GAIN, ColorStudy
from preimage.studies.color_shift import (
    HueScores,
    ShiftMeasurement,
    class_probabilities,
    has_class_scores,
    read_labels,
)
from preimage.studies.image_bands import from_opponent, rotate_hue, to_opponent
from preimage.studies.inputs import check_finite, evenly_spaced

ANGLES = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorSummary(StudySummary):
    """Result of the study of color.

    Attributes:
        inverter: Name or folder of the inverter.
        size: Side of the compared images in pixels.
        chroma: Predicted against true chroma, by wavelength and by hue.
        hue: Reconstructions and classes of images whose hue is shifted; ``None`` for features without color.
    """

    inverter: str
    size: int
    chroma: ChromaScores
    hue: HueScores | None


def study_color(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    representation: Representation | str | None = None,
    size: int | None = None,
    angles: Sequence[float] = ANGLES,
    labels: str | PathLike[str] | None = None,
    show_count: int = 4,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study color",
    progress: Callable[[int, int], None] | None = None,
) -> ColorSummary:
    """Compare the colors of reconstructions with those of the images.

    Predicted and true chroma are compared by wavelength and by hue, with a constant color, the mean chroma of the
    images, as a baseline. For features that keep color, the hue of the images is also shifted by several angles, and
    the reconstructions are compared with those of the images as they are; for class scores, so are the classes.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images, some with color.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Inverter, its folder or name; ``None`` takes the pretrained one of the representation.
        representation: Representation that the inverter inverts, or its name; ``None`` for that of the inverter's spec.
        size: Side to which images are resized and center-cropped in pixels. ``None`` is the representation's only size,
            or 256.
        angles: Shifts of the hue in degrees, see `preimage.studies.image_bands.rotate_hue`; 0 is always among them.
            They are not used for features without color.
        labels: Text file with the names of the classes, one a line in the order of the scores; by default they are
            numbered from 0.
        show_count: Number of photographs on the sheet, evenly spaced over all of them.
        batch_size: Batch size.
        device: Device of the inverter.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image at one angle.

    Raises:
        ValueError: There are fewer than two images, a bad one (named), or none with color; features that are not
            finite; a value is out of range; labels for features that are not class scores, or of another number; the
            inverter is for other features; there is no such device or inverter.
        LookupError: There is no pretrained inverter for the representation.
        OSError: `labels` cannot be read.
    """
    start = time.perf_counter()
    check_at_least(("show_count", show_count, 1), ("batch_size", batch_size, 1))
    shifts = _checked_angles(angles)
    folder = output_folder(output)
    reconstructor = Reconstructor(representation, inverter, device)
    names = _class_names(reconstructor, labels)
    side, region = reconstructor.side(size), reconstructor.inverter.output_region
    compared = side if region is None else region.size
    keeps_color = reconstructor.representation.keeps_color
    shifts = shifts if keeps_color else (0.0,)
    listing = study_images(images, skip_bad=skip_bad)
    sources = listing.sources
    shown = evenly_spaced(len(sources), show_count)
    steps = ProgressCounter(len(sources) * len(shifts), progress)
    measurement = _Measurement(reconstructor, shifts, names, compared, shown)
    together = at_once(working_bytes(reconstructor.representation, side, side, inverted=True), batch_size)
    for keys, pixels in batches(sources, side, together):
        measurement.add(keys, pixels, steps)
    chroma = measurement.chroma.scores()
    study: ColorStudy
    if keeps_color:
        hue = measurement.hue.scores()
        study = HueStudy(chroma, measurement.rows, hue, measurement.shift_rows, reconstructor.name, compared)
    else:
        hue = None
        study = ColorStudy(chroma, measurement.rows, reconstructor.name, compared)
    written = study.write(folder, start=start, listings=[listing], command=command)
    return ColorSummary(
        **vars(written),
        inverter=reconstructor.name,
        size=compared,
        chroma=chroma,
        hue=hue,
    )


def _checked_angles(angles: Sequence[float]) -> tuple[float, ...]:
    """Return the angles in [0, 360), in ascending order and with 0."""
    if wrong := [angle for angle in angles if not math.isfinite(angle)]:
        raise ValueError(f"angles must be finite, got {wrong[0]}")
    return tuple(sorted({0.0, *(float(angle) % 360 for angle in angles)}))


def _class_names(reconstructor: Reconstructor, labels: str | PathLike[str] | None) -> list[str]:
    """Return the names of the classes; none if the features are not class scores."""
    representation = reconstructor.representation
    if has_class_scores(representation):
        return read_labels(labels, representation.spec.channels)
    if labels is not None:
        raise ValueError(f"labels are for class scores, but {reconstructor.name} inverts other features")
    return []


class _Column(NamedTuple):
    """Photograph at one shift and its reconstruction, with the text below each."""

    photograph: Pixels
    caption: str
    reconstruction: Pixels
    rotation: str


class _Measurement:
    """Scores of a set of images, batch by batch, and the rows of the sheets.

    Args:
        reconstructor: Representation and inverter.
        angles: Shifts of the hue in degrees, the first of which is 0.
        names: Names of the classes; none if the features are not class scores.
        side: Side of the compared images in pixels.
        shown: Indices of the images on the sheets.
    """

    def __init__(
        self, reconstructor: Reconstructor, angles: Sequence[float], names: Sequence[str], side: int, shown: set[int]
    ) -> None:
        self._reconstructor, self._angles, self._names, self._shown = reconstructor, angles, names, shown
        self.chroma = ChromaMeasurement(side)
        self.hue = ShiftMeasurement(angles, classes=bool(names))
        self.rows: list[SheetRow] = []
        self.shift_rows: list[SheetRow] = []
        self._images = 0

    def add(self, keys: Sequence[str], pixels: torch.Tensor, steps: ProgressCounter) -> None:
        """Add a batch of images (B, 3, H, W) uint8."""
        shown = [index for index in range(len(keys)) if self._images + index in self._shown]
        columns: dict[int, list[_Column]] = {index: [] for index in shown}
        for place, angle in enumerate(self._angles):
            comparison = self._reconstructor.compare(rotate_hue(pixels, angle) if angle else pixels)
            check_finite(keys, comparison.features)
            reconstruction = comparison.reconstruction
            turned = self.hue.add(place, comparison.target, reconstruction, comparison.features)
            if place == 0:
                self.chroma.add(comparison.target, reconstruction)
                self.rows += [_chroma_row(keys[index], comparison, index) for index in shown]
            for index in shown:
                caption = self._class(comparison.features[index]) if self._names else "" if angle else keys[index]
                rotation = f"rotated by {round(float(turned[index]))} degrees" if angle else ""  # ASCII
                columns[index].append(
                    _Column(as_pixels(comparison.target[index]), caption, as_pixels(reconstruction[index]), rotation)
                )
            steps.add(len(keys))
        for index, row in columns.items():
            self.shift_rows += [
                SheetRow(keys[index], [one.photograph for one in row], [one.caption for one in row]),
                SheetRow(keys[index], [one.reconstruction for one in row], [one.rotation for one in row]),
            ]
        self._images += len(keys)

    def _class(self, features: torch.Tensor) -> str:
        best = class_probabilities(features[None])[0].max(dim=0)
        return f"{self._names[int(best.indices)]}, {float(best.values):.0%}"


def _chroma_row(key: str, comparison: Comparison, index: int) -> SheetRow:
    target, reconstruction = comparison.target[index], comparison.reconstruction[index]
    cells = [as_pixels(target), _chroma_picture(target), _chroma_picture(reconstruction), as_pixels(reconstruction)]
    return SheetRow(key, cells)


def _chroma_picture(image: torch.Tensor) -> Pixels:
    """Draw the chroma of an image (3, H, W) about gray."""
    planes = to_opponent(image) * torch.tensor([0.0, CHROMA_GAIN, CHROMA_GAIN])[:, None, None]
    return as_pixels((0.5 + from_opponent(planes)).clamp(0, 1))
