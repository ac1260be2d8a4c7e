"""Measure the methods of a comparison, batch by batch, on the same part of the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from preimage.baselines.base import Baseline
from preimage.inverters import extraction_device, resolve_device
from preimage.inverters.output_region import OutputRegion
from preimage.metrics import SMALLEST_FOR_SSIM, NormalizedError, Originals, feature_error, luma
from preimage.pipelines.evaluate import Scores
from preimage.pipelines.image_loading import Pixels, as_pixels, resolved_size
from preimage.pipelines.reextraction import put_back
from preimage.representations import Representation
from preimage.studies.base import ProgressCounter, SheetRow
from preimage.studies.bootstrap import Interval, bootstrap_interval
from preimage.studies.compare_methods import Method, Photographs
from preimage.studies.compare_report import ImageResult, MethodScore
from preimage.studies.formatting import two_digits
from preimage.studies.inputs import check_finite

_WARM_UP_SECONDS = 5.0  # a first batch that takes less is inverted twice
_LONG_SECONDS = 30.0  # an inversion that is expected to take longer is announced
_FEW = 10  # of fewer images, intervals of 95 % contain the true mean in less than 90 % of cases (normal distribution)


class View:
    """The part of the images on which methods are compared, the same for all of them.

    Args:
        representation: The compared representation.
        methods: The methods.
        size: Side of the images in pixels; ``None`` for the only one, or 256.

    Attributes:
        side: Side of the images in pixels.
        region: Center square on which images are compared, and its size there.

    Raises:
        ValueError: A size that the representation or a method does not support, or that is too small for SSIM.
    """

    def __init__(self, representation: Representation, methods: Sequence[Method], size: int | None) -> None:
        regions = [method.region for method in methods if method.region is not None]
        side = resolved_size(representation, size)
        for method in methods:
            if method.region is not None and side not in (None, method.region.image_size):
                raise ValueError(
                    f"method {method.name} takes images of {method.region.image_size} pixels, got size {side}"
                )
            side = side if method.region is None else method.region.image_size
        self.side = 256 if side is None else side
        crop = min([self.side, *(region.crop for region in regions)])
        at = min([crop, *(round(region.size * crop / region.crop) for region in regions)])
        if at < SMALLEST_FOR_SSIM:
            raise ValueError(f"size must be at least {SMALLEST_FOR_SSIM} pixels, got {at}")
        representation.feature_size(self.side, self.side)
        self.region = OutputRegion(self.side, crop, at)

    def target(self, images: torch.Tensor) -> torch.Tensor:
        """Return the part of photographs (B, 3, H, W) uint8 that is compared, float32 in [0, 1]."""
        return self.region.of(images).float() / 255

    def of(self, made: torch.Tensor, region: OutputRegion | None) -> torch.Tensor:
        """Return the part that is compared of images that show `region`, or of whole images."""
        if region is None:
            return self.region.of(made)
        crop = round(region.size * self.region.crop / region.crop)
        return OutputRegion(region.size, crop, self.region.size).of(made)


class _Portion:
    """The part of the progress that belongs to one call, which reports in units of its own."""

    def __init__(self, steps: ProgressCounter, count: int) -> None:
        self._steps, self._count, self._done = steps, count, 0

    def __call__(self, done: int, total: int) -> None:
        now = min(self._count, self._count * done // max(1, total))
        if now > self._done:
            self._steps.add(now - self._done)
            self._done = now


class _Column:
    """Scores of one method, batch by batch."""

    def __init__(self, originals: Originals, grays: Originals) -> None:
        self.scores, self.gray = Scores(originals), NormalizedError(grays)
        self.feature_errors: list[float | None] = []
        self.seconds = 0.0
        self.learning_seconds: float | None = None
        self.is_warm = False
        self.has_own_features = False
        self.title = self.reference = ""

    def each(self, order: npt.NDArray[np.intp]) -> tuple[ImageResult, ...]:
        """Return the scores of each image in this order."""
        _, scores = self.scores.report()
        grays = self.gray.report().per_image
        results = [
            ImageResult(score.key, score.error, score.psnr, score.ssim, gray, error)
            for score, gray, error in zip(scores, grays, self.feature_errors, strict=True)
        ]
        return tuple(results[index] for index in order)


class Measurement:
    """Scores of all methods, and the rows of the sheet.

    Args:
        representation: The compared representation.
        methods: The methods.
        view: The part of the images that is compared.
        count: Number of images.
        shown: Positions of the images on the sheet.
        tile: Side of an image on the sheet, pixels.
        device: Device of the representation, where possible.
        steps: Counter of images inverted and photographs learned from.
        status: Function called with a line about what begins, and how long it will take.

    Attributes:
        drawn: Whether the rows contain drawings of the features.
    """

    def __init__(
        self,
        representation: Representation,
        methods: Sequence[Method],
        view: View,
        *,
        count: int,
        shown: set[int],
        tile: int,
        device: str,
        steps: ProgressCounter,
        status: Callable[[str], None],
    ) -> None:
        self._representation, self._methods, self._view = representation, methods, view
        self._count, self._shown, self._tile, self._steps, self._status = count, shown, tile, steps, status
        self._device = extraction_device(representation, (view.side, view.side), resolve_device(device))
        self._originals, self._grays = Originals(), Originals()
        self._columns = [_Column(self._originals, self._grays) for _ in methods]
        self._positions: list[int] = []
        self._featureless = 0
        self._rows: dict[int, SheetRow] = {}
        self.drawn = False

    def learn(self, which: int, photographs: Photographs) -> Baseline:
        """Return a method that is ready to invert; ``ValueError`` if it cannot learn from these photographs."""
        method, column = self._methods[which], self._columns[which]
        baseline = method.baseline
        if method.learn is not None:
            count = len(photographs.sources)
            self._status(f"{method.name}: learning from {count:,} photographs")
            portion = _Portion(self._steps, count)
            start = time.perf_counter()
            try:
                baseline = method.learn(photographs, portion)
            except ValueError as error:
                raise ValueError(f"method {method.name}: {error}") from error
            column.learning_seconds = (column.learning_seconds or 0) + time.perf_counter() - start
            portion(1, 1)
        assert baseline is not None
        column.title, column.reference = baseline.title, baseline.reference
        column.has_own_features = baseline.representation is not None
        return baseline

    def add(
        self,
        keys: Sequence[str],
        images: torch.Tensor,
        positions: Sequence[int],
        baselines: Sequence[Baseline],
    ) -> None:
        """Add a batch of images (B, 3, S, S) uint8 at these positions in the list of all images."""
        features = self._features(self._representation, images, keys)
        target = self._view.target(images)
        gray = luma(target)[:, None]
        self._positions += positions
        self._originals.add(target)
        self._grays.add(gray)
        has_features = features.flatten(1).any(dim=1)
        self._featureless += int((~has_features).sum())
        shown = [index for index, position in enumerate(positions) if position in self._shown]
        for index in shown:
            cells = [as_pixels(target[index]), *self._drawing(features[index])]
            self._rows[positions[index]] = SheetRow(keys[index], cells)
        for method, column, baseline in zip(self._methods, self._columns, baselines, strict=True):
            portion = _Portion(self._steps, len(keys))
            own = baseline.representation
            given = features if own is None else self._features(own, images, keys)
            made = self._inverted(method, column, baseline, given, portion)
            compared = self._view.of(made, method.region)
            column.scores.add(keys, target, compared)
            column.gray.update(gray, luma(compared)[:, None])
            names = [f"the reconstruction of {key} by {method.name}" for key in keys]
            again = self._features(self._representation, put_back(made, method.region), names)
            errors = zip(feature_error(again, features).tolist(), has_features.tolist(), strict=True)
            column.feature_errors += [error if defined else None for error, defined in errors]
            for index in shown:
                self._rows[positions[index]].cells.append(as_pixels(compared[index]))
            portion(1, 1)

    def _features(self, representation: Representation, images: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Return the features of images, which have been computed; ``ValueError`` unless they are finite."""
        with torch.no_grad():
            features = representation(images.to(self._device)).float()
        # This also waits for the GPU, so that the next measured time does not include the features.
        check_finite(names, features)
        return features

    def _drawing(self, features: torch.Tensor) -> list[Pixels]:
        """Draw the features of an image, if they can be drawn."""
        if not self._representation.drawing:
            return []
        drawing = self._representation.draw(self._representation.spec, features.cpu().numpy(), self._tile)
        self.drawn = self.drawn or drawing is not None
        return [] if drawing is None else [drawing]

    def _inverted(
        self, method: Method, column: _Column, baseline: Baseline, features: torch.Tensor, portion: _Portion
    ) -> torch.Tensor:
        """Return the images of a method, and add its time; ``ValueError`` unless they are finite and of their size."""
        side = self._view.side
        spec = (baseline.representation or self._representation).spec

        def inverted() -> tuple[torch.Tensor, float]:
            start = time.perf_counter()
            size = (side, side) if method.region is None else None
            made = baseline.invert(features, spec, size=size, progress=portion).float().cpu()
            return made, time.perf_counter() - start

        try:
            made, seconds = inverted()
            if not column.is_warm and seconds < _WARM_UP_SECONDS:
                made, seconds = inverted()  # the first call also allocates memory and chooses kernels
        except ValueError as error:
            raise ValueError(f"method {method.name}: {error}") from error
        if not column.is_warm and (expected := seconds / len(features) * self._count) > _LONG_SECONDS:
            each, all_images = two_digits(seconds / len(features)), two_digits(expected / 60)
            self._status(f"{method.name}: {each} s per image, about {all_images} min for {self._count:,} images")
        column.is_warm = True
        column.seconds += seconds
        returned = side if method.region is None else method.region.size
        if made.shape != (wanted := (len(features), 3, returned, returned)):
            raise ValueError(f"method {method.name} must return images {wanted}, got shape {tuple(made.shape)}")
        if not made.isfinite().all():
            raise ValueError(f"method {method.name} returned images with NaN or infinite values")
        return made

    def mean_image_error(self) -> float:
        """Return the normalized error of the mean of the images; ``ValueError`` if all are equal."""
        normalizer, to_mean = self._originals.spread()
        return to_mean / normalizer

    def notes(self) -> list[str]:
        """Return sentences about images without features, methods with features of their own, and few images."""
        found = []
        if self._featureless:
            which = "1 image" if self._featureless == 1 else f"{self._featureless} images"
            found.append(f"The feature error leaves out {which} whose features are all zero.")
        for column in self._columns:
            if column.has_own_features:
                found.append(f"The features that {column.title} inverts are those of its own network.")
        if self._count < _FEW:
            found.append(f"The intervals of only {self._count} images are too narrow, and a ranking may be by chance.")
        return found

    def rows(self) -> list[SheetRow]:
        """Return the rows of the sheet."""
        return [row for _, row in sorted(self._rows.items())]

    def scores(self, seed: int) -> tuple[MethodScore, ...]:
        """Return the scores of every method, with intervals from resamples of the images."""
        order = np.argsort(self._positions)
        each = [column.each(order) for column in self._columns]
        names = [method.name for method in self._methods]
        reference = names.index("ours") if "ours" in names else 0
        made = zip(names, self._columns, each, strict=True)
        return tuple(
            _score(name, column, results, None if which == reference else each[reference], seed)
            for which, (name, column, results) in enumerate(made)
        )


def _score(
    name: str, column: _Column, each: tuple[ImageResult, ...], reference: tuple[ImageResult, ...] | None, seed: int
) -> MethodScore:
    def interval(field: str) -> Interval:
        return bootstrap_interval([getattr(one, field) for one in each], seed=seed)

    def difference(field: str) -> Interval | None:
        if reference is None:
            return None
        pairs = zip(reference, each, strict=True)
        return bootstrap_interval([getattr(ours, field) - getattr(one, field) for ours, one in pairs], seed=seed)

    feature_errors = [one.feature_error for one in each if one.feature_error is not None]
    return MethodScore(
        name=name,
        title=column.title,
        reference=column.reference,
        error=interval("error"),
        psnr=interval("psnr"),
        ssim=interval("ssim"),
        gray_error=interval("gray_error"),
        feature_error=bootstrap_interval(feature_errors, seed=seed) if feature_errors else None,
        difference=difference("error"),
        gray_difference=difference("gray_error"),
        seconds=column.seconds / len(each),
        learning_seconds=column.learning_seconds,
        each=each,
    )
