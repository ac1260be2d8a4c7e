"""Test files of version 0.1: a run in its folder resumes, with the same checkpoint and feature cache."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from cache_runs import Notes
from paths import GOLDEN
from preimage import training
from preimage.inverters import Inverter, UShapedConfig
from preimage.inverters.architectures import config_to_dict
from preimage.representations.hog import Hog
from preimage.store import FeatureStore
from preimage.training import TrainConfig, checkpoint
from training_runs import metrics_without_time

# Losses of the last two steps when version 0.1 resumed the run, and its error on the validation images.
LOSSES = [0.2651144564151764, 0.2310306429862976]
ERROR = 0.7577103712130566
ROUNDING = 2e-3  # Muon in bfloat16 or float32


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that ended after four of six steps, beside its photographs."""
    shutil.copytree(GOLDEN / "run_0_1", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    network = UShapedConfig(widths=(4,), blocks_down=(1,), blocks_up=(), head=(8, 4))
    monkeypatch.setattr(Hog, "presets", {**Hog.presets, "tiny": config_to_dict(network)})
    return Path("run")


def config_of(run: Path) -> TrainConfig:
    return TrainConfig.from_json((run / "train.json").read_text())


def test_settings_have_todays_names(run: Path) -> None:
    config = config_of(run)
    assert (config.val_count, config.size, config.optimizer, config.grad_clip) == (2, 32, "muon", 1.0)
    assert (config.lr, config.muon_lr, config.eval_every, config.save_every) == (1e-3, 0.02, 2, 2)
    assert (config.cache_crops, config.max_hours, dict(config.parameters)) == (2, None, {"color": "luma"})
    assert checkpoint.read_header(run / checkpoint.CHECKPOINT)[0] == config


def test_a_run_from_an_inverter_had_a_preset(run: Path) -> None:
    """Resuming it without a preset, the default, is no change of settings."""
    then = dataclasses.replace(config_of(run), init="hog-compact", preset="compact")
    now = dataclasses.replace(then, preset=None)
    assert now.preset is None and now.changes(then) == [] == then.changes(now)
    assert dataclasses.replace(now, init="other").changes(then) == ["init: 'other' != 'hog-compact'"]


def test_the_checkpoint_has_todays_names(run: Path) -> None:
    path = run / checkpoint.CHECKPOINT
    _, progress = checkpoint.read_header(path)
    assert (progress.step, progress.step_finished, progress.loss_count) == (4, False, 1)
    assert checkpoint.read_spec(path).parameters["color"] == "luma"
    images = checkpoint.read_images(path)
    assert (list(images.train), list(images.val)) == (["1", "2", "4", "5"], ["0", "3"])


def test_the_run_resumes_with_its_cache(run: Path) -> None:
    notes = Notes()
    summary = training.run(config_of(run), resume=True, display=notes)
    assert any("all are in" in note for note in notes.notes), "nothing is computed again"
    assert len(list((run / "cache").iterdir())) == 1
    losses = [line["loss"] for line in metrics_without_time(run) if "loss" in line]
    assert len(losses) == 6
    assert losses[4:] == pytest.approx(LOSSES, rel=ROUNDING)
    assert summary.error == pytest.approx(ERROR, rel=ROUNDING)


def test_the_resumed_run_resumes_again(run: Path) -> None:
    config = config_of(run)

    class Ends(Notes):
        def update(self, progress: object, loss: float) -> None:
            if progress.step == 5:  # type: ignore[attr-defined]
                raise OSError("the machine went away")

    with pytest.raises(OSError, match="went away"):
        training.run(config, resume=True, display=Ends())
    assert checkpoint.read_header(run / checkpoint.CHECKPOINT)[1].step == 5
    assert training.run(config, resume=True).error == pytest.approx(ERROR, rel=ROUNDING)


def test_the_cache_is_a_store(run: Path) -> None:
    (folder,) = (run / "cache").iterdir()
    store = FeatureStore(folder)
    store.verify()
    assert store.index is not None
    assert dict(store.index.source)["crops"] == 2
    assert store.spec.parameters["color"] == "luma"


def test_the_inverter_loads(run: Path) -> None:
    notes = Inverter.load(run).training_notes
    assert (notes["size"], notes["val_images"]) == (32, 2)
    fields = json.loads((run / "config.json").read_text())["training"]
    assert notes["normalized_error"] == fields["normalised_error"]
