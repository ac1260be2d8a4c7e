"""Test the parameters of VLFeat's SIFT that `preimage.sift` fixes, and given frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

import tolerances
import vlfeat
from implementations import instruction_set
from native_arguments import described
from preimage import Keypoints, reference, sift
from preimage.ops import _native
from preimage.ops.sift import vlfeat_sift

IMAGE = skimage.data.camera()[60:190, 150:271].astype(np.float32) / np.float32(255)
OTHERS: dict[str, Any] = {"magnification": 5.0, "window_size": 1.0, "norm_threshold": 0.5}


def frames_of(found: Keypoints) -> np.ndarray:
    return np.stack([found.x, found.y, found.scale, found.angle], axis=1)


@pytest.mark.parametrize("name", _native.instruction_sets())
def test_every_instruction_set_is_the_portable_one(name: str) -> None:
    frames = np.random.default_rng(0).uniform(0, 1, (50, 4)) * [121, 130, 40, 6.28] + [0, 0, 0.3, 0]
    for options in ({}, {"octaves": 2}, {"frames": frames.astype(np.float32)}, {"frames": frames, "orient": True}):
        with instruction_set("portable"):
            expected = vlfeat_sift(IMAGE, **OTHERS, **options)
        with instruction_set(name):
            found = vlfeat_sift(IMAGE, **OTHERS, **options)
        assert np.array_equal(frames_of(found), frames_of(expected)) and len(found.x)
        assert np.array_equal(found.descriptors, expected.descriptors)


def test_the_defaults_are_those_of_sift() -> None:
    found, expected = vlfeat_sift(IMAGE), sift(IMAGE)
    assert np.array_equal(frames_of(found), frames_of(expected))
    assert np.array_equal(found.descriptors, expected.descriptors)


def test_definition_in_double_precision() -> None:
    found = vlfeat_sift(IMAGE, octaves=2, **OTHERS)
    defined = reference.sift(IMAGE, count=2, **OTHERS)
    others = torch.stack(defined[:4], dim=1).numpy()
    pairs = np.abs(frames_of(found)[:, None] - others[None]).max(axis=2) <= tolerances.SIFT_PRECISION
    first, second = np.nonzero(pairs)
    assert len(set(first)) >= tolerances.SIFT_FOUND * len(others) > 20
    assert np.abs(found.descriptors[first] - defined.descriptors.numpy()[second]).max() <= tolerances.SIFT
    zeros = ~found.descriptors.any(axis=1)
    assert 0 < zeros.sum() < len(zeros)


def test_octaves() -> None:
    every = vlfeat_sift(IMAGE)
    counts = [len(vlfeat_sift(IMAGE, octaves=count).x) for count in range(4)]
    assert counts[0] == 0 and counts == sorted(counts) and counts[1] < counts[2]
    # More octaves than usual find more, down to sides of three pixels.
    assert len(vlfeat_sift(IMAGE, octaves=99).x) >= len(every.x)
    assert np.array_equal(frames_of(vlfeat_sift(IMAGE, octaves=1)), frames_of(every)[: counts[1]])


def test_detected_frames_describe_themselves() -> None:
    """Describe detected frames again: equal are those that were found at the level nearest to their scale."""
    found = vlfeat_sift(IMAGE)
    again = vlfeat_sift(IMAGE, frames=frames_of(found))
    order = [int(np.flatnonzero((frames_of(found) == frame).all(axis=1))[0]) for frame in frames_of(again)]
    assert sorted(order) == list(range(len(found.x)))
    # Not to the bit: detected angles are rounded to float32 after their descriptors are computed.
    same = np.abs(again.descriptors - found.descriptors[order]).max(axis=1) <= tolerances.SIFT_PRECISION
    assert same.mean() > 0.8
    oriented = vlfeat_sift(IMAGE, frames=frames_of(found)[:1] * np.float32([1, 1, 1, 0]), orient=True)
    assert found.angle[0] in oriented.angle


def test_angles_are_modulo_a_turn() -> None:
    turns = np.float32([-2, -1, 0, 1, 150]) * np.float32(2 * math.pi) + np.float32(0.7)
    frames = np.stack([np.full(5, 60), np.full(5, 61), np.full(5, 3), turns], axis=1).astype(np.float32)
    found = vlfeat_sift(IMAGE, frames=frames)
    assert np.array_equal(found.angle, turns)
    assert np.abs(found.descriptors - found.descriptors[2]).max() <= tolerances.SIFT
    assert len({row.tobytes() for row in vlfeat_sift(IMAGE, frames=frames + np.float32([0, 0, 0, 1])).descriptors}) > 1


def test_windows_wider_than_a_row() -> None:
    """Rows of the window are processed in pieces of 512 pixels."""
    image = np.random.default_rng(0).uniform(0, 1, (40, 1500)).astype(np.float32)
    frames = np.float32([[700, 20, 3, 0.3], [520, 10, 900, 0.1]])
    for first_octave in (0, -1):
        options = {"first_octave": first_octave, "magnification": 150.0}
        found = vlfeat_sift(image, frames=frames, **options)
        assert found.descriptors.any(axis=1).all()
        if vlfeat.library() is not None:
            _, right = vlfeat.sift(image, frames, **options)
            assert np.abs(found.descriptors - right).max() <= tolerances.SIFT


def test_pixels_that_are_not_finite() -> None:
    image = IMAGE.copy()
    image[60, 60], image[5, 5] = math.nan, 3e38
    frames = np.float32([[60, 60, 2, 1], [110, 120, 2, 1], [4, 4, 2, 1]])
    found = vlfeat_sift(image, frames=frames)
    assert np.isfinite(found.descriptors).all() and found.descriptors.any(axis=1).tolist()[:2] == [False, True]
    clean = vlfeat_sift(IMAGE, frames=frames)
    assert np.array_equal(found.descriptors[1], clean.descriptors[1])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"octaves": -1}, "octaves.*-1"),
        ({"magnification": 0.0}, "magnification"),
        ({"magnification": math.nan}, "magnification"),
        ({"window_size": 0.0}, "window_size"),
        ({"norm_threshold": math.inf}, "norm_threshold"),
        ({"frames": np.zeros((2, 3), np.float32)}, "frames.*2, 3"),
        ({"frames": np.float32([[1, 2, 0, 0]])}, "frames.*scales"),
        ({"frames": np.float32([[1, math.nan, 1, 0]])}, "frames.*finite"),
        ({"frames": np.float32([[1, 2, 1, 2000]])}, "frames.*angles"),
        ({"levels": 0}, "levels.*0"),
    ],
    ids=str,
)
def test_bad_values(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vlfeat_sift(IMAGE, **options)


def test_bad_types() -> None:
    with pytest.raises(TypeError, match="octaves"):
        vlfeat_sift(IMAGE, octaves=1.0)  # type: ignore[arg-type]


def test_native_frames() -> None:
    batch, frames = np.stack([IMAGE, IMAGE])[:, None], np.ones((1, 1, 3, 4), np.float32)
    arguments = 3, 0, 0.0, 10.0, 1
    for images, given in (
        (batch, described(frames)),
        (batch[:1], described(frames.astype(np.float16))),
        (batch[:1], described(frames[..., ::2, :])),
        (batch[:1], described(frames.transpose(1, 2, 0, 3))),
        (batch[:1], described(frames, device="cuda:0")),
    ):
        with pytest.raises(ValueError, match=r"frames|float32|cpu"):
            _native.sift(described(images), *arguments, frames=given)
