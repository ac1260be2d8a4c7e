"""Measure the reconstructions of an audit: their error, and how often the right photograph is found for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch

from preimage.keypoints import Keypoints
from preimage.metrics import NormalizedError, Originals
from preimage.opencv import quiet_opencv
from preimage.ops.sift import sift as detect
from preimage.pipelines.evaluate import Scores
from preimage.pipelines.image_loading import Pixels, as_pixels
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation
from preimage.representations.sift import Sift
from preimage.studies.bootstrap import Interval, bootstrap_interval
from preimage.studies.mitigations import Items, Mitigation, neighbor_overlap
from preimage.studies.reidentification import Gallery, RankRates, embeddings, rank_rates

UNCHANGED = "unchanged features"
NEAREST = "nearest neighbor"
MEAN_IMAGE = "mean image"
BY_SIFT = "sift"

_BATCH = 64  # images whose keypoints are detected at once
_ROTATION, _SCALE = 15.0, 0.8  # of the second view, degrees and factor
_TOLERANCE = 3.0  # pixels between a keypoint and its match in the second view
_RATIO = 0.8


@dataclasses.dataclass(frozen=True)
class ConditionScore:
    """Scores of the images that are made under one condition.

    Attributes:
        name: ``"unchanged features"``, ``"nearest neighbor"``, ``"mean image"``, or the name of a change.
        kind: Kind of the change, ``"noise"`` for example; empty for the first three.
        setting: Strength of the change; empty for the first three.
        error: Normalized error.
        psnr: PSNR in dB; ``None`` for changed features.
        ssim: SSIM; ``None`` for changed features.
        reidentification: Rank rates by how images are compared: ``"sift"``, and without a change the name of an
            embedding if there is one; empty where they would mean nothing.
        recall: Share of the nearest neighbors, or of the matches of keypoints, that is kept; ``None`` for the images
            that do not come from features.
    """

    name: str
    kind: str
    setting: str
    error: Interval
    psnr: Interval | None
    ssim: Interval | None
    reidentification: dict[str, RankRates]
    recall: Interval | None

    @property
    def rank1(self) -> float | None:
        """Share of the images whose best match by SIFT is the right photograph."""
        rates = self.reidentification.get(BY_SIFT)
        return None if rates is None else rates.rank1.mean


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """Scores of one photograph.

    Attributes:
        key: Key of the photograph.
        error: Normalized error of its reconstruction.
        nearest_error: Normalized error of its nearest neighbor.
        match: Key of the photograph with the most SIFT matches with its reconstruction.
        matches: Number of these matches.
        right_matches: Number of SIFT matches with the photograph itself.
    """

    key: str
    error: float
    nearest_error: float
    match: str
    matches: int
    right_matches: int


class AuditMeasurement:
    """Scores by condition.

    Args:
        keys: Keys of the photographs.
        images: (N, 3, S, S) uint8, the photographs.
        reconstructor: The inverter.
        embedding: Representation whose vectors are compared too, of unchanged features and baselines; ``None`` for
            none.
        seed: Seed of the intervals.
        batch_size: Number of features inverted at once.
        progress: Function called with the number of images done since the last call.
    """

    def __init__(
        self,
        keys: Sequence[str],
        images: torch.Tensor,
        reconstructor: Reconstructor,
        *,
        embedding: Representation | None,
        seed: int,
        batch_size: int,
        progress: Callable[[int], None],
    ) -> None:
        self.keys, self.images, self._reconstructor, self._embedding = keys, images, reconstructor, embedding
        self._seed, self._batch_size, self._progress = seed, batch_size, progress
        self.targets = self.part(images)  # (N, 3, s, s) uint8, what the inverter returns
        self._originals = Originals()
        for batch in self.targets.split(_BATCH):
            self._originals.add(batch.float() / 255)
        self._gallery = Gallery(keypoints_of(self.targets))
        self._vectors = None if embedding is None else embeddings(embedding, self.targets)
        self.matches = np.zeros((0, 0), np.int64)  # of the reconstructions from unchanged features
        self.errors: dict[str, tuple[float, ...]] = {}

    def part(self, images: torch.Tensor) -> torch.Tensor:
        """Return the part of photographs (N, 3, S, S) that the inverter returns, of the same dtype."""
        return torch.cat([self._reconstructor.inverter.target(batch) for batch in images.split(_BATCH)])

    def invert(self, items: Items) -> Iterator[torch.Tensor]:
        """Yield batches of reconstructions (B, 3, s, s) float32 in [0, 1] from features or keypoints."""
        side = self.images.shape[2]
        size = None if self._reconstructor.inverter.output_region is not None else (side, side)
        for start in range(0, len(items), self._batch_size):
            if isinstance(items, Keypoints):
                stop = min(start + self._batch_size, len(items))
                sift = self._reconstructor.representation
                assert isinstance(sift, Sift)
                batch = sift.grid(Keypoints.cat([items[image] for image in range(start, stop)]), (side, side))
            else:
                batch = items[start : start + self._batch_size]
            yield self._reconstructor.invert(batch, size).cpu()

    def reconstructions(self, items: Items) -> tuple[ConditionScore, torch.Tensor]:
        """Score the reconstructions from unchanged features; return them too, (N, 3, s, s) uint8."""
        made = list(self.invert(items))
        score, self.matches = self._in_full(UNCHANGED, made, ranked=True)
        pixels = torch.cat([_as_uint8(batch) for batch in made])
        return dataclasses.replace(score, recall=Interval(1.0, 1.0, 1.0)), pixels

    def baseline(self, name: str, images: torch.Tensor, *, ranked: bool) -> ConditionScore:
        """Score images (N, 3, s, s), uint8 or float32 in [0, 1]; without `ranked` only their errors."""
        batches = (batch.float() / (255 if images.dtype == torch.uint8 else 1) for batch in images.split(_BATCH))
        return self._in_full(name, batches, ranked=ranked)[0]

    def mitigation(self, mitigation: Mitigation, items: Items, recall: Sequence[float]) -> ConditionScore:
        """Score the reconstructions from changed features, given their recall for each image."""
        error, matches = NormalizedError(self._originals), []
        for images, batch in self._with_targets(self.invert(items)):
            error.update(images, batch)
            matches.append(self._gallery.matches(detect(_as_uint8(batch))))
        return ConditionScore(
            mitigation.name,
            mitigation.kind,
            mitigation.setting,
            self._interval(error.report().per_image),
            None,
            None,
            {BY_SIFT: rank_rates(np.concatenate(matches), self._seed)},
            self._interval(recall),
        )

    def image_scores(self) -> tuple[ImageScore, ...]:
        """Return the scores of each photograph."""
        columns = zip(self.keys, self.errors[UNCHANGED], self.errors[NEAREST], self.matches, strict=True)
        return tuple(
            ImageScore(key, error, nearest, self.keys[int(row.argmax())], int(row.max()), int(row[place]))
            for place, (key, error, nearest, row) in enumerate(columns)
        )

    def _in_full(
        self, name: str, batches: Iterable[torch.Tensor], *, ranked: bool
    ) -> tuple[ConditionScore, npt.NDArray[np.int64]]:
        """Return all scores of images, and if `ranked` the number of matches of each with each photograph."""
        scores, done = Scores(self._originals), 0
        matches, similarities = [np.zeros((0, len(self.keys)), np.int64)], []
        for images, batch in self._with_targets(batches):
            scores.add(self.keys[done : done + len(batch)], images, batch)
            done += len(batch)
            if ranked:
                pixels = _as_uint8(batch)
                matches.append(self._gallery.matches(detect(pixels)))
                if self._embedding is not None and self._vectors is not None:
                    similarities.append((embeddings(self._embedding, pixels) @ self._vectors.T).numpy())
        _, each = scores.report()
        self.errors[name] = tuple(one.error for one in each)
        counts, found = np.concatenate(matches), {}
        if ranked:
            found[BY_SIFT] = rank_rates(counts, self._seed)
        if similarities and self._embedding is not None:
            found[self._embedding.name] = rank_rates(np.concatenate(similarities), self._seed)
        error = self._interval(self.errors[name])
        psnr = self._interval([one.psnr for one in each])
        ssim = self._interval([one.ssim for one in each])
        return ConditionScore(name, "", "", error, psnr, ssim, found, None), counts

    def _with_targets(self, batches: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the photographs, float32 in [0, 1], with each batch of images."""
        start = 0
        for batch in batches:
            yield self.targets[start : start + len(batch)].float() / 255, batch
            start += len(batch)
            self._progress(len(batch))

    def _interval(self, values: Sequence[float]) -> Interval:
        return bootstrap_interval(values, seed=self._seed)


def _as_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W) in [0, 1] as they would be saved."""
    return torch.from_numpy(as_pixels(images)).permute(0, 3, 1, 2).contiguous()


def keypoints_of(images: torch.Tensor) -> Keypoints:
    """Return the SIFT keypoints of images (N, 3, H, W) uint8."""
    return Keypoints.cat([detect(batch) for batch in images.split(_BATCH)])


class Retrieval:
    """Measure how useful changed features still are for retrieval.

    For features, this is the overlap of the nearest neighbors. For keypoints, it is the share of the right matches with
    a second view of the photograph, rotated by 15° and reduced to 0.8 of its size: matches as in `Gallery` whose
    positions agree within 3 pixels.

    Args:
        items: Unchanged features or keypoints.
        images: (N, 3, S, S) uint8, the photographs.
        neighbors: Number of nearest neighbors.
    """

    def __init__(self, items: Items, images: torch.Tensor, neighbors: int) -> None:
        self._items, self._neighbors = items, min(neighbors, len(items) - 1)
        self._views: Keypoints | None = None
        if isinstance(items, Keypoints):
            center = (images.shape[3] - 1) / 2, (images.shape[2] - 1) / 2
            self._matrix = np.asarray(cv2.getRotationMatrix2D(center, _ROTATION, _SCALE), np.float64)
            self._views = keypoints_of(torch.from_numpy(np.stack([self._view(image) for image in images.numpy()])))
            self._before = self._right_matches(items)

    @property
    def name(self) -> str:
        """Name of the measure, such as ``recall@10``."""
        return "match recall" if self._views is not None else f"recall@{self._neighbors}"

    @property
    def chance(self) -> float | None:
        """Recall of features without any information; ``None`` for keypoints."""
        return None if self._views is not None else self._neighbors / (len(self._items) - 1)

    def kept(self, changed: Items) -> list[float]:
        """Return the share that is kept, for each image that has neighbors or matches."""
        if isinstance(changed, Keypoints):
            after = self._right_matches(changed)
            return [min(1.0, now / then) for now, then in zip(after, self._before, strict=True) if then]
        assert isinstance(self._items, torch.Tensor)
        return neighbor_overlap(self._items, changed, self._neighbors)

    @quiet_opencv
    def _view(self, image: Pixels) -> Pixels:
        height, width = image.shape[1:]
        turned = cv2.warpAffine(
            np.ascontiguousarray(image.transpose(1, 2, 0)),
            self._matrix,
            (width, height),
            flags=cv2.INTER_AREA,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.ascontiguousarray(np.asarray(turned, np.uint8).transpose(2, 0, 1))

    def _right_matches(self, keypoints: Keypoints) -> list[int]:
        assert self._views is not None
        return [_right_matches(keypoints[image], self._views[image], self._matrix) for image in range(len(keypoints))]


def _right_matches(stored: Keypoints, view: Keypoints, matrix: npt.NDArray[np.float64]) -> int:
    """Return the number of mutual matches of the keypoints of an image and its view whose positions agree."""
    stored, view = stored.to_torch(), view.to_torch()
    if len(stored.x) < 2 or not len(view.x):
        return 0
    similarity = view.descriptors @ stored.descriptors.T  # [views, stored]
    (best, index), of_stored = similarity.max(dim=1), similarity.amax(dim=0)
    mutual = of_stored[index] == best
    second = similarity.scatter(1, index[:, None], -1.0).amax(dim=1)
    places = torch.stack([stored.x[index], stored.y[index], torch.ones(len(index))]).double()
    moved = torch.from_numpy(matrix) @ places  # [2, views]
    distance = (moved - torch.stack([view.x, view.y]).double()).norm(dim=0)
    good = mutual & ((1 - best) < _RATIO**2 * (1 - second)) & (distance < _TOLERANCE)
    return int(good.sum())
