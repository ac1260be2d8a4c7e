"""Invert any differentiable representation by gradient descent on the image (Mahendran & Vedaldi)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from preimage.baselines.base import Baseline, Progress, check_features
from preimage.baselines.descent import Settings, descend
from preimage.inverters.device import extraction_device, resolve_device
from preimage.pipelines.image_loading import at_once
from preimage.representations import Representation
from preimage.spec import Spec

BATCH = 32  # maximum number of images that are inverted at once
CONTRAST = 0.25  # standard deviation of a typical image, the unit of the regularizers
_START = 0.1  # standard deviation of the noise from which the descent starts
_TV_DECAY = 0.8  # part of the steps during which the weight of the total variation decreases
_PIXEL_BYTES = 4 * 16  # per value of an image: the image, its gradient, momentum, transforms and regularizers


class GradientDescent(Baseline):
    """Find images whose features equal the given ones by gradient descent.

    The objective for an image x with features φ(x) is that of the publication, in units in which its weights apply to
    images of any size and range:

    ‖φ(x) - φ‖² / ‖φ‖² + (λ_TV / 2) mean |∇y|^β + (λ_α / 2) mean |y|^α, where y = (x - 0.5) / 0.25

    and the means are over pixels and channels. The following differs from the publication, so that one setting serves
    descriptors and layers of networks:

    - The learning rate of an image adapts: it grows as long as the objective falls. When the objective rises by more
      than 1%, the learning rate decreases and the momentum is discarded. The first step has a fixed length.
    - The gradient's frequencies f are weighted by f^-p (`preconditioning`), as high frequencies are small in
      photographs, but not in gradients.
    - λ_TV decreases geometrically from `tv` to `tv_end` during the first four fifths of the steps, which avoids many
      local minima.
    - Images stay in [0, 1] at every step.

    Every image starts from the same random noise, determined by `seed` and the size, so its result does not depend on
    the other images. The result is the state with the smallest feature error. An image stops early when its feature
    error falls by less than `tolerance` within a tenth of the steps.

    Features of representations that discard color (`keeps_color` is not set, such as HOG and dense SIFT) do not
    determine it; their images are gray. The mean brightness and the overall contrast are not determined by these
    features either.

    HOG is not continuous: a pixel's gradient votes for one direction bin only, and the derivative with respect to its
    direction is taken as zero. The descent ends in local minima, with a feature error ‖φ(x) - φ‖ / ‖φ‖ of 0.22 on
    average for four photographs of 256×256 pixels; 0.08 for dense SIFT of two of them.

    Args:
        representation: Representation of the features, differentiable with respect to the images.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...; the CPU is used if the representation needs it.
        steps: Maximum number of steps.
        tolerance: Relative decrease of the feature error within a tenth of the steps below which an image is finished,
            in [0, 1).
        tv: Weight λ_TV of the total variation at the start.
        tv_end: Weight λ_TV at the end; both are positive, or both are 0.
        beta: Exponent β of the total variation.
        norm: Weight λ_α of the α-norm.
        alpha: Exponent α of the α-norm, at least 1.
        lr: Maximum root mean square of a step without its momentum, for images in [0, 1]; the first is a tenth of it.
        momentum: Weight of the former step, in [0, 1); 0.9 in the publication.
        preconditioning: Exponent p of the weights of frequencies; 0 for the plain gradient.
        seed: Seed of the noise from which images start.

    Raises:
        TypeError: `steps` is not an integer.
        ValueError: A value out of range, or a device that is not available.
    """

    name = "gradient"
    title = "gradient descent"
    reference = (
        "A. Mahendran, A. Vedaldi: Understanding Deep Image Representations by Inverting Them. CVPR 2015 "
        "(arXiv 1412.0035)"
    )

    def __init__(
        self,
        representation: Representation,
        *,
        device: str | torch.device = "auto",
        steps: int = 300,
        tolerance: float = 0.002,
        tv: float = 1,
        tv_end: float = 0.001,
        beta: float = 2,
        norm: float = 1e-5,
        alpha: float = 6,
        lr: float = 0.02,
        momentum: float = 0.97,
        preconditioning: float = 1,
        seed: int = 0,
    ) -> None:
        if not isinstance(steps, int):
            raise TypeError(f"steps must be an integer, got {steps!r}")
        for name, value, least in (
            ("steps", steps, 1),
            ("tolerance", tolerance, 0),
            ("tv", tv, 0),
            ("tv_end", tv_end, 0),
            ("beta", beta, 1),
            ("norm", norm, 0),
            ("alpha", alpha, 1),
            ("momentum", momentum, 0),
            ("preconditioning", preconditioning, 0),
        ):
            if not least <= value < math.inf:  # also NaN
                raise ValueError(f"{name} must be at least {least} and finite, got {value}")
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be above 0 and finite, got {lr}")
        if (tv == 0) != (tv_end == 0):
            raise ValueError(f"tv and tv_end must both be positive or both be 0, got {tv} and {tv_end}")
        for name, value in (("momentum", momentum), ("tolerance", tolerance)):
            if value >= 1:
                raise ValueError(f"{name} must be below 1, got {value}")
        self._representation = representation
        self._device = resolve_device(device)
        self._settings = Settings(steps, lr, momentum, preconditioning, tolerance)
        self._tv, self._tv_end, self._beta = tv, tv_end, beta
        self._norm, self._alpha, self._seed = norm, alpha, seed

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return images (B, 3, H, W), float32 in [0, 1], on the CPU.

        Args:
            features: (B, C, h, w) or (B, C), floating point, on any device.
            spec: Spec of the features, which must be that of the representation.
            size: (H, W) of the images; ``None`` for the size that the features cover.
            progress: Function called with (steps done, total number of steps), summed over the images.

        Raises:
            TypeError: Features that are not floating point.
            ValueError: Features of another spec or shape, or that are not finite; images of this size have features of
                another shape; or a representation without a gradient, such as LBP and sparse SIFT.
        """
        check_features(features, spec)
        if differences := self._representation.spec.differences(spec):
            raise ValueError(
                f"{self.name} inverts features of {self._representation.name}, got features of another spec: "
                f"{', '.join(differences)}"
            )
        size = self._image_size(features, size)
        device = extraction_device(self._representation, size, self._device)
        with torch.inference_mode(False), torch.enable_grad():
            start = self._start(size).to(device)
            most = at_once(self._bytes_each(start, features.shape[1:]), BATCH)
            report = _counter(len(features) * self._settings.steps, progress)
            batches = [
                self._descend(start, batch.detach().to(device, torch.float32).clone(), report)
                for batch in features.split(most)
            ]
        return torch.cat(batches)

    def _image_size(self, features: torch.Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the size of the images after checking that their features have the shape of the given ones."""
        grid = (features.shape[2], features.shape[3]) if features.dim() == 4 else None
        side = self._representation.image_side
        if size is None and side is not None:
            size = side, side
        elif size is None and grid is None:
            raise ValueError(f"size must be given for vectors of {self._representation.name}, got None")
        elif size is None and grid is not None:
            size = self._representation.image_size(*grid)
        assert size is not None
        if (found := self._representation.feature_size(*size)) != grid:
            shown = ["a vector" if shape is None else "×".join(map(str, shape)) for shape in (found, grid)]
            raise ValueError(
                f"{self._representation.name} features of images of {size[0]}×{size[1]} pixels are {shown[0]}, "
                f"got {shown[1]}"
            )
        return size

    def _start(self, size: tuple[int, int]) -> torch.Tensor:
        """Return the noise (1, C, H, W) from which images start; one channel if the features discard color."""
        channels = 3 if self._representation.keeps_color else 1
        generator = torch.Generator().manual_seed(self._seed)
        return (_START * torch.randn(1, channels, *size, generator=generator)).clamp(-0.5, 0.5)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of images in [-0.5, 0.5] of one or three channels."""
        return self._representation((images + 0.5).expand(-1, 3, -1, -1))

    def _bytes_each(self, start: torch.Tensor, shape: torch.Size) -> int:
        """Return the approximate memory in bytes of an image, from the tensors that a pass stores for its gradient.

        Raises:
            ValueError: The representation has no gradient.
        """
        stored: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dim() > 1 and len(tensor) == 1:  # of the image, not weights
                stored[tensor.data_ptr()] = tensor.nbytes
            return tensor

        problem = ""
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                differentiable = self._features(start.clone().requires_grad_(True)).requires_grad
        except ValueError as error:
            differentiable, problem = False, f" ({error})"
        if not differentiable:
            raise ValueError(
                f"{self._representation.name} has no gradient with respect to the images, so gradient descent cannot "
                f"invert it; HOG, dense SIFT and layers of networks can be inverted{problem}"
            )
        return 2 * sum(stored.values()) + _PIXEL_BYTES * start.numel() + 4 * 6 * shape.numel()

    def _descend(self, start: torch.Tensor, target: torch.Tensor, report: Callable[[int], None]) -> torch.Tensor:
        energy = target.flatten(1).square().sum(dim=1)
        energy = torch.where(energy > 0, energy, 1.0)

        def objective(
            images: torch.Tensor, indices: torch.Tensor, progress: float
        ) -> tuple[torch.Tensor, torch.Tensor]:
            difference = (self._features(images) - target[indices]).flatten(1).square().sum(dim=1) / energy[indices]
            contrast = images / CONTRAST
            value = difference + self._norm / 2 * contrast.abs().pow(self._alpha).flatten(1).mean(dim=1)
            if self._tv > 0:
                weight = self._tv * (self._tv_end / self._tv) ** min(1, progress / _TV_DECAY)
                value = value + weight / 2 * total_variation(contrast, self._beta)
            return value, difference.sqrt()

        images = descend(start.expand(len(target), -1, -1, -1), objective, self._settings, report)
        return (images + 0.5).clamp(0, 1).expand(-1, 3, -1, -1).cpu().contiguous()


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Return a function that adds to the number of steps done, and reports it."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return add


def total_variation(images: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the mean of |∇x|^β over the pixels and channels of each image, (B,).

    ∇x are the differences to the pixels to the right and below, 0 at the last ones.

    Args:
        images: (B, C, H, W).
        beta: Exponent, at least 1.
    """
    right = torch.nn.functional.pad(images.diff(dim=3), (0, 1))
    below = torch.nn.functional.pad(images.diff(dim=2), (0, 0, 0, 1))
    squares = right.square() + below.square()
    if beta != 2:
        squares = (squares + 1e-12).pow(beta / 2)  # the derivative of a root at 0 is infinite
    return squares.flatten(1).mean(dim=1)
