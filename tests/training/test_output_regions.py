"""Test training on features of images of one size: vectors, and maps that are inverted to an output region."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_graphed_step import again, everything

from preimage import training
from preimage.inverters import Inverter
from preimage.inverters.plan import plan
from preimage.io import decode_file, list_images
from preimage.metrics import NormalizedError
from preimage.pipelines.demo import demo
from preimage.pipelines.evaluate import evaluate
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.pipelines.sheet import sheet
from preimage.representations import registry
from preimage.representations.hog import Hog
from preimage.store import FeatureStore
from preimage.training import TrainConfig, builders, dataset_factory, graphed_step, statistics
from preimage.training.dataset import are_probabilities
from preimage.training.graphed_step import GraphedStep
from preimage.training.images import ImageSet
from preimage.training.sampling import center_crops
from preimage.training.step import EagerStep, TrainState, batch_loss
from tolerances import training_loss
from toys import NETWORKS, SIDE, ToyMaps, ToyProbabilities, ToyVectors, introduce
from training_runs import metrics_without_time, small_config

pytestmark = pytest.mark.usefixtures("toys")

KINDS = {"toy-maps": ToyMaps, "toy-vectors": ToyVectors}


def toy_config(images: Path, output: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"representation": "toy-maps", "size": None, "cache": "off"}
    return small_config(images, output, **settings | changes)


@pytest.fixture(scope="module")
def runs(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of short runs by representation."""
    with pytest.MonkeyPatch.context() as patch:
        introduce(patch)
        folders = {}
        for name in KINDS:
            folder = tmp_path_factory.mktemp("runs") / name
            config = toy_config(photo_folder, folder, representation=name, steps=200, eval_every=50)
            folders[name] = training.run(config).folder
    return folders


@pytest.mark.parametrize("name", KINDS)
def test_learns_what_its_view_shows(photo_folder: Path, runs: dict[str, Path], name: str) -> None:
    inverter = Inverter.load(runs[name])
    assert (inverter.spec, inverter.output_region) == (
        KINDS[name]().spec,
        NETWORKS[(4, 4) if name == "toy-maps" else None][1],
    )
    errors = [line["error"] for line in metrics_without_time(runs[name]) if "error" in line]
    assert errors[-1] < 0.95 * errors[0]
    assert json.loads((runs[name] / "train.json").read_text())["size"] == SIDE
    images = center_crops(ImageSet(list_images(photo_folder)[::5]), SIDE)
    measure = NormalizedError()
    measure.update(inverter.target(images).float() / 255, inverter(KINDS[name]()(images)))
    assert measure.report().error == pytest.approx(inverter.training_notes["normalized_error"], rel=1e-3)
    samples = sorted((runs[name] / "samples").iterdir())
    assert len(samples) == 4
    assert decode_file(samples[0]).shape[1] < 3 * 256, "original and reconstruction only"


@pytest.mark.parametrize("name", KINDS)
def test_pipelines_on_images_of_one_size(photo_folder: Path, runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    inverter, kind = Inverter.load(runs[name]), KINDS[name]()
    assert inverter.output_region is not None
    summary = evaluate(runs[name], photo_folder)
    assert (summary.size, summary.images) == (inverter.output_region.size, 20)
    assert evaluate(runs[name], photo_folder, representation=kind, size=SIDE).error == summary.error
    column = sheet(photo_folder, tmp_path / "s.png", inverter=runs[name], tile=64).columns[0]
    assert column.error == pytest.approx(summary.error, rel=0.02)
    extract(kind, photo_folder, tmp_path / "f", resume=False)
    file = FeatureStore(tmp_path / "f")
    assert np.array_equal(file.processed_sizes, [(SIDE, SIDE)] * 20)
    assert invert(tmp_path / "f", tmp_path / "out", inverter=runs[name]).images == 20
    assert decode_file(tmp_path / "out" / "camera-0.png").shape == (
        inverter.output_region.crop,
        inverter.output_region.crop,
        3,
    )
    (result,) = demo(photo_folder, tmp_path / "demo", inverter=runs[name]).results
    assert result.shape == tuple(file[0].shape)
    assert 0.5 * summary.error < result.error < 1.5 * summary.error
    page = (tmp_path / "demo" / "index.html").read_text()
    assert f"({SIDE} × {SIDE} pixels)" in page
    assert "no color" not in page


def test_representations_of_other_sizes_side_by_side(
    photo_folder: Path, runs: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    some = sorted(photo_folder.glob("*-0.jpg"))
    summary = sheet(some, tmp_path / "s.png", inverter=[tiny, *runs.values()], tile=64)
    assert [column.representation for column in summary.columns] == ["hog", *KINDS]
    assert all(column.error is not None for column in summary.columns)
    results = demo(some, tmp_path / "demo", inverter=[tiny, *runs.values()]).results
    assert [result.spec.representation for result in results] == ["hog", *KINDS]
    assert "(32 × 32 or 384 × 384 pixels)" in (tmp_path / "demo" / "index.html").read_text()


def test_other_sizes_are_refused(photo_folder: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    words = r"toy-maps.*32×32"
    with pytest.raises(ValueError, match=rf"{words}.*64"):
        training.run(toy_config(photo_folder, tmp_path / "x", size=64))
    with pytest.raises(ValueError, match=rf"{words}.*64"):
        extract(ToyMaps(), photo_folder, tmp_path / "f", size=64)
    for pipeline in (evaluate, lambda *given, **size: sheet(given[1], tmp_path / "s.png", inverter=given[0], **size)):
        with pytest.raises(ValueError, match=rf"{words}.*64"):
            pipeline(runs["toy-maps"], photo_folder, size=64)
    with pytest.raises(ValueError, match=rf"{words}.*64"):
        demo(photo_folder, tmp_path / "demo", inverter=runs["toy-maps"], size=64)
    with pytest.raises(ValueError, match=r"parameters\.scale: 1\.0 != 2\.0"):
        evaluate(runs["toy-maps"], photo_folder, representation=ToyMaps(scale=2.0))


def test_starts_from_an_inverter_of_the_same_view(
    photo_folder: Path, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(photo_folder, tmp_path / "x", init=str(runs["toy-maps"]), steps=1)
    assert training.run(config).error < 1.1 * Inverter.load(runs["toy-maps"]).training_notes["normalized_error"]
    network, view = NETWORKS[(4, 4)]
    monkeypatch.setitem(NETWORKS, (4, 4), (network, dataclasses.replace(view, crop=30)))
    with pytest.raises(ValueError, match=r"output region.*'tiny'"):
        training.run(dataclasses.replace(config, output=str(tmp_path / "y")))
    summary = training.run(dataclasses.replace(config, output=str(tmp_path / "z"), preset=None))
    assert Inverter.load(summary.folder).output_region == view


def test_a_representation_that_no_name_makes(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(registry._REGISTER, "toy-maps")
    config = toy_config(photo_folder, tmp_path / "run", steps=2, preset="auto")
    with pytest.raises(ValueError, match=r"representation.*'toy-maps'"):
        training.run(config)
    with pytest.raises(ValueError, match=r"'toy-maps'.*toy-vectors"):
        training.run(config, representation=ToyVectors())
    summary = training.run(config, representation=ToyMaps(scale=3.0))
    assert Inverter.load(summary.folder).spec == ToyMaps(scale=3.0).spec
    assert evaluate(summary.folder, photo_folder, representation=ToyMaps(scale=3.0)).images == 20
    with pytest.raises(ValueError, match=r"parameters\.scale: 2\.0 != 3\.0"):
        training.run(config, representation=ToyMaps(scale=2.0), resume=True)


def test_budget_and_output_size_reach_the_plan(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    planned = builders.plan
    monkeypatch.setattr(builders, "plan", lambda *given, **named: (asked.update(named), planned(*given, **named))[1])
    config = toy_config(photo_folder, tmp_path / "x", output_size=16, budget=10**6)
    builders.build_inverter(*dataset_factory.open_dataset(config))
    sizes = {"output_size": 16, "budget": 10**6}
    assert asked == {"cells": (4, 4), "image_size": SIDE, **sizes, "probabilities": False}


@pytest.mark.parametrize(
    ("kind", "floor"), [(ToyProbabilities, 1e-7), (ToyVectors, 0.0), (ToyMaps, 0.0)], ids=lambda value: str(value)[-20:]
)
def test_of_probabilities_the_logarithms_are_taken(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ToyMaps], floor: float
) -> None:
    monkeypatch.setattr(builders, "plan", plan)
    shape = {"preset": "auto", "output_size": 16, "budget": 200_000}
    config, dataset = dataset_factory.open_dataset(
        toy_config(photo_folder, tmp_path / "x", representation=kind.name, **shape)
    )
    model = builders.build_inverter(config, dataset)
    assert model.network.log_floor == floor
    statistics.set_statistics(model, dataset)
    features = torch.cat([kind()(batch.images) for batch in dataset.examples(with_features=False)])
    if floor:
        assert features.min() < 1e-6
        features = features.double().clamp_min(floor).log()
    channels = features.transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.feature_mean, channels.mean(dim=1).float(), atol=1e-5, rtol=1e-5)
    least = 0.01 * channels.std(dim=1).mean()
    wanted = channels.std(dim=1).clamp_min(least).float()
    torch.testing.assert_close(model.feature_deviation, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "are"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], True),
        ([[0.25, 0.745], [1.0, 0.0]], True),
        ([[0.25, 0.75], [1.0, 0.1]], False),
        ([[1.25, -0.25]], False),
        ([[float("nan"), 1.0]], False),
        ([[[[0.5]], [[0.5]]]], False),
    ],
    ids=str,
)
def test_what_probabilities_are(values: list[Any], are: bool) -> None:
    assert are_probabilities(torch.tensor(values)) is are
    assert are_probabilities(torch.tensor(values).half()) is are


def test_statistics_are_those_of_all_examples(photo_folder: Path, tmp_path: Path) -> None:
    for name, kind in KINDS.items():
        config, dataset = dataset_factory.open_dataset(toy_config(photo_folder, tmp_path / "x", representation=name))
        model = builders.build_inverter(config, dataset)
        statistics.set_statistics(model, dataset)
        sources = list_images(photo_folder)
        images = center_crops(ImageSet([sources[i] for i in range(20) if i not in (0, 5, 10, 15)]), SIDE)
        values = kind()(images).transpose(0, 1).flatten(1)
        deviation = values.std(dim=1)
        torch.testing.assert_close(model.feature_mean, values.mean(dim=1))
        if name == "toy-vectors":
            assert deviation[-1] == 0
            deviation[-1] = 0.01 * deviation.mean()
        assert deviation.min() > 0.009 * deviation.mean()
        torch.testing.assert_close(model.feature_deviation, deviation)
        torch.testing.assert_close(model.image_mean, images.float().mean(dim=(0, 2, 3)) / 255)


def test_validation_features_are_computed_once_where_they_fit(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dataset = dataset_factory.open_dataset(toy_config(photo_folder, tmp_path / "x"))
    for room, computed in ((1000, 8), (1 << 20, 4)):
        monkeypatch.setattr("preimage.training.dataset._VAL_FEATURE_BYTES", room)
        ToyMaps.calls = 0
        first, second = ([*dataset.val_batches(3)] for _ in range(2))
        assert ToyMaps.calls == computed
        for one, other in zip(first, second, strict=True):
            assert one.features is not None and other.features is not None
            assert torch.equal(one.features, other.features)


def test_a_dead_channel_of_descriptors_is_left_alone(photo_folder: Path, tmp_path: Path) -> None:
    config, dataset = dataset_factory.open_dataset(small_config(photo_folder, tmp_path / "x"))
    model = builders.build_inverter(config, dataset)

    class Dead(Hog):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            features = super().__call__(images)
            features[:, 3] = 0
            return features

    dataset.representation = Dead()
    statistics.set_statistics(model, dataset)
    assert model.feature_deviation[3] == np.float32(1e-6)


def test_settings_of_earlier_versions_load(tmp_path: Path) -> None:
    config = TrainConfig(representation="hog", images=("a",), output=str(tmp_path), size=256)
    old = json.loads(config.to_json())
    for name in ("features", "features_name", "allow_missing", "output_size", "budget"):
        del old[name]
    for name in ("cache", "cache_crops", "cache_folder"):
        del old[name]
    assert TrainConfig.from_json(json.dumps(old)) == config


def train_state(name: str) -> TrainState:
    kind = KINDS[name]()
    images = ("none",)
    config = TrainConfig(
        representation=name, images=images, output="none", size=SIDE, batch_size=4, steps=60, warmup_steps=4
    )
    torch.manual_seed(0)
    network, view = NETWORKS[None if name == "toy-vectors" else (4, 4)]
    model = Inverter(kind.spec, network, output_region=view)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    shape = tuple(kind(torch.zeros(1, 3, SIDE, SIDE)).shape[1:])
    zero = torch.zeros((), dtype=torch.float64)
    optimizers = builders.build_optimizers(model, config)
    return TrainState(config, None, model, average, optimizers, torch.float32, zero, shape)


@pytest.mark.parametrize("name", KINDS)
def test_the_graphed_step_takes_features_that_are_there(name: str) -> None:
    ours, theirs, computing = train_state(name), train_state(name), train_state(name)
    computing.representation, computing.feature_shape = KINDS[name](), None
    steps = GraphedStep(ours, 0, again), EagerStep(theirs), graphed_step.GraphedStep(computing, 0, again)
    for number in range(10):
        generator = torch.Generator().manual_seed(number)
        batch = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        features = KINDS[name]()(batch)
        steps[0](batch, number, features)
        steps[1](batch, number, features)
        steps[2](batch, number)
    rounding = training_loss(torch.float32, 10)[-1].item()
    assert ours.loss_sum.item() == pytest.approx(theirs.loss_sum.item(), rel=rounding)
    assert ours.loss_sum.item() == pytest.approx(computing.loss_sum.item(), rel=rounding)
    mine, other = everything(ours), everything(theirs)
    for key, value in mine.items():
        torch.testing.assert_close(value, other[key], atol=1e-3, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


def test_the_loss_is_a_mean_over_the_view() -> None:
    ours = train_state("toy-maps")
    batch = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    features = ToyMaps()(batch)
    apart = ours.model.reconstruct(features) - ours.model.target(batch).float() / 255
    wanted = apart.square().mean(dim=(1, 2, 3)).sqrt().mean()
    torch.testing.assert_close(batch_loss(ours, ours.model, features, batch), wanted)
