"""Compare crops cut out of a buffer of images, as kernel and as torch operations, with OpenCV."""

from __future__ import annotations

import importlib.util
import os

import cv2
import numpy as np
import pytest
import torch

from conftest import photographs
from preimage.ops.crop_resize import crop_resize, crop_resize_torch

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the kernel's file is imported
HAS_TRITON = importlib.util.find_spec("triton") is not None

SIZE, TAPS = 24, 4
FORMS = [
    "torch",
    pytest.param("kernel", marks=pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")),
]


def cut(form: str, images: list[np.ndarray], crops: list[list[float]], taps: int = TAPS) -> torch.Tensor:
    """Return the crops of images that lie between bytes of 255 in one buffer."""
    device = torch.device("cuda" if CUDA and form == "kernel" else "cpu")
    gap = np.full(500, 255, np.uint8)
    parts = [gap, *(part for image in images for part in (image.ravel(), gap))]
    offsets = np.cumsum([len(part) for part in parts])[::2][: len(images)].copy()
    tensors = (
        torch.from_numpy(np.concatenate(parts)),
        torch.from_numpy(offsets),
        torch.tensor([image.shape[:2] for image in images], dtype=torch.int32),
        torch.tensor(crops, dtype=torch.float32),
    )
    function = crop_resize_torch
    if form == "kernel":
        from preimage.ops import _crop_resize_triton  # noqa: PLC0415 - not everywhere

        function = _crop_resize_triton.crop_resize
    done = function(*(tensor.to(device) for tensor in tensors), SIZE, taps).cpu()
    assert done.shape == (len(crops), 3, SIZE, SIZE)
    assert done.is_contiguous(memory_format=torch.channels_last)
    return done


def images_to_cut() -> list[np.ndarray]:
    first, second, *_ = photographs().values()
    noise = np.random.default_rng(0).integers(0, 256, (60, 41, 3), np.uint8)
    return [np.ascontiguousarray(image) for image in (first[:40, 100:171], second[50:114, :64], noise)]


@pytest.mark.parametrize("form", FORMS)
def test_equals_opencv(form: str) -> None:
    """Smaller, larger and equal crops, twice as large, at the edges of their images, and mirrored."""
    images, random = images_to_cut(), np.random.default_rng(1)
    sides = [(0, 40), (1, 48), (1, 48), (0, SIZE), (2, 41), (2, 25), (0, 23), (1, 7), (2, 1), (2, 12)]
    crops: list[list[float]] = []
    expected = []
    for number, (index, side) in enumerate(sides * 2):
        image = images[index]
        top, left = (int(random.integers(0, length - side + 1)) for length in image.shape[:2])
        if number % 4 == 0:
            top, left = image.shape[0] - side, image.shape[1] - side
        crop = image[top : top + side, left : left + side]
        mirrored = number >= len(sides)
        if side != SIZE:
            crop = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA if side > SIZE else cv2.INTER_CUBIC)
        expected.append(crop[:, ::-1] if mirrored else crop)
        crops.append([index, top, left, side, side, mirrored, side < SIZE])
    wanted = torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2)
    difference = (cut(form, images, crops).int() - wanted.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_areas_may_begin_and_end_within_pixels(form: str) -> None:
    """A crop at quarters of a pixel is one at whole pixels of an image four times as large."""
    image = images_to_cut()[1]
    large = image.repeat(4, axis=0).repeat(4, axis=1)
    top, left, height, width = 37, 50, 117, 130
    crop = large[top : top + height, left : left + width]
    expected = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    found = cut(form, [image], [[0, top / 4, left / 4, height / 4, width / 4, False, False]])
    difference = (found[0].permute(1, 2, 0).int() - torch.from_numpy(expected).int()).abs()
    assert difference.max() <= 1


@pytest.mark.parametrize("form", FORMS)
def test_more_pixels_per_result(form: str) -> None:
    image = images_to_cut()[1]
    expected = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    doubled = image.repeat(2, axis=0).repeat(2, axis=1)
    found = cut(form, [doubled], [[0, 0, 0, *doubled.shape[:2], False, False]], taps=7)
    assert (found[0].permute(1, 2, 0).int() - torch.from_numpy(expected).int()).abs().max() <= 1


def test_public_function_checks_its_tensors() -> None:
    names = ("pixels", "offsets", "sizes", "crops")
    pixels, offsets = torch.zeros(48, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    sizes, crops = torch.tensor([[4, 4]], dtype=torch.int32), torch.tensor([[0, 0, 0, 4, 4, 0, 0]]).float()
    valid = dict(zip(names, (pixels, offsets, sizes, crops), strict=True))
    assert crop_resize(**valid, size=2, max_shrink=2.0).shape == (1, 3, 2, 2)
    for change, message in (
        ({"pixels": pixels.int()}, r"pixels.*uint8.*int32"),
        ({"offsets": torch.zeros(4, dtype=torch.int64)[::2]}, "offsets.*contiguous"),
        ({"sizes": sizes[:, :1]}, r"sizes.*\(1, 1\)"),
        ({"crops": crops[:, :6]}, r"crops.*\(1, 6\)"),
        ({"crops": crops.double()}, r"crops.*float32.*float64"),
    ):
        with pytest.raises(ValueError, match=message):
            crop_resize(**{**valid, **change}, size=2, max_shrink=2.0)
