"""Call every function of the native module through the public ones: for tests of threads, leaks and processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import preimage
from preimage.ops import _native

Call = Callable[[torch.Tensor], list[torch.Tensor]]


def gradient(op: Callable[..., torch.Tensor], **options: Any) -> Call:
    """Return a function that computes the gradient of the sum of an op's squares."""

    def compute(images: torch.Tensor) -> list[torch.Tensor]:
        inputs = images.float().requires_grad_()
        return list(torch.autograd.grad(op(inputs, **options).square().sum(), inputs))

    return compute


def arrays(op: Callable[..., Any], **options: Any) -> Call:
    """Return a function that gives an op a NumPy array whose columns are reversed."""
    return lambda images: [torch.from_numpy(op(images.numpy()[..., ::-1], **options))]


def keypoints(**options: Any) -> Call:
    """Return a function that detects keypoints."""

    def compute(images: torch.Tensor) -> list[torch.Tensor]:
        found = preimage.sift(images, **options)
        return [found.x, found.y, found.scale, found.angle, found.response, found.descriptors, found.offsets]

    return compute


def hardware(_: torch.Tensor) -> list[torch.Tensor]:
    """Ask for instruction sets and devices, as tensors that can be compared."""
    names = [_native.instruction_set(), *_native.instruction_sets(), str(_native.cuda_devices())]
    return [torch.frombuffer(bytearray(name.encode()), dtype=torch.uint8) for name in names]


def phow(images: torch.Tensor) -> list[torch.Tensor]:
    """Return the descriptors of all scales."""
    return [scale.features for scale in preimage.phow(images, sizes=(3, 5))]


# Functions of images (B, 3, H, W), of at least 24 × 24 pixels.
FUNCTIONS: dict[str, Call] = {
    "hog": lambda images: [preimage.hog(images)],
    "hog, strongest, cells of 6": lambda images: [preimage.hog(images, color="strongest", cell_size=6)],
    "hog of an array": arrays(preimage.hog, dtype="float16"),
    "hog's gradient": gradient(preimage.hog),
    "hog's gradient, strongest, cells of 6": gradient(preimage.hog, color="strongest", cell_size=6),
    "hog, dalal-triggs": lambda images: [preimage.hog(images, variant="dalal-triggs")],
    "hog, dalal-triggs, of an array": arrays(preimage.hog, variant="dalal-triggs", color="strongest", block_norm="L1"),
    "hog's gradient, dalal-triggs": gradient(preimage.hog, variant="dalal-triggs", transform_sqrt=True),
    "lbp": lambda images: [preimage.lbp(images)],
    "lbp, cells of 6": lambda images: [preimage.lbp(images, cell_size=6)],
    "lbp of an array": arrays(preimage.lbp),
    "lbp codes": lambda images: [preimage.lbp_codes(images)],
    "lbp codes of an array": arrays(preimage.lbp_codes),
    "dense sift": lambda images: list(preimage.dense_sift(images, norms=True)),
    "dense sift, flat": lambda images: [preimage.dense_sift(images, window="flat", step=5, bin_size=3)],
    "dense sift of an array": arrays(preimage.dense_sift, dtype="uint8"),
    "dense sift's gradient": gradient(preimage.dense_sift),
    "phow": phow,
    "sift": keypoints(),
    "sift, enlarged": keypoints(first_octave=-1, levels=2),
    "sift of OpenCV": keypoints(variant="opencv"),
    "sift grid": lambda images: [preimage.sift_grid(preimage.sift(images), tuple(images.shape[2:]), seed=5)],
    "hardware": hardware,
}


def photographs(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Return smooth random images (B, 3, H, W) uint8, in which there are keypoints."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((batch, 3, height // 6 + 2, width // 6 + 2), generator=generator)
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear", align_corners=True)
    return (255 * smooth).to(torch.uint8)
