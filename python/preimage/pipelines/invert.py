"""Invert feature files and keypoint files into folders of pictures."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage import representations
from preimage.inverters import Inverter, checked_device
from preimage.io import FeatureFile, KeypointFile, is_keypoint_file, read_features, read_keypoints, write_png
from preimage.io.arrays import is_foreign, read_foreign
from preimage.io.atomic import key_problem
from preimage.keypoints import Keypoints
from preimage.pipelines.choosing import InverterChoice, fitting_inverter, loaded, sift_inverter
from preimage.pipelines.loading import Pixels, as_pixels, at_once, in_budget, in_windows, inverting_bytes
from preimage.representations.sift import Sift
from preimage.spec import USER_VARIANT, Spec


def folder_of(output: str | PathLike[str]) -> Path:
    """The folder that a job writes into, whether it is there or not; ``ValueError`` where a file is in its place."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the output is a folder")
    return folder


def target_of(folder: Path, key: str) -> Path:
    """Where a key's picture goes; never outside the folder, not through a link either."""
    if problem := key_problem(key):
        raise ValueError(f"cannot name a picture: {problem}")
    target = folder / f"{key}.png"
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the picture of key {key!r} would leave {folder}: a link leads out of it")
    return target


def write_picture(target: Path, picture: Pixels) -> None:
    """A PNG, and the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_png(target, picture)


Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class KeypointOptions:
    """How to read a keypoint file, where it does not say.

    Attributes:
        image_size: (H, W) of the images, pixels, where the file does not tell.
        normalisation: of the descriptors, see `preimage.read_keypoints`.
        format: of the file, see `preimage.read_keypoints`.
        max_side: larger images are reconstructed smaller, with this many pixels along their longer side.
    """

    image_size: Size | None = None
    normalisation: str | None = None
    format: str | None = None
    max_side: int | None = None


def invert_keypoints(
    path: str | PathLike[str],
    folder: Path,
    options: KeypointOptions,
    inverter: InverterChoice,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> tuple[str, int]:
    """Every image of a keypoint file as ``FOLDER/<key>.png``; gives what the inverter is called, and the count.

    Raises:
        ValueError: no image size, a key that would leave the folder, or an inverter for another representation; see
            also `preimage.read_keypoints`.
        LookupError: no inverter for sparse SIFT is shipped.
        FileFormatError: the file is damaged.
    """
    if options.max_side is not None and options.max_side < 1:
        raise ValueError(f"max_side is at least 1, got {options.max_side}")
    file = read_keypoints(
        path, image_size=options.image_size, format=options.format, normalisation=options.normalisation
    )
    sizes = _sizes(file)
    targets = [target_of(folder, key) for key in file.keys]
    network, name = sift_inverter(inverter, "opencv" if file.origin == "opencv" else "vlfeat")
    representation = representations.from_spec(network.spec)
    assert isinstance(representation, Sift)
    network = network.to(device)
    folder.mkdir(parents=True, exist_ok=True)
    for index, target in enumerate(targets):
        keypoints, size = fitted(file[index], sizes[index], options.max_side)
        write_picture(target, as_pixels(_image(network, representation, keypoints, size, device)))
        if progress is not None:
            progress(index + 1, len(file))
    return name, len(file)


def _sizes(file: KeypointFile) -> list[Size]:
    found = []
    for key, size in zip(file.keys, file.sizes, strict=True):
        if size is None:
            raise ValueError(
                f"{file.path} does not tell the size of the image {key!r}: give it (image_size=(H, W), "
                "--image-size HxW)"
            )
        found.append(size)
    return found


def fitted(keypoints: Keypoints, size: Size, max_side: int | None) -> tuple[Keypoints, Size]:
    """The keypoints as in the image scaled to at most `max_side` pixels, and that image's size."""
    if max_side is None or max(size) <= max_side:
        return keypoints, size
    factor = max_side / max(size)
    smaller = dataclasses.replace(
        keypoints,
        x=(keypoints.x + 0.5) * factor - 0.5,
        y=(keypoints.y + 0.5) * factor - 0.5,
        scale=keypoints.scale * factor,
    )
    return smaller, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))


def _image(
    network: Inverter, representation: Sift, keypoints: Keypoints, size: Size, device: torch.device
) -> torch.Tensor:
    features = representation.grid(keypoints, size).to(device)
    with torch.inference_mode():
        return network(features, image_size=size)[0]


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
    image_size: Size | None = None,
    normalisation: str | None = None,
    keypoint_format: str | None = None,
    max_side: int | None = None,
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
        spec: what plain arrays are; ``None`` takes what the chosen inverter is for, of one for a network's or your own
            features. For a file that tells its spec it must agree with that.
        layout: how plain arrays are laid out: ``"preimage"``, ``"matlab"``, ``"matlab-transposed"`` or
            ``"cyvlfeat"``, see `preimage.io.arrays.conventions`.
        image_size: (H, W) of the images of a keypoint file that does not tell it, pixels.
        normalisation: of keypoints' descriptors, see `preimage.read_keypoints`.
        keypoint_format: of a keypoint file whose suffix or first bytes mislead, see `preimage.read_keypoints`.
        max_side: larger images of a keypoint file are reconstructed with this many pixels along their longer side.
        batch_size: images at once, fewer where they are so large that they would take over a gigabyte; those of
            keypoint files come one by one.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        progress: called with (images done, images in all).

    Raises:
        ValueError: neither a spec nor an inverter for plain arrays, no image size for keypoints, a misfit (says which
            field differs), a key that would leave the folder, options for keypoints and another file, or no such
            device.
        LookupError: no shipped inverter fits.
        FileFormatError: the file is damaged or of another format.
    """
    start = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")
    place = checked_device(device)
    options = KeypointOptions(image_size, normalisation, keypoint_format, max_side)
    folder = folder_of(output)
    if _holds_keypoints(features, spec, layout, options):
        name, count = invert_keypoints(features, folder, options, inverter, place, progress)
    else:
        chosen = loaded(inverter) if inverter is not None and is_foreign(features) else None
        file = open_features(features, spec, layout, chosen)
        network, name = fitting_inverter(inverter, file.spec, os.fspath(features))
        count = _invert_features(file, folder, network.to(place), batch_size, place, progress)
    return InvertSummary(folder, name, count, time.perf_counter() - start)


def _invert_features(
    file: FeatureFile,
    folder: Path,
    network: Inverter,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> int:
    targets = [target_of(folder, key) for key in file.keys]
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    sizes = file.processed_sizes
    # The features of a window wait in memory, and take less than it takes to invert them.
    for window in in_budget(range(len(file)), lambda index: inverting_bytes(*sizes[index]) // 8, 8 * batch_size):
        for picture, index in _reconstruct(network, file, window, batch_size, device):
            write_picture(targets[index], picture)
            count += 1
            if progress is not None:
                progress(count, len(file))
    return count


def _holds_keypoints(
    path: str | PathLike[str], spec: Spec | None, layout: str | None, options: KeypointOptions
) -> bool:
    given = options != KeypointOptions()
    if spec is not None or layout is not None:
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
        raise ValueError(
            f"{os.fspath(path)} is not known as a keypoint file, which image size, normalisation and longest side are "
            "for: leave them out, or name its keypoint format"
        )
    return False


def open_features(
    path: str | PathLike[str],
    spec: Spec | None = None,
    layout: str | None = None,
    inverter: Inverter | None = None,
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
            return read_foreign(path, spec, layout)
        view = inverter.view
        size = None if view is None else (view.image_size, view.image_size)
        return read_foreign(path, spec, layout, fallback=inverter.spec, image_size=size)
    if layout is not None:
        raise ValueError(f"{os.fspath(path)}: a feature file knows its layout; give one for plain arrays only")
    file = read_features(path)
    if spec is not None and (differences := file.spec.differences(spec)):
        raise ValueError(f"{os.fspath(path)} holds other features (file != asked for): {'; '.join(differences)}")
    return file


def _explains(inverter: Inverter) -> bool:
    """Whether plain arrays are what the inverter is for, if its user says so by choosing it.

    Not where libraries mean different things by one name, as with HOG: then the representation has to be named.
    """
    return inverter.view is not None or inverter.spec.variant == USER_VARIANT


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
        for batch in in_windows(group, at_once(inverting_bytes(*size), batch_size)):
            stacked = torch.stack([features[index] for index in batch]).to(device)
            with torch.inference_mode():
                images = inverter(stacked, image_size=(size[0], size[1]))
            for index, image in zip(batch, images, strict=True):
                yield as_pixels(image), index
