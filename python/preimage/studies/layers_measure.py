"""The study of layers: reconstructions of all rows from as few passes as possible, pictures of them, and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from preimage.inverters.view import View
from preimage.io import ImageSource
from preimage.metrics import Originals
from preimage.pipelines.evaluate import Judge
from preimage.pipelines.loading import Pixels, as_pixels, at_once, batches, inverting_bytes
from preimage.studies.layers_page import LayerScore, Shown
from preimage.studies.layers_rows import LayerRow, layer_name, network_name

_CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images are gone through.

    Attributes:
        size: of the images for representations that take any.
        batch_size: images at once.
        device: where networks and inverters run.
    """

    size: int
    batch_size: int
    device: torch.device


def measure(
    rows: Sequence[LayerRow],
    sources: Sequence[ImageSource],
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerScore]:
    """A score for each row, in their order; a bad image is a ``ValueError``.

    The targets are kept in float16 until the end (0.3 MB an image of 227²), once for all rows that have the same.
    """
    scorers: list[_Scorer] = []
    sets: dict[tuple[int, View | None], Originals] = {}
    for row in rows:
        side = row.side(settings.size)
        key = side, row.inverter.view
        scorers.append(_Scorer(row, side, sets.get(key), sets.setdefault(key, Originals())))
    done, total = 0, len(rows) * len(sources)
    for side, positions in _by_side(rows, settings.size).items():
        for keys, images in batches(sources, side, at_once(inverting_bytes(side, side), settings.batch_size)):
            made = _reconstructions([rows[position] for position in positions], images, settings)
            for position, (features, pictures) in zip(positions, made, strict=True):
                scorers[position].add(keys, images, features, pictures)
                done += len(keys)
                if progress is not None:
                    progress(done, total)
    return [scorer.score() for scorer in scorers]


def reconstructed(rows: Sequence[LayerRow], sources: Sequence[ImageSource], settings: Settings) -> list[Shown]:
    """For each image itself, at the largest size that a row takes, and what comes back from each row."""
    columns: dict[int, list[Pixels]] = {}
    largest = max(row.side(settings.size) for row in rows)
    keys: list[str] = []
    originals: list[Pixels] = []
    for side, positions in _by_side(rows, settings.size).items():
        for names, images in batches(sources, side, at_once(inverting_bytes(side, side), settings.batch_size)):
            if side == largest:
                keys += names
                originals += [as_pixels(image / 255) for image in images]
            made = _reconstructions([rows[position] for position in positions], images, settings)
            for position, (_, pictures) in zip(positions, made, strict=True):
                columns.setdefault(position, []).extend(as_pixels(picture) for picture in pictures)
    returned = [columns[position] for position in range(len(rows))]
    return [
        Shown(key, [original, *(column[index] for column in returned)])
        for index, (key, original) in enumerate(zip(keys, originals, strict=True))
    ]


def _reconstructions(
    rows: Sequence[LayerRow], images: torch.Tensor, settings: Settings
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features, and what comes back of them (B, 3, h, w) float in [0, 1] on the CPU, of images (B, 3, S, S) uint8."""
    passes: dict[int, Mapping[str, torch.Tensor]] = {}
    for row in rows:
        # Networks run where the inverters do; the descriptors are as quick on the CPU, and some run there only.
        is_network = row.shared is not None or row.representation.image_side is not None
        placed = images.to(settings.device if is_network else _CPU)
        with torch.inference_mode():
            if row.shared is None:
                features = row.representation(placed)
            else:
                if id(row.shared) not in passes:
                    passes[id(row.shared)] = row.shared(placed)
                features = passes[id(row.shared)][row.layer]
            whole = None if row.inverter.view is not None else (images.shape[2], images.shape[3])
            yield features, row.inverter(features, image_size=whole).cpu()


class _Scorer:
    """One row's score. Of rows with the same targets one collects them, and all share them."""

    def __init__(self, row: LayerRow, side: int, collected: Originals | None, originals: Originals) -> None:
        self._row, self._side = row, side
        self._judge = Judge(originals)
        self._collects = None if collected is not None else originals
        self._shape: tuple[int, ...] = ()
        self._size = 0

    def add(self, keys: Sequence[str], images: torch.Tensor, features: torch.Tensor, pictures: torch.Tensor) -> None:
        """A batch: images (B, 3, S, S) uint8, their features, and what came back."""
        targets = self._row.inverter.target(images).float() / 255
        if self._collects is not None:
            self._collects.add(targets)
        self._judge.add(keys, targets, pictures)
        self._shape, self._size = tuple(features.shape[1:]), pictures.shape[2]

    def score(self) -> LayerScore:
        """``ValueError`` if there are no two images that differ."""
        report, scores = self._judge.verdict()
        spec, view = self._row.inverter.spec, self._row.inverter.view
        return LayerScore(
            label=self._row.label,
            network=network_name(spec),
            layer=layer_name(spec),
            representation=spec.representation,
            variant=spec.variant,
            features=self._shape,
            input_size=self._side,
            crop=self._side if view is None else view.crop,
            output_size=self._size,
            error=report.error,
            mean_image_error=report.mean_image,
            normaliser=report.normaliser,
            psnr=sum(score.psnr for score in scores) / len(scores),
            ssim=sum(score.ssim for score in scores) / len(scores),
            images=len(scores),
            inverter=self._row.origin,
        )


def _by_side(rows: Sequence[LayerRow], size: int) -> dict[int, list[int]]:
    """Positions of the rows by the side of the images they take."""
    sides: dict[int, list[int]] = {}
    for position, row in enumerate(rows):
        sides.setdefault(row.side(size), []).append(position)
    return sides
