"""The study of layers: reconstructions of all rows from as few passes as possible, pictures of them, and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from preimage.inverters.output_region import OutputRegion
from preimage.io import ImageSource
from preimage.metrics import Originals
from preimage.pipelines.evaluate import Scores
from preimage.pipelines.loading import Pixels, as_pixels, at_once, batches, inverting_bytes
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.studies.layers_page import LayerScore, Shown
from preimage.studies.layers_rows import LayerRow, layer_name, network_name


class Column:
    """A row of the study, ready to be measured.

    Args:
        row: the layer.
        reconstructor: its representation and inverter.
        size: side of the images for representations that take any.
    """

    def __init__(self, row: LayerRow, reconstructor: Reconstructor, size: int) -> None:
        self.row, self.reconstructor = row, reconstructor
        self.side = reconstructor.side(default=size)


def measure(
    columns: Sequence[Column],
    sources: Sequence[ImageSource],
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerScore]:
    """A score for each column, in their order; a bad image is a ``ValueError``.

    The targets are kept in float16 until the end (0.3 MB an image of 227²), once for all columns that have the same.
    """
    scorers: list[_Scorer] = []
    sets: dict[tuple[int, OutputRegion | None], Originals] = {}
    for column in columns:
        key = column.side, column.row.inverter.output_region
        scorers.append(_Scorer(column, sets.get(key), sets.setdefault(key, Originals())))
    done, total = 0, len(columns) * len(sources)
    for keys, _, position, comparison in _comparisons(columns, sources, batch_size):
        scorers[position].add(keys, comparison)
        done += len(keys)
        if progress is not None:
            progress(done, total)
    return [scorer.score() for scorer in scorers]


def reconstructed(columns: Sequence[Column], sources: Sequence[ImageSource], batch_size: int) -> list[Shown]:
    """For each image itself, at the largest size that a column takes, and what comes back from each column."""
    pictures: dict[int, list[Pixels]] = {}
    largest = max(range(len(columns)), key=lambda position: columns[position].side)
    shown: list[Shown] = []
    for keys, images, position, comparison in _comparisons(columns, sources, batch_size):
        pictures.setdefault(position, []).extend(as_pixels(comparison.reconstruction))
        if position == largest:
            originals = images.permute(0, 2, 3, 1).contiguous().numpy()
            shown += [Shown(key, [original]) for key, original in zip(keys, originals, strict=True)]
    for position in range(len(columns)):
        for row, picture in zip(shown, pictures[position], strict=True):
            row.pictures.append(picture)
    return shown


def _comparisons(
    columns: Sequence[Column], sources: Sequence[ImageSource], batch_size: int
) -> Iterator[tuple[list[str], torch.Tensor, int, Comparison]]:
    """Yield keys, images (B, 3, S, S) uint8, the position of a column, and its comparison, batch by batch."""
    sides: dict[int, list[int]] = {}
    for position, column in enumerate(columns):
        sides.setdefault(column.side, []).append(position)
    for side, positions in sides.items():
        for keys, images in batches(sources, side, at_once(inverting_bytes(side, side), batch_size)):
            passes: dict[int, Mapping[str, torch.Tensor]] = {}
            for position in positions:
                row, reconstructor = columns[position].row, columns[position].reconstructor
                features = None
                if row.shared is not None:
                    if id(row.shared) not in passes:
                        with torch.no_grad():
                            passes[id(row.shared)] = row.shared(images.to(reconstructor.device))
                    features = passes[id(row.shared)][row.layer]
                yield keys, images, position, reconstructor.compare(images, features)


class _Scorer:
    """One column's score. Of columns with the same targets one collects them, and all share them."""

    def __init__(self, column: Column, collected: Originals | None, originals: Originals) -> None:
        self._row, self._side = column.row, column.side
        self._scores = Scores(originals)
        self._collects = None if collected is not None else originals
        self._shape: tuple[int, ...] = ()
        self._size = 0

    def add(self, keys: Sequence[str], comparison: Comparison) -> None:
        """Add a batch."""
        features, target, reconstruction = comparison
        if self._collects is not None:
            self._collects.add(target)
        self._scores.add(keys, target, reconstruction)
        self._shape, self._size = tuple(features.shape[1:]), reconstruction.shape[2]

    def score(self) -> LayerScore:
        """``ValueError`` if there are no two images that differ."""
        report, scores = self._scores.report()
        spec, region = self._row.inverter.spec, self._row.inverter.output_region
        return LayerScore(
            label=self._row.label,
            network=network_name(spec),
            layer=layer_name(spec),
            representation=spec.representation,
            variant=spec.variant,
            features=self._shape,
            input_size=self._side,
            crop=self._side if region is None else region.crop,
            output_size=self._size,
            error=report.error,
            mean_image_error=report.mean_image,
            normalizer=report.normalizer,
            psnr=sum(score.psnr for score in scores) / len(scores),
            ssim=sum(score.ssim for score in scores) / len(scores),
            images=len(scores),
            inverter=self._row.origin,
        )
