"""Compare dense SIFT with the real VLFeat, stored and live, and between implementations."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import implementations
import paths
import tolerances
import vlfeat
from golden.make_dense_sift import CASES
from preimage import reference
from preimage.ops.dense_sift import dense_sift_frames
from skimage_files import NAMES, gray

IMPLEMENTATIONS, KERNELS = implementations.IMPLEMENTATIONS["dense_sift"], implementations.KERNELS["dense_sift"]
GOLDEN = dict(np.load(paths.GOLDEN / "dense_sift.npz"))

needs_vlfeat = pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")
every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)
every_kernel = pytest.mark.parametrize("name", KERNELS)
both_windows = pytest.mark.parametrize("window", ["gaussian", "flat"])

# (height, width): the smallest there are, single rows and columns of descriptors, and around the kernel's vectors of
# 16 descriptors (4 pixels apart: 64 pixels) and its strips.
ODD_SIZES = [
    *((13, 13), (13, 14), (14, 13), (13, 200), (200, 13), (16, 16), (17, 17), (18, 20), (19, 23), (20, 18)),
    *((21, 31), (31, 64), (64, 31), (37, 65), (25, 72), (26, 73), (27, 76), (28, 77), (29, 78), (33, 80)),
    *((34, 81), (41, 135), (42, 136), (43, 137), (40, 140), (39, 141), (61, 66), (103, 131), (30, 1100), (35, 2061)),
]


def assert_close(result: Any, expected: tuple[np.ndarray, ...], window: str) -> None:
    """Compare features whose norm is large enough for VLFeat to be accurate, and all norms."""
    features, norms = result
    wanted, wanted_norms = expected[:2]
    assert features.dtype == norms.dtype == torch.float32
    assert features.shape == wanted.shape and norms.shape == (1, *wanted_norms.shape)
    least = tolerances.DENSE_SIFT_NORM if window == "gaussian" else tolerances.DENSE_SIFT_FLAT_NORM
    allowed = tolerances.DENSE_SIFT if window == "gaussian" else tolerances.DENSE_SIFT_FLAT
    clear = wanted_norms >= least
    assert np.abs(features.numpy() - wanted)[:, clear].max(initial=0) <= allowed
    assert np.abs(norms[0].numpy() - wanted_norms).max() <= tolerances.DENSE_SIFT_NORMS


@every_implementation
@pytest.mark.parametrize("case", CASES)
def test_golden(name: str, case: str) -> None:
    image = GOLDEN[f"{case}.image"]
    expected = GOLDEN[f"{case}.features"], GOLDEN[f"{case}.norms"]
    options = CASES[case].options
    for images in (image, image.astype(np.float32) / np.float32(255)):
        result = IMPLEMENTATIONS[name](images, norms=True, **options)
        assert_close(result, expected, options.get("window", "gaussian"))


@needs_vlfeat
@both_windows
@every_implementation
@pytest.mark.parametrize("file", NAMES)
def test_photographs_against_vlfeat(name: str, window: str, file: str) -> None:
    image = gray(file, 150 if name == "reference" else 300)
    expected = vlfeat.dense_sift(image, window=window)
    assert_close(IMPLEMENTATIONS[name](image, window=window, norms=True), expected, window)


@needs_vlfeat
@both_windows
@every_implementation
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_odd_sizes_against_vlfeat(name: str, window: str, size: tuple[int, int]) -> None:
    image = cv2.resize(gray("coffee.png"), (2100, 220))[: size[0], : size[1]]
    expected = vlfeat.dense_sift(image, window=window)
    assert_close(IMPLEMENTATIONS[name](image, window=window, norms=True), expected, window)


GRIDS = [
    *((1, 1, 2.0), (1, 4, 2.0), (2, 4, 1.5), (2, 10, 1.5), (3, 5, 2.0), (5, 3, 2.0), (4, 6, 2.0), (6, 4, 2.0)),
    *((8, 8, 2.0), (7, 2, 2.0), (9, 12, 1.0), (16, 4, 2.0), (50, 4, 2.0), (4, 17, 3.0), (10, 1, 0.5)),
]


@needs_vlfeat
@both_windows
@every_implementation
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_steps_and_bins_against_vlfeat(name: str, window: str, grid: tuple[int, int, float]) -> None:
    step, bin_size, window_size = grid
    size = (60, 75) if step < 4 else (90, 131)
    image = gray("chelsea.png")[100 : 100 + size[0], 90 : 90 + size[1]]
    options = {"step": step, "bin_size": bin_size, "window_size": window_size, "window": window}
    assert_close(IMPLEMENTATIONS[name](image, norms=True, **options), vlfeat.dense_sift(image, **options), window)


@needs_vlfeat
@both_windows
@every_implementation
@pytest.mark.parametrize(
    "bounds", [(0, 0, 70, 80), (3, 5, 66, 79), (20, 30, 32, 42), (10, 0, 55, 80), (58, 68, 70, 80)]
)
def test_bounds_against_vlfeat(name: str, window: str, bounds: tuple[int, int, int, int]) -> None:
    image = gray("astronaut.png")[100:171, 150:231]
    for step, bin_size in ((4, 4), (3, 2)):
        options = {"step": step, "bin_size": bin_size, "window": window, "bounds": bounds}
        features, norms, centers = vlfeat.dense_sift(image, **options)
        assert_close(IMPLEMENTATIONS[name](image, norms=True, **options), (features, norms), window)
        for frames in (dense_sift_frames, reference.dense_sift_frames):
            found = frames(*image.shape, step=step, bin_size=bin_size, bounds=bounds)
            assert "float32" in str(found.dtype) and np.array_equal(np.asarray(found), centers)


@both_windows
@every_kernel
@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (3, 5)], ids=str)
def test_against_the_definition_in_double_precision(name: str, window: str, grid: tuple[int, int]) -> None:
    """The flat window is compared with more accuracy than VLFeat's running sums allow."""
    step, bin_size = grid
    image = gray("astronaut.png")[40:140, 100:220]
    options = {"step": step, "bin_size": bin_size, "window": window, "norms": True}
    features, norms = KERNELS[name](image, **options)
    exact, exact_norms = IMPLEMENTATIONS["reference"](image.astype(np.float64), dtype=torch.float64, **options)
    clear = exact_norms[0] >= tolerances.DENSE_SIFT_NORM
    assert exact.dtype == exact_norms.dtype == torch.float64 and clear.float().mean() > 0.9
    assert (features - exact)[:, clear].abs().max() <= tolerances.DENSE_SIFT_PRECISION
    assert (norms - exact_norms).abs().max() <= tolerances.DENSE_SIFT_NORMS


@both_windows
def test_instruction_sets_agree_to_the_bit(window: str) -> None:
    """Features computed on different machines are equal."""
    image = (255 * gray("astronaut.png")[:203, :301]).astype(np.uint8)
    for options in ({}, {"step": 3, "bin_size": 5}, {"step": 2, "bin_size": 6, "dtype": torch.float16}):
        results = [dense_sift(image, window=window, norms=True, **options) for dense_sift in KERNELS.values()]
        for features, norms in results:
            assert torch.equal(features, results[0][0]) and torch.equal(norms, results[0][1])


@every_implementation
def test_smaller_types_are_the_rounded_descriptors(name: str) -> None:
    dense_sift = IMPLEMENTATIONS[name]
    image = gray("coins.png")[:90, :111]
    image[:30, :40] = 0.5  # descriptors of zeros
    image = torch.from_numpy(image)
    features = dense_sift(image)
    assert not features[..., :4, :6].any()
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(dense_sift(image, dtype=dtype), features.to(dtype))
    expected = (512 * features).floor().clamp(max=255).to(torch.uint8)
    assert (dense_sift(image, dtype=torch.uint8).int() - expected.int()).abs().max() <= int(name == "reference")


# ---- Wrong rules: the error of a plausible misreading of the definition must be far above the tolerance ----

RULES = reference.dense_sift.__globals__


def arc_tangent(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    return (torch.atan2(gy, gx) * 4 / torch.pi) % 8


def counter_clockwise(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    return RIGHT["direction"](gx, -gy)


def nearest_orientation(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    return RIGHT["direction"](gx, gy).round()


def halved_at_the_border(planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    padded = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    gx, gy = RIGHT["gradient"](padded)
    return gx[..., 1:-1, 1:-1], gy[..., 1:-1, 1:-1]


def backward_window(bin_size: int, window: str, window_size: float) -> torch.Tensor:
    return RIGHT["kernels"](bin_size, window, window_size).flip(1)


def no_window(bin_size: int, window: str, window_size: float) -> torch.Tensor:
    return RIGHT["kernels"](bin_size, window, 1e6)


def window_at_the_center(bin_size: int, window: str, window_size: float) -> torch.Tensor:
    """Compute the flat window's factor at the bin's center instead of its mean."""
    weights = RIGHT["kernels"](bin_size, "gaussian", window_size)
    return weights[:, bin_size - 1 : bin_size] * RIGHT["kernels"](bin_size, "flat", 1e6)


def zeros_outside(planes: torch.Tensor, box: Any, step: int, weights: torch.Tensor) -> torch.Tensor:
    reach = weights.shape[1]
    moved = tuple(side + reach for side in box)
    return RIGHT["spatial_sums"](F.pad(planes, (reach,) * 4), moved, step, weights)


def normalized_once(sums: torch.Tensor) -> torch.Tensor:
    return RULES["_to_unit_norm"](sums)


def clipped_last(sums: torch.Tensor) -> torch.Tensor:
    return RULES["_to_unit_norm"](sums).clamp(max=0.2)


WRONG_RULES = {
    "atan2": ("direction", arc_tangent, "gaussian"),
    "angles the other way round": ("direction", counter_clockwise, "gaussian"),
    "no split between orientations": ("direction", nearest_orientation, "gaussian"),
    "halved differences at the border": ("gradient", halved_at_the_border, "gaussian"),
    "window the other way round": ("kernels", backward_window, "gaussian"),
    "no window": ("kernels", no_window, "gaussian"),
    "no window, flat": ("kernels", no_window, "flat"),
    "window at the bins' centers": ("kernels", window_at_the_center, "flat"),
    "zeros outside": ("spatial_sums", zeros_outside, "gaussian"),
    "normalized once": ("normalize", normalized_once, "gaussian"),
    "clipped last": ("normalize", clipped_last, "gaussian"),
}
RIGHT = {rule: RULES[rule] for rule in ("direction", "gradient", "kernels", "spatial_sums")}


@pytest.mark.parametrize("wrong", WRONG_RULES)
def test_wrong_rules_are_detected(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, replacement, window = WRONG_RULES[wrong]
    case = "default" if window == "gaussian" else "flat"
    image, expected = GOLDEN[f"{case}.image"], (GOLDEN[f"{case}.features"], GOLDEN[f"{case}.norms"])
    assert_close(IMPLEMENTATIONS["reference"](image, window=window, norms=True), expected, window)
    monkeypatch.setitem(RULES, rule, replacement)
    features = IMPLEMENTATIONS["reference"](image, window=window).numpy()
    allowed = tolerances.DENSE_SIFT if window == "gaussian" else tolerances.DENSE_SIFT_FLAT
    assert np.abs(features - expected[0]).max() > 4 * allowed


def test_norms_are_no_euclidean_lengths() -> None:
    image, norms = GOLDEN["default.image"], GOLDEN["default.norms"]
    _, found = IMPLEMENTATIONS["reference"](image, norms=True)
    assert np.abs(found[0].numpy() - norms).max() <= tolerances.DENSE_SIFT_NORMS < norms.min() / 10


@every_kernel
@pytest.mark.parametrize(("name_of", "value"), [("step", 2**30), ("window_size", 1e31), ("window_size", 1e-46)])
def test_values_beyond_the_kernel_are_refused(name: str, name_of: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name_of}.*{re.escape(repr(value))}"):
        KERNELS[name](torch.zeros(16, 16), **{name_of: value})
