"""Test the public functions of the package: the example in its documentation, pipelines, names."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import preimage as pi
from conftest import photographs
from preimage.inverters import Inverter
from preimage.io import write_png
from preimage.representations import create_representation
from preimage.training import TrainConfig
from preimage.training import run as resume_run
from training_runs import small_config

_SMALL = {
    name: value
    for name, value in small_config(Path("a"), Path("b"), steps=2, save_every=2).__dict__.items()
    if name not in ("representation", "images", "output", "val_images", "parameters")
}


_SHORT = "steps=1, val_count=2, size=64, batch_size=2"


class _Blocks(torch.nn.Module):
    """Network with layers blocks.0 to blocks.3."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(*(torch.nn.Conv2d(3 if not k else 8, 8, 3, 2, 1) for k in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


def test_the_example_of_the_package_runs_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "val"):
        (tmp_path / folder).mkdir()
    for name, key in (("chelsea", "cat"), ("astronaut", "astronaut"), ("coffee", "coffee"), ("rocket", "rocket")):
        for file in (f"photos/{key}.png", f"val/{key}.png"):
            write_png(tmp_path / file, photographs()[name])
    write_png(tmp_path / "photo.jpg", photographs()["rocket"])  # the contents matter, not the suffix
    assert pi.__doc__ is not None
    lines = textwrap.dedent(pi.__doc__.partition("Example::")[2]).strip().splitlines()
    assert len(lines) == 17
    names: dict[str, Any] = {"model": _Blocks(), "transform": pi.Preprocessing(64)}
    for line in lines:
        exec(line.replace("steps=20_000", _SHORT), names)
    image, again = names["image"], names["again"]
    assert (image.dtype, image.shape[0]) == (torch.uint8, 3)
    assert names["f"].shape[0] == 31 and isinstance(names["kp"], pi.Keypoints)
    assert again.shape == image.shape and 0 <= again.min() < again.max() <= 1
    assert (again - image / 255).square().mean().sqrt() < 0.3
    assert names["deep"].spec.channels == 8
    assert names["store"]["cat"].shape == (31, *names["hog"].feature_size(*photographs()["chelsea"].shape[:2]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("astronaut.png", "cat.png", "coffee.png", "rocket.png")
    ]


def test_the_names_are_listed_and_exist() -> None:
    assert sorted(pi.__all__) == dir(pi)
    assert all(getattr(pi, name) is not None for name in pi.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        pi.no_such_name  # noqa: B018


def test_an_inverter_by_name_or_folder_on_a_device(tmp_path: Path) -> None:
    inverter = pi.load_inverter("hog-compact", device="cpu")
    again = pi.load_inverter(inverter.save(tmp_path / "copy"), device=torch.device("cpu"))
    features = np.random.default_rng(0).random((31, 9, 8), np.float32)
    single = inverter(features, size=(70, 64))
    assert single.shape == (3, 70, 64) and torch.equal(single, again(features[None], size=(70, 64))[0])
    with pytest.raises(ValueError, match="'gpu'"):
        pi.load_inverter("hog-compact", device="gpu")
    with pytest.raises(ValueError, match=r"no-such.*hog-compact"):
        pi.load_inverter("no-such")


def test_examples_train_and_report_an_error(photo_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hog = create_representation("hog")
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
    other = create_representation("hog", color="strongest")
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


def test_a_run_with_other_parameters_resumes_by_the_name_of_its_representation(
    photo_folder: Path, tmp_path: Path
) -> None:
    """The representation is created again from `train.json` and the checkpoint."""
    made = create_representation("hog", color="strongest")
    pi.train(made, photo_folder, tmp_path / "run", **_SMALL)
    assert Inverter.load(tmp_path / "run").spec == made.spec
    fields = json.loads((tmp_path / "run" / "train.json").read_text())
    assert fields["parameters"] == {"color": "strongest"}
    resume_run(TrainConfig(**fields), resume=True)


def test_an_unknown_preset_is_an_error_before_images_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"preset.*compact.*'huge'"):
        pi.train("hog", tmp_path / "absent", tmp_path / "run", preset="huge")


def test_an_open_store_is_accepted_where_a_path_is(photo_folder: Path, tmp_path: Path) -> None:
    store = pi.extract("hog", photo_folder, tmp_path / "photos.hog", size=64)
    assert repr(store) == f"FeatureStore({str(tmp_path / 'photos.hog')!r}, images=20)"
    assert pi.invert(store, tmp_path / "out").images == 20
    assert list(pi.FeatureStore(store)) == list(store)


def test_objects_have_short_descriptions() -> None:
    keypoints = pi.sift(photographs()["rocket"].transpose(2, 0, 1))
    assert repr(keypoints) == f"Keypoints(keypoints={len(keypoints.x)}, images=1, type=ndarray)"
    assert repr(pi.Reconstructor("hog", device="cpu")) == "Reconstructor('hog', 'hog-compact', device='cpu')"


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
