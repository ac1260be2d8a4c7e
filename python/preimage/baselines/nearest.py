"""The photograph with the nearest features."""

from __future__ import annotations

import torch

from preimage.baselines.base import Baseline, Progress, check_features
from preimage.baselines.sizes import check_size, covered_size, fitted_pixels
from preimage.inverters.device import resolve_device
from preimage.io import decode_image
from preimage.io.atomic import StrPath
from preimage.pipelines.image_loading import Images, as_sources
from preimage.spec import Spec
from preimage.store import FeatureStore

BLOCK_BYTES = 64 << 20  # maximum size of the stored features that are compared at once, in float64


class Nearest(Baseline):
    """Return the photograph whose features have the smallest Euclidean distance.

    The features are read from the memory-mapped store in blocks of 64 MiB. The first of several photographs at the same
    distance is returned. Stored features with NaN or infinite values are never the nearest.

    Args:
        store: Feature store, or its path.
        images: Paths (folders, files, tar shards) or sources of the photographs from which the store was extracted.
        device: Device on which features are compared: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Attributes:
        store: The feature store.

    Raises:
        ValueError: The store is empty, or the image of one of its keys is missing; the message names it.
    """

    name = "nearest"
    title = "nearest neighbor"

    def __init__(self, store: FeatureStore | StrPath, images: Images, *, device: str | torch.device = "auto") -> None:
        self.device = resolve_device(device)
        self.store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        if not len(self.store):
            raise ValueError(f"{self.store.path}: contains no features")
        found = {source.key: source for source in as_sources(images)}
        if missing := [key for key in self.store if key not in found]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"images must contain every image of {self.store.path}: {missing[0]!r}{more} missing from "
                f"{len(found)} images, the first of which is {next(iter(found))!r}"
            )
        self._sources = {key: found[key] for key in self.store}

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return the photographs with the nearest features, (B, 3, H, W), float32 in [0, 1], on the CPU.

        Args:
            features: (B, C, h, w) or (B, C), floating point, on any device.
            spec: Spec of the features, that of the store.
            size: (H, W) of the images: the photographs are center-cropped to these proportions and resized. ``None``
                for the size that maps cover, or for vectors the size of the first image from which the store was
                extracted.
            progress: Function called with (features compared, number of features in the store).

        Raises:
            ValueError: Another spec than that of the store, features of another shape, or ones with NaN or infinite
                values.
            FileFormatError: A damaged photograph or shard.
        """
        keys, _ = self.neighbors(features, spec, progress=progress)
        wanted = covered_size(features, spec) if size is None else check_size(size)
        wanted = wanted or self.store.processed_size(0)
        decoded = {key: self._photograph(key, wanted) for key in dict.fromkeys(keys)}
        return torch.stack([decoded[key] for key in keys]).float() / 255

    def neighbors(
        self, features: torch.Tensor, spec: Spec, *, progress: Progress | None = None
    ) -> tuple[list[str], torch.Tensor]:
        """Return the keys of the nearest features in the store, and the distances (B,), float32, on the CPU.

        Args:
            features: (B, C, h, w) or (B, C), floating point, on any device.
            spec: Spec of the features.
            progress: Function called with (features compared, number of features in the store).

        Raises:
            ValueError: As `invert`.
        """
        if differences := self.store.spec.differences(spec):
            raise ValueError(f"features must have the spec of the store (store != features): {'; '.join(differences)}")
        check_features(features, spec)
        shape = tuple(features.shape[1:])
        # In float32 the difference of squares would not distinguish neighbors that are close.
        wanted = features.detach().to(self.device, torch.float64).flatten(1)
        squares = wanted.square().sum(dim=1, keepdim=True)
        least = torch.full_like(squares[:, 0], torch.inf)
        nearest = torch.full_like(least, -1, dtype=torch.int64)
        start, fits = 0, False
        for keys, stored, _, _ in self.store.batches(max(1, BLOCK_BYTES // (8 * wanted.shape[1]))):
            if stored.shape[1:] == shape:
                fits = True
                block = torch.from_numpy(stored).to(self.device, torch.float64).flatten(1)
                distances = squares + block.square().sum(dim=1) - 2 * (wanted @ block.T)
                distance, index = distances.nan_to_num(torch.inf, torch.inf, torch.inf).min(dim=1)
                closer = distance < least
                least = torch.where(closer, distance, least)
                nearest = torch.where(closer, index + start, nearest)
            start += len(keys)
            if progress is not None:
                progress(start, len(self.store))
        if not fits:
            raise ValueError(
                f"features must have the shape of those in {self.store.path}, which is "
                f"{_shown(self.store[0].shape)} for the first, got {_shown(shape)}"
            )
        if bool((nearest < 0).any()):
            raise ValueError(
                f"{self.store.path} must have finite features of this shape, got only NaN or infinite ones"
            )
        return [self.store.key(position) for position in nearest.tolist()], least.clamp_min(0).sqrt().float().cpu()

    def _photograph(self, key: str, size: tuple[int, int]) -> torch.Tensor:
        source = self._sources[key]
        return fitted_pixels(decode_image(source.read(), name=source.name), size)


def _shown(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
