"""The native module, `csrc/bindings.cpp`: called by `preimage.ops`, which checks arguments and allocates outputs."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

# (address, shape, strides in bytes, dtype, device) of a tensor of rank 4.
_Description = tuple[int, tuple[int, ...], tuple[int, ...], str, str]

class _CudaReport(TypedDict):
    built: bool  # does this module contain CUDA code
    driver_version: int  # 1000 * major + 10 * minor; 0 without a driver
    runtime_version: int  # likewise, of the runtime linked in; 0 when built without CUDA
    devices: list[tuple[str, tuple[int, int], int]]  # name, compute capability, bytes of memory
    reason: str  # why there are no devices, else empty

compiler: str

def hog(
    images: _Description,
    output: _Description,
    cell_size: int,
    color: str,
    threads: int,
) -> None:
    """images (B, C, H, W) -> output (B, 31, Hc, Wc), contiguous, float32 or float16, that the caller allocated.

    ValueError when anything does not fit.
    """

def hog_histograms(
    images: _Description,
    output: _Description,
    cell_size: int,
    color: str,
    threads: int,
) -> None:
    """images (B, C, H, W) -> output (B, 18, Hc, Wc), contiguous float32: `hog` before normalization."""

def hog_backward(
    output: _Description,
    images: _Description,
    gradients: _Description,
    cell_size: int,
    color: str,
    threads: int,
) -> None:
    """Gradients of the output (B, 31, Hc, Wc) and images (B, C, H, W) -> gradients of the images, contiguous float32.

    In builds with CUDA there are also `hog_cuda`, `hog_backward_cuda` and `hog_backward_cuda_scratch`, see `hog.h`.
    """

def hog_dalal_triggs(
    images: _Description,
    output: _Description,
    cell_size: tuple[int, int],
    color: str,
    orientations: int,
    block_size: tuple[int, int],
    block_norm: str,
    transform_sqrt: bool,
    threads: int,
) -> None:
    """images (B, C, H, W) -> output (B, block_h * block_w * orientations, Hb, Wb), contiguous, float32 or float16.

    Images may also be float64. ValueError when anything does not fit.
    """

def hog_dalal_triggs_backward(
    output: _Description,
    images: _Description,
    gradients: _Description,
    cell_size: tuple[int, int],
    color: str,
    orientations: int,
    block_size: tuple[int, int],
    block_norm: str,
    transform_sqrt: bool,
    threads: int,
) -> None:
    """Gradients of the output and images -> gradients of the images (B, C, H, W), contiguous float32.

    In builds with CUDA there are also `hog_dalal_triggs_cuda`, `hog_dalal_triggs_backward_cuda` and
    `hog_dalal_triggs_cuda_scratch`, see `dalal_triggs.h`.
    """

def lbp(
    images: _Description,
    output: _Description,
    cell_size: int,
    threads: int,
) -> None:
    """images (B, C, H, W) -> output (B, 58, H // cell_size, W // cell_size), contiguous, float32 or float16."""

def lbp_codes(images: _Description, output: _Description, threads: int) -> None:
    """images (B, C, H, W) -> output (B, 1, H, W), contiguous uint8.

    In builds with CUDA there are also `lbp_cuda` and `lbp_codes_cuda`, see `lbp.h`.
    """

def dense_sift(
    images: _Description,
    features: _Description,
    norms: _Description,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: tuple[int, int, int, int],
    threads: int,
) -> None:
    """images (B, C, H, W) -> features (B, 128, h, w), float32, float16, bfloat16 or uint8, and norms (B, 1, h, w),
    float32; both contiguous, allocated by the caller. bounds are (top, left, bottom, right), inclusive."""

def dense_sift_backward(
    grad_features: _Description,
    grad_norms: _Description,
    images: _Description,
    grad_images: _Description,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: tuple[int, int, int, int],
    threads: int,
) -> None:
    """Gradients of features (B, 128, h, w) and norms (B, 1, h, w), and images -> that of the images, float32; all but
    the images contiguous.

    In builds with CUDA there are also `dense_sift_cuda`, `dense_sift_backward_cuda` and `dense_sift_cuda_scratch`, see
    `dense_sift.h`.
    """

def sift(
    images: _Description,
    levels: int,
    first_octave: int,
    peak_threshold: float,
    edge_threshold: float,
    threads: int,
    octaves: int = -1,
    magnification: float = 3.0,
    window_size: float = 2.0,
    norm_threshold: float = 0.0,
    frames: _Description | None = None,
    orient: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """images (B, C, H, W) -> x, y, scale, angle and response (5, N), descriptors (N, 128), offsets (B + 1,); new
    arrays, because how many keypoints there are is not known before.

    frames (1, 1, N, 4) float32, contiguous: x, y, scale and angle of keypoints of a single image to describe instead of
    detecting any, with angles computed if `orient`."""

def sift_grid(
    x: _Description,
    y: _Description,
    scale: _Description,
    angle: _Description,
    descriptors: _Description,
    offsets: list[int],
    output: _Description,
    image_size: tuple[int, int],
    cell: int,
    seed: int,
    descriptor_scale: float,
    threads: int,
    colors: _Description | None = None,
) -> None:
    """x, y, scale and angle (N,), descriptors (N, 128) and colors (N, 3), float32 -> output (B, 133, rows, columns), or
    136 channels with colors, float32 or float16; all contiguous. ValueError for keypoints that are not finite, too."""

def instruction_sets() -> list[str]:
    """Return the instruction sets that this build and this processor support, best first, "portable" last."""

def instruction_set() -> str:
    """Return the one in use: that of the environment variable PREIMAGE_ISA at the first call, or the best.

    ValueError if the variable names one that is not available.
    """

def set_instruction_set(name: str) -> None:
    """Make all later calls use this one, on every thread; for tests and benchmarks. ValueError if not available."""

def cuda_devices() -> _CudaReport:
    """Return the CUDA devices and versions; never raises, `reason` says why there are no devices."""
