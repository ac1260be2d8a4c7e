"""Test training on keypoints with colors, from an inverter of keypoints without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import photographs
from preimage import training
from preimage.inverters import Inverter
from preimage.keypoints import Keypoints
from preimage.representations import create_representation
from preimage.representations.sift import Sift, _with_fewer_colors
from preimage.training.builders import build_inverter
from preimage.training.dataset_factory import open_dataset
from samplers import save_with_sampler
from training_runs import small_config

PLAIN, IN_COLOR = Sift(variant="opencv"), Sift(variant="opencv", color=True)
SETTINGS = {"representation": "sift", "parameters": {"variant": "opencv"}}
COLORED = {"representation": "sift", "parameters": {"variant": "opencv", "color": True}, "preset": None}


def photos(count: int = 3) -> torch.Tensor:
    images = [photographs()[name][:128, :128] for name in ("astronaut", "chelsea", "coffee")]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).repeat(-(-count // 3), 1, 1, 1)[:count]


def test_plain_features_are_those_of_before() -> None:
    """The draws for colors come after those for keypoints, in one call for an image."""
    images = photos()
    for row in range(3):
        plain = PLAIN.for_training(images[row : row + 1], (1, 2, row))
        in_color = IN_COLOR.for_training(images[row : row + 1], (1, 2, row))
        assert torch.equal(in_color[:, :133], plain)


def test_a_random_fraction_of_the_keypoints_has_no_color() -> None:
    features = IN_COLOR.for_training(photos(), (5, 3))
    assert torch.equal(features, IN_COLOR.for_training(photos(), (5, 3)))
    unknown = Keypoints.from_grid(features, 4).colors.isnan().all(dim=1)
    assert unknown.any() and not unknown.all()
    keypoints = Keypoints.cat([IN_COLOR.keypoints(photos(1))] * 400)
    fewer = _with_fewer_colors(keypoints, np.random.default_rng(0))
    assert not keypoints.colors.isnan().any() and torch.equal(fewer.descriptors, keypoints.descriptors)
    known = ~fewer.colors.isnan().any(dim=1)
    assert torch.equal(fewer.colors[known], keypoints.colors[known])
    fractions = 1 - known.view(400, -1).float().mean(dim=1)
    colorless = fractions == 1
    assert 0.01 < colorless.float().mean() < 0.1
    assert fractions[~colorless].mean() == pytest.approx(0.3, abs=0.03) and fractions[~colorless].max() < 0.8


def test_training_starts_from_an_inverter_without_colors(photo_folder: Path, tmp_path: Path) -> None:
    first = training.run(small_config(photo_folder, tmp_path / "plain", **SETTINGS, steps=3, ema_decay=0.0))
    narrow = Inverter.load(first.folder)
    settings = COLORED | {"init": str(first.folder), "steps": 3, "optimizer": "muon"}
    config = small_config(photo_folder, tmp_path / "color", **settings)
    resolved, dataset = open_dataset(config)
    wide = build_inverter(resolved, dataset).eval()
    features = IN_COLOR(photos())
    with torch.inference_mode():
        torch.testing.assert_close(wide(features), narrow(features[:, :133]), atol=1e-5, rtol=0)
    summary = training.run(config)
    trained = Inverter.load(summary.folder)
    assert trained.spec == IN_COLOR.spec and trained.config == narrow.config
    assert trained.training_notes["init"] == str(first.folder)
    weight = trained.get_parameter("network.entry.0.conv.weight")
    assert weight.shape[1] == 136 and weight[:, 133:].any()


def test_statistics_of_further_channels_are_measured(photo_folder: Path, tmp_path: Path) -> None:
    """An architecture that normalizes features keeps the statistics that its weights were trained with."""
    torch.manual_seed(0)
    single = create_representation("sift", variant="opencv", cell_size=8)
    config = small_config(
        photo_folder,
        tmp_path / "plain",
        representation="sift",
        parameters={"variant": "opencv", "cell_size": 8},
        preset="paper-like",
        steps=1,
    )
    presets = dict(Sift.presets)
    try:
        layers = ["c3/2 8", "up 8", "up 8", "up 8", "up 3"]
        Sift.presets = {**presets, "paper-like": {"architecture": "single-stream", "layers": layers}}
        first = training.run(config)
    finally:
        Sift.presets = presets
    parameters = {"variant": "opencv", "cell_size": 8, "color": True}
    config = small_config(
        photo_folder, tmp_path / "color", **COLORED | {"parameters": parameters}, init=str(first.folder), steps=1
    )
    wide, narrow = build_inverter(*open_dataset(config)), Inverter.load(first.folder)
    assert narrow.spec == single.spec
    assert torch.equal(wide.feature_mean[:133], narrow.feature_mean)
    assert torch.equal(wide.feature_deviation[:133], narrow.feature_deviation)
    assert torch.equal(wide.image_mean, narrow.image_mean)
    assert (wide.feature_mean[133:] != 0).all() and (wide.feature_deviation[133:] < 0.5).all()


def test_other_inverters_are_refused(photo_folder: Path, tmp_path: Path, tiny: Path) -> None:
    first = training.run(small_config(photo_folder, tmp_path / "plain", **SETTINGS, steps=1))
    other = COLORED | {"parameters": {"variant": "vlfeat", "color": True}}
    for settings, init, words in (
        (other, first.folder, r"other features.*color.*variant"),
        (COLORED, tiny, "other features.*representation"),
    ):
        with pytest.raises(ValueError, match=words):
            training.run(small_config(photo_folder, tmp_path / "x", **settings, init=str(init), steps=1))
    second = small_config(photo_folder, tmp_path / "color", **COLORED, init=str(first.folder), steps=1)
    in_color = training.run(second).folder
    back = SETTINGS | {"preset": None, "init": str(in_color), "steps": 1}
    with pytest.raises(ValueError, match=r"other features.*channels: 133 != 136"):
        training.run(small_config(photo_folder, tmp_path / "x", **back))
    sampler = save_with_sampler(first.folder, tmp_path / "sampler")
    with pytest.raises(ValueError, match=r"first 133 of 136 channels.*sampler"):
        training.run(small_config(photo_folder, tmp_path / "x", **COLORED, init=str(sampler), sampler=True, steps=1))
