"""The disclosure study's measurements: which conditions, and one pass over the images under all of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch

from preimage.io import ImageSource
from preimage.keypoints import Keypoints
from preimage.metrics import Originals, perceptual_distance
from preimage.pipelines.evaluate import ImageScore, Scores
from preimage.pipelines.loading import Pixels, as_pixels, batches
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations.sift import Sift
from preimage.studies.disclosure_page import ConditionScore, Shown, title
from preimage.studies.perturbations import coordinates_only, descriptors_only, keep_share, positions_only

TILE = 160  # side of a picture on the strip, pixels


@dataclasses.dataclass(frozen=True)
class Condition:
    """A way to disturb keypoints; `disturb` takes those of a batch and the position of its first image."""

    name: str
    share: float
    disturb: Callable[[Keypoints, int], Keypoints]


@dataclasses.dataclass(frozen=True)
class Survey:
    """The first look at the images: keypoints by batch, the median of their scales, and the mean image (3, H, W)."""

    keypoints: list[Keypoints]
    scale: float
    mean_image: torch.Tensor


class Steps:
    """Counts what is done and tells it."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def add(self, count: int) -> None:
        """`count` more are done."""
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def look(sources: Sequence[ImageSource], size: int, batch_size: int, known: Sift, steps: Steps) -> Survey:
    """Goes through the images once; ``ValueError`` at a bad one, and if there is no keypoint in any."""
    found, total = [], torch.zeros(3, size, size, dtype=torch.float64)
    for _, originals in batches(sources, size, batch_size):
        found.append(known.keypoints(originals))
        total += originals.double().sum(dim=0)
        steps.add(len(originals))
    scales = torch.cat([keypoints.scale for keypoints in found])
    if not len(scales):
        raise ValueError(f"there is no keypoint in any of the {len(sources)} images")
    return Survey(found, float(scales.median()), (total / len(sources) / 255).float())


def all_conditions(shares: Sequence[float], seed: int, size: int, known: Sift, scale: float) -> list[Condition]:
    """The shares in the order given, then the ablations; `scale` is the constant one, pixels."""

    def kept(share: float, keypoints: Keypoints, first: int) -> Keypoints:
        return keep_share(keypoints, share, seed, first=first)

    def descriptors(keypoints: Keypoints, _: int) -> Keypoints:
        return descriptors_only(keypoints, (size, size), known.cell_size, scale)

    return [
        *(Condition("kept", share, functools.partial(kept, share)) for share in shares),
        Condition("coordinates-only", 100, lambda keypoints, _: coordinates_only(keypoints)),
        Condition("positions-only", 100, lambda keypoints, _: positions_only(keypoints, scale)),
        Condition("descriptors-only", 100, descriptors),
    ]


class Measure:
    """Reconstructs under all conditions, scores, and keeps the pictures of the strip."""

    def __init__(
        self,
        reconstructor: Reconstructor,
        known: Sift,
        conditions: Sequence[Condition],
        survey: Survey,
        size: int,
        chosen: set[int],
    ) -> None:
        self._reconstructor, self._known, self._conditions, self._size = reconstructor, known, conditions, (size, size)
        self._mean_image, self._chosen = survey.mean_image, chosen
        self._originals = Originals()
        distance, missing = perceptual_distance()
        self._scores = [Scores(self._originals, distance) for _ in (*conditions, "mean image")]
        self._cells = [0 for _ in conditions]
        self.missing = missing
        self.strip: dict[int, Shown] = {}
        self.images = 0

    def add(self, keys: Sequence[str], originals: torch.Tensor, keypoints: Keypoints, steps: Steps) -> None:
        """A batch: images (B, 3, H, W) uint8 and their keypoints, undisturbed."""
        images = originals.float() / 255
        self._originals.add(images)
        first, self.images = self.images, self.images + len(keys)
        shown = [index for index in range(len(keys)) if first + index in self._chosen]
        for index in shown:
            pictures = [originals[index].permute(1, 2, 0).contiguous().numpy(), *self._drawn(keypoints[index])]
            self.strip[first + index] = Shown(keys[index], pictures)
        for index, made in enumerate(self._reconstructions(keypoints, first)):
            self._scores[index].add(keys, images, made)
            for row in shown:
                self.strip[first + row].pictures.append(as_pixels(made[row]))
            steps.add(len(keys))
        self._scores[-1].add(keys, images, self._mean_image.expand_as(images))
        steps.add(len(keys))

    def scores(self) -> Iterator[ConditionScore]:
        """One a condition; the mean image last."""
        for condition, cells, scores in zip(self._conditions, self._cells, self._scores, strict=False):
            yield _score(condition.name, condition.share, cells / self.images, scores)
        yield _score("mean-image", None, None, self._scores[-1])

    def titles(self) -> list[str]:
        """Over the columns of the strip."""
        drawing = ["its keypoints"] if self._known.drawing else []
        return ["photograph", *drawing, *(title(condition.name, condition.share) for condition in self._conditions)]

    def _reconstructions(self, keypoints: Keypoints, first: int) -> Iterator[torch.Tensor]:
        for index, condition in enumerate(self._conditions):
            features = self._known.grid(condition.disturb(keypoints, first), self._size)
            # Sine and cosine of the angle are both 0 in empty cells alone.
            self._cells[index] += int((features[:, 130:132] != 0).any(dim=1).sum())
            yield self._reconstructor.invert(features, self._size)

    def _drawn(self, keypoints: Keypoints) -> list[Pixels]:
        """On dark paper, without the photograph: as little as a database of them holds."""
        drawn = self._known.draw(self._known.spec, self._known.grid(keypoints, self._size)[0].numpy(), TILE)
        return [] if drawn is None else [drawn]


def _score(name: str, share: float | None, cells: float | None, scores: Scores) -> ConditionScore:
    report, each = scores.report()

    def mean(value: Callable[[ImageScore], float]) -> float:
        return sum(map(value, each)) / len(each)

    distances = [score.lpips for score in each if score.lpips is not None]
    return ConditionScore(
        condition=name,
        share=share,
        images=len(each),
        keypoints=cells,
        error=report.error,
        psnr=mean(lambda score: score.psnr),
        ssim=mean(lambda score: score.ssim),
        lpips=sum(distances) / len(distances) if distances else None,
    )
