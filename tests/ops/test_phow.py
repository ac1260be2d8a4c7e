"""Compare PHOW with the reference, and with the real VLFeat's dense SIFT of smoothed images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

import tolerances
import vlfeat
from conftest import photographs
from implementations import KERNELS
from preimage import phow, reference

pytestmark = pytest.mark.instruction_set

IMAGE = photographs()["coffee"][120:200, 240:336]


def gray() -> np.ndarray:
    red, green, blue = (IMAGE[..., channel].astype(np.float32) / np.float32(255) for channel in range(3))
    return np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue


@pytest.mark.parametrize("options", [{}, {"window": "gaussian", "step": 5, "sizes": (7, 3), "magnif": 3.0}], ids=str)
def test_against_the_reference(options: dict[str, object]) -> None:
    scales = phow(torch.from_numpy(IMAGE.transpose(2, 0, 1).copy()), **options)
    expected = reference.phow(IMAGE.transpose(2, 0, 1), **options)
    assert [scale.bin_size for scale in scales] == list(options.get("sizes", (4, 6, 8, 10)))
    for scale, right in zip(scales, expected, strict=True):
        assert (scale.features - right.features).abs().max() <= tolerances.DENSE_SIFT_PRECISION
        assert (scale.norms - right.norms).abs().max() <= tolerances.DENSE_SIFT_NORMS
        assert torch.equal(scale.frames, right.frames)


@pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")
def test_against_vlfeat() -> None:
    """The steps are those of vl_phow.m, with OpenCV's Gaussian instead of vl_imsmooth."""
    height, width = IMAGE.shape[:2]
    for scale in phow(IMAGE.transpose(2, 0, 1)):
        size = scale.bin_size
        side = 2 * int(np.ceil(4 * size / 6)) + 1
        smoothed = cv2.GaussianBlur(gray(), (side, side), size / 6, borderType=cv2.BORDER_REPLICATE)
        offset = 3 * (10 - size) // 2
        bounds = (offset, offset, height - 1, width - 1)
        features, norms, centers = vlfeat.dense_sift(
            smoothed, step=2, bin_size=size, window="flat", window_size=1.5, bounds=bounds
        )
        clear = norms >= 0.0051
        assert clear.mean() > 0.05
        assert np.abs(scale.features - features)[:, clear].max() <= tolerances.DENSE_SIFT_FLAT
        assert not scale.features[:, norms < 0.0049].any()
        assert np.abs(scale.norms[0] - norms).max() <= tolerances.DENSE_SIFT_NORMS
        assert np.array_equal(scale.frames, centers)


def test_all_sizes_share_their_first_center() -> None:
    for scale in phow(torch.rand(50, 60)):
        assert scale.frames[0, 0].tolist() == [15.0, 15.0]
        assert scale.features.shape == (128, *scale.frames.shape[:2])
        assert scale.norms.shape == (1, *scale.frames.shape[:2])


def test_contrast_threshold() -> None:
    image = 0.02 * torch.rand(40, 50)
    kept, dropped = (phow(image, contrast_threshold=threshold)[0] for threshold in (0.0, 0.005))
    low = (kept.norms < 0.005).expand_as(kept.features)
    assert low.any() and torch.equal(kept.norms, dropped.norms)
    assert not dropped.features[low].any() and kept.features[low].any()
    assert torch.equal(dropped.features[~low], kept.features[~low])


def test_types_and_ranks() -> None:
    batch = torch.randint(0, 256, (2, 3, 45, 50), dtype=torch.uint8)
    for scale, other in zip(phow(batch), phow(batch.float() / 255), strict=True):
        assert torch.equal(scale.features, other.features)
    alone = phow(batch[1].numpy(), dtype=torch.uint8)
    for scale, other in zip(phow(batch, dtype=torch.uint8), alone, strict=True):
        assert scale.features.dtype == torch.uint8 and other.features.dtype == np.uint8
        assert np.array_equal(scale.features[1].numpy(), other.features)
        assert np.array_equal(scale.frames.numpy(), other.frames)


def test_tiny_sizes_are_not_smoothed() -> None:
    image = torch.rand(30, 30)
    (scale,) = phow(image, sizes=(2,), magnif=1000.0, contrast_threshold=0.0)
    expected = next(iter(KERNELS["dense_sift"].values()))(image, step=2, bin_size=2, window="flat", window_size=1.5)
    assert torch.equal(scale.features, expected)


def test_gradients_flow_back() -> None:
    image = torch.rand(1, 1, 40, 40, requires_grad=True)
    sum(scale.features.square().sum() + scale.norms.sum() for scale in phow(image, sizes=(4, 6))).backward()
    assert image.grad is not None and image.grad.isfinite().all() and image.grad.any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": ()}, ValueError, "bin size"),
        ({"sizes": (4, 0)}, ValueError, r"size.*1"),
        ({"sizes": (4, 2.5)}, TypeError, r"int.*2\.5"),
        ({"sizes": (4, 10), "step": 0}, ValueError, "step"),
        ({"magnif": 0.0}, ValueError, "magnif"),
        ({"magnif": "6"}, TypeError, "magnif"),
        ({"contrast_threshold": None}, TypeError, "contrast_threshold"),
        ({"window": "box"}, ValueError, "gaussian, flat"),
        ({"sizes": (4, 20)}, ValueError, r"61 x 61.*50 x 60"),
    ],
)
def test_wrong_input_is_named(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        phow(torch.rand(50, 60), **options)
