"""Invert feature files and keypoint files, and write the images to folders."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from preimage.errors import FileFormatError
from preimage.inverters import Inverter, resolve_device
from preimage.inverters.precision import choose_dtype
from preimage.io import FeatureFile, is_keypoint_file, read_keypoints
from preimage.io.arrays import is_array_file, read_array_file
from preimage.io.shards import MAX_SPEC_CHARACTERS, parse_spec
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.invert_batches import Inversion, Item, Size
from preimage.pipelines.invert_keypoints import KeypointOptions, invert_keypoints
from preimage.pipelines.inverter_choice import InverterChoice, fitting_inverter, named_inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.spec import USER_VARIANT, Spec
from preimage.store import FeatureStore


@dataclasses.dataclass(frozen=True)
class InvertSummary:
    """Summary of an inversion.

    Attributes:
        output: Folder of the images.
        inverter: Name or folder of the inverter.
        images: Number of images written, one for each key.
        seconds: Wall time.
        empty: Number of images without keypoints, whose reconstructions show nothing.
        skipped: (key, problem) of the skipped images.
        notes: Sentences about keypoints that were dropped or look wrong.
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
    spec: Spec | str | PathLike[str] | None = None,
    convention: str | None = None,
    variables: Sequence[str] | None = None,
    size: Size | None = None,
    normalization: str | None = None,
    keypoint_format: str | None = None,
    max_side: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "float32",
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> InvertSummary:
    """Reconstruct each image of a feature file or keypoint file as ``OUTPUT/<key>.png``.

    Args:
        features: Feature store or feature file; arrays in an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file;
            or SIFT keypoints in a format of `preimage.read_keypoints`.
        output: Folder for the images, created if needed; images of the same names are replaced.
        inverter: Inverter, its folder, or the name of a pretrained one; ``None`` is the pretrained inverter with the
            spec of the features, for keypoints one for sparse SIFT.
        spec: Spec of plain arrays, or a JSON file that contains it. ``None`` is the inverter's spec, if that is one of
            user-provided features or of a layer of a network. It must equal the spec in the file, if the file contains
            one.
        convention: Axis convention of plain arrays: ``"preimage"``, ``"matlab"``, ``"matlab-transposed"`` or
            ``"cyvlfeat"``, see `preimage.io.arrays.conventions`.
        variables: Variables to read of a MATLAB file of plain arrays; ``None`` reads all.
        size: Size (H, W) in pixels of the images of a keypoint file that does not contain it.
        normalization: Normalization of keypoint descriptors, see `preimage.read_keypoints`.
        keypoint_format: Format of a keypoint file, see `preimage.read_keypoints`; ``None`` recognizes it by the suffix
            and the first bytes.
        max_side: Maximum side in pixels of images of a keypoint file; larger ones are scaled down.
        batch_size: Number of images at once; fewer for images so large that a batch would need over a gigabyte.
        device: Device of the inverter: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        precision: Data type in which the inverter computes: ``"float32"``, ``"bfloat16"``, or ``"auto"`` for bfloat16
            where the device has instructions for it. With bfloat16 the images differ slightly.
        skip_bad: Skip and list images whose features or keypoints cannot be read or inverted, instead of stopping.
        progress: Called with (images done, total number of images).

    Raises:
        ValueError: Nothing to invert, keypoints outside their image, no spec for plain arrays, no size for
            keypoints, an inverter for other features (the message names the fields that differ), a key that would be
            written outside the folder, keypoint options for another file, or an unknown device.
        LookupError: There is no pretrained inverter for these features.
        FileFormatError: The file is damaged or of another format.
    """
    start = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    checked = resolve_device(device)
    options = KeypointOptions(size, normalization, keypoint_format, max_side)
    folder = output_folder(output)
    if isinstance(spec, str | PathLike):
        spec = read_spec(spec)
    inversion = Inversion(folder, skip_bad, batch_size, choose_dtype(precision, checked), progress)
    if _is_keypoints(features, spec, convention, variables, options):
        name = invert_keypoints(features, options, inverter, checked, inversion)
    else:
        chosen = named_inverter(inverter)[0] if inverter is not None and is_array_file(features) else None
        file = open_features(features, spec, convention, chosen, variables)
        network, name = fitting_inverter(inverter, file.spec, os.fspath(features))
        _invert_features(file, Reconstructor(None, network, checked), inversion)
    seconds = time.perf_counter() - start
    return InvertSummary(
        output=folder,
        inverter=name,
        images=inversion.images,
        seconds=seconds,
        empty=inversion.empty,
        skipped=tuple(inversion.skipped),
        notes=inversion.notes(),
    )


def read_spec(path: str | PathLike[str]) -> Spec:
    """Read a spec from a JSON file; `FileFormatError` for anything else."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return parse_spec(file.read(MAX_SPEC_CHARACTERS + 1))
    except ValueError as error:
        raise FileFormatError(path, f"is not a spec: {error}") from error


def _invert_features(file: FeatureFile, reconstructor: Reconstructor, inversion: Inversion) -> None:
    if not len(file):
        raise ValueError(f"{file.path} contains no images: nothing to invert")
    inversion.run(reconstructor, list(file), _items(file, inversion))
    if not inversion.images:
        raise ValueError(f"none of the {len(file)} images could be inverted; the first: {inversion.skipped[0][1]}")


def _items(file: FeatureFile, inversion: Inversion) -> Iterator[Item]:
    """Yield the images whose features can be read and are finite; skip the others."""
    for index, (key, (height, width)) in enumerate(zip(file, file.processed_sizes.tolist(), strict=True)):
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 become infinite
                values = torch.from_numpy(np.array(file[key], np.float32))
            if not _finite(values):
                raise ValueError(f"the features of {key!r} contain NaN or infinite values")
        except ValueError as error:
            inversion.skip(key, error)
            continue
        yield Item(index, values, (height, width))


def _finite(values: torch.Tensor) -> bool:
    # A finite sum implies finite values and is faster to compute; a sum of large values may overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _is_keypoints(
    path: str | PathLike[str],
    spec: Spec | None,
    convention: str | None,
    variables: Sequence[str] | None,
    options: KeypointOptions,
) -> bool:
    """Return whether a file contains keypoints; ``ValueError`` if the options are for another file."""
    for_keypoints = options != KeypointOptions()
    if spec is not None or convention is not None or variables is not None:
        if for_keypoints:
            raise ValueError(
                "spec, convention and variables are for plain arrays, the others for keypoints: not both at once"
            )
        if not is_array_file(path) and is_keypoint_file(path):
            raise ValueError(
                f"{os.fspath(path)} contains keypoints, not plain arrays: omit representation, spec and convention"
            )
        return False
    if options.format is not None or is_keypoint_file(path):
        return True
    if for_keypoints:
        try:
            read_keypoints(path)
        except ValueError as error:
            raise ValueError(
                f"{error}. size, normalization and max_side are for keypoint files: omit them, or pass the "
                "format of the keypoint file (--keypoint-format)"
            ) from error
    return for_keypoints


def open_features(
    path: str | PathLike[str],
    spec: Spec | None = None,
    convention: str | None = None,
    inverter: Inverter | None = None,
    variables: Sequence[str] | None = None,
) -> FeatureFile:
    """Open a feature file or plain arrays.

    Args:
        path: Feature store, feature file, or arrays.
        spec: Spec of plain arrays; for other files it must equal their spec.
        convention: Axis convention of plain arrays.
        inverter: Inverter whose spec is used for plain arrays without one, see `invert`.
        variables: Variables to read of a MATLAB file; ``None`` reads all.

    Raises:
        ValueError: Plain arrays without a spec or convention, a spec or convention other than the file's, or a
            convention for a feature file.
        FileFormatError: The file is damaged or of another format.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
    """
    if is_array_file(path):
        if inverter is None or not _implies_spec(inverter):
            return read_array_file(path, spec, convention, variables=variables)
        region = inverter.output_region
        size = None if region is None else (region.image_size, region.image_size)
        return read_array_file(path, spec, convention, fallback=inverter.spec, image_size=size, variables=variables)
    if variables is not None:
        raise ValueError(f"{os.fspath(path)}: variables apply to MATLAB files only")
    if convention is not None:
        raise ValueError(f"{os.fspath(path)}: convention applies to plain arrays only, not to a feature file")
    file = FeatureStore(path)
    if spec is not None and (differences := file.spec.differences(spec)):
        raise ValueError(f"{os.fspath(path)} contains other features (file != spec): {'; '.join(differences)}")
    return file


def _implies_spec(inverter: Inverter) -> bool:
    """Return whether choosing the inverter implies that plain arrays have its spec.

    It does not if libraries disagree about the features of one name, as for HOG.
    """
    return inverter.output_region is not None or inverter.spec.variant == USER_VARIANT
