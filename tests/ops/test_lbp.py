"""Compare LBP with stored output of the real VLFeat, with VLFeat live, and between implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import implementations
import paths
import tolerances
import vlfeat
from preimage import reference
from skimage_files import NAMES, planes, rgb

IMPLEMENTATIONS, KERNELS = implementations.IMPLEMENTATIONS["lbp"], implementations.KERNELS["lbp"]
CODES = implementations.IMPLEMENTATIONS["lbp_codes"]
GOLDEN = dict(np.load(paths.GOLDEN / "lbp.npz"))
GOLDEN_CASES = [name for name in GOLDEN if not name.endswith(".image")]

needs_vlfeat = pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")
every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)

# (height, width): the smallest there are, single rows of cells, around the kernel's steps of 16 and its tiles of 8 and
# 9 blocks, and what pixels beyond the last full cell do.
ODD_SIZES = [
    *((16, 16), (16, 17), (17, 16), (16, 200), (200, 16), (17, 33), (23, 24), (24, 23), (25, 25), (31, 31)),
    *((32, 32), (33, 47), (40, 41), (47, 48), (48, 47), (55, 112), (56, 113), (57, 119), (61, 120), (63, 121)),
    *(
        (64, 127),
        (65, 128),
        (67, 129),
        (80, 136),
        (99, 143),
        (101, 144),
        (130, 145),
        (131, 257),
        (257, 131),
        (301, 211),
    ),
]


def assert_equal(features: torch.Tensor, expected: np.ndarray) -> None:
    """Check that results are equal to the bit."""
    assert features.dtype == torch.float32
    assert np.array_equal(features.numpy(), expected)


def exact_in_vlfeat(cell_size: int) -> bool:
    """Return whether VLFeat's float32 sums are exact."""
    return cell_size in (1, 2, 4, 8, 16, 32)


@every_implementation
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(name: str, case: str) -> None:
    crop, size = case.split(".")
    cell_size = int(size)
    image = GOLDEN[f"{crop}.image"]
    for images in (image, image.astype(np.float32), image.astype(np.float32) / np.float32(255)):
        features = IMPLEMENTATIONS[name](images, cell_size=cell_size)
        if exact_in_vlfeat(cell_size):
            assert_equal(features, GOLDEN[case])
        else:
            assert np.abs(features.numpy() - GOLDEN[case]).max() <= tolerances.LBP


@needs_vlfeat
@every_implementation
@pytest.mark.parametrize("file", NAMES)
def test_photographs_against_vlfeat(name: str, file: str) -> None:
    image = rgb(file, 300 if name == "reference" else 700)  # the reference takes its time
    green = np.ascontiguousarray(image[..., 1])
    assert_equal(IMPLEMENTATIONS[name](green), vlfeat.lbp(green))
    color = planes(image)
    red, green, blue = color
    luma = (np.float32(0.299) * red + np.float32(0.587) * green) + np.float32(0.114) * blue
    assert_equal(IMPLEMENTATIONS[name](color), vlfeat.lbp(luma))


@needs_vlfeat
@every_implementation
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_odd_sizes_against_vlfeat(name: str, size: tuple[int, int]) -> None:
    height, width = size
    gray = planes(rgb("coffee.png")[:height, 100 : 100 + width])[1]
    for cell_size in (16, 8, 4):
        assert_equal(IMPLEMENTATIONS[name](gray, cell_size=cell_size), vlfeat.lbp(gray, cell_size))


@needs_vlfeat
@every_implementation
@pytest.mark.parametrize("cell_size", [1, 2, 3, 5, 6, 7, 9, 12, 15, 17, 24, 32, 33, 64, 100])
def test_cell_sizes_against_vlfeat(name: str, cell_size: int) -> None:
    gray = planes(rgb("chelsea.png")[:103, :150])[1]
    features, expected = IMPLEMENTATIONS[name](gray, cell_size=cell_size), vlfeat.lbp(gray, cell_size)
    if exact_in_vlfeat(cell_size):
        assert_equal(features, expected)
    else:
        assert np.abs(features.numpy() - expected).max() <= tolerances.LBP


@pytest.mark.parametrize("cell_size", [1, 3, 8, 16, 45, 46, 152, 153, 200])
def test_implementations_agree_to_the_bit(cell_size: int) -> None:
    """Features computed on different machines are equal to each other and to the definition."""
    image = rgb("astronaut.png")[:203, :301].transpose(2, 0, 1)
    results = [lbp(image, cell_size=cell_size) for lbp in IMPLEMENTATIONS.values()]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("name", CODES)
def test_labels_by_hand(name: str) -> None:
    image = np.zeros((3, 5), dtype=np.uint8)
    image[0, 1:4] = 9  # above (2, 1): 3 in a run from bit 5 on; its neighbors look up at fewer
    labels = CODES[name](image)
    assert labels.shape == (1, 3, 5) and labels.dtype == torch.uint8
    # Bits 6 and 7; 5, 6 and 7; 5 and 6.
    assert labels[0, 1].tolist() == [255, 7 * 6 + 1, 7 * 5 + 2, 7 * 5 + 1, 255]
    assert (labels[0, ::2] == 255).all()
    image[2, 2] = 9  # another run
    assert CODES[name](image)[0, 1].tolist() == [255, 57, 57, 57, 255]
    assert CODES[name](np.full((3, 3), 7, dtype=np.uint8))[0, 1, 1] == 56
    pit = np.full((3, 3), 7, dtype=np.uint8)
    pit[1, 1] = 0
    assert CODES[name](pit)[0, 1, 1] == 56


@needs_vlfeat
def test_every_code_has_vlfeats_label() -> None:
    """Tests all 256 patterns of eight neighbors; in a single cell of 3 only the center votes."""
    for code in range(256):
        image = np.zeros((3, 3), dtype=np.float32)
        for bit, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))):
            image[1 + dy, 1 + dx] = 1 if code >> bit & 1 else -1
        expected = int(vlfeat.lbp(image, 3)[:, 0, 0].argmax())
        for codes in CODES.values():
            assert int(codes(image)[0, 1, 1]) == expected
        for lbp in IMPLEMENTATIONS.values():
            assert int(lbp(image, cell_size=3)[:, 0, 0].argmax()) == expected


@pytest.mark.parametrize("name", CODES)
def test_map_of_labels_is_what_is_counted(name: str) -> None:
    image = rgb("rocket.jpg")[:90, :131].transpose(2, 0, 1)
    labels = CODES[name](image)
    histograms = reference.lbp.__globals__["cell_histograms"](labels[0], 16)
    features = reference.lbp.__globals__["normalize"](histograms)
    for lbp in KERNELS.values():
        assert torch.equal(lbp(image), features)
    border = labels.clone()
    border[:, 1:-1, 1:-1] = 255
    assert (border == 255).all() and (labels[:, 1:-1, 1:-1] < 58).all()


# ---- Wrong rules: a plausible misreading of the definition must be detected ----


def greater_or_equal(image: torch.Tensor) -> torch.Tensor:
    # The pixel is not below the neighbor exactly where the neighbor's negative is not above the pixel's.
    return 255 - RIGHT_CODES(-image)


def counterclockwise(image: torch.Tensor) -> torch.Tensor:
    codes = RIGHT_CODES(image)
    mirrored = torch.zeros_like(codes)
    for bit in range(8):
        mirrored |= (codes >> bit & 1) << (8 - bit) % 8
    return mirrored


def no_root(sums: torch.Tensor) -> torch.Tensor:
    return sums.to(torch.float32)


def hard_cells(pixels: int, cell_size: int) -> torch.Tensor:
    cells = torch.arange(pixels // cell_size)[None] == torch.arange(pixels)[:, None] // cell_size
    return 2 * cell_size * cells.long()


def voting_border(image: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    return RIGHT_LABELS(padded)[1:-1, 1:-1]


RIGHT_CODES = reference.lbp.__globals__["codes_inside"]
RIGHT_LABELS = reference.lbp.__globals__["labels"]
WRONG_RULES = {
    "not below instead of above": ("codes_inside", greater_or_equal),
    "bits the other way round": ("codes_inside", counterclockwise),
    "no square root": ("root", no_root),
    "each pixel to one cell": ("bilinear_weights", hard_cells),
    "the border votes": ("labels", voting_border),
}


@pytest.mark.parametrize("rule", WRONG_RULES)
def test_wrong_rules_are_detected(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, replacement = WRONG_RULES[rule]
    monkeypatch.setitem(reference.lbp.__globals__, name, replacement)
    for crop in ("face", "eye", "cup", "man"):
        features = reference.lbp(GOLDEN[f"{crop}.image"])
        assert np.abs(features.numpy() - GOLDEN[f"{crop}.16"]).max() > 1000 * tolerances.LBP
