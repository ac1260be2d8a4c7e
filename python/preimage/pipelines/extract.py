"""Features of many images into one file; a kill at any moment costs at most one slice of the work."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from preimage import representations
from preimage.inverters import checked_device
from preimage.io import FeatureRecord, ImageSource, read_features, write_features
from preimage.io.arrays import SUFFIXES, check_writable, is_foreign, write_foreign
from preimage.pipelines.loading import (
    SKIP_HINT,
    Images,
    Loaded,
    Pixels,
    as_batch,
    as_listing,
    by_size,
    in_budget,
    in_windows,
    load,
    none_usable,
    settled_size,
    working_bytes,
)
from preimage.pipelines.partial import Partial, PartState, Settings, digest_of, move_into_place
from preimage.representations import Representation
from preimage.spec import Spec

Progress = Callable[[int, int], None]

PART_SIZE = 128
_DTYPES = ("float32", "float16")
_OWN_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class ExtractSummary:
    """What an extraction did.

    Attributes:
        output: the file written.
        bytes: its size.
        spec: of the features.
        images: images in it.
        skipped: (name, problem) of the images left out.
        nonfinite_values: NaN or infinite numbers among the features.
        nonfinite_images: names of the images that have any.
        resumed: images taken over from an earlier, interrupted run.
        seconds: wall time of this run.
        notes: sentences about what was not looked at: links to folders, files of other formats.
    """

    output: Path
    bytes: int
    spec: Spec
    images: int
    skipped: tuple[tuple[str, str], ...]
    nonfinite_values: int
    nonfinite_images: tuple[str, ...]
    resumed: int
    seconds: float
    notes: tuple[str, ...] = ()


def extract(
    representation: Representation | str,
    images: Images,
    output: str | PathLike[str],
    *,
    size: int | None = None,
    dtype: str = "float32",
    layout: str | None = None,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    allow_nonfinite: bool = False,
    resume: bool = True,
    progress: Progress | None = None,
) -> ExtractSummary:
    """Compute the features of images and write them into one file.

    Work goes to ``OUTPUT.partial/`` and becomes the output in one rename at the end. After a kill, Ctrl-C or an
    error the same call goes on from there, and the file comes out byte for byte as if nothing had happened.

    Args:
        representation: what to compute, or its name.
        images: a path or paths (folders, files, tar shards), or sources.
        output: a feature file with the suffix ``.safetensors``, the representation's name (``.hog``) or none; ``.npy``
            and ``.npz`` are written as plain arrays, ``.mat`` for MATLAB (v5), ``.h5`` and ``.hdf5`` as HDF5 in hloc's
            layout. An earlier file is replaced.
        size: short side resized to this many pixels and the centre square cut out; ``None`` leaves images alone, unless
            the representation takes images of one size only, to which they are fitted then.
        dtype: ``"float32"`` or ``"float16"``, as stored; MATLAB files know only the first.
        layout: of the arrays in such a foreign file, see `preimage.io.arrays.conventions`; ``None`` takes
            ``"matlab"`` for ``.mat`` and ``"preimage"`` for the others.
        batch_size: images computed at once, fewer where they are so large that they would take over a gigabyte.
        device: where the features are computed; the images are read on the CPU.
        skip_bad: leave out images that cannot be listed or read or are too small, and list them, instead of stopping.
        allow_nonfinite: keep features that are NaN or infinite instead of refusing.
        resume: go on with an unfinished extraction; ``False`` starts anew.
        progress: called with (images done, images in all).

    Raises:
        ValueError: no images, a bad image (named), non-finite features (counted), options out of range, or an
            unfinished extraction with other settings. Finished work stays in ``OUTPUT.partial/``.
        OSError: the disk is full, or the output cannot be written.
    """
    start = time.perf_counter()
    if isinstance(representation, str):
        representation = representations.create(representation)
    path, place = Path(output), checked_device(device)
    _check(path, size, dtype, batch_size)
    format_note = _check_format(path, representation.spec, dtype, layout)
    listing, side = as_listing(images, skip_bad=skip_bad), settled_size(representation, size)
    sources = listing.sources
    settings = Settings(representation.spec, side, dtype, PART_SIZE, digest_of(sources), len(sources), place.type)
    partial = Partial(path, settings, sources, resume=resume)
    states, resumed = _all_parts(representation, sources, settings, partial, batch_size, place, skip_bad, progress)
    total = _sum(states, listing.skipped)
    _refuse(total, partial, allow_nonfinite)
    _merge(partial, states, path, settings, layout)
    return ExtractSummary(
        output=path,
        bytes=path.stat().st_size,
        spec=settings.spec,
        resumed=resumed,
        notes=(*format_note, *listing.notes),
        seconds=time.perf_counter() - start,
        **{field.name: getattr(total, field.name) for field in dataclasses.fields(total)},
    )


def _all_parts(
    representation: Representation,
    sources: Sequence[ImageSource],
    settings: Settings,
    partial: Partial,
    batch_size: int,
    place: torch.device,
    skip_bad: bool,
    progress: Progress | None,
) -> tuple[list[PartState], int]:
    """Do every slice that is not done yet; what came of all of them, and how many images were done before."""
    states: list[PartState] = []
    resumed = 0
    for index, slice_ in enumerate(in_windows(sources, settings.part_size)):
        before = index * settings.part_size

        def report(done: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, len(sources))

        state = partial.finished(index)
        if state is not None and (skip_bad or not state.skipped):
            resumed += state.images
            report(len(slice_))
        else:
            part = _Part(representation, slice_, settings, batch_size, place, skip_bad)
            state = part.run(partial.features_path(index), report)
            partial.finish(index, state)
        states.append(state)
    return states, resumed


class _Part:
    """One slice of the images on its way to its file."""

    def __init__(
        self,
        representation: Representation,
        sources: Sequence[ImageSource],
        settings: Settings,
        batch_size: int,
        place: torch.device,
        skip_bad: bool,
    ) -> None:
        self._representation = representation
        self._sources = sources
        self._settings = settings
        self._batch_size = batch_size
        self._place = place
        self._skip_bad = skip_bad
        self._images = 0
        self._skipped: list[tuple[str, str]] = []
        self._nonfinite: list[tuple[str, int]] = []

    def run(self, path: Path, report: Callable[[int], None]) -> PartState:
        """Write the slice's features; no file if every image was skipped."""
        records = self._records(report)
        first = next(records, None)
        if first is not None:
            write_features(path, self._settings.spec, _chain(first, records), dtype=self._settings.dtype)
        return PartState(
            self._images,
            tuple(self._skipped),
            sum(count for _, count in self._nonfinite),
            tuple(name for name, _ in self._nonfinite),
        )

    def _records(self, report: Callable[[int], None]) -> Iterator[FeatureRecord]:
        loaded = load(self._sources, self._settings.size, ahead=2 * self._batch_size)
        seen = 0
        for window in in_budget(loaded, self._bytes, self._batch_size):
            good = [item for item in window if self._usable(item)]
            yield from self._compute(good)
            seen += len(window)
            report(seen)

    def _bytes(self, item: Loaded) -> int:
        if item.pixels is None:
            return 0
        try:
            return working_bytes(self._representation, *item.pixels.shape[:2])
        except ValueError:
            return 0  # too small to have features

    def _usable(self, item: Loaded) -> bool:
        problem = item.problem
        if item.pixels is not None:
            try:
                self._representation.feature_size(*item.pixels.shape[:2])
            except ValueError as error:
                problem = f"{item.source.name}: {error}"
        if not problem:
            return True
        if not self._skip_bad:
            raise ValueError(f"{problem} ({SKIP_HINT})")
        self._skipped.append((item.source.name, problem))
        return False

    def _compute(self, items: Sequence[Loaded]) -> Iterator[FeatureRecord]:
        """Features of equally sized images together, handed on in the order given."""
        pictures: list[Pixels] = [item.pixels for item in items if item.pixels is not None]
        features: dict[int, npt.NDArray[np.float32]] = {}
        with torch.inference_mode():
            for positions in by_size(pictures):
                batch = as_batch([pictures[position] for position in positions])
                computed = self._representation(batch.to(self._place)).float().cpu().numpy()
                features |= dict(zip(positions, computed, strict=True))
        for position, item in enumerate(items):
            values = features.pop(position)  # one image's features may be large: written, they are not kept
            if bad := int(values.size - np.isfinite(values).sum()):
                self._nonfinite.append((item.source.name, bad))
            self._images += 1
            height, width = pictures[position].shape[:2]
            yield FeatureRecord(item.source.key, values, item.original_size, (height, width))


def _check(output: Path, size: int | None, dtype: str, batch_size: int) -> None:
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {' or '.join(_DTYPES)}, got {dtype!r}")
    if size is not None and size < 1:
        raise ValueError(f"size is a number of pixels >= 1, got {size}")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")
    if output.exists() and not output.is_file():
        raise ValueError(f"{output} is not a plain file and cannot be written to")


def _check_format(output: Path, spec: Spec, dtype: str, layout: str | None) -> tuple[str, ...]:
    """Check that the output can be written in its format; return a note if its suffix names none."""
    if is_foreign(output):
        check_writable(output, spec, dtype, layout)
        return ()
    if layout is not None:
        raise ValueError(f"{output}: a feature file has its own layout; give one for {', '.join(SUFFIXES)} only")
    if output.suffix.lower() in ("", _OWN_SUFFIX, f".{spec.representation}"):
        return ()
    return (
        f"{output}: the suffix {output.suffix!r} is not known: this is a feature file ({_OWN_SUFFIX}); "
        f"{', '.join(SUFFIXES)} write arrays",
    )


def _chain(first: FeatureRecord, rest: Iterator[FeatureRecord]) -> Iterator[FeatureRecord]:
    yield first
    yield from rest


def _sum(states: Sequence[PartState], skipped: Sequence[tuple[str, str]]) -> PartState:
    return PartState(
        sum(state.images for state in states),
        (*skipped, *(entry for state in states for entry in state.skipped)),
        sum(state.nonfinite_values for state in states),
        tuple(name for state in states for name in state.nonfinite_images),
    )


def _refuse(total: PartState, partial: Partial, allow_nonfinite: bool) -> None:
    if not total.images:
        raise none_usable(total.skipped)
    if total.nonfinite_values and not allow_nonfinite:
        names = ", ".join(total.nonfinite_images[:3]) + (", ..." if len(total.nonfinite_images) > 3 else "")
        raise ValueError(
            f"{total.nonfinite_values} feature values of {len(total.nonfinite_images)} images are NaN or infinite "
            f"({names}); nothing was written. The work is kept in {partial.folder}: "
            "--allow-nonfinite finishes it as it is"
        )


def _merge(partial: Partial, states: Sequence[PartState], output: Path, settings: Settings, layout: str | None) -> None:
    def records() -> Iterator[FeatureRecord]:
        for index, state in enumerate(states):
            if state.images:
                yield from read_features(partial.features_path(index))

    # Merged inside the partial folder: a kill leaves no stray file beside the output.
    merged = partial.folder / f"merged{output.suffix}"
    if is_foreign(output):
        write_foreign(merged, settings.spec, records(), dtype=settings.dtype, layout=layout)
    else:
        write_features(merged, settings.spec, records(), dtype=settings.dtype)
    move_into_place(merged, output)
    partial.remove()
