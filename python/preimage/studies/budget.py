"""Measure where the error of an inverter is: in the mean brightness, in coarse or fine luminance, or in the chroma."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from os import PathLike

from preimage.pipelines.image_loading import Images
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation
from preimage.studies.base import ProgressCounter, StudySummary, check_at_least, study_images
from preimage.studies.budget_measurement import BandError, BudgetMeasurement
from preimage.studies.budget_page import BudgetStudy
from preimage.studies.image_bands import OctaveBands
from preimage.studies.inputs import check_finite, evenly_spaced


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetSummary(StudySummary):
    """Result of the study of an inverter's error.

    Attributes:
        inverter: Name or folder of the inverter.
        size: Side of the compared images in pixels.
        coarse: Wavelength in pixels from which on a band is coarse.
        mean_squared_error: Mean square of the difference between reconstruction and image, of values in [0, 1].
        recovered: 1 − squared error / squared distance of the images to their mean image.
        parts: Shares of the squared error by part, which add up to 1: mean brightness, other coarse luminance, fine
            luminance, coarse chroma (mean color included), and fine chroma.
        bands: Shares by band, from the mean to the shortest wavelengths, luminance before chroma.
    """

    inverter: str
    size: int
    coarse: int
    mean_squared_error: float
    recovered: float
    parts: dict[str, float]
    bands: tuple[BandError, ...]


def study_budget(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    representation: Representation | str | None = None,
    size: int | None = None,
    coarse: int = 64,
    show_count: int = 4,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study budget",
    progress: Callable[[int, int], None] | None = None,
) -> BudgetSummary:
    """Split the squared error of an inverter by color and by wavelength.

    The difference between reconstruction and image is transformed to luminance and chroma, on orthonormal axes, and
    then by a discrete cosine transform. Both keep squared distances (Parseval), so that the squared errors of the parts
    add up to that of the images.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Inverter, its folder or name; ``None`` takes the pretrained one of the representation.
        representation: Representation that the inverter inverts, or its name; ``None`` for that of the inverter's spec.
        size: Side to which images are resized and center-cropped in pixels. ``None`` is the representation's only size,
            or 256.
        coarse: Wavelength in pixels from which on a band is coarse; a power of two, from 4 to the side of the images.
        show_count: Number of photographs on the sheet, evenly spaced over all of them.
        batch_size: Batch size.
        device: Device of the inverter.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (images done, total number of images).

    Raises:
        ValueError: There are fewer than two images, a bad one (named), or only equal ones; features that are not
            finite; a value is out of range; the inverter is for other features; there is no such device or inverter.
        LookupError: There is no pretrained inverter for the representation.
    """
    start = time.perf_counter()
    check_at_least(("show_count", show_count, 1), ("batch_size", batch_size, 1))
    folder = output_folder(output)
    reconstructor = Reconstructor(representation, inverter, device)
    side, region = reconstructor.side(size), reconstructor.inverter.output_region
    compared = side if region is None else region.size
    bands = OctaveBands(compared, compared)
    if coarse not in bands.shortest:
        limits = ", ".join(f"{limit:.0f}" for limit in sorted(bands.shortest) if 0 < limit < math.inf)
        raise ValueError(f"coarse must be one of {limits} for images of {compared} pixels, got {coarse}")
    listing = study_images(images, skip_bad=skip_bad)
    steps = ProgressCounter(len(listing.sources), progress)
    measurement = BudgetMeasurement(bands, coarse, evenly_spaced(len(listing.sources), show_count))
    for keys, comparison in reconstructor.compare_all(listing.sources, side, batch_size):
        check_finite(keys, comparison.features)
        measurement.add(keys, comparison)
        steps.add(len(keys))
    budget = measurement.budget()
    study = BudgetStudy(budget, measurement.rows, inverter=reconstructor.name, size=compared)
    written = study.write(folder, start=start, listings=[listing], command=command)
    return BudgetSummary(
        **vars(written),
        inverter=reconstructor.name,
        size=compared,
        coarse=coarse,
        mean_squared_error=budget.mean_squared_error,
        recovered=budget.recovered,
        parts=budget.parts,
        bands=budget.bands,
    )
