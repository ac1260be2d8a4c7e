"""Invert feature files and keypoint files into folders of pictures."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from preimage import representations
from preimage.inverters import Inverter, checked_device
from preimage.io import FeatureFile, KeypointFile, is_keypoint_file, read_keypoints, write_png
from preimage.io.arrays import is_foreign, read_foreign
from preimage.io.atomic import file_problem, key_problem
from preimage.io.keypoints.convert import naming
from preimage.io.keypoints.plausibility import examine
from preimage.keypoints import Keypoints
from preimage.pipelines.choosing import InverterChoice, fitting_inverter, loaded, sift_inverter
from preimage.pipelines.loading import Pixels, as_pixels, at_once, in_budget, in_windows, inverting_bytes
from preimage.representations.sift import Sift
from preimage.spec import USER_VARIANT, Spec
from preimage.store import FeatureStore


def folder_of(output: str | PathLike[str]) -> Path:
    """The folder that a job writes into, whether it is there or not; ``ValueError`` where a file is in its place."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the output is a folder")
    return folder


def target_of(folder: Path, key: str) -> Path:
    """Where a key's picture goes; never outside the folder, not through a link either."""
    if problem := key_problem(key) or file_problem([key]):
        raise ValueError(f"cannot name a picture: {problem}")
    target = folder / f"{key}.png"
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the picture of key {key!r} would leave {folder}: a link leads out of it")
    return target


def targets_of(folder: Path, keys: Sequence[str]) -> list[Path]:
    """Where all keys' pictures go, each to a file of its own."""
    if problem := file_problem(keys):
        raise ValueError(f"cannot name all pictures: {problem}")
    return [target_of(folder, key) for key in keys]


def write_picture(target: Path, picture: Pixels) -> None:
    """A PNG, and the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_png(target, picture)


Size = tuple[int, int]
_MOST_PIXELS = 64_000_000  # of a reconstruction from keypoints: their grid alone has 33 bytes a pixel


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


@dataclasses.dataclass
class _Work:
    """What an inversion has done so far.

    Attributes:
        skip_bad: whether images that cannot be inverted are listed in place of stopping.
        images: pictures written.
        empty: images among them that have no keypoints.
        skipped: (key, problem) of the images left out.
        remarks: by kind, (key, sentence) of each image on which there is something to remark.
    """

    skip_bad: bool
    images: int = 0
    empty: int = 0
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    remarks: dict[str, list[tuple[str, str]]] = dataclasses.field(default_factory=dict)

    def skip(self, key: str, error: ValueError) -> None:
        """Note the image, or raise the error."""
        if not self.skip_bad:
            raise error
        self.skipped.append((key, str(error)))

    def remark(self, key: str, found: Mapping[str, str]) -> None:
        """Keep what was remarked on an image."""
        for kind, sentence in found.items():
            self.remarks.setdefault(kind, []).append((key, sentence))

    def notes(self) -> tuple[str, ...]:
        """One line for each kind of remark: the first image's, and how many others there are."""
        lines = []
        for (key, sentence), *others in self.remarks.values():
            lines.append(f"{key!r}: {sentence}" + (f" (and {len(others)} more images likewise)" if others else ""))
        return tuple(lines)


def _invert_keypoints(
    path: str | PathLike[str],
    folder: Path,
    options: KeypointOptions,
    inverter: InverterChoice,
    device: torch.device,
    work: _Work,
    progress: Callable[[int, int], None] | None,
) -> str:
    """Every image of a keypoint file as ``FOLDER/<key>.png``; gives what the inverter is called."""
    if options.max_side is not None and options.max_side < 1:
        raise ValueError(f"max_side is at least 1, got {options.max_side}")
    file = read_keypoints(
        path, image_size=options.image_size, format=options.format, normalisation=options.normalisation
    )
    _check_any(file)
    sizes = _sizes(file)
    targets = targets_of(folder, list(file))
    network, name = sift_inverter(inverter, "opencv" if file.origin == "opencv" else "vlfeat")
    representation = representations.from_spec(network.spec)
    assert isinstance(representation, Sift)
    network = network.to(device)

    def picture(index: int, keypoints: Keypoints) -> None:
        fewer, size = fitted(keypoints, sizes[index], options.max_side)
        write_picture(targets[index], as_pixels(_image(network, representation, fewer, size, device)))
        work.images += 1

    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(file))

    empty = []
    for index, key in enumerate(file):
        try:
            with naming(path, key):
                _check_pixels(sizes[index], options.max_side)
                keypoints = file[key]
                work.remark(key, examine(keypoints, sizes[index]) | dict(file.notes.get(key, {})))
        except ValueError as error:
            work.skip(key, error)
            advance()
            continue
        if not len(keypoints.x):
            empty.append(index)  # pictures of nothing come last, where there are others
            continue
        picture(index, keypoints)
        advance()
    if not work.images:
        if work.skipped:
            raise ValueError(f"none of the {len(file)} images could be inverted; the first: {work.skipped[0][1]}")
        raise ValueError(_none(file))
    work.empty = len(empty)
    for index in empty:
        picture(index, file[index])
        advance()
    return name


def _check_any(file: KeypointFile) -> None:
    """``ValueError`` if the list says already that there is nothing to invert."""
    if not len(file):
        raise ValueError(f"{file.path} holds no images: there is nothing to invert")
    if not any(count is None or count for count in file.counts):
        raise ValueError(_none(file))


def _none(file: KeypointFile) -> str:
    what = "no keypoints" if len(file) == 1 else f"no keypoints for any of its {len(file)} images"
    return f"{file.path} holds {what}: there is nothing to invert"


def _check_pixels(size: Size, max_side: int | None) -> None:
    height, width = (min(side, max_side) if max_side is not None else side for side in size)
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"an image of {size[1]}×{size[0]} pixels (width × height); up to {_MOST_PIXELS} pixels are reconstructed: "
            "choose fewer (max_side, --max-side)"
        )


def _sizes(file: KeypointFile) -> list[Size]:
    found = []
    for key, size in zip(file, file.sizes, strict=True):
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
    normalisation: str | None = None,
    keypoint_format: str | None = None,
    max_side: int | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    skip_bad: bool = False,
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
        variables: which to read of a MATLAB file of plain arrays that holds others too; ``None`` takes all.
        image_size: (H, W) of the images of a keypoint file that does not tell it, pixels.
        normalisation: of keypoints' descriptors, see `preimage.read_keypoints`.
        keypoint_format: of a keypoint file whose suffix or first bytes mislead, see `preimage.read_keypoints`.
        max_side: larger images of a keypoint file are reconstructed with this many pixels along their longer side.
        batch_size: images at once, fewer where they are so large that they would take over a gigabyte; those of
            keypoint files come one by one.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        skip_bad: leave out images whose features or keypoints cannot be read or inverted, and list them, instead of
            stopping.
        progress: called with (images done, images in all).

    Raises:
        ValueError: nothing to invert, more than a few keypoints outside of their image, neither a spec nor an inverter
            for plain arrays, no image size for keypoints, a misfit (says which field differs), a key that would leave
            the folder, options for keypoints and another file, or no such device.
        LookupError: no shipped inverter fits.
        FileFormatError: the file is damaged or of another format.
    """
    start = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")
    place = checked_device(device)
    options = KeypointOptions(image_size, normalisation, keypoint_format, max_side)
    folder = folder_of(output)
    work = _Work(skip_bad)
    if _holds_keypoints(features, spec, layout, variables, options):
        name = _invert_keypoints(features, folder, options, inverter, place, work, progress)
    else:
        chosen = loaded(inverter) if inverter is not None and is_foreign(features) else None
        file = open_features(features, spec, layout, chosen, variables)
        network, name = fitting_inverter(inverter, file.spec, os.fspath(features))
        _invert_features(file, folder, network.to(place), batch_size, place, work, progress)
    seconds = time.perf_counter() - start
    return InvertSummary(folder, name, work.images, seconds, work.empty, tuple(work.skipped), work.notes())


def _invert_features(
    file: FeatureFile,
    folder: Path,
    network: Inverter,
    batch_size: int,
    device: torch.device,
    work: _Work,
    progress: Callable[[int, int], None] | None,
) -> None:
    if not len(file):
        raise ValueError(f"{file.path} holds no images: there is nothing to invert")
    targets = targets_of(folder, list(file))
    # The features of a window wait in memory, and take less than it takes to invert them.
    for window in in_budget(
        range(len(file)), lambda index: inverting_bytes(*file.processed_size(index)) // 8, 8 * batch_size
    ):
        for picture, index in _reconstruct(network, file, window, batch_size, device, work):
            write_picture(targets[index], picture)
            work.images += 1
            if progress is not None:
                progress(work.images + len(work.skipped), len(file))
    if not work.images:
        raise ValueError(f"none of the {len(file)} images could be inverted; the first: {work.skipped[0][1]}")


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
                f"{error}. Image size, normalisation and longest side are for keypoint files: leave them out, or name "
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
        view = inverter.view
        size = None if view is None else (view.image_size, view.image_size)
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
    return inverter.view is not None or inverter.spec.variant == USER_VARIANT


def _finite(file: FeatureFile, index: int) -> torch.Tensor:
    values = torch.from_numpy(np.array(file[index], np.float32))
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"the features of {file.key(index)!r} are partly NaN or infinite and have no pre-image")
    return values


def _reconstruct(
    inverter: Inverter, file: FeatureFile, indices: Sequence[int], batch_size: int, device: torch.device, work: _Work
) -> Iterator[tuple[Pixels, int]]:
    """Pictures with their positions in the file; features of equal shapes go through together."""
    features = {}
    for index in indices:
        try:
            features[index] = _finite(file, index)
        except ValueError as error:
            work.skip(file.key(index), error)
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, values in features.items():
        groups.setdefault((values.shape, file.processed_size(index)), []).append(index)
    for group in groups.values():
        size = file.processed_size(group[0])
        for batch in in_windows(group, at_once(inverting_bytes(*size), batch_size)):
            stacked = torch.stack([features[index] for index in batch]).to(device)
            with torch.inference_mode():
                images = inverter(stacked, image_size=(size[0], size[1]))
            for index, image in zip(batch, images, strict=True):
                yield as_pixels(image), index
