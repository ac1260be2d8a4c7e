"""Decode random features: every dimension sampled on its own, from its values or from one Gaussian."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from os import PathLike

import numpy as np
import numpy.typing as npt
import torch

from preimage.pipelines.image_loading import Images, Pixels, as_pixels
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice
from preimage.representations import Representation
from preimage.store import FeatureStore
from preimage.studies.base import ProgressCounter, SheetRow, StudySummary, check_at_least
from preimage.studies.feature_samples import FeatureDistribution, sample_gaussian, sample_histograms
from preimage.studies.inputs import check_finite, evenly_spaced
from preimage.studies.random_measurement import GAUSSIAN, HISTOGRAM, REAL, TITLES, SampleScore, measure, sampling_notes
from preimage.studies.random_page import RandomStudy
from preimage.studies.random_source import feature_source
from preimage.viz.sheets import SMALLEST_TILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSummary(StudySummary):
    """Result of the study of random features.

    Attributes:
        inverter: Name or folder of the inverter.
        seed: Seed of the samples.
        scores: Statistics of real features, and of both kinds of samples.
    """

    inverter: str
    seed: int
    scores: tuple[SampleScore, ...]


def study_random(
    images: Images | FeatureStore,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    representation: Representation | str | None = None,
    size: int | None = None,
    count: int = 64,
    seed: int = 0,
    show_count: int = 8,
    tile: int = 128,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study random",
    progress: Callable[[int, int], None] | None = None,
) -> RandomSummary:
    """Decode features whose dimensions are sampled independently, and compare them with real features.

    The distributions are those of the features of `images`, of which 4,096 or more should be given. They are collected
    image by image (`preimage.studies.feature_samples`), so that memory does not depend on the number of images.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; or a feature store, or its path. At least two
            images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Inverter, its name or folder; ``None`` takes the pretrained one of the representation.
        representation: Representation that the inverter inverts, or its name; required for a layer of a network, and
            without an inverter or a feature store.
        size: Side in pixels to which images are resized and center-cropped; ``None`` is the representation's only size,
            or 256. It must be ``None`` with a feature store.
        count: Number of samples of each kind that are measured, and of real features (fewer if there are fewer images).
        seed: Seed of the samples.
        show_count: Number of samples of each kind on the sheet.
        tile: Side of an image on the sheet in pixels, at least 32.
        batch_size: Batch size.
        device: Device of the inverter and, where possible, of the representation, see `Reconstructor`.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image.

    Raises:
        ValueError: There are fewer than two images, or a bad one (named); features contain NaN or infinite values, are
            all zero, or are equal for all images; sparse SIFT, whose cells are not made of independent numbers; the
            inverter is for other features; there is no such device, representation or inverter; a value is out of
            range.
        LookupError: There is no pretrained inverter for the representation.
        FileFormatError: The feature store is damaged.
    """
    start = time.perf_counter()
    check_at_least(("count", count, 1), ("seed", seed, 0), ("show_count", show_count, 1), ("batch_size", batch_size, 1))
    check_at_least(("tile", tile, SMALLEST_TILE))
    folder = output_folder(output)
    source = feature_source(
        images, inverter, representation, size=size, batch_size=batch_size, device=device, skip_bad=skip_bad
    )
    reconstructor = source.reconstructor
    if reconstructor.inverter.spec.representation == "sift":
        raise ValueError(
            "sparse SIFT cannot be sampled number by number: a cell is a keypoint or empty as a whole; choose another "
            "representation"
        )
    chosen = evenly_spaced(source.images, count)
    steps = ProgressCounter(source.images + len(chosen) + 2 * count, progress)
    distribution = FeatureDistribution(seed)
    real: list[npt.NDArray[np.float32]] = []
    photographs: list[Pixels] = []
    for keys, features, originals in source.batches:
        check_finite(keys, torch.from_numpy(features))
        for index, values in enumerate(features):
            if distribution.images in chosen:
                real.append(values.copy())
                if originals is not None and len(photographs) < show_count:
                    photographs.append(as_pixels(reconstructor.target(originals[index])))
            distribution.add(values)
        steps.add(len(keys))
    notes = list(sampling_notes(distribution))
    samples = {
        REAL: np.stack(real),
        HISTOGRAM: sample_histograms(distribution, count, seed),
        GAUSSIAN: sample_gaussian(distribution, count, seed),
    }
    rows = [SheetRow("photographs", photographs)] if photographs else []
    scores = []
    for kind, features in samples.items():
        score, shown = measure(kind, torch.from_numpy(features), distribution, source, show_count, steps)
        scores.append(score)
        rows.append(SheetRow(f"{TITLES[kind]}, decoded", shown))
    study = RandomStudy(
        scores,
        distribution,
        rows,
        inverter=source.name,
        representation=reconstructor.inverter.spec.representation,
        seed=seed,
        tile=tile,
    )
    written = study.write(folder, start=start, listings=[source.listing], notes=notes, command=command)
    return RandomSummary(**vars(written), inverter=source.name, seed=seed, scores=tuple(scores))
