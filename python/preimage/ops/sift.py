"""Detect keypoints and compute SIFT descriptors. Imports torch only for tensors."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from preimage.keypoints import Keypoints
from preimage.ops import _native
from preimage.ops._images import (
    as_batch,
    check_choice,
    check_images,
    check_positive_int,
    cpu_threads,
    describe_array,
    is_tensor,
    readable,
)
from preimage.ops.sift_colors import sample_colors

if TYPE_CHECKING:
    import torch

VARIANTS = ("vlfeat", "opencv")
MOST_LEVELS = 32
GIVEN_FRAME = 4  # x, y, scale and angle


def sift(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    variant: str = "vlfeat",
    levels: int = 3,
    first_octave: int = 0,
    peak_threshold: float = 0.0,
    edge_threshold: float = 10.0,
    color: bool = False,
) -> Keypoints:
    """Detect keypoints in images and compute their SIFT descriptors, on the CPU.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB, of which the luma 0.299 R + 0.587 G + 0.114 B is used)
            and leading dimensions can be 0; a tensor on the CPU or a NumPy array. uint8 (divided by 255), or float16,
            bfloat16, float32 or float64 with values in [0, 1], which is not enforced. Any strides.
        variant: ``"vlfeat"`` is the detector and descriptor of VLFeat's C library (`vl_sift`) for images in [0, 1], as
            in COLMAP. VLFeat's own programs use images in [0, 255] and find nearly the same keypoints (92 to 100 % in
            photographs), because the library ignores gradients below 1e-4 on either scale. Thresholds are on the scale
            of the images.
            ``"opencv"`` is `cv2.SIFT_create()` with its default parameters, on the luma, clipped to [0, 1] (NaN
            becomes 0) and rounded to uint8. It begins with the image enlarged twofold, as with `first_octave` -1, and
            discards keypoints of low contrast.
        levels: Number of scales per octave, 1 to 32.
        first_octave: 0 begins with the original image, -1 with the image enlarged twofold (for smaller keypoints), n >
            0 with every 2ⁿ-th pixel. The shorter side of the last octave has 16 to 31 pixels, if possible.
        peak_threshold: Smallest absolute difference of Gaussians, on the scale of the images, at least 0.
        edge_threshold: Largest ratio of the principal curvatures of the difference of Gaussians, above 0.
        color: Whether keypoints have colors: those of the image at their positions, bilinear between pixels, which
            COLMAP averages over the observations of a 3D point. Values are clipped to [0, 1]; a gray image has R = G =
            B.

    Returns:
        Keypoints of all images in order, as tensors for a tensor and NumPy arrays for an array; a batch of one for a
        single image. `response` is the absolute difference of Gaussians at the extremum, or OpenCV's response for
        ``"opencv"``. Keypoints are ordered by octave, level, row and column; a keypoint with several orientations is
        repeated for each, up to four times.

        Positions, scales and angles are VLFeat's (nearly all to the last bits of float32), descriptors are within about
        1e-5. Descriptors of keypoints closer than 1.5 pixels of their octave to the lower image border are computed
        from the pixels inside; VLFeat returns uninitialized memory there. Keypoints with non-finite pixels in their
        neighborhood are left out.

    Raises:
        TypeError: `images` is not an array or tensor or has another dtype, `levels` or `first_octave` is not an int, or
            a threshold is not a number.
        ValueError: The shape or device of `images` is invalid, a parameter is invalid or not the default with
            ``variant="opencv"``, or `images` requires a gradient.

    The number of threads is `torch.get_num_threads()` for tensors, and ``OMP_NUM_THREADS`` or the number of CPUs
    available to the process for arrays; it does not affect the result. The environment variable ``PREIMAGE_ISA``
    (avx512, avx2 or portable) selects an instruction set.
    """
    check_choice("variant", variant, VARIANTS)
    _check_parameters(levels, first_octave, peak_threshold, edge_threshold)
    check_images(images)
    if is_tensor(images):
        import torch

        _check_tensor(images)
        array = as_batch(images if images.dtype in (torch.uint8, torch.float32) else images.float()).detach().numpy()
        threads = torch.get_num_threads()
    else:
        array, threads = as_batch(images), cpu_threads()
    parameters = levels, first_octave, float(peak_threshold), float(edge_threshold)
    if variant == "opencv" and parameters != (3, 0, 0.0, 10.0):
        raise ValueError(f"parameters must be the defaults for the variant 'opencv', got {parameters}")
    found = sift_numpy(array, variant, threads, *parameters, color=color)
    return found.to_torch() if is_tensor(images) else found


def sift_numpy(
    images: npt.NDArray[Any],
    variant: str,
    threads: int,
    levels: int = 3,
    first_octave: int = 0,
    peak_threshold: float = 0.0,
    edge_threshold: float = 10.0,
    *,
    color: bool = False,
) -> Keypoints:
    """Compute the keypoints of checked images (B, C, H, W) as NumPy arrays, see `sift`."""
    images = readable(images)  # keeps a copy alive until the kernel has read it
    if variant == "opencv":
        from preimage.ops.sift_opencv import opencv_sift  # importing cv2 is slow

        found = opencv_sift(images, threads)
    else:
        frames, descriptors, offsets = _native.sift(
            describe_array(images), levels, first_octave, peak_threshold, edge_threshold, threads
        )
        x, y, scale, angle, response = frames
        found = Keypoints(x, y, scale, angle, response, descriptors, offsets)
    return dataclasses.replace(found, colors=sample_colors(images, found)) if color else found


def vlfeat_sift(
    image: npt.NDArray[Any],
    *,
    levels: int = 3,
    first_octave: int = 0,
    peak_threshold: float = 0.0,
    edge_threshold: float = 10.0,
    octaves: int | None = None,
    magnification: float = 3.0,
    window_size: float = 2.0,
    norm_threshold: float = 0.0,
    frames: npt.NDArray[np.float32] | None = None,
    orient: bool = False,
) -> Keypoints:
    """Compute SIFT of one image with all parameters of VLFeat's `VlSiftFilt`, most of which `sift` fixes.

    Args:
        image: (H, W), a NumPy array, as in `sift`.
        levels: As in `sift`.
        first_octave: As in `sift`.
        peak_threshold: As in `sift`.
        edge_threshold: As in `sift`.
        octaves: Number of octaves, at least 0; those with a side below 3 pixels are left out. By default, the shorter
            side of the last one has 16 to 31 pixels, if possible.
        magnification: Size of a spatial bin in scales of the keypoint, above 0.
        window_size: Standard deviation of the descriptor's Gaussian window in bins, above 0.
        norm_threshold: Descriptors with a smaller norm before normalization are 0.
        frames: (N, 4) float32: x, y, scale (at most 2²⁰ pixels) and angle (at most 1000 rad) of keypoints to describe
            instead of detecting any, on the level nearest to their scale. Descriptors outside the image are 0.
        orient: Compute the angles of `frames`, up to four for each, instead of using those given.

    Returns:
        Keypoints; those of `frames` by octave and in their order, with a response of 0.

    Raises:
        TypeError: `image` is not an array or has another dtype, or `octaves` is not an int.
        ValueError: A parameter is invalid.
    """
    check_images(image)
    _check_parameters(levels, first_octave, peak_threshold, edge_threshold)
    if octaves is not None and type(octaves) is not int:
        raise TypeError(f"octaves must be an int, got {octaves!r}")
    if octaves is not None and octaves < 0:
        raise ValueError(f"octaves must be at least 0, got {octaves}")
    given = None
    if frames is not None:
        if frames.ndim != 2 or frames.shape[1] != GIVEN_FRAME:
            raise ValueError(f"frames must have shape (N, {GIVEN_FRAME}), got {frames.shape}")
        frames = np.require(frames, np.float32, "C")
        given = describe_array(frames[None, None])
    pixels = readable(as_batch(image))  # keeps a copy alive until the kernel has read it
    (x, y, scale, angle, response), descriptors, offsets = _native.sift(
        describe_array(pixels),
        levels,
        first_octave,
        float(peak_threshold),
        float(edge_threshold),
        threads=1,
        octaves=-1 if octaves is None else octaves,
        magnification=magnification,
        window_size=window_size,
        norm_threshold=norm_threshold,
        frames=given,
        orient=orient,
    )
    return Keypoints(x, y, scale, angle, response, descriptors, offsets)


def _check_parameters(levels: int, first_octave: int, peak_threshold: float, edge_threshold: float) -> None:
    check_positive_int("levels", levels, "level")
    if levels > MOST_LEVELS:
        raise ValueError(f"levels must be at most {MOST_LEVELS}, got {levels}")
    if type(first_octave) is not int:
        raise TypeError(f"first_octave must be an int, got {first_octave!r}")
    if not -1 <= first_octave < 30:
        raise ValueError(f"first_octave must be between -1 and 29, got {first_octave}")
    for name, value in (("peak_threshold", peak_threshold), ("edge_threshold", edge_threshold)):
        if not isinstance(value, (float, int)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not math.isfinite(value) or value < 0 or (value == 0 and name == "edge_threshold"):
            least = "at least 0" if name == "peak_threshold" else "above 0"
            raise ValueError(f"{name} must be {least} and finite, got {value!r}")


def _check_tensor(images: torch.Tensor) -> None:
    import torch

    if images.device.type != "cpu":
        raise ValueError(f"images must be on the CPU for sparse SIFT, got {images.device}: pass images.cpu()")
    if images.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "images must not require a gradient, because sparse SIFT has none: pass images.detach() or use "
            "torch.no_grad()"
        )
