"""Compare HOG with stored output of the real VLFeat, with VLFeat live, and between implementations."""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import implementations
import paths
import tolerances
import vlfeat
from golden.make_hog import luma
from preimage import reference
from skimage_files import NAMES, planes, rgb

IMPLEMENTATIONS, KERNELS = implementations.IMPLEMENTATIONS["hog"], implementations.KERNELS["hog"]
GOLDEN = dict(np.load(paths.GOLDEN / "hog.npz"))
GOLDEN_CASES = [name for name in GOLDEN if not name.endswith(".image")]

needs_vlfeat = pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")
every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)
every_kernel = pytest.mark.parametrize("name", KERNELS)

# (height, width): the smallest there are, single rows of cells, around the kernel's steps of 16 and tiles of 64
# pixels, and what halves of cells do at every remainder.
ODD_SIZES = [
    *((4, 4), (4, 5), (5, 4), (7, 7), (4, 200), (200, 4), (8, 8), (9, 11), (12, 12), (11, 13)),
    *((16, 17), (17, 18), (18, 17), (19, 19), (23, 20), (27, 33), (31, 64), (64, 31), (37, 65), (61, 66)),
    *((67, 67), (59, 68), (60, 69), (57, 70), (63, 71), (99, 123), (100, 124), (101, 127), (102, 130), (103, 131)),
    *((129, 187), (130, 191), (131, 193), (257, 129), (301, 211)),
]


def difference(features: torch.Tensor, expected: np.ndarray) -> float:
    assert features.dtype == torch.float32
    assert features.shape == expected.shape
    return float(np.abs(features.numpy() - expected).max())


@every_implementation
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(name: str, case: str) -> None:
    crop, color, cell_size = case.split(".")
    image = GOLDEN[f"{crop}.image"]
    for images in (image.transpose(2, 0, 1), planes(image)):
        features = IMPLEMENTATIONS[name](images, cell_size=int(cell_size), color=color)
        assert difference(features, GOLDEN[case]) <= tolerances.HOG


@needs_vlfeat
@every_implementation
@pytest.mark.parametrize("file", NAMES)
def test_photographs_against_vlfeat(name: str, file: str) -> None:
    image = rgb(file, 300 if name == "reference" else 700)  # the reference takes its time
    color = planes(image)
    hog = IMPLEMENTATIONS[name]
    assert difference(hog(color[1]), vlfeat.hog(color[1])) <= tolerances.HOG
    assert difference(hog(color), vlfeat.hog(luma(image))) <= tolerances.HOG
    assert difference(hog(color, color="strongest"), vlfeat.hog(color)) <= tolerances.HOG


@needs_vlfeat
@every_implementation
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_odd_sizes_against_vlfeat(name: str, size: tuple[int, int]) -> None:
    height, width = size
    color = planes(rgb("coffee.png")[:height, 100 : 100 + width])
    hog = IMPLEMENTATIONS[name]
    for cell_size in (8, 4, 5, 7):
        if min(size) >= cell_size:
            assert difference(hog(color[0], cell_size=cell_size), vlfeat.hog(color[0], cell_size)) <= tolerances.HOG
            features = hog(color, cell_size=cell_size, color="strongest")
            assert difference(features, vlfeat.hog(color, cell_size)) <= tolerances.HOG


@needs_vlfeat
@every_implementation
@pytest.mark.parametrize("cell_size", [1, 2, 3, 6, 9, 12, 16, 24, 33, 64])
def test_cell_sizes_against_vlfeat(name: str, cell_size: int) -> None:
    gray = planes(rgb("chelsea.png")[:133, :150])[1]
    assert difference(IMPLEMENTATIONS[name](gray, cell_size=cell_size), vlfeat.hog(gray, cell_size)) <= tolerances.HOG


@needs_vlfeat
@every_implementation
def test_near_ties_against_vlfeat(name: str) -> None:
    """Ramps whose direction is within a few roundings of the border between two bins, all around the circle."""
    y, x = np.mgrid[0:44, 0:44].astype(np.float32)
    random = np.random.default_rng(7)
    for border in range(18):
        angle = np.deg2rad(20 * border + 10)
        for _ in range(6):
            slope = np.float32(2.0 ** -random.integers(7, 10))
            image = x * slope * np.float32(np.cos(angle)) + y * slope * np.float32(np.sin(angle)) + np.float32(0.5)
            image += random.integers(-1, 2, image.shape).astype(np.float32) * np.float32(2.0**-24)
            assert difference(IMPLEMENTATIONS[name](image), vlfeat.hog(image)) <= tolerances.HOG


@needs_vlfeat
@every_kernel
def test_validation_images_against_vlfeat(name: str, shared_data: Path) -> None:
    hog = vlfeat.Hog()
    count = 0
    for shard in ("val256.tar", "val227.tar"):
        with tarfile.open(shared_data / "images" / "val" / shard) as tar:
            for member in tar:
                data = np.frombuffer(tar.extractfile(member).read(), dtype=np.uint8)
                color = planes(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])
                assert difference(KERNELS[name](color, color="strongest"), hog(color)) <= tolerances.HOG
                count += 1
    assert count == 400


def test_instruction_sets_agree_to_the_bit() -> None:
    """Features computed on different machines are equal."""
    image = rgb("astronaut.png")[:203, :301].transpose(2, 0, 1)
    for options in ({}, {"color": "strongest"}, {"cell_size": 5}, {"cell_size": 16, "color": "strongest"}):
        results = [hog(image, **options) for hog in KERNELS.values()]
        assert all(torch.equal(result, results[0]) for result in results)


def test_reference_in_double_precision() -> None:
    image = np.random.default_rng(0).random((3, 60, 70))
    double = reference.hog(image)
    assert double.dtype == torch.float64
    assert (double - reference.hog(image.astype(np.float32))).abs().max() <= tolerances.HOG_PRECISION
    # Doubling the number of digits must move the result closer to float64's.
    assert not torch.equal(double, reference.hog(image.astype(np.float32)).double())


# ---- Wrong rules: the error of a plausible misreading of the definition must be far above the tolerance ----


def rounded_angle(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    return (torch.atan2(gy, gx) * 9 / torch.pi + 0.5).floor().long() % 18


def halved_gradient(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gx, gy = RIGHT_GRADIENT(image)
    return gx / 2, gy / 2


def replicated_border(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    padded = torch.nn.functional.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    gx, gy = RIGHT_GRADIENT(torch.nn.functional.pad(padded, (1, 1, 1, 1), mode="replicate"))
    return gx[2:-2, 2:-2], gy[2:-2, 2:-2]


def last_of_equals(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return RIGHT_GRADIENT(image.flip(0))


def averaged_channels(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return RIGHT_GRADIENT(image.mean(0, keepdim=True))


def hard_cells(pixels: int, cell_size: int, dtype: torch.dtype) -> torch.Tensor:
    shares = torch.zeros(RIGHT_WEIGHTS(pixels, cell_size, dtype).shape, dtype=torch.float64)
    cells = (torch.arange(pixels) // cell_size).clamp(max=shares.shape[1] - 1)
    shares[torch.arange(pixels), cells] = 1
    return shares


RIGHT_GRADIENT = reference.hog.__globals__["strongest_gradient"]
RIGHT_WEIGHTS = reference.hog.__globals__["bilinear_weights"]
WRONG_RULES = {
    "bins by rounded atan2": ("directed_bins", rounded_angle, "luma"),
    "halved gradient": ("strongest_gradient", halved_gradient, "luma"),
    "replicated border": ("strongest_gradient", replicated_border, "luma"),
    "each pixel to one cell": ("bilinear_weights", hard_cells, "luma"),
    "no epsilon": ("EPSILON", 0.0, "luma"),
    "averaged channels": ("strongest_gradient", averaged_channels, "strongest"),
    "last of equal channels": ("strongest_gradient", last_of_equals, "strongest"),
    "clipped at 0.25": ("CLIP", 0.25, "luma"),
}


@pytest.mark.parametrize("rule", WRONG_RULES)
def test_wrong_rules_are_detected(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, replacement, color = WRONG_RULES[rule]
    monkeypatch.setitem(reference.hog.__globals__, name, replacement)
    worst = 0.0
    for crop in ("face", "eye", "cup", "sky"):
        features = reference.hog(GOLDEN[f"{crop}.image"].transpose(2, 0, 1), color=color)
        worst = max(worst, difference(features, GOLDEN[f"{crop}.{color}.8"]))
    assert worst > 100 * tolerances.HOG
