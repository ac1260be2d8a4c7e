"""Invert feature files and keypoint files into folders of pictures."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from preimage.inverters import Inverter, checked_device
from preimage.io import FeatureFile, is_keypoint_file, read_keypoints
from preimage.io.arrays import is_foreign, read_foreign
from preimage.pipelines.choosing import InverterChoice, fitting_inverter, named_inverter
from preimage.pipelines.invert_keypoints import KeypointOptions, invert_keypoints
from preimage.pipelines.inverting import Item, Size, Work
from preimage.pipelines.pictures import folder_of
from preimage.pipelines.reconstruct import Reconstructor
from preimage.spec import USER_VARIANT, Spec
from preimage.store import FeatureStore


@dataclasses.dataclass(frozen=True)
class InvertSummary:
    """What an inversion did.

    Attributes:
        output: the folder of the pictures.
        inverter: name or folder of the inverter used.
        images: pictures written, one for each key.
        seconds: wall time.
        empty: images among them without keypoints, whose pictures show nothing.
        skipped: (key, problem) of the images left out.
        notes: what was left out of the keypoints or looks wrong with them, a sentence for each kind.
    """

    output: Path
    inverter: str
    images: int
    seconds: float
    empty: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def invert(
    features: str | PathLike[str],
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    spec: Spec | None = None,
    layout: str | None = None,
    variables: Sequence[str] | None = None,
    image_size: Size | None = None,
    normalization: str | None = None,
    keypoint_format: str | None = None,
    max_side: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> InvertSummary:
    """Reconstruct every image of a feature file or keypoint file as ``OUTPUT/<key>.png``.

    Args:
        features: a feature file; arrays in an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file; or SIFT
            keypoints as `preimage.read_keypoints` takes them.
        output: a folder, made if it is not there; pictures of the same names are replaced.
        inverter: a pretrained name or a folder; ``None`` takes the pretrained inverter whose spec fits, for keypoints
            one
            for sparse SIFT.
        spec: what plain arrays are; ``None`` takes what the chosen inverter is for, of one for a network's or your own
            features. For a file that tells its spec it must agree with that.
        layout: how plain arrays are laid out: ``"preimage"``, ``"matlab"``, ``"matlab-transposed"`` or
            ``"cyvlfeat"``, see `preimage.io.arrays.conventions`.
        variables: which to read of a MATLAB file of plain arrays that holds others too; ``None`` takes all.
        image_size: (H, W) of the images of a keypoint file that does not tell it, pixels.
        normalization: of keypoints' descriptors, see `preimage.read_keypoints`.
        keypoint_format: of a keypoint file whose suffix or first bytes mislead, see `preimage.read_keypoints`.
        max_side: larger images of a keypoint file are reconstructed with this many pixels along their longer side.
        batch_size: images at once, fewer where they are so large that they would take over a gigabyte.
        device: ``"auto"`` (CUDA where there is a device), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        skip_bad: leave out images whose features or keypoints cannot be read or inverted, and list them, instead of
            stopping.
        progress: called with (images done, images in all).

    Raises:
        ValueError: nothing to invert, more than a few keypoints outside of their image, neither a spec nor an inverter
            for plain arrays, no image size for keypoints, a misfit (says which field differs), a key that would leave
            the folder, options for keypoints and another file, or no such device.
        LookupError: no pretrained inverter fits.
        FileFormatError: the file is damaged or of another format.
    """
    start = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")
    place = checked_device(device)
    options = KeypointOptions(image_size, normalization, keypoint_format, max_side)
    folder = folder_of(output)
    work = Work(folder, skip_bad, batch_size, progress)
    if _holds_keypoints(features, spec, layout, variables, options):
        name = invert_keypoints(features, options, inverter, place, work)
    else:
        chosen = named_inverter(inverter)[0] if inverter is not None and is_foreign(features) else None
        file = open_features(features, spec, layout, chosen, variables)
        network, name = fitting_inverter(inverter, file.spec, os.fspath(features))
        _invert_features(file, Reconstructor(None, network, place), work)
    seconds = time.perf_counter() - start
    return InvertSummary(folder, name, work.images, seconds, work.empty, tuple(work.skipped), work.notes())


def _invert_features(file: FeatureFile, reconstructor: Reconstructor, work: Work) -> None:
    if not len(file):
        raise ValueError(f"{file.path} holds no images: there is nothing to invert")
    work.run(reconstructor, list(file), _items(file, work))
    if not work.images:
        raise ValueError(f"none of the {len(file)} images could be inverted; the first: {work.skipped[0][1]}")


def _items(file: FeatureFile, work: Work) -> Iterator[Item]:
    """Yield the images whose features can be read and are finite."""
    for index, (key, (height, width)) in enumerate(zip(file, file.processed_sizes.tolist(), strict=True)):
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 become infinite
                values = torch.from_numpy(np.array(file[key], np.float32))
            if not _finite(values):
                raise ValueError(f"the features of {key!r} are partly NaN or infinite and have no pre-image")
        except ValueError as error:
            work.skip(key, error)
            continue
        yield Item(index, values, (height, width))


def _finite(values: torch.Tensor) -> bool:
    # A finite sum has finite terms, and is quicker than a look at each; sums of large ones may overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _holds_keypoints(
    path: str | PathLike[str],
    spec: Spec | None,
    layout: str | None,
    variables: Sequence[str] | None,
    options: KeypointOptions,
) -> bool:
    given = options != KeypointOptions()
    if spec is not None or layout is not None or variables is not None:
        if given:
            raise ValueError("a spec or a layout explains plain arrays, the other options keypoints: not both at once")
        if not is_foreign(path) and is_keypoint_file(path):
            raise ValueError(
                f"{os.fspath(path)} holds keypoints, not plain arrays: leave out representation, spec and layout"
            )
        return False
    if options.format is not None or is_keypoint_file(path):
        return True
    if given:
        try:
            read_keypoints(path)
        except ValueError as error:
            raise ValueError(
                f"{error}. Image size, normalization and longest side are for keypoint files: leave them out, or name "
                "its keypoint format (--keypoint-format)"
            ) from error
    return given


def open_features(
    path: str | PathLike[str],
    spec: Spec | None = None,
    layout: str | None = None,
    inverter: Inverter | None = None,
    variables: Sequence[str] | None = None,
) -> FeatureFile:
    """A feature file, or arrays that `spec` and `layout` explain, or else the inverter chosen for them.

    Raises:
        ValueError: plain arrays without a spec (or of others' MATLAB files without a layout), a spec or layout that
            is not the file's own, a layout for a feature file.
        FileFormatError: the file is damaged or of another format.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
    """
    if is_foreign(path):
        if inverter is None or not _explains(inverter):
            return read_foreign(path, spec, layout, variables=variables)
        region = inverter.output_region
        size = None if region is None else (region.image_size, region.image_size)
        return read_foreign(path, spec, layout, fallback=inverter.spec, image_size=size, variables=variables)
    if variables is not None:
        raise ValueError(f"{os.fspath(path)}: variables are named for MATLAB files only")
    if layout is not None:
        raise ValueError(f"{os.fspath(path)}: a feature file knows its layout; give one for plain arrays only")
    file = FeatureStore(path)
    if spec is not None and (differences := file.spec.differences(spec)):
        raise ValueError(f"{os.fspath(path)} holds other features (file != asked for): {'; '.join(differences)}")
    return file


def _explains(inverter: Inverter) -> bool:
    """Whether plain arrays are what the inverter is for, if its user says so by choosing it.

    Not where libraries mean different things by one name, as with HOG: then the representation has to be named.
    """
    return inverter.output_region is not None or inverter.spec.variant == USER_VARIANT
