"""The pipelines as public functions of the package: the same names, parameters and results as on the command line."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import preimage as pi
from preimage import representations
from preimage.inverters import Inverter
from preimage.training import TrainConfig
from preimage.training import run as resume_run
from training_runs import small_config

_SMALL = {
    name: value
    for name, value in small_config(Path("a"), Path("b"), steps=2, save_every=2).__dict__.items()
    if name not in ("representation", "images", "output", "val_images", "parameters")
}


def test_examples_train_and_report_an_error(photo_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hog = representations.create("hog")
    assert len(pi.extract("hog", photo_folder, tmp_path / "photos.hog", size=64)) == 20
    assert pi.extract(hog, photo_folder, tmp_path / "again.hog", size=64).spec == hog.spec
    trained = pi.train("hog", photo_folder, run, **_SMALL)
    assert (trained.steps, trained.folder) == (2, run)
    assert pi.invert(tmp_path / "photos.hog", tmp_path / "out", inverter=run).images == 20
    scores = pi.evaluate(run, photo_folder, size=64)
    assert scores.error > 0
    assert scores.psnr > 0
    assert -1 <= scores.ssim <= 1


def test_train_takes_representations_and_paths_of_any_kind(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainConfig] = []
    monkeypatch.setattr("preimage.training.api.run", lambda config, **_: seen.append(config))
    other = representations.create("hog", color="strongest")
    pi.train(other, [photo_folder, "more"], tmp_path / "run", val_images=tmp_path, steps=7)
    pi.train("lbp", "photos", "run")
    assert (seen[0].representation, dict(seen[0].parameters)) == ("hog", {"color": "strongest"})
    assert seen[0].images == (str(photo_folder), "more")
    assert (seen[0].val_images, seen[0].steps) == ((str(tmp_path),), 7)
    assert seen[1] == TrainConfig(representation="lbp", images=("photos",), output="run")
    with pytest.raises(TypeError, match="step_count"):
        pi.train("hog", "photos", "run", step_count=7)
    with pytest.raises(ValueError, match=r"batch_size.*0"):
        pi.train("hog", "photos", "run", batch_size=0)


def test_a_run_of_other_parameters_goes_on_by_its_name_alone(photo_folder: Path, tmp_path: Path) -> None:
    """What `train.json` and the checkpoint say of a representation is enough to make it again."""
    made = representations.create("hog", color="strongest")
    pi.train(made, photo_folder, tmp_path / "run", **_SMALL)
    assert Inverter.load(tmp_path / "run").spec == made.spec
    fields = json.loads((tmp_path / "run" / "train.json").read_text())
    assert fields["parameters"] == {"color": "strongest"}
    resume_run(TrainConfig(**fields), resume=True)


def test_train_has_the_defaults_of_the_command() -> None:
    parameters = inspect.signature(pi.train).parameters
    named = {field for field in TrainConfig.__dataclass_fields__ if field in parameters}
    assert named == {"representation", "images", "output", "val_images"}
    assert parameters["resume"].default is False


def test_the_names_load_when_they_are_used() -> None:
    script = """
import sys, preimage
assert "torch" not in sys.modules
assert {"Reconstructor", "extract", "invert", "train", "evaluate"} <= set(preimage.__all__)
preimage.extract, preimage.invert, preimage.evaluate, preimage.Reconstructor
assert "preimage.training" not in sys.modules
preimage.train
"""
    subprocess.run([sys.executable, "-c", script], check=True)
