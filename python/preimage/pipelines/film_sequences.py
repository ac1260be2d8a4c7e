"""Open sequences of features and of images, whose order is that of time."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.io import FeatureFile, resize_and_center_crop
from preimage.io.arrays import is_array_file, read_array_file
from preimage.io.arrays.formats import HDF5_SUFFIXES
from preimage.io.arrays.hdf5_stack import read_hdf5_stack
from preimage.io.feature_file import shape_problem
from preimage.opencv import resize
from preimage.pipelines.image_loading import Images, Pixels, as_listing, as_pixels, check_unit_range, read, usable
from preimage.store import FeatureStore

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
_NUMBER = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True)
class FeatureSequence:
    """Features of the frames of one sequence, in order of time.

    Attributes:
        name: Name for captions and messages.
        keys: Name of each frame.
        load: Function that returns the features of a frame by its position.
        size: (H, W) in pixels of the images that the features were computed from; ``None`` for the size that they
            cover.
    """

    name: str
    keys: Sequence[str]
    load: Callable[[int], Array]
    size: tuple[int, int] | None = None

    def batch(self, positions: range, shape: tuple[int, ...]) -> Array:
        """Return the features of some frames, (B, ...) float32.

        Raises:
            ValueError: A frame with NaN or infinite values, or of another shape; the message names it.
        """
        batch = np.empty((len(positions), *shape), np.float32)
        for row, position in enumerate(positions):
            features = self.load(position)
            if features.shape != shape:
                raise ValueError(
                    f"{self._frame(position)} has features of shape {features.shape}, the frames before {shape}: all "
                    "frames must be of one size"
                )
            with np.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 become infinite
                batch[row] = features
            if not np.isfinite(batch[row]).all():
                raise ValueError(f"{self._frame(position)} contains NaN or infinite values")
        return batch

    def shape(self, inverter: Inverter) -> tuple[int, ...]:
        """Return the shape of the first frame; ``ValueError`` unless the inverter takes such features."""
        shape = tuple(self.load(0).shape)
        if problem := shape_problem(inverter.spec, shape):
            raise ValueError(f"{self._frame(0)}: {problem}")
        return shape

    def _frame(self, position: int) -> str:
        key = self.keys[position]
        return f"{self.name}: frame {position}" + ("" if key == str(position) else f" ({key!r})")


def in_time(keys: Sequence[str]) -> list[int]:
    """Return the positions of keys in the order of time: ``f9`` before ``f10``."""

    def parts(position: int) -> list[tuple[int, int, str]]:
        pieces = _NUMBER.split(keys[position])
        return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]

    return sorted(range(len(keys)), key=parts)


def open_sequences(features: Any, inverter: Inverter | None) -> list[FeatureSequence]:
    """Open one or several sequences, see `preimage.film`.

    Raises:
        TypeError: Something else than paths, tensors or arrays, or arrays without an inverter.
        ValueError: No sequence or frame, or sequences of different lengths.
        FileFormatError: A file is damaged or of another format.
    """
    if isinstance(features, Mapping):
        named = [(str(name), one) for name, one in features.items()]
    elif isinstance(features, list | tuple):
        named = [("", one) for one in features]
    else:
        named = [("", features)]
    if not named:
        raise ValueError("features must contain at least one sequence, got none")
    sequences = []
    for number, (name, one) in enumerate(named, 1):
        if isinstance(one, str | PathLike):
            sequences.append(_from_file(one, name, inverter))
        else:
            default = "sequence" if len(named) == 1 else f"sequence {number}"
            sequences.append(_from_array(one, name or default))
    for sequence in sequences:
        if not sequence.keys:
            raise ValueError(f"{sequence.name}: a sequence must have at least one frame, got none")
        if len(sequence.keys) != len(sequences[0].keys):
            raise ValueError(
                f"sequences must be equally long, got {len(sequences[0].keys)} frames of {sequences[0].name} and "
                f"{len(sequence.keys)} of {sequence.name}"
            )
    return sequences


def _from_array(values: Any, name: str) -> FeatureSequence:
    import torch

    if isinstance(values, torch.Tensor):
        if values.is_meta:
            raise ValueError(f"{name}: features on the meta device have no values")
        if values.is_complex():
            raise ValueError(f"{name}: features must be real numbers, got {values.dtype}")
        values = values.detach().cpu().float().numpy()
    if not isinstance(values, np.ndarray):
        raise TypeError(
            "features must be paths, tensors or NumPy arrays, or a list or mapping of them, "
            f"got {type(values).__name__}"
        )
    if values.ndim not in (2, 4) or values.dtype.kind not in "fiu":
        raise ValueError(f"{name}: features must be numbers (T, C, h, w) or (T, C), got {values.shape} {values.dtype}")
    return FeatureSequence(name, [str(index) for index in range(len(values))], values.__getitem__)


def _from_file(path: str | PathLike[str], name: str, inverter: Inverter | None) -> FeatureSequence:
    file: FeatureFile
    called = name or Path(path).stem
    if Path(path).suffix.lower() in HDF5_SUFFIXES and (stack := read_hdf5_stack(path)) is not None:
        if not isinstance(stack, np.ndarray):
            raise FileFormatError(path, "contains one number: expected an array (T, C, h, w) or (T, C)")
        return _from_array(stack, called)
    if not is_array_file(path):
        file = FeatureStore(path)
    elif inverter is None:
        file = read_array_file(path)
    else:
        region = inverter.output_region
        size = None if region is None else (region.image_size, region.image_size)
        file = read_array_file(path, fallback=inverter.spec, image_size=size)
    keys = list(file)
    order = in_time(keys)
    if inverter is not None and (differences := inverter.spec.differences(file.spec)):
        raise ValueError(f"inverter does not fit {os.fspath(path)} (inverter != features): {'; '.join(differences)}")
    sizes = {(int(height), int(width)) for height, width in file.processed_sizes}
    if len(sizes) > 1:
        listed = ", ".join(f"{height}×{width}" for height, width in sorted(sizes)[:3])
        raise ValueError(f"{os.fspath(path)}: all frames must be of one size, got images of {listed} pixels")
    size = next(iter(sizes)) if sizes else None
    return FeatureSequence(called, [keys[index] for index in order], lambda position: file[order[position]], size)


def open_frames(images: Images | torch.Tensor | Array, count: int) -> Callable[[int], Pixels]:
    """Return a function from the position of a frame to its image (H, W, 3) uint8.

    Args:
        images: Paths or sources, in order of time by their keys; or (T, 3, H, W), uint8 or floating in [0, 1].
        count: Number of frames of the features.

    Raises:
        TypeError: A tensor of another dtype.
        ValueError: Another number of images, or a tensor of another shape or with values outside [0, 1].
    """
    import torch

    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images))
    if isinstance(images, torch.Tensor):
        tensor = images
        if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
            raise TypeError(f"images must be uint8, or floating point in [0, 1], got {tensor.dtype}")
        if tensor.dim() != 4 or tensor.shape[1] != 3:
            raise ValueError(f"images must be (T, 3, H, W), got shape {tuple(tensor.shape)}")
        if 0 in tensor.shape[2:]:
            raise ValueError(f"images must not be empty, got shape {tuple(tensor.shape)}")
        _check_count(len(tensor), count)
        check_unit_range(tensor)
        return lambda position: as_pixels(tensor[position].float() / (255 if tensor.dtype == torch.uint8 else 1))
    sources = as_listing(images).sources
    _check_count(len(sources), count)
    order = in_time([source.key for source in sources])

    def decoded(position: int) -> Pixels:
        (item,) = usable([read(sources[order[position]], None)], None)
        assert item.pixels is not None
        return item.pixels

    return decoded


def fitted(image: Pixels, inverter: Inverter, height: int, width: int) -> Pixels:
    """Return the part of an image that is reconstructed, resized to (height, width)."""
    import torch

    if (region := inverter.output_region) is not None:
        square = resize_and_center_crop(image, region.image_size)
        target = region.of(torch.from_numpy(square).permute(2, 0, 1)[None].contiguous())
        return as_pixels(target[0].float() / 255)
    if image.shape[:2] == (height, width):
        return image
    if image.shape[0] * width != image.shape[1] * height:
        image = _cropped(image, height / width)
    return resize(image, height, width)


def _cropped(image: Pixels, aspect: float) -> Pixels:
    """Return the largest part in the middle of an image with an aspect (height by width)."""
    height = min(image.shape[0], max(1, round(image.shape[1] * aspect)))
    width = min(image.shape[1], max(1, round(image.shape[0] / aspect)))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _check_count(images: int, count: int) -> None:
    if images != count:
        raise ValueError(f"there must be one image for each of {count} frames, got {images}")
