"""Compare sparse SIFT with the real VLFeat, stored and live, and with OpenCV."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import torch

import paths
import preimage
import tolerances
import vlfeat
from golden.make_sift import CROPS
from implementations import kernels
from preimage import Keypoints, reference

pytestmark = pytest.mark.instruction_set

GOLDEN = dict(np.load(paths.GOLDEN / "sift.npz"))
KERNELS = kernels(preimage.sift)
PHOTOGRAPHS = ["astronaut", "camera", "chelsea", "coffee", "rocket"]
# VLFeat writes beyond its memory when it starts with a quarter of the image, so there is no such case.
CASES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "256": ((256, 256), {}),
    "odd": ((299, 213), {}),
    "doubled": ((131, 187), {"first_octave": -1}),
    "halved": ((300, 298), {"first_octave": 1}),
    "one level": ((150, 160), {"levels": 1}),
    "six levels": ((150, 160), {"levels": 6}),
    "thresholds": ((256, 250), {"peak_threshold": 0.012, "edge_threshold": 4.0}),
    "small": ((20, 17), {}),
    "narrow": ((16, 250), {}),
}

needs_vlfeat = pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def sift(images: Any, **options: Any) -> Keypoints:
    """Compute `preimage.sift` and convert the keypoints to tensors."""
    return preimage.sift(images, **options).to_torch()


def gray(name: str, size: tuple[int, int]) -> np.ndarray:
    """Return a central crop as float32 in [0, 1]."""
    image = getattr(skimage.data, name)()
    image = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    top, left = ((have - want) // 2 for have, want in zip(image.shape, size, strict=True))
    return image[top : top + size[0], left : left + size[1]].astype(np.float32) / np.float32(255)


def frames_of(keypoints: Keypoints) -> np.ndarray:
    """Return x, y, scale and angle, (N, 4)."""
    return torch.stack((keypoints.x, keypoints.y, keypoints.scale, keypoints.angle), 1).double().numpy()


def distances(frames: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest distance of positions (pixels) and scales (relative), and the largest distance of angles."""
    apart = np.abs(frames - others)
    apart[..., 2] /= others[..., 2]
    angle = np.minimum(apart[..., 3], 2 * math.pi - apart[..., 3])
    return apart[..., :3].max(-1, initial=0), angle


def check_against_vlfeat(keypoints: Keypoints, frames: np.ndarray, descriptors: np.ndarray, place: float) -> None:
    """Check that keypoints are the same, in the same order."""
    ours = frames_of(keypoints)
    assert len(ours) == len(frames)
    apart, turned = distances(ours, frames)
    assert apart.max(initial=0) <= place
    assert turned.max(initial=0) <= tolerances.SIFT_ANGLE
    left_alone = ~descriptors.any(axis=1)
    assert left_alone.mean() < 0.05 if len(frames) > 20 else True
    difference = np.abs(keypoints.descriptors.numpy() - descriptors)[~left_alone]
    assert difference.max(initial=0) <= tolerances.SIFT
    assert np.median(difference.max(axis=1)) <= tolerances.SIFT_MEDIAN if len(difference) else True


@every_kernel
@pytest.mark.parametrize("name", CROPS)
def test_stored_vlfeat(name: str, kernel: str) -> None:
    keypoints = KERNELS[kernel](GOLDEN[f"{name}.image"], **CROPS[name][-1])
    size = max(GOLDEN[f"{name}.image"].shape)
    check_against_vlfeat(
        keypoints, GOLDEN[f"{name}.frames"], GOLDEN[f"{name}.descriptors"], size * tolerances.SIFT_PLACE
    )


@needs_vlfeat
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_live_vlfeat(name: str, case: str) -> None:
    size, options = CASES[case]
    image = gray(name, size)
    keypoints = sift(image, **options)
    assert len(keypoints.x) > 0 or case == "small"
    check_against_vlfeat(keypoints, *vlfeat.sift(image, **options), max(size) * tolerances.SIFT_PLACE)


@pytest.mark.parametrize("name", PHOTOGRAPHS[:3])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((90, 101), {}),
        ((60, 71), {"first_octave": -1}),
        ((131, 126), {"first_octave": 1, "levels": 4}),
        ((120, 250), {"first_octave": 2}),
        ((110, 90), {"peak_threshold": 0.01, "edge_threshold": 5.0}),
    ],
    ids=str,
)
def test_definition_in_double_precision(name: str, size: tuple[int, int], options: dict[str, Any]) -> None:
    image = gray(name, size)
    keypoints, defined = sift(image, **options), reference.sift(image, **options)
    frames, others = frames_of(keypoints), torch.stack(defined[:4], dim=1).numpy()
    apart, turned = distances(frames[:, None], others[None])
    bound = tolerances.SIFT_PRECISION
    first, second = np.nonzero((apart <= bound) & (turned <= bound))
    assert len(frames) > 0
    assert min(len(set(first.tolist())), len(set(second.tolist()))) >= tolerances.SIFT_FOUND * len(others)
    assert len(frames) <= len(others) / tolerances.SIFT_FOUND
    difference = keypoints.descriptors[first] - defined.descriptors[second]
    assert difference.abs().max() <= tolerances.SIFT
    assert (keypoints.response[first] - defined.response[second]).abs().max() <= tolerances.SIFT_RESPONSE


def test_definition_of_a_batch_in_color() -> None:
    images = skimage.data.astronaut()[100:180, 200:300].transpose(2, 0, 1)
    batch = np.stack([images, np.full_like(images, 7), images[:, ::-1]])
    defined, keypoints = reference.sift(batch), sift(batch)
    assert torch.equal(defined.offsets, keypoints.offsets)
    assert (defined.x - keypoints.x).abs().max() <= tolerances.SIFT_PRECISION
    assert (defined.descriptors - keypoints.descriptors).abs().max() <= tolerances.SIFT


@every_kernel
@pytest.mark.parametrize("name", PHOTOGRAPHS[:3])
def test_instruction_sets_agree_to_the_bit(name: str, kernel: str) -> None:
    image = gray(name, (211, 190))
    expected = KERNELS["portable"](image, first_octave=-1)
    keypoints = KERNELS[kernel](image, first_octave=-1)
    assert np.array_equal(frames_of(keypoints), frames_of(expected))
    assert torch.equal(keypoints.descriptors, expected.descriptors)
    assert torch.equal(keypoints.response, expected.response)


def test_the_convention_holds() -> None:
    keypoints = sift(skimage.data.chelsea().transpose(2, 0, 1))
    assert len(keypoints.x) > 400
    assert (keypoints.descriptors >= 0).all()
    assert (keypoints.descriptors.norm(dim=1) - 1).abs().max() < tolerances.SIFT_LENGTH["vlfeat"]
    assert ((keypoints.angle >= 0) & (keypoints.angle < 2 * math.pi)).all()
    assert ((keypoints.x >= 0) & (keypoints.x <= 450) & (keypoints.y >= 0) & (keypoints.y <= 299)).all()
    assert (keypoints.scale > 1.5).all() and (keypoints.response > 0).all()


def test_the_angle_is_that_of_a_ramp() -> None:
    """A bright blob on a ramp: the gradient's direction, y down, is the angle; orientation 0 is the strongest."""
    y, x = np.mgrid[:64, :64].astype(np.float32)
    for degrees in (20.0, 110.0, 200.0, 300.0):
        turn = math.radians(degrees)
        ramp = 0.5 + 0.004 * ((x - 32) * math.cos(turn) + (y - 32) * math.sin(turn))
        blob = 0.05 * np.exp(-((x - 32) ** 2 + (y - 32) ** 2) / (2 * 3.0**2))
        keypoints = sift(np.float32(ramp + blob), peak_threshold=0.005)
        near = (keypoints.x - 32).hypot(keypoints.y - 32) < 3
        assert near.any()
        best = keypoints.angle[near] - turn
        assert (torch.cos(best) > 0.95).any()
        sums = keypoints.descriptors[near].view(-1, 16, 8).sum(dim=1)
        assert (sums[torch.cos(best) > 0.95].argmax(dim=1) == 0).all()


@pytest.mark.parametrize("side", [31, 30])
def test_a_mirrored_image_has_the_mirrored_keypoints(side: int) -> None:
    """With a side below 32 there is only one octave, whose pixels are the image's."""
    photograph = gray("astronaut", (500, 500))
    strips = np.stack([photograph[None, top : top + side, : 440 + side] for top in range(0, 460, 15)])
    keypoints = sift(np.ascontiguousarray(strips[..., ::-1]))
    expected = sift(strips).mirrored(strips.shape[-1])
    matched = 0
    for index in range(len(strips)):
        ours, theirs = keypoints[index], expected[index]
        apart, turned = distances(frames_of(ours)[:, None], frames_of(theirs)[None])
        first, second = np.nonzero((apart < 1e-2) & (turned < 1e-2))
        matched += len(set(first.tolist()))
        difference = np.abs(ours.descriptors[first].numpy() - theirs.descriptors[second].numpy())
        assert difference.max(initial=0) <= tolerances.SIFT_SYMMETRY
    assert len(keypoints.x) > 200
    assert matched >= 0.97 * len(keypoints.x)


# ---- OpenCV ----


@needs_vlfeat
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_vlfeat_describes_opencvs_keypoints_alike(name: str) -> None:
    image = gray(name, (256, 240))
    keypoints = sift(image, variant="opencv")
    frames, described = vlfeat.sift(image, frames_of(keypoints), first_octave=-1)
    order = [int(np.flatnonzero((frames_of(keypoints) == frame).all(axis=1))[0]) for frame in frames]
    ours = keypoints.descriptors[order].numpy()
    correlations = [np.corrcoef(one, other)[0, 1] for one, other in zip(ours, described, strict=True) if other.any()]
    assert len(correlations) > 40
    assert np.median(correlations) > 0.98
    assert np.quantile(correlations, 0.05) > 0.9


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_variants_agree_where_both_find_a_keypoint(name: str) -> None:
    image = gray(name, (256, 240))
    theirs = sift(image, variant="opencv")
    ours = sift(image, first_octave=-1)
    a, b = frames_of(theirs), frames_of(ours)
    near = np.hypot(a[:, None, 0] - b[:, 0], a[:, None, 1] - b[:, 1]) < 0.5 * a[:, None, 2]
    alike = np.abs(np.log(a[:, None, 2] / b[:, 2])) < 0.1
    turned = np.cos(a[:, None, 3] - b[:, 3]) > 0.99
    first, second = np.nonzero(near & alike & turned)
    assert len(set(first.tolist())) > 0.4 * len(a)
    products = (theirs.descriptors[first] * ours.descriptors[second]).sum(dim=1)
    assert products.median() > 0.95
    # Half a pixel of the doubled image more or less would show.
    assert np.abs(np.median(a[first, 0] - b[second, 0])) < 0.1
    assert np.abs(np.median(a[first, 1] - b[second, 1])) < 0.1


def test_opencv_is_in_the_convention_and_in_order() -> None:
    keypoints = sift(skimage.data.coffee().transpose(2, 0, 1), variant="opencv")
    assert len(keypoints.x) > 400
    assert (keypoints.descriptors >= 0).all()
    assert (keypoints.descriptors.norm(dim=1) - 1).abs().max() < tolerances.SIFT_LENGTH["opencv"]
    assert ((keypoints.angle >= 0) & (keypoints.angle < 2 * math.pi)).all()
    octave = torch.floor((keypoints.scale / 0.8).log2() - 0.2)
    assert (octave.diff() < -0.5).float().mean() < 0.05  # a few lie beyond their octave's middle levels
    assert keypoints.scale[:50].max() < keypoints.scale[-50:].min()
