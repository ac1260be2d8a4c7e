"""What stored SIFT keypoints reveal of the photographs that they came from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from preimage.io import atomic_write, write_png
from preimage.metrics import SMALLEST_FOR_SSIM
from preimage.pipelines.choosing import InverterChoice, sift_inverter
from preimage.pipelines.loading import Images, at_once, batches, inverting_bytes, sound_listing
from preimage.pipelines.pictures import folder_of
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations.sift import Sift
from preimage.studies import disclosure_page
from preimage.studies.disclosure_measure import TILE, Measure, Steps, all_conditions, look
from preimage.studies.disclosure_page import ConditionScore

SHARES = (5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)


@dataclasses.dataclass(frozen=True)
class DisclosureSummary:
    """What the study found and wrote.

    Attributes:
        page: the self-contained HTML page.
        csv: one row a condition.
        strip: PNG of a few photographs under all conditions.
        plot: PNG of error and SSIM by share; ``None`` if it could not be drawn.
        inverter: name or folder of the inverter used.
        images: how many.
        size: their side in pixels.
        seed: of the shares.
        scores: one entry a condition.
        findings: sentences, from the scores.
        notes: what is left out and why.
        seconds: wall time.
        skipped: (name, problem) of the images left out.
    """

    page: Path
    csv: Path
    strip: Path
    plot: Path | None
    inverter: str
    images: int
    size: int
    seed: int
    scores: tuple[ConditionScore, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()


def disclosure(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    size: int = 256,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    pictures: int = 4,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study disclosure",
    progress: Callable[[int, int], None] | None = None,
) -> DisclosureSummary:
    """Invert the keypoints of photographs, then ever fewer of them, and part of what each tells.

    Keypoints are found once for every image and kept (about 0.2 MB for 256² pixels), as is the image in float16
    (0.4 MB) for the normalized error; reconstructions are not.

    Args:
        images: a path or paths (folders, files, tar shards), or sources; at least two images.
        output: a folder, made if it is not there; an earlier study in it is replaced.
        inverter: for ``sift``: a pretrained name or a folder; ``None`` takes a pretrained one.
        size: short side resized to this many pixels and the center square cut out, at least 11.
        shares: of the keypoints, percent, above 0 and at most 100.
        seed: of the draws of the shares.
        pictures: photographs on the strip, evenly spaced over the set.
        batch_size: images at once.
        device: where the inverter runs.
        skip_bad: leave out images that cannot be listed or read, and list them, instead of stopping.
        command: what to print on the page as the command that made it.
        progress: called with (steps done, steps in all); a step is one image under one condition.

    Raises:
        ValueError: fewer than two images, a bad one (named), no keypoint in any; a share out of its range; an
            inverter for other features; no such device or inverter.
        LookupError: `inverter` is ``None`` and none for ``sift`` is pretrained.
    """
    start = time.perf_counter()
    shares = _checked(size, shares, seed, pictures, batch_size)
    folder = folder_of(output)
    network, name = sift_inverter(inverter, "vlfeat")
    reconstructor = Reconstructor(None, network, device)
    listing = sound_listing(images, skip_bad=skip_bad)
    sources = listing.sources
    if len(sources) < 2:
        raise ValueError(f"the study takes at least two images, got {len(sources)}")
    known = reconstructor.representation
    assert isinstance(known, Sift)
    steps = Steps(len(sources) * (len(shares) + 5), progress)  # looking, three ablations, the mean image
    batch_size = at_once(inverting_bytes(size, size), batch_size)
    survey = look(sources, size, batch_size, known, steps)
    conditions = all_conditions(shares, seed, size, known, survey.scale)
    chosen = {round(index * (len(sources) - 1) / max(1, pictures - 1)) for index in range(pictures)}
    measure = Measure(reconstructor, known, conditions, survey, size, chosen)
    for (keys, originals), keypoints in zip(batches(sources, size, batch_size), survey.keypoints, strict=True):
        measure.add(keys, originals, keypoints, steps)
    summary = _write(folder, measure, name, size, seed, command, start)
    return dataclasses.replace(summary, skipped=listing.skipped, notes=(*summary.notes, *listing.notes))


def _checked(size: int, shares: Sequence[float], seed: int, pictures: int, batch_size: int) -> tuple[float, ...]:
    """The shares in rising order, without repetitions."""
    if not shares or not all(0 < share <= 100 for share in shares):
        listed = ", ".join(f"{share:g}" for share in shares) or "none"
        raise ValueError(f"shares are percentages above 0 and at most 100, got {listed}")
    if size < SMALLEST_FOR_SSIM or batch_size < 1 or pictures < 1 or seed < 0:
        raise ValueError(
            "size is at least 11 pixels, batch_size and pictures at least 1, seed at least 0, "
            f"got {size}, {batch_size}, {pictures} and {seed}"
        )
    return tuple(sorted({float(share) for share in shares}))


def _write(
    folder: Path, measure: Measure, name: str, size: int, seed: int, command: str, start: float
) -> DisclosureSummary:
    folder.mkdir(parents=True, exist_ok=True)
    scores = tuple(measure.scores())
    strip = disclosure_page.strip(list(measure.strip.values()), measure.titles(), TILE)
    write_png(folder / "strip.png", strip)
    disclosure_page.write_table(folder / "disclosure.csv", scores)
    notes = [measure.missing] if measure.missing else []
    try:
        plot = disclosure_page.plot(scores)
        write_png(folder / "disclosure.png", plot)
    except ImportError as error:
        plot = None
        (folder / "disclosure.png").unlink(missing_ok=True)  # of an earlier study, with other numbers
        notes.append(f"The plot is left out: {error}.")
    summary = DisclosureSummary(
        page=folder / "index.html",
        csv=folder / "disclosure.csv",
        strip=folder / "strip.png",
        plot=None if plot is None else folder / "disclosure.png",
        inverter=name,
        images=measure.images,
        size=size,
        seed=seed,
        scores=scores,
        findings=tuple(disclosure_page.findings(scores)),
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
    )
    page = disclosure_page.page(scores, strip, plot, inverter=name, size=size, seed=seed, notes=notes, command=command)
    with atomic_write(summary.page) as file:
        file.write(page.encode())
    return summary
