"""Measure reconstructions: normalized error, PSNR, SSIM, error of the features, and LPIPS if it is available."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from preimage.optional import import_optional

LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B (Rec. 601)
SMALLEST_FOR_SSIM = 11  # side of SSIM's Gaussian window in pixels
_NO_SPREAD = 1e-4  # average distance of images that count as equal; one gray level in one value is 4e-3


@dataclasses.dataclass(frozen=True)
class ErrorReport:
    """The normalized reconstruction error of a set of images.

    Attributes:
        error: Mean over the images of ‖x − f(φ(x))‖₂ / N.
        per_image: ‖x − f(φ(x))‖₂ / N of each image, in order.
        mean_image: Error of reconstructing every image as the mean image of the set, about 0.7: an inverter with about
            this error has learned nothing.
        normalizer: N, the average Euclidean distance between two images of the set.
    """

    error: float
    per_image: tuple[float, ...]
    mean_image: float
    normalizer: float


class Originals:
    """Images of a set, collected batch by batch, from which the normalizer N of the normalized error is computed.

    All images have one size. They are kept in memory, because N needs all pairs, in float16; 8-bit images lose less
    than 1e-3 of a gray level.
    """

    def __init__(self) -> None:
        self._images: list[torch.Tensor] = []
        self._spread: tuple[float, float] | None = None

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._images)

    def add(self, images: torch.Tensor) -> None:
        """Add a batch (B, 3, H, W) in [0, 1]; ``ValueError`` if its size differs from that of earlier batches."""
        if self._images and self._images[0].shape[1:] != images.shape[1:]:
            raise ValueError(
                f"all images of a set must have one size, got {tuple(images.shape[2:])} "
                f"after {tuple(self._images[0].shape[2:])}"
            )
        self._images.append(images.to(torch.float16).cpu())
        self._spread = None

    def spread(self) -> tuple[float, float]:
        """Return N, the average distance between two different images, and the average distance to the mean image.

        Raises:
            ValueError: Fewer than two images, or only equal ones.
        """
        if len(self) < 2:
            raise ValueError(f"the normalized error needs at least two images, got {len(self)}")
        if self._spread is None:
            self._spread = _spread(torch.cat(self._images).flatten(1))
        if self._spread[0] < _NO_SPREAD:
            raise ValueError(f"the normalized error needs images that differ, got {len(self)} equal ones")
        return self._spread

    def differ(self) -> bool:
        """Return whether there are two images that differ, so that the normalized error is defined."""
        try:
            self.spread()
        except ValueError:
            return False
        return True


class NormalizedError:
    """Collect images and reconstructions, batch by batch, and report the normalized error.

    Dosovitskiy & Brox (CVPR 2016), section 4: norms are not squared, and N is the average distance between
    two different images of the set. All images have one size.

    Args:
        originals: Set of images that is filled by the caller and shared with other measures of the same images; by
            default, `update` collects the images.
    """

    def __init__(self, originals: Originals | None = None) -> None:
        self._shared = originals is not None
        self._originals = Originals() if originals is None else originals
        self._distances: list[float] = []

    def update(self, images: torch.Tensor, reconstructions: torch.Tensor) -> None:
        """Add a batch of images and reconstructions, both (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: The shapes differ from each other or from those of earlier batches.
        """
        if images.shape != reconstructions.shape or images.dim() != 4:
            raise ValueError(
                "images and reconstructions must be (B, 3, H, W) of one shape, "
                f"got {tuple(images.shape)} and {tuple(reconstructions.shape)}"
            )
        if not self._shared:
            self._originals.add(images)
        difference = (images.float() - reconstructions.float()).flatten(1)
        self._distances += difference.double().norm(dim=1).tolist()

    def report(self) -> ErrorReport:
        """Return the error over all batches.

        Raises:
            ValueError: Fewer than two images, only equal ones, or a shared set with another number of images.
        """
        normalizer, to_mean = self._originals.spread()
        if len(self._distances) != len(self._originals):
            raise ValueError(f"{len(self._distances)} reconstructions for a set of {len(self._originals)} images")
        per_image = tuple(distance / normalizer for distance in self._distances)
        return ErrorReport(
            error=sum(per_image) / len(per_image),
            per_image=per_image,
            mean_image=to_mean / normalizer,
            normalizer=normalizer,
        )


def _spread(images: torch.Tensor) -> tuple[float, float]:
    """Return the average distance between two different rows of (N, D), and the average distance to the mean row.

    They are computed from the Gram matrix of the centered rows in float64, one block of columns at a time.
    """
    count, size = images.shape
    gram = torch.zeros(count, count, dtype=torch.float64, device=images.device)
    for start in range(0, size, 16384):
        columns = images[:, start : start + 16384].double()
        columns -= columns.mean(dim=0)
        gram += columns @ columns.T
    squares = gram.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2 * gram).clamp_min(0).sqrt()
    distances.fill_diagonal_(0)
    return distances.sum().item() / (count * (count - 1)), squares.sqrt().mean().item()


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return 0.299 R + 0.587 G + 0.114 B of images (..., 3, H, W), as (..., H, W)."""
    return (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(dim=-3)


def psnr(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, (B,); infinite for equal images.

    Args:
        reconstructions: (B, C, H, W) in [0, 1].
        images: The same shape.
    """
    return -10 * (reconstructions - images).square().flatten(1).mean(dim=1).log10()


def ssim(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity of each image, (B,), at most 1 (Wang et al., 2004).

    The window is a Gaussian of 11 × 11 pixels (σ = 1.5) around every pixel of every channel, with images mirrored at
    their borders; variances are those of the population, K₁ = 0.01 and K₂ = 0.03. The values equal those of
    torchmetrics 1.9.

    Args:
        reconstructions: (B, C, H, W) in [0, 1], at least `SMALLEST_FOR_SSIM` pixels a side.
        images: The same shape.
    """
    pairs = (reconstructions, images, reconstructions**2, images**2, reconstructions * images)
    down, across = (_gaussian(side, images) for side in images.shape[2:])
    means = down @ torch.stack(pairs) @ across.mT
    mean_made, mean_image = means[0], means[1]
    variance_made, variance_image = (means[2] - mean_made**2).clamp_min(0), (means[3] - mean_image**2).clamp_min(0)
    covariance = means[4] - mean_made * mean_image
    luminance = (2 * mean_made * mean_image + 0.01**2) / (mean_made**2 + mean_image**2 + 0.01**2)
    contrast = (2 * covariance + 0.03**2) / (variance_made + variance_image + 0.03**2)
    return (luminance * contrast).flatten(1).mean(dim=1)


def feature_error(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return ‖a − b‖₂ / ‖b‖₂ of each pair of feature tensors, (B,), float64, on the device of `target`.

    Where ‖b‖₂ is zero, the error is 0 if a = b and infinite otherwise.

    Args:
        features: Features a, (B, C, h, w) or (B, C), floating point.
        target: Features b of the same shape.

    Raises:
        ValueError: The shapes differ.
    """
    if features.shape != target.shape or target.dim() < 2:
        raise ValueError(
            f"features and target must be (B, C, h, w) or (B, C) of one shape, got {tuple(features.shape)} "
            f"and {tuple(target.shape)}"
        )
    wanted = target.detach().flatten(1).double()
    distance = (features.detach().to(target.device).flatten(1).double() - wanted).norm(dim=1)
    return torch.where(distance == 0, 0.0, distance / wanted.norm(dim=1))


def _gaussian(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix (side, side) of the convolution of mirrored columns with SSIM's Gaussian.

    On CPUs a product with it is several times as fast as convolutions of single channels.
    """
    radius = SMALLEST_FOR_SSIM // 2
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    window = torch.exp(-(offsets.to(like.dtype) ** 2) / (2 * 1.5**2))
    places = torch.arange(side, device=like.device)
    sources = (places[:, None] + offsets).abs()
    sources = torch.where(sources < side, sources, 2 * (side - 1) - sources)
    matrix = torch.zeros(side, side, dtype=like.dtype, device=like.device)
    return matrix.scatter_add_(1, sources, (window / window.sum()).expand(side, -1))


# Function of reconstructions and originals, both (B, 3, H, W) in [0, 1], that returns one number for each pair.
PerceptualDistance = Callable[[torch.Tensor, torch.Tensor], list[float]]


def perceptual_distance() -> tuple[PerceptualDistance | None, str]:
    """Return LPIPS on AlexNet (Zhang et al., CVPR 2018) of torchmetrics, or the reason why it is not available.

    It needs torchvision, and the AlexNet weights that torchvision stores in torch's cache on first use.

    Returns:
        The distance function (0 for equal images) and an empty reason; or ``None`` and the reason, one sentence.
    """
    try:
        models = import_optional("torchvision")
    except ImportError as error:
        return None, f"LPIPS is left out: {error}."
    weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(models.AlexNet_Weights.DEFAULT.url).name
    if not weights.is_file():
        return None, f"LPIPS is left out: AlexNet's weights are not in torch's cache (checkpoints/{weights.name})."
    try:
        image_metrics = import_optional("torchmetrics")
    except ImportError as error:
        return None, f"LPIPS is left out: {error}."
    metric = image_metrics.LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def distance(reconstructions: torch.Tensor, images: torch.Tensor) -> list[float]:
        with torch.inference_mode():
            pairs = zip(reconstructions.split(1), images.split(1), strict=True)
            return [float(metric(made.clamp(0, 1), image)) for made, image in pairs]

    return distance, ""
