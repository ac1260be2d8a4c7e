"""Find the photograph that an image shows among many, by matching SIFT descriptors or by a network's embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from preimage.inverters.output_region import resized
from preimage.keypoints import DESCRIPTOR, Keypoints
from preimage.representations import Representation
from preimage.studies.bootstrap import Interval, bootstrap_interval

RANKS = (1, 10)
MAX_KEYPOINTS = 128  # of an image, the strongest ones
_RATIO = 0.8  # Lowe, IJCV 2004, section 7.1
_PRODUCT = 1 << 24  # number of similarities in memory at once
_BATCH = 16  # images embedded at once


@dataclasses.dataclass(frozen=True)
class RankRates:
    """How often the right photograph is among the best matches.

    Attributes:
        rank1: Share of the images whose best match is the right photograph.
        rank10: Share of the images whose ten best matches contain the right photograph.
    """

    rank1: Interval
    rank10: Interval


class Gallery:
    """SIFT descriptors of photographs, to match images with.

    Args:
        keypoints: Keypoints of the photographs, of which at most `MAX_KEYPOINTS` of each are used.
    """

    def __init__(self, keypoints: Keypoints) -> None:
        images = [_strongest(keypoints, image) for image in range(len(keypoints))]
        self._width = max(1, max((len(one) for one in images), default=1))
        padded = torch.zeros(len(images), self._width, DESCRIPTOR)
        for row, descriptors in zip(padded, images, strict=True):
            row[: len(descriptors)] = descriptors
        self._descriptors = padded

    def __len__(self) -> int:
        return len(self._descriptors)

    def matches(self, keypoints: Keypoints, progress: Callable[[int], None] | None = None) -> npt.NDArray[np.int64]:
        """Return the number of matches (Q, N) of each of Q images with each of the N photographs.

        Two descriptors match if each is the most similar one of the other image, and if the distance is below 0.8 of
        that to the second most similar descriptor of the photograph (Lowe, IJCV 2004).

        Args:
            keypoints: Keypoints of the images, of which at most `MAX_KEYPOINTS` of each are used.
            progress: Function called with the number of images done since the last call.
        """
        counts = np.zeros((len(keypoints), len(self)), np.int64)
        for image in range(len(keypoints)):
            query = _strongest(keypoints, image)
            if len(query):
                step = max(1, _PRODUCT // (self._width * len(query)))
                for start in range(0, len(self), step):
                    counts[image, start : start + step] = _match_counts(query, self._descriptors[start : start + step])
            if progress is not None:
                progress(1)
        return counts


def _match_counts(query: torch.Tensor, photographs: torch.Tensor) -> npt.NDArray[np.int64]:
    """Return the number of matches of descriptors (n, 128) with those of photographs (B, K, 128), padded by zeros."""
    count, width, _ = photographs.shape
    similarity = (photographs.reshape(-1, DESCRIPTOR) @ query.T).view(count, width, len(query))
    best, index = similarity.max(dim=1)  # [B, n], of each descriptor of the image
    best_of_photograph = similarity.amax(dim=2)  # [B, K]
    mutual = best_of_photograph.gather(1, index) == best
    similarity.scatter_(1, index[:, None], -1.0)
    second = similarity.amax(dim=1)
    # Squared distances of unit vectors: 2 - 2 · similarity.
    distinct = (1 - best) < _RATIO**2 * (1 - second)
    return np.asarray((mutual & distinct & (best > 0)).sum(dim=1).numpy(), np.int64)


def _strongest(keypoints: Keypoints, image: int) -> torch.Tensor:
    """Return the descriptors (n, 128) of the strongest keypoints of an image, in their order."""
    one = keypoints[image].to_torch()
    if len(one.x) <= MAX_KEYPOINTS:
        return torch.as_tensor(one.descriptors)
    kept = one.response.argsort(descending=True, stable=True)[:MAX_KEYPOINTS].sort().values
    return torch.as_tensor(one.descriptors[kept])


def embeddings(representation: Representation, images: torch.Tensor) -> torch.Tensor:
    """Return one vector (N, C) of length 1 for each image (N, 3, H, W) uint8; maps are averaged over their cells.

    Images are resized to the size that the representation takes.
    """
    side = representation.image_side
    vectors = []
    with torch.no_grad():
        for batch in images.split(_BATCH):
            features = representation(batch if side is None else resized(batch, side, side)).float().cpu()
            vectors.append(features.flatten(2).mean(dim=2) if features.dim() == 4 else features)
    return F.normalize(torch.cat(vectors), dim=1)


def rank_rates(scores: npt.NDArray[Any], seed: int) -> RankRates:
    """Return how often the right photograph is among the best matches, with intervals over the images.

    Args:
        scores: (N, N), the score of image i with photograph j; i = j is right.
        seed: Seed of the intervals.
    """
    rates = [bootstrap_interval(hits(scores, rank), seed=seed) for rank in RANKS]
    return RankRates(*rates)


def hits(scores: npt.NDArray[Any], rank: int) -> npt.NDArray[np.float64]:
    """Return the probability (N,) that the right photograph is among the first `rank`, equal scores in random order."""
    right = scores.diagonal()[:, None]
    better = (scores > right).sum(axis=1)
    equal = (scores == right).sum(axis=1)
    return np.asarray(np.clip((rank - better) / equal, 0, 1), np.float64)
