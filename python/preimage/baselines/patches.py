"""Sparse SIFT from patches of a database: Weinzaepfel, Jégou & Pérez (CVPR 2011)."""

from __future__ import annotations

import heapq
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from preimage.baselines import _files
from preimage.baselines.base import Baseline, Progress, check_features
from preimage.baselines.patch_blending import Canvas, cut_patches
from preimage.baselines.sizes import check_size
from preimage.errors import FileFormatError
from preimage.inverters.device import resolve_device
from preimage.io.atomic import StrPath
from preimage.keypoints import DESCRIPTOR, Keypoints
from preimage.pipelines.image_loading import Images, as_listing, batches
from preimage.representations import representation_from_spec
from preimage.representations.sift import Sift
from preimage.spec import Spec

_TENSORS = ("descriptors", "patches", "mean_color")
_UNIT = 512  # descriptors are stored in 1/512, at most 255, as Lowe's program and VLFeat's command do
_BLOCK = 16384  # patches whose distances are computed at once
_QUERIES = 1024  # keypoints whose distances are computed at once
_DETECTED = 16  # photographs in which keypoints are detected at once
_LARGEST_SIDE = 256  # pixels of a patch


class PatchDatabase(Baseline):
    """Reconstruct images from SIFT keypoints with the patches of other photographs.

    The method is that of Weinzaepfel, Jégou & Pérez: for every keypoint the database is searched for the nearest
    descriptor, the patch around that keypoint is warped to the position, scale and angle of the keypoint, patches are
    seamlessly stitched together, and regions without keypoints are interpolated smoothly. In this implementation:

    - A patch is a square of 15 scales, which is all that VLFeat's descriptor depends on (4 bins of 3 scales and half a
      bin on either side, ``vl/sift.c``); the disc of 6 scales around its center is pasted. The authors have elliptical
      regions of an affine detector, which are discs for the keypoints of SIFT.
    - The search is exact, with descriptors of 8 bits.
    - Patches are pasted from large scales to small ones, so that details are on top. A patch that overlaps with earlier
      ones is adapted to them by OpenCV's seamless cloning (Pérez et al., "Poisson image editing", 2003); one that does
      not keeps the colors of its photograph.
    - Other pixels have the solution of Laplace's equation. An image without keypoints has the mean color of the
      database's photographs.

    Args:
        spec: Spec of the keypoints, of a `Sift` representation.
        descriptors: (N, 128) uint8, descriptors of length 512.
        patches: (N, side, side, 3) uint8 RGB, see `preimage.baselines.patch_blending.cut_patches`.
        mean_color: (3,) float32 in [0, 1], of the photographs.
        photographs: Number of photographs.
        device: Device of the search: ``"auto"`` (CUDA where available), ``"cpu"``, ``"cuda"``, ...

    Raises:
        ValueError: A shape or dtype is wrong, there is no patch, the spec is not of SIFT, or there is no such device.
    """

    name = "patches"
    title = "patches of a database"
    reference = "Weinzaepfel, Jégou & Pérez, Reconstructing an image from its local descriptors, CVPR 2011"

    def __init__(
        self,
        spec: Spec,
        descriptors: torch.Tensor,
        patches: torch.Tensor,
        mean_color: torch.Tensor,
        photographs: int,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        _sift(spec)
        count = len(descriptors)
        side = patches.shape[1] if patches.dim() == 4 else 0
        for name, tensor, dtype, shape in (
            ("descriptors", descriptors, torch.uint8, (count, DESCRIPTOR)),
            ("patches", patches, torch.uint8, (count, side, side, 3)),
            ("mean_color", mean_color, torch.float32, (3,)),
        ):
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise ValueError(f"{name} must be {dtype} {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
        if count < 1:
            raise ValueError("a database must have at least one patch, got none")
        _check_side(side)
        self.spec, self.photographs = spec, photographs
        self.descriptors, self.patches, self.mean_color = descriptors, patches, mean_color
        self._device = resolve_device(device)
        self._searched = descriptors.to(self._device)

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.descriptors)

    def __repr__(self) -> str:
        return f"PatchDatabase(patches={len(self)}, photographs={self.photographs}, side={self.patches.shape[1]})"

    @classmethod
    def build(
        cls,
        images: Images,
        representation: Sift | None = None,
        *,
        size: int = 256,
        side: int = 24,
        most: int = 100_000,
        seed: int = 0,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> PatchDatabase:
        """Return a database of the keypoints of photographs.

        It takes 128 + 3 · side² bytes for each keypoint, 186 MB for 100,000; a photograph of 256² pixels has about 230.

        Args:
            images: Path or paths (folders, files, tar shards), or sources.
            representation: Detector and descriptor; ``None`` for those of VLFeat.
            size: Side to which photographs are resized and center-cropped in pixels.
            side: Side of the stored patches in pixels, at most 256.
            most: Largest number of patches; of more keypoints a random sample is kept, uniform over all of them.
            seed: Seed of the sample.
            device: Device of the search.
            progress: Function called with (photographs done, number of photographs).

        Raises:
            ValueError: There are no images, or a bad one (named), no keypoint in any, or a value is out of range.
        """
        sift = Sift() if representation is None else representation
        if not isinstance(sift, Sift):
            raise TypeError(f"representation must be preimage.representations.sift.Sift, got {sift!r}")
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        _check_side(side)
        sources = as_listing(images).sources
        sample, color, done = _Sample(side, most, seed), torch.zeros(3, dtype=torch.float64), 0
        for _, photographs in batches(sources, size, _DETECTED):
            keypoints = sift.keypoints(photographs).to_numpy()
            pixels = photographs.permute(0, 2, 3, 1).contiguous().numpy()
            for image in range(len(pixels)):
                sample.add(pixels[image], keypoints[image])
            color += photographs.double().mean(dim=(2, 3)).sum(dim=0)
            done += len(photographs)
            if progress is not None:
                progress(done, len(sources))
        descriptors, patches = sample.arrays()
        if not len(descriptors):
            raise ValueError(f"there is no keypoint in any of the {len(sources)} photographs")
        mean_color = (color / (255 * len(sources))).float()
        return cls(
            sift.spec,
            torch.from_numpy(descriptors),
            torch.from_numpy(patches),
            mean_color,
            len(sources),
            device=device,
        )

    def save(self, path: StrPath) -> Path:
        """Write the database to a ``.safetensors`` file, atomically, and return its path. The folder must exist."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return _files.write(path, _files.PATCHES, self.spec, tensors, {"photographs": str(self.photographs)})

    @classmethod
    def load(cls, path: StrPath, *, device: str | torch.device = "auto") -> PatchDatabase:
        """Read a database that `save` wrote.

        Args:
            path: The file.
            device: Device of the search.

        Raises:
            FileFormatError: The file is damaged, of another format or version.
            FileNotFoundError: The file does not exist.
            ValueError: There is no such device.
        """
        device = resolve_device(device)
        header, tensors = _files.read(path, _files.PATCHES, _TENSORS)
        try:
            return cls(header.spec, **tensors, photographs=int(header.values["photographs"]), device=device)
        except KeyError as error:
            raise FileFormatError(path, f"lacks {error.args[0]}") from error
        except ValueError as error:
            raise FileFormatError(path, str(error)) from error

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return images from features of `Sift`, see `Baseline.invert`.

        The keypoints must be of the detector and descriptor of the database; the cells may have another size, and the
        descriptors another length.
        """
        if self._kind(spec) != self._kind(self.spec):
            differences = "; ".join(self.spec.differences(spec))
            raise ValueError(f"the database of patches is for other features: {differences}")
        sift = _sift(spec)
        check_features(features, spec)
        covered = [cells * sift.cell_size for cells in features.shape[2:]]
        height, width = covered if size is None else check_size(size)
        if sift.feature_size(height, width) != tuple(features.shape[2:]):
            raise ValueError(
                f"size must be at most the {covered[0]}×{covered[1]} pixels that the features cover, and less than "
                f"{sift.cell_size} below it, got {height}×{width}"
            )
        keypoints = Keypoints.from_grid(features.cpu(), sift.cell_size, descriptor_scale=sift.descriptor_scale)
        return self.reconstruct(keypoints, (height, width), progress=progress)

    def reconstruct(
        self, keypoints: Keypoints, size: tuple[int, int], *, progress: Progress | None = None
    ) -> torch.Tensor:
        """Return images (B, 3, H, W), float32 in [0, 1], on the CPU, from keypoints, such as those of a file.

        Args:
            keypoints: Keypoints of B images, of the detector and descriptor of the database.
            size: (H, W) of the images in pixels.
            progress: Function called with (images done, number of images).

        Raises:
            ValueError: Positions, scales, angles or descriptors are not finite, a scale is not above 0, or a size is
                below 1.
        """
        found, size = keypoints.to_numpy(), check_size(size)
        for name in ("x", "y", "scale", "angle", "descriptors"):
            if not np.isfinite(getattr(found, name)).all():
                raise ValueError(f"keypoints must be finite, but some values of {name} are not")
        if (found.scale <= 0).any():
            raise ValueError(f"scales must be above 0, got {found.scale.min():g}")
        images = torch.empty(len(found), 3, *size)
        for index in range(len(found)):
            pixels = torch.from_numpy(self._image(found[index], size))
            images[index] = pixels.permute(2, 0, 1).float() / 255
            if progress is not None:
                progress(index + 1, len(found))
        return images

    def nearest(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Return the index (N,) int64 of the patch with the nearest descriptor for each of (N, 128) float32.

        Distances are Euclidean, between descriptors rounded to 8 bits.
        """
        queries = torch.from_numpy(_as_bytes(descriptors.cpu().numpy())).to(self._device)
        return torch.cat([self._nearest(part) for part in queries.split(_QUERIES)]).cpu()

    def _nearest(self, queries: torch.Tensor) -> torch.Tensor:
        # Products and sums are integers below 2^24, so that they are exact in float32, on every device.
        wanted = queries.float()  # [N, 128]
        best = torch.full((len(queries),), math.inf, device=self._device)
        index = torch.zeros(len(queries), dtype=torch.int64, device=self._device)
        for start in range(0, len(self), _BLOCK):
            block = self._searched[start : start + _BLOCK].float()
            distance = torch.addmm(block.square().sum(dim=1), wanted, block.T, alpha=-2)  # without the query's square
            least, column = distance.min(dim=1)
            index = torch.where(least < best, column + start, index)
            best = torch.minimum(best, least)
        return index

    def _image(self, keypoints: Keypoints, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return the image (H, W, 3) of keypoints in arrays."""
        order = np.argsort(-keypoints.scale, kind="stable")
        canvas = Canvas(size)
        if len(order):
            patches = self.patches[self.nearest(torch.from_numpy(keypoints.descriptors[order]))].numpy()
            poses = np.stack((keypoints.x, keypoints.y, keypoints.scale, keypoints.angle), axis=1)[order]
            for patch, pose in zip(patches, poses.tolist(), strict=True):
                canvas.paste(patch, *pose)
        if not canvas.covered.any():
            return np.broadcast_to(np.rint(self.mean_color.numpy() * 255).astype(np.uint8), (*size, 3)).copy()
        return canvas.finished()

    @staticmethod
    def _kind(spec: Spec) -> tuple[str, str, int]:
        return spec.representation, spec.variant, spec.version


class _Sample:
    """A uniform random sample of keypoints, with descriptors and patches, of photographs that are added one by one.

    Every keypoint has a random key, and those with the smallest keys are kept. A new one takes the row of the one with
    the largest key.
    """

    def __init__(self, side: int, most: int, seed: int) -> None:
        self._most, self._random = most, np.random.default_rng(seed)
        self._kept: list[tuple[float, int]] = []  # a heap of (-key, row)
        self._descriptors = np.empty((0, DESCRIPTOR), np.uint8)
        self._patches = np.empty((0, side, side, 3), np.uint8)

    def add(self, image: npt.NDArray[np.uint8], keypoints: Keypoints) -> None:
        """Add the keypoints in arrays of a photograph (H, W, 3)."""
        keys = self._random.random(len(keypoints.x))
        chosen = keys < (-self._kept[0][0] if len(self._kept) == self._most else 1)
        x, y, scale, angle, descriptors = (
            getattr(keypoints, name)[chosen] for name in ("x", "y", "scale", "angle", "descriptors")
        )
        patches = cut_patches(image, x, y, scale, angle, self._patches.shape[1])
        for key, descriptor, patch in zip(keys[chosen].tolist(), _as_bytes(descriptors), patches, strict=True):
            if len(self._kept) < self._most:
                row = len(self._kept)
                if row == len(self._patches):
                    self._resize(min(self._most, 2 * row + 1024))
                heapq.heappush(self._kept, (-key, row))
            elif key < -self._kept[0][0]:
                row = self._kept[0][1]
                heapq.heapreplace(self._kept, (-key, row))
            else:
                continue
            self._descriptors[row], self._patches[row] = descriptor, patch

    def arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return descriptors (N, 128) and patches (N, side, side, 3)."""
        self._resize(len(self._kept))
        return self._descriptors, self._patches

    def _resize(self, rows: int) -> None:
        for array in (self._descriptors, self._patches):
            array.resize((rows, *array.shape[1:]), refcheck=False)  # in place, so that there are never two


def _as_bytes(descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return descriptors (N, 128) of length 1 in 8 bits."""
    return np.clip(np.rint(descriptors * _UNIT), 0, 255).astype(np.uint8)


def _sift(spec: Spec) -> Sift:
    """Return the representation of a spec; ``ValueError`` if it is not `Sift`."""
    if spec.representation != Sift.name:
        raise ValueError(f"the database of patches inverts {Sift.name} features, got {spec.representation}")
    sift = representation_from_spec(spec)
    assert isinstance(sift, Sift)
    return sift


def _check_side(side: int) -> None:
    if not 4 <= side <= _LARGEST_SIDE:
        raise ValueError(f"side of the patches must be from 4 to {_LARGEST_SIDE} pixels, got {side}")
