"""Reconstruct photographs from features that are changed step by step, and keep what a change does not affect."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Sequence
from os import PathLike
from typing import cast

import numpy as np
import torch

from preimage.app.photographs import Photographs
from preimage.app.settings import Settings, erased_cells, unpack_mask
from preimage.inverters import list_inverters, pretrained
from preimage.keypoints import Keypoints
from preimage.metrics import psnr, ssim
from preimage.pipelines.image_loading import Pixels, as_batch, as_pixels
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sampling import pixel_deviation
from preimage.representations.registry import class_of
from preimage.representations.sift import Sift
from preimage.spec import Spec
from preimage.studies.feature_paths import feature_path
from preimage.studies.feature_perturbations import parse_perturbation
from preimage.studies.inputs import check_finite
from preimage.studies.keypoint_perturbations import coordinates_only, descriptors_only, keep_percentage, positions_only
from preimage.studies.layers_rows import Networks, rows_for
from preimage.viz.deviation_map import draw_deviation

SAMPLES = 8  # of which the deviation is computed

_RECENT = 64  # results kept of each step, for photographs of 256² pixels; of larger ones fewer, for the memory
_LARGEST_SIDE = 4096  # of photographs for an inverter of one size
_LARGEST_ERROR = 1e6  # of an inverter's notes, which may contain any number
_LOADED = 4  # inverters kept


@dataclasses.dataclass(frozen=True)
class InverterFacts:
    """Facts about an inverter that do not depend on the photograph.

    Attributes:
        spec: Spec of the features.
        side: Side in pixels of the photographs.
        can_sample: Whether `Explorer.sample` is available.
        is_map: Whether the features are a map, so that regions can be erased.
        explanation: What the features contain, a sentence.
        error: Mean normalized error of its validation images; ``None`` if it is not known.
    """

    spec: Spec
    side: int
    can_sample: bool
    is_map: bool
    explanation: str
    error: float | None

    @property
    def has_keypoints(self) -> bool:
        """Return whether the features are keypoints of sparse SIFT."""
        return self.spec.representation == Sift.name


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Photograph, features and reconstruction.

    Attributes:
        photograph: (side, side, 3) uint8 RGB.
        target: Part of the photograph that is reconstructed, (H, W, 3) uint8.
        features: (C, h, w) or (C,) float32, as they were inverted.
        drawing: Drawing of the features, (H', W', 3) uint8; ``None`` for vectors.
        reconstruction: (H, W, 3) uint8.
        psnr: Peak signal-to-noise ratio of the reconstruction in dB; ``None`` between two photographs.
        ssim: Structural similarity of the reconstruction; ``None`` between two photographs.
    """

    photograph: Pixels
    target: Pixels
    features: torch.Tensor
    drawing: Pixels | None
    reconstruction: Pixels
    psnr: float | None
    ssim: float | None


class Explorer:
    """Reconstructions of photographs under `Settings`, of which only the steps are computed that have changed.

    Several threads may use an explorer at once.

    Args:
        inverter: Names or folders of inverters besides the pretrained ones; also a single one.
        network: Networks, or single representations, for inverters of layers that cannot be created by name; also a
            single one.
        size: Side of the photographs in pixels for representations that take any size, at least 32.
        device: Device of the inverters, and of the networks if they support it, see `preimage.Reconstructor`.
        tile: Side of drawings of features in pixels, approximately.

    Attributes:
        names: Names and folders of the inverters, the first of which is a good one to start with.

    Raises:
        ValueError: Neither a name nor a folder of an inverter, or a size out of range.
        FileFormatError: A folder without an inverter.
    """

    def __init__(
        self,
        inverter: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
        *,
        network: Networks = (),
        size: int = 256,
        device: str = "auto",
        tile: int = 384,
    ) -> None:
        if not 32 <= size <= 1024:
            raise ValueError(f"size must be from 32 to 1024, got {size}")
        given = [inverter] if isinstance(inverter, str | PathLike) else list(inverter or ())
        self._given = [str(name) for name in given]
        known = sorted(list_inverters(), key=lambda name: (not name.startswith("hog"), name))
        self.names = list(dict.fromkeys([*self._given, *known]))
        for name in self.names:
            pretrained.read_config(pretrained.resolve(name))
        self._network, self._size, self._device, self._tile = network, size, device, tile
        self._photographs = Photographs()
        self._loading = threading.Lock()
        self._load = functools.lru_cache(_LOADED)(self._loaded)
        recent = functools.lru_cache(max(4, min(_RECENT, _RECENT * 256**2 // size**2)))
        self._features, self._between = recent(self._computed), recent(self._interpolated)
        self._perturbed, self._erased = recent(self._changed), recent(self._without_regions)
        self.show = recent(self._show)

    def check(self) -> None:
        """Load the inverters that were given, so that an error of theirs is raised now; it is one of `facts`."""
        for name in self._given:
            self.facts(name)

    def facts(self, inverter: str) -> InverterFacts:
        """Describe an inverter.

        Raises:
            ValueError: None of `names`; or the representation cannot be created (see `network`).
            FileFormatError: The inverter is damaged.
            OSError: The weights of a network are missing.
        """
        reconstructor = self._reconstructor(inverter)
        spec, side = reconstructor.inverter.spec, reconstructor.side(self._size_of(reconstructor))
        grid = reconstructor.representation.feature_size(side, side)
        error = reconstructor.inverter.training_notes.get("normalized_error")
        return InverterFacts(
            spec=spec,
            side=side,
            can_sample=reconstructor.inverter.can_sample,
            is_map=grid is not None,
            explanation=class_of(spec.representation).explain(spec, (spec.channels, *(grid or ()))),
            error=float(error) if isinstance(error, int | float) and 0 <= error < _LARGEST_ERROR else None,
        )

    def add(self, data: bytes, *, name: str = "photograph") -> str:
        """Add an encoded photograph, and return its key.

        Raises:
            FileFormatError: It is not an image, is damaged or too large, see `preimage.io.decode_image`.
        """
        return self._photographs.add(data, self._sides, name=name)

    @functools.cached_property
    def _sides(self) -> list[int]:
        """Sides of the photographs that the inverters take, without loading them."""
        sides = {self._size}
        for name in self.names:
            config = pretrained.read_config(pretrained.resolve(name))
            spec = config["spec"]
            # Features of images of one size can be inverted without an output region.
            for fields in (config.get("output_region"), spec.get("parameters") if isinstance(spec, dict) else None):
                side = fields.get("image_size") if isinstance(fields, dict) else None
                if isinstance(side, int) and 1 <= side <= _LARGEST_SIDE:
                    sides.add(side)
        return sorted(sides)

    def _size_of(self, reconstructor: Reconstructor) -> int | None:
        fixed = reconstructor.inverter.output_region is not None or reconstructor.representation.image_side is not None
        return None if fixed else self._size

    def _reconstructor(self, inverter: str) -> Reconstructor:
        if inverter not in self.names:
            raise ValueError(f"inverter must be one of {', '.join(self.names)}, got {inverter!r:.80}")
        with self._loading:
            return self._load(inverter)

    def _loaded(self, inverter: str) -> Reconstructor:
        (row,) = rows_for(inverter, self._network)
        return Reconstructor(row.representation, row.inverter, self._device)

    def _show(self, settings: Settings) -> View:
        """Return photograph, features and reconstruction.

        Raises:
            ValueError: A setting that does not fit the features; features that are not finite; or any of `facts`.
            LookupError: A photograph that is not there.
        """
        reconstructor = self._reconstructor(settings.inverter)
        photograph, features = self._photograph(settings, settings.photograph), self._erased(settings)
        spec = reconstructor.inverter.spec
        size = None if reconstructor.inverter.output_region is not None else photograph.shape[:2]
        made = reconstructor.invert(features, cast("tuple[int, int] | None", size)).cpu().clamp(0, 1)
        target = self._target(settings, reconstructor)
        scored = None if settings.other and 0 < settings.position < 1 else target
        drawn = self._drawn(spec, features[0].cpu().numpy())
        return View(
            photograph=photograph,
            target=as_pixels(target)[0],
            features=features[0],
            drawing=drawn,
            reconstruction=as_pixels(made)[0],
            psnr=None if scored is None else float(psnr(made, scored)),
            ssim=None if scored is None else float(ssim(made, scored)),
        )

    def sample(self, settings: Settings, *, spread: float = 1.0, seed: int = 0) -> tuple[list[Pixels], Pixels]:
        """Draw images that the features allow, and return them with the map of what is determined and what guessed.

        Args:
            settings: What is explored.
            spread: Factor of the noise.
            seed: Seed of the noise.

        Returns:
            `SAMPLES` images (H, W, 3) uint8, and their deviation over the reconstruction, see
            `preimage.viz.deviation_map.draw_deviation`.

        Raises:
            ValueError: An inverter that cannot sample, or any of `show`.
        """
        reconstructor = self._reconstructor(settings.inverter)
        reconstructor.inverter.check_can_sample()
        view = self.show(settings)
        size = view.reconstruction.shape[:2] if reconstructor.inverter.output_region is None else None
        samples = reconstructor.sample(
            self._erased(settings), SAMPLES, seed, spread, cast("tuple[int, int] | None", size)
        )[0].cpu()
        deviation = pixel_deviation(samples).numpy()
        return list(as_pixels(samples)), draw_deviation(view.reconstruction, deviation)

    def _photograph(self, settings: Settings, key: str) -> Pixels:
        reconstructor = self._reconstructor(settings.inverter)
        return self._photographs.get(key, reconstructor.side(self._size_of(reconstructor)))

    def _target(self, settings: Settings, reconstructor: Reconstructor) -> torch.Tensor:
        at_other = settings.other and settings.position == 1
        pixels = self._photograph(settings, settings.other if at_other else settings.photograph)
        return reconstructor.target(as_batch([pixels]))

    def _drawn(self, spec: Spec, features: np.ndarray) -> Pixels | None:
        if features.ndim == 1:
            return None
        drawn = class_of(spec.representation).draw(spec, features, self._tile)
        return draw_strength(features, self._tile) if drawn is None else drawn

    # The steps, each of which depends on the settings named in the step and on the step before.

    def _computed(self, settings: Settings) -> torch.Tensor:
        pixels = self._photograph(settings, settings.photograph)
        features = self._reconstructor(settings.inverter).features(as_batch([pixels]))
        check_finite(["this photograph"], features)
        return features

    def _interpolated(self, settings: Settings) -> torch.Tensor:
        first = self._features(settings.only())
        if not settings.other or settings.position == 0:
            return first
        last = self._features(Settings(settings.inverter, settings.other))
        spec = self._reconstructor(settings.inverter).inverter.spec
        spherical = settings.spherical and spec.representation != Sift.name
        positions = torch.tensor([settings.position], dtype=torch.float64)
        return feature_path(spec, first[0], last[0], positions, spherical=spherical, seed=settings.seed)

    def _changed(self, settings: Settings) -> torch.Tensor:
        features = self._between(settings.only("other", "position", "spherical", "seed"))
        representation = self._reconstructor(settings.inverter).representation
        if isinstance(representation, Sift):
            if settings.perturbation:
                raise ValueError(f"keypoints of sparse SIFT have no perturbation {settings.perturbation!r}")
            return _changed_keypoints(representation, features, settings, self._size)
        if settings.kept != 100 or settings.parts != "all":
            raise ValueError(f"{representation.name} features are not keypoints, of which some or parts can be kept")
        if not settings.perturbation:
            return features
        perturbation = parse_perturbation(settings.perturbation)
        if perturbation.vectors_only and features.dim() != 2:
            raise ValueError(f"{perturbation.name} is for vectors, but {representation.name} features are a map")
        return perturbation(features, seed=settings.seed)

    def _without_regions(self, settings: Settings) -> torch.Tensor:
        features = self._perturbed(dataclasses.replace(settings, erased=""))
        mask = unpack_mask(settings.erased)
        if features.dim() != 4 or not mask.any():
            return features
        margin = self._reconstructor(settings.inverter).inverter.network.margin
        cells = erased_cells(mask, (features.shape[2], features.shape[3]), margin)
        return features.masked_fill(torch.from_numpy(cells).to(features.device), 0)


def _changed_keypoints(sift: Sift, features: torch.Tensor, settings: Settings, side: int) -> torch.Tensor:
    """Return the features of some of the keypoints, or of parts of them."""
    if settings.kept == 100 and settings.parts == "all":
        return features
    found = Keypoints.from_grid(features.cpu(), sift.cell_size, descriptor_scale=sift.descriptor_scale)
    kept = keep_percentage(found, settings.kept, settings.seed)
    scale = float(found.scale.median()) if len(found.x) else 1.0
    if settings.parts == "coordinates":
        kept = coordinates_only(kept)
    elif settings.parts == "positions":
        kept = positions_only(kept, scale)
    elif settings.parts == "descriptors":
        kept = descriptors_only(kept, (side, side), sift.cell_size, scale)
    return cast("torch.Tensor", sift.grid(kept, (side, side))).to(features.device)


def draw_strength(features: np.ndarray, tile: int) -> Pixels:
    """Draw the L2 norm of each cell of features (C, h, w) as a gray level, white for the largest.

    Args:
        features: (C, h, w), any floating type.
        tile: Side of the drawing in pixels, approximately.

    Returns:
        (h·n, w·n, 3) uint8 RGB, with n pixels for each cell.
    """
    norms = np.linalg.norm(features.astype(np.float32), axis=0)
    levels = np.rint(norms * (255 / max(float(norms.max()), 1e-12))).astype(np.uint8)
    pixels = max(1, round(tile / max(levels.shape)))
    return np.repeat(np.repeat(np.repeat(levels[:, :, None], 3, axis=2), pixels, axis=0), pixels, axis=1)
