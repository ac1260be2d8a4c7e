"""Reconstruct sequences of features as a film: a strip of frames, and a video."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from preimage.io import write_png
from preimage.io.animation import write_animation
from preimage.io.folders import new_folders
from preimage.io.video import CodecMissingError, write_mp4
from preimage.pipelines.film_sequences import FeatureSequence, fitted, open_frames, open_sequences
from preimage.pipelines.image_loading import Images, Pixels, as_pixels, at_once, inverting_bytes
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice, fitting_inverter, named_inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.store import FeatureStore
from preimage.viz.sheets import SMALLEST_TILE, draw_sheet

if TYPE_CHECKING:
    import torch

_TRUTH = "images"


@dataclasses.dataclass(frozen=True)
class FilmSummary:
    """Result of `film`.

    Attributes:
        strip: PNG of the film strip.
        video: MP4; or an animated WebP, if this build of OpenCV cannot write MP4.
        inverter: Name or folder of the inverter.
        frames: Number of frames.
        sequences: Names of the sequences of features.
        size: (H, W) in pixels of a reconstructed frame.
        fps: Frames per second.
        seconds: Wall time.
        notes: Sentences about what differs from what was asked for.
    """

    strip: Path
    video: Path
    inverter: str
    frames: int
    sequences: tuple[str, ...]
    size: tuple[int, int]
    fps: float
    seconds: float
    notes: tuple[str, ...] = ()


def film(
    features: str | PathLike[str] | torch.Tensor | npt.NDArray[Any] | Sequence[Any] | Mapping[str, Any],
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    images: Images | torch.Tensor | npt.NDArray[Any] | None = None,
    fps: float = 8.0,
    frames: int = 8,
    tile: int = 128,
    batch_size: int = 16,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> FilmSummary:
    """Reconstruct a sequence of features, such as the latents of a world model's rollout, as film strip and video.

    Writes ``strip.png``, some frames from left to right with one row for each sequence, and ``film.mp4``, all frames
    with the sequences side by side. Each frame is reconstructed alone: nothing is smoothed over time, so that flicker
    shows where the features do not determine the image.

    Args:
        features: Sequence of features: arrays in an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file (one
            of each frame, or one (T, C, h, w) or (T, C) of all); a feature store, whose keys sort in time (numbers by
            their value); or a tensor or array (T, C, h, w) or (T, C). Several sequences of equal length in a list, or
            in a mapping from their names.
        output: A folder, which is created if it does not exist; an earlier film in it is replaced.
        inverter: Inverter, its folder, or the name of a pretrained one; ``None`` is the pretrained inverter with the
            spec of a feature store. Plain arrays must be features of its spec.
        images: The frames that the features were computed from, shown in the first row: a path or paths (folders,
            files, tar shards) whose keys sort in time, or (T, 3, H, W), uint8 or floating in [0, 1].
        fps: Frames per second of the video.
        frames: Maximum number of frames on the strip, evenly spaced.
        tile: Side of a frame on the strip in pixels, at least 32.
        batch_size: Batch size.
        device: Device of the inverter, see `Reconstructor`.
        progress: Function called with (frames done, total number of frames of all sequences).

    Raises:
        TypeError: Features or images of another type.
        ValueError: Tensors or arrays without an inverter, no frame, a frame with NaN or infinite values (named), frames
            of different sizes, sequences of different lengths, features of another shape or spec than the inverter's,
            another number of images than frames, or a value out of range.
        LookupError: There is no pretrained inverter for these features.
        FileFormatError: A file is damaged or of another format.
    """
    start = time.perf_counter()
    for name, value, least in (("frames", frames, 1), ("tile", tile, SMALLEST_TILE), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 < fps < 1000:
        raise ValueError(f"fps must be above 0 and below 1000, got {fps}")
    folder = output_folder(output)
    chosen, called = _inverter(features, inverter)
    sequences = open_sequences(features, chosen)
    reconstructor = Reconstructor(None, chosen, device)
    count = len(sequences[0].keys)
    original = None if images is None else open_frames(images, count)
    reel = _Reel(sequences, reconstructor, original, batch_size, progress)
    shown = sorted({round(index * (count - 1) / max(1, frames - 1)) for index in range(min(frames, count))})
    strip: dict[int, list[Pixels]] = {}

    def joined() -> Iterator[Pixels]:
        for position, cells in enumerate(reel.frames()):
            if position in shown:
                strip[position] = cells
            yield np.concatenate(cells, axis=1) if len(cells) > 1 else cells[0]

    with new_folders(folder):
        video, notes = folder / "film.mp4", []
        try:
            write_mp4(video, joined(), fps)
        except CodecMissingError as error:
            video, milliseconds = folder / "film.webp", max(10, round(1000 / fps))
            notes.append(f"{error}: the film is an animated WebP")
            pictures = list(joined())
            write_animation(video, pictures * 2 if len(pictures) == 1 else pictures, milliseconds)
        (folder / ("film.webp" if video.suffix == ".mp4" else "film.mp4")).unlink(missing_ok=True)  # of an earlier film
        names = [*([] if original is None else [_TRUTH]), *(sequence.name for sequence in sequences)]
        sheet = draw_sheet(
            [[strip[position][row] for position in shown] for row in range(len(names))],
            [f"{position / fps:.2f} s\nframe {position}" for position in shown],
            names,
            tile=tile,
            gap=6,
        )
        write_png(folder / "strip.png", sheet)
    return FilmSummary(
        strip=folder / "strip.png",
        video=video,
        inverter=called,
        frames=count,
        sequences=tuple(sequence.name for sequence in sequences),
        size=reel.size,
        fps=fps,
        seconds=time.perf_counter() - start,
        notes=tuple(notes),
    )


class _Reel:
    """The frames of a film, computed batch by batch.

    Attributes:
        size: (H, W) of a frame, once one has been computed.
    """

    def __init__(
        self,
        sequences: list[FeatureSequence],
        reconstructor: Reconstructor,
        original: Callable[[int], Pixels] | None,
        batch_size: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._sequences, self._reconstructor, self._original = sequences, reconstructor, original
        self._batch_size, self._progress = batch_size, progress
        self._shapes = [sequence.shape(reconstructor.inverter) for sequence in sequences]
        self.size = (0, 0)

    def frames(self) -> Iterator[list[Pixels]]:
        """Yield the images of each frame, (H, W, 3) uint8: the original if there is one, then one of each sequence."""
        count, inverter = len(self._sequences[0].keys), self._reconstructor.inverter
        most = self._batch_size
        first = 0
        while first < count:
            positions = range(first, min(first + most, count))
            made = [self._made(index, positions) for index in range(len(self._sequences))]
            sizes = {images.shape[1:3] for images in made}
            if len(sizes) > 1:
                listed = ", ".join("×".join(map(str, images.shape[1:3])) for images in made)
                raise ValueError(f"the sequences must have frames of one size, got {listed} pixels")
            height, width = made[0].shape[1:3]
            self.size = (height, width)
            for row, position in enumerate(positions):
                cells = [images[row] for images in made]
                if self._original is not None:
                    cells.insert(0, fitted(self._original(position), inverter, height, width))
                yield cells
            most = at_once(inverting_bytes(height, width), self._batch_size)
            first = positions.stop

    def _made(self, index: int, positions: range) -> Pixels:
        import torch

        sequence = self._sequences[index]
        features = torch.from_numpy(sequence.batch(positions, self._shapes[index]))
        size = sequence.size if self._reconstructor.inverter.output_region is None else None
        images = as_pixels(self._reconstructor.invert(features, size))
        if self._progress is not None:
            total = len(self._sequences) * len(sequence.keys)
            self._progress(positions.start * len(self._sequences) + (index + 1) * len(positions), total)
        return images


def _inverter(features: Any, inverter: InverterChoice) -> tuple[Any, str]:
    """Return the inverter and its name; without one the pretrained inverter of a feature store."""
    if inverter is not None:
        return named_inverter(inverter)
    if isinstance(features, Mapping):
        features = list(features.values())
    first = features[0] if isinstance(features, list | tuple) and features else features
    if isinstance(first, str | PathLike):
        from preimage.io.arrays import is_array_file

        if not is_array_file(first):
            return fitting_inverter(None, FeatureStore(first).spec, os.fspath(first))
    raise ValueError("inverter must be given for tensors and plain arrays, which do not contain their spec")
