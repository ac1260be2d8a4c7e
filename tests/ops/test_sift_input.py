"""Test images and parameters that sparse SIFT accepts and rejects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

import preimage
from layouts import LAYOUTS
from native_arguments import described
from preimage import Keypoints
from preimage.ops import _native

pytestmark = pytest.mark.instruction_set

IMAGE = skimage.data.astronaut()[40:140, 160:270].transpose(2, 0, 1)  # (3, 100, 110) uint8
FIELDS = ("x", "y", "scale", "angle", "response", "descriptors", "offsets")
both_variants = pytest.mark.parametrize("variant", ["vlfeat", "opencv"])


def sift(images: Any, **options: Any) -> Keypoints:
    """Compute `preimage.sift` and convert the keypoints to tensors."""
    return preimage.sift(images, **options).to_torch()


def same(one: Keypoints, other: Keypoints) -> bool:
    """Return whether keypoints are equal to the bit."""
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


@both_variants
def test_containers_and_types_that_mean_the_same(variant: str) -> None:
    expected = sift(IMAGE, variant=variant)
    assert len(expected) == 1 and len(expected.x) > 10
    unit = torch.from_numpy(IMAGE.copy()).float() / 255
    for images in (
        torch.from_numpy(IMAGE.copy()),
        IMAGE[None],
        unit,
        unit.numpy(),
        unit.double(),
        unit.numpy().astype(np.float64),
        np.ascontiguousarray(IMAGE.transpose(1, 2, 0)).transpose(2, 0, 1),
        np.ascontiguousarray(IMAGE[:, ::-1, ::-1])[:, ::-1, ::-1],
    ):
        assert same(sift(images, variant=variant), expected)


@both_variants
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, variant: str) -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 14), size=(60, 70), mode="bicubic").clamp(0, 1)
    images = LAYOUTS[layout](smooth)
    assert same(sift(images, variant=variant), sift(images.contiguous().clone(), variant=variant))


@both_variants
def test_gray_and_color(variant: str) -> None:
    gray = IMAGE[1]
    expected = sift(gray, variant=variant)
    assert same(sift(gray[None], variant=variant), expected)
    if variant == "opencv":  # rounds the luma, which is a little off for three equal channels
        assert same(sift(np.stack([gray] * 3), variant=variant), expected)
    half = sift(torch.from_numpy(gray.copy()).float().div(255).half(), variant=variant)
    assert abs(len(half.x) - len(expected.x)) <= 0.1 * len(expected.x)


@both_variants
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (1, 40), (40, 2), (4, 5), (9, 12), (17, 16)])
def test_tiny_images(shape: tuple[int, int], variant: str) -> None:
    rng = np.random.default_rng(3)
    found = sift(rng.random((2, 1, *shape), dtype=np.float32), variant=variant)
    assert len(found) == 2
    for octave in (-1, 1, 5, 29) if variant == "vlfeat" else ():
        assert len(sift(rng.random(shape, dtype=np.float32), first_octave=octave)) == 1


@both_variants
def test_flat_images_and_empty_batches(variant: str) -> None:
    for images in (torch.zeros(3, 1, 64, 64), torch.full((3, 3, 50, 70), 200, dtype=torch.uint8)):
        found = sift(images, variant=variant)
        assert len(found) == 3 and len(found.x) == 0 and found.descriptors.shape == (0, 128)
    none = sift(torch.zeros(0, 3, 64, 64), variant=variant)
    assert len(none) == 0 and len(none.x) == 0 and none.offsets.tolist() == [0]


@both_variants
def test_a_batch_is_its_images(variant: str) -> None:
    flat = np.full_like(IMAGE, 90)
    batch = np.stack([flat, IMAGE, flat, IMAGE[:, ::-1], flat])
    found = sift(batch, variant=variant)
    counts = found.offsets.diff().tolist()
    assert counts[0] == counts[2] == counts[4] == 0 and counts[1] > 10 and counts[3] > 10
    for index, image in enumerate(batch):
        assert same(found[index], sift(image, variant=variant))


def test_thresholds_remove_keypoints() -> None:
    all_found = sift(IMAGE)
    strong = sift(IMAGE, peak_threshold=0.02)
    assert 0 < len(strong.x) < len(all_found.x)
    assert (strong.response > 0.02).all()
    assert len(sift(IMAGE, edge_threshold=2.0).x) < len(all_found.x)
    assert len(sift(IMAGE, peak_threshold=10.0).x) == 0
    assert len(sift(IMAGE, first_octave=-1).x) > len(all_found.x) > len(sift(IMAGE, first_octave=1).x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_keypoints_that_are_not_finite_are_left_out(value: float) -> None:
    image = IMAGE[1].astype(np.float32) / 255
    everywhere = sift(image)
    image[40:44, 50:53] = value
    found = sift(image)
    for name in FIELDS:
        assert getattr(found, name).isfinite().all()
    far = (found.x - 51).abs().maximum((found.y - 42).abs()) > 45
    assert far.any() and set(found.x[far].tolist()) & set(everywhere.x.tolist())


def test_opencv_clamps_values_that_are_not_finite() -> None:
    image = IMAGE[1].astype(np.float32) / 255
    limited = image.copy()
    for row, (value, taken) in enumerate([(np.nan, 0), (np.inf, 1), (-np.inf, 0), (1e30, 1)]):
        image[40 + row, 50:53], limited[40 + row, 50:53] = value, taken
    assert same(sift(image, variant="opencv"), sift(limited, variant="opencv"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variant": "lowe"}, ValueError, r"variant.*vlfeat, opencv.*'lowe'"),
        ({"levels": 0}, ValueError, r"levels.*1.*0"),
        ({"levels": 33}, ValueError, r"levels.*32.*33"),
        ({"levels": 3.0}, TypeError, r"levels.*int"),
        ({"first_octave": -2}, ValueError, r"first_octave.*-1"),
        ({"first_octave": 0.0}, TypeError, r"first_octave.*int"),
        ({"peak_threshold": -0.1}, ValueError, r"peak_threshold.*0"),
        ({"peak_threshold": float("nan")}, ValueError, r"peak_threshold.*0.*finite"),
        ({"peak_threshold": "1"}, TypeError, r"peak_threshold.*number"),
        ({"edge_threshold": 0.0}, ValueError, r"edge_threshold.*0"),
        ({"variant": "opencv", "levels": 4}, ValueError, r"parameters.*'opencv'"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sift(IMAGE, **options)


@both_variants
def test_wrong_images(variant: str) -> None:
    for images, error, message in (
        ([[1.0]], TypeError, r"images.*torch\.Tensor.*numpy\.ndarray.*list"),
        (torch.zeros(5, 5, dtype=torch.int32), TypeError, r"images.*uint8"),
        (np.zeros((5, 5), np.int64), TypeError, r"images.*uint8"),
        (torch.zeros(5), ValueError, "images"),
        (torch.zeros(2, 5, 5), ValueError, "1 or 3 channels"),
        (torch.zeros(1, 0, 5), ValueError, "empty"),
        (torch.zeros(5, 5, requires_grad=True), ValueError, r"gradient.*SIFT"),
        (torch.zeros(5, 5, device="meta"), ValueError, "CPU"),
    ):
        with pytest.raises(error, match=message):
            sift(images, variant=variant)
    with torch.no_grad():
        sift(torch.zeros(5, 5, requires_grad=True), variant=variant)


def test_an_image_larger_than_any_memory() -> None:
    with pytest.raises(ValueError, match=r"2\^40 pixels"):
        sift(torch.zeros(1, 1).expand(2**29, 2**29), first_octave=-1)


def test_working_memory_beyond_64_bits() -> None:
    batch, side = 2**20, 2**20 - 32
    images = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (batch, 1, side, side))
    with pytest.raises(MemoryError):
        _native.sift(described(images), 3, 0, 0.0, 10.0, batch)


@pytest.mark.gpu
def test_cuda_tensors_are_rejected() -> None:
    with pytest.raises(ValueError, match="CPU"):
        sift(torch.zeros(8, 8, device="cuda"))


def test_native_function_checks_again() -> None:
    image = torch.zeros(1, 1, 8, 8)
    described = (image.data_ptr(), (1, 1, 8, 8), tuple(4 * stride for stride in image.stride()), "float32", "cpu")
    good = (3, 0, 0.0, 10.0)
    for parameters in ((0, *good[1:]), (3, -2, *good[2:]), (*good[:2], -1.0, 10.0), (*good[:3], 0.0)):
        with pytest.raises(ValueError, match="must be"):
            _native.sift(described, *parameters, 1)
    for wrong in (
        (*described[:3], "float16", "cpu"),
        (*described[:4], "cuda:0"),
        (described[0], (1, 2, 8, 8), *described[2:]),
    ):
        with pytest.raises(ValueError, match=r"must|expected"):
            _native.sift(wrong, *good, 1)
