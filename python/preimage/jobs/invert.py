"""Images back from a feature file, or from keypoints."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage.inverters import Inverter, checked_device
from preimage.jobs.choosing import InverterChoice, fitting_inverter, name_of
from preimage.jobs.invert_keypoints import KeypointOptions, invert_keypoints
from preimage.jobs.loading import Pixels, as_pixels, in_windows
from preimage.jobs.targets import target_of, write_picture
from preimage.spec import Spec
from preimage.storage import FeatureFile, is_keypoint_file, read_features
from preimage.storage.formats import is_foreign, read_foreign


@dataclasses.dataclass(frozen=True)
class InvertSummary:
    """What an inversion did.

    Attributes:
        output: the folder of the pictures.
        inverter: name or folder of the inverter used.
        images: pictures written, one for each key.
        seconds: wall time.
    """

    output: Path
    inverter: str
    images: int
    seconds: float


def invert(
    features: str | PathLike[str],
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    spec: Spec | None = None,
    layout: str | None = None,
    keypoints: KeypointOptions | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> InvertSummary:
    """Reconstruct every image of a feature file or keypoint file as ``OUTPUT/<key>.png``.

    Args:
        features: a feature file; arrays in an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file; or SIFT
            keypoints as `preimage.read_keypoints` takes them.
        output: a folder, made if it is not there; pictures of the same names are replaced.
        inverter: a shipped name or a folder; ``None`` takes the shipped inverter whose spec fits, for keypoints one
            for sparse SIFT.
        spec: what plain arrays are; for a file that tells its spec it must agree with that.
        layout: how plain arrays are laid out: ``"preimage"``, ``"matlab"``, ``"matlab-transposed"`` or
            ``"cyvlfeat"``, see `preimage.storage.formats.conventions`.
        keypoints: how to read a keypoint file, where it does not say.
        batch_size: images at once; those of keypoint files come one by one.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        progress: called with (images done, images in all).

    Raises:
        ValueError: no spec for plain arrays, no image size for keypoints, a misfit (says which field differs), a key
            that would leave the folder, options for keypoints and another file, or no such device.
        LookupError: no shipped inverter fits.
        FileFormatError: the file is damaged or of another format.
    """
    start = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")
    place = checked_device(device)
    if _holds_keypoints(features, spec, layout, keypoints):
        name, count = invert_keypoints(
            features, Path(output), keypoints or KeypointOptions(), inverter, place, progress
        )
        return InvertSummary(Path(output), name, count, time.perf_counter() - start)
    file = open_features(features, spec, layout)
    network = fitting_inverter(inverter, file.spec, os.fspath(features)).to(place)
    folder = Path(output)
    targets = [target_of(folder, key) for key in file.keys]
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for window in in_windows(range(len(file)), 8 * batch_size):
        for picture, index in _reconstruct(network, file, window, batch_size, place):
            write_picture(targets[index], picture)
            count += 1
            if progress is not None:
                progress(count, len(file))
    return InvertSummary(folder, name_of(inverter, file.spec), count, time.perf_counter() - start)


def _holds_keypoints(
    path: str | PathLike[str], spec: Spec | None, layout: str | None, options: KeypointOptions | None
) -> bool:
    if options is not None and options.format is not None:
        return True
    found = spec is None and layout is None and is_keypoint_file(path)
    if not found and options not in (None, KeypointOptions()):
        raise ValueError(f"{os.fspath(path)} is not known as a keypoint file: name its keypoint format")
    return found


def open_features(path: str | PathLike[str], spec: Spec | None = None, layout: str | None = None) -> FeatureFile:
    """A feature file, or arrays that `spec` and `layout` explain, by the path's suffix.

    Raises:
        ValueError: plain arrays without a spec (or of others' MATLAB files without a layout), a spec or layout that
            is not the file's own, a layout for a feature file.
        FileFormatError: the file is damaged or of another format.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
    """
    if is_foreign(path):
        return read_foreign(path, spec, layout)
    if layout is not None:
        raise ValueError(f"{os.fspath(path)}: a feature file knows its layout; give one for plain arrays only")
    file = read_features(path)
    if spec is not None and (differences := file.spec.differences(spec)):
        raise ValueError(f"{os.fspath(path)} holds other features (file != asked for): {'; '.join(differences)}")
    return file


def _reconstruct(
    inverter: Inverter, file: FeatureFile, indices: Sequence[int], batch_size: int, device: torch.device
) -> Iterator[tuple[Pixels, int]]:
    """Pictures with their positions in the file; features of equal shapes go through together."""
    features = {index: file[index] for index in indices}
    for index, values in features.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"the features of {file.keys[index]!r} are partly NaN or infinite and have no pre-image")
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in indices:
        groups.setdefault((features[index].shape, tuple(file.processed_sizes[index])), []).append(index)
    for group in groups.values():
        size = file.processed_sizes[group[0]]
        for batch in in_windows(group, batch_size):
            stacked = torch.stack([features[index] for index in batch]).to(device)
            with torch.inference_mode():
                images = inverter(stacked, image_size=(size[0], size[1]))
            for index, image in zip(batch, images, strict=True):
                yield as_pixels(image), index
