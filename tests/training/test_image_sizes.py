"""Training on images of several sizes."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from paths import ROOT
from preimage import training
from preimage.inverters import Inverter
from preimage.training import Display
from preimage.training.checkpoint import Progress
from preimage.training.image_sizes import other_sides, side_of
from preimage.training.step import EagerStep
from training_runs import metrics_without_time, small_config, weights


def test_half_of_the_steps_have_another_size() -> None:
    assert {side_of(step, 64, (), 0) for step in range(10)} == {64}
    sides = [side_of(step, 64, (32, 40, 48, 56), 3) for step in range(4000)]
    counts = collections.Counter(sides)
    assert counts[64] == pytest.approx(2000, rel=0.1)
    assert all(counts[side] == pytest.approx(500, rel=0.2) for side in (32, 40, 48, 56))
    assert sides[100] == side_of(100, 64, (32, 40, 48, 56), 3)
    assert sides != [side_of(step, 64, (32, 40, 48, 56), 4) for step in range(4000)]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each step adds the side of its images."""
    sides: list[int] = []
    call = EagerStep.__call__

    def note(self: EagerStep, images: torch.Tensor, *rest: Any, **named: Any) -> None:
        sides.append(images.shape[2])
        assert images.shape[2] == images.shape[3]
        call(self, images, *rest, **named)

    monkeypatch.setattr(EagerStep, "__call__", note)
    return sides


@pytest.mark.parametrize(
    ("representation", "sides"), [("hog", (32, 40, 48, 56)), ("dense-sift", (32, 36, 40, 44, 48, 52, 56, 60))]
)
def test_images_have_sizes_that_are_reconstructed_completely(
    photo_folder: Path, tmp_path: Path, seen: list[int], representation: str, sides: tuple[int, ...]
) -> None:
    preset = "tiny" if representation == "hog" else "compact"
    config = small_config(
        photo_folder, tmp_path / "run", representation=representation, preset=preset, min_size=30, steps=24
    )
    training.run(config)
    assert seen == [side_of(step, 64, sides, 0) for step in range(24)]


class _Stopping(Display):
    def update(self, progress: Progress, loss: float) -> None:
        if progress.step == 12:
            raise RuntimeError("stopped at step 12")


def test_resuming_does_not_change_the_sizes(tmp_path: Path, photo_folder: Path) -> None:
    whole = small_config(photo_folder, tmp_path / "whole", min_size=32, steps=20)
    training.run(whole)
    stopped = dataclasses.replace(whole, output=str(tmp_path / "parts"))
    with pytest.raises(RuntimeError, match="step 12"):
        training.run(stopped, display=_Stopping())
    with pytest.raises(ValueError, match="min_size"):
        training.run(dataclasses.replace(stopped, min_size=None), resume=True)
    training.run(stopped, resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert metrics_without_time(tmp_path / "whole") == metrics_without_time(tmp_path / "parts")


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_keypoints_are_trained_on_several_sizes(
    tmp_path: Path, photo_folder: Path, seen: list[int], cache: str
) -> None:
    config = small_config(photo_folder, tmp_path / "run", representation="sift", min_size=32, steps=8, cache=cache)
    training.run(config)
    assert len(set(seen)) > 1
    assert Inverter.load(tmp_path / "run").training_notes["min_size"] == 32


def test_samplers_are_trained_on_several_sizes_from_32_pixels_on(
    tmp_path: Path, photo_folder: Path, seen: list[int]
) -> None:
    training.run(small_config(photo_folder, tmp_path / "inverter", steps=2))
    settings = {"init": str(tmp_path / "inverter"), "preset": None, "sampler": True, "min_size": 8, "steps": 40}
    seen.clear()
    training.run(small_config(photo_folder, tmp_path / "sampler", **settings))
    assert set(seen) == {32, 40, 48, 56, 64}
    with pytest.raises(ValueError, match="size must be above 32 for a sampler, got 32"):
        training.run(small_config(photo_folder, tmp_path / "small", **settings, size=32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_size": 0}, "min_size must be an integer of at least 1, got 0"),
        ({"min_size": 32, "cache": "on"}, "min_size does not apply to .*cache='on'"),
        ({"min_size": 60}, "no image of at least min_size 60 and less than 64 pixels.*hog"),
        ({"min_size": 65}, "no image of at least min_size 65 and less than 64 pixels.*hog"),
    ],
)
def test_names_what_does_not_fit(tmp_path: Path, photo_folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training.run(small_config(photo_folder, tmp_path / "run", **changes))


def test_inverters_of_one_size_are_refused() -> None:
    inverter = Inverter.load(ROOT / "models" / "alexnet-conv5-compact")
    with pytest.raises(ValueError, match="min_size does not apply to alexnet-conv5: its images have one size"):
        other_sides(inverter, lambda height, width: (6, 6), 32, 227)
