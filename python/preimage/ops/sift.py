"""Sparse SIFT: check, describe the memory, call whoever computes the variant. Imports torch for tensors only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from preimage.keypoints import Keypoints
from preimage.ops import _native
from preimage.ops._images import (
    as_batch,
    check_choice,
    check_images,
    check_whole,
    cpu_threads,
    describe_array,
    is_tensor,
    readable,
)

if TYPE_CHECKING:
    import torch

VARIANTS = ("vlfeat", "opencv")
MOST_LEVELS = 32


def sift(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    variant: str = "vlfeat",
    levels: int = 3,
    first_octave: int = 0,
    peak_threshold: float = 0.0,
    edge_threshold: float = 10.0,
) -> Keypoints:
    """Keypoints of every image, with SIFT descriptors.

    Args:
        images: (H, W) or (..., C, H, W), y down; C is 1 or 3 (red, green, blue; their luma
            0.299 R + 0.587 G + 0.114 B is taken); leading dimensions may be 0. uint8 (divided by 255), float16,
            bfloat16, float32 or float64 with values in [0, 1] (not enforced by ``"vlfeat"``). Any strides. A tensor on
            the CPU or a NumPy array.
        variant: ``"vlfeat"``: detector and descriptor of VLFeat's C library (`vl_sift`), given the same values in
            [0, 1], as COLMAP gives them. VLFeat's own programs give it values up to 255, and find nearly the same
            keypoints (92 to 100 % on photographs): it counts gradients below 1e-4 as none whatever the unit.
            Thresholds are in the images' unit.
            ``"opencv"``: `cv2.SIFT_create()` with its own parameters, on the luma limited to [0, 1] (what is not a
            number is 0) and rounded to uint8; it starts with the image doubled (like `first_octave` -1) and leaves
            out what has little contrast.
        levels: scales an octave, 1 to 32.
        first_octave: 0 starts with the image as it is, -1 with the image doubled (which finds smaller keypoints),
            n > 0 with every 2ⁿ-th pixel. The last octave is the one whose shorter side has 16 to 31 pixels (the first
            where that is less).
        peak_threshold: least absolute difference of Gaussians, in the images' unit; at least 0.
        edge_threshold: largest ratio of the difference's curvatures across and along an edge, above 0.

    Returns:
        `Keypoints` of torch tensors for a tensor, of NumPy arrays for an array; a batch of one for a single image, and
        of all images in order for several leading dimensions. `response` is the absolute difference of Gaussians at the
        extremum, for ``"opencv"`` OpenCV's own measure. They come octave by octave, level by level, down and across;
        one with several directions comes once for each (up to four).

        Places, scales and angles are VLFeat's (nearly all to the last bits of float32), values of descriptors within
        1e-5 or so. Descriptors of keypoints that lie less than 1.5 pixels of their octave from the image's lower
        border are those of their surroundings; VLFeat leaves there what its memory held. Keypoints whose surroundings
        are not finite are left out.

    Raises:
        TypeError: not an array or tensor, or of another dtype; `levels` or `first_octave` not an int, a threshold not
            a number.
        ValueError: wrong rank or channel count; a tensor on another device; parameters out of range, or any of them
            with ``"opencv"``; an unknown `variant`; a tensor that requires a gradient, outside `no_grad`.

    Images are shared out among `torch.get_num_threads()` threads, for arrays ``OMP_NUM_THREADS`` or the CPUs that the
    process may use; it does not change the numbers. The environment variable ``PREIMAGE_ISA`` (avx512, avx2, portable)
    forces an instruction set.
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
        raise ValueError("the parameters are those of the variant 'vlfeat': 'opencv' has its own, fixed ones")
    found = sift_of_arrays(array, variant, threads, *parameters)
    return found.to_torch() if is_tensor(images) else found


def sift_of_arrays(
    images: npt.NDArray[Any],
    variant: str,
    threads: int,
    levels: int = 3,
    first_octave: int = 0,
    peak_threshold: float = 0.0,
    edge_threshold: float = 10.0,
) -> Keypoints:
    """Return the keypoints of images (B, C, H, W), checked, as arrays; see `sift`."""
    images = readable(images)  # by name, so that a copy lives until the kernel has read it
    if variant == "opencv":
        from preimage.ops.sift_opencv import opencv_sift  # cv2 takes a while to load

        return opencv_sift(images, threads)
    frames, descriptors, offsets = _native.sift(
        describe_array(images), levels, first_octave, peak_threshold, edge_threshold, threads
    )
    x, y, scale, angle, response = frames
    return Keypoints(x, y, scale, angle, response, descriptors, offsets)


def _check_parameters(levels: int, first_octave: int, peak_threshold: float, edge_threshold: float) -> None:
    check_whole("levels", levels, "level")
    if levels > MOST_LEVELS:
        raise ValueError(f"levels must be at most {MOST_LEVELS}, got {levels}")
    if type(first_octave) is not int:
        raise TypeError(f"first_octave must be an int, got {first_octave!r}")
    if not -1 <= first_octave < 30:
        raise ValueError(f"first_octave must be in -1 … 29, got {first_octave}")
    for name, value in (("peak_threshold", peak_threshold), ("edge_threshold", edge_threshold)):
        if not isinstance(value, float | int):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not math.isfinite(value) or value < 0 or (value == 0 and name == "edge_threshold"):
            least = "at least 0" if name == "peak_threshold" else "above 0"
            raise ValueError(f"{name} must be {least} and finite, got {value!r}")


def _check_tensor(images: torch.Tensor) -> None:
    import torch

    if images.device.type != "cpu":
        raise ValueError(f"sparse SIFT is computed on the CPU, got images on {images.device}: pass images.cpu()")
    if images.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "sparse SIFT has no gradient, got a tensor that requires one: pass images.detach() or call it under "
            "torch.no_grad()"
        )
