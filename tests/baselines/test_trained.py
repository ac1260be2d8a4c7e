"""Test trained inverters as a method to compare, and the paper's network trained for the time of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import training_runs
from conftest import photographs
from layer_networks import SIDE, VIEWS, ToyNetwork, tiny_inverter
from preimage import training
from preimage.baselines.trained import TrainedInverter, train_paper
from preimage.inverters import Inverter
from preimage.pipelines import reconstruct
from preimage.representations import create_representation
from preimage.representations.hog import Hog
from preimage.training import Display, checkpoint

HOG = create_representation("hog")


@pytest.fixture
def images() -> torch.Tensor:
    """Return images (2, 3, 48, 64) uint8."""
    pictures = [torch.from_numpy(pixels[100:148, 150:214]) for pixels in list(photographs().values())[:2]]
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()


def test_images_are_those_of_the_inverter(tiny: Path, images: torch.Tensor) -> None:
    features = HOG(images)
    method = TrainedInverter(tiny, device="cpu")
    made = method.invert(features, HOG.spec)
    assert torch.equal(made, Inverter.load(tiny)(features))
    assert (made.dtype, made.device.type) == (torch.float32, "cpu")
    assert torch.equal(TrainedInverter(Inverter.load(tiny), device="cpu").invert(features, HOG.spec), made)
    assert torch.equal(method.target(images), images.float() / 255)


def test_several_inverters_have_their_own_names(tiny: Path) -> None:
    ours, paper = TrainedInverter(tiny, device="cpu"), TrainedInverter(tiny, name="paper", title="the paper's network")
    assert (ours.name, ours.title) == ("ours", "ours")
    assert (paper.name, paper.title) == ("paper", "the paper's network")
    assert TrainedInverter(tiny, name="wide").title == "wide"


@pytest.mark.parametrize("size", [(48, 64), (45, 71), (41, 57)])
def test_the_size_is_that_of_the_image(tiny: Path, images: torch.Tensor, size: tuple[int, int]) -> None:
    features = HOG(images)
    made = TrainedInverter(tiny, device="cpu").invert(features, HOG.spec, size=size)
    assert torch.equal(made, Inverter.load(tiny)(features, size=size))
    with pytest.raises(ValueError, match=r"size.*48×64"):
        TrainedInverter(tiny, device="cpu").invert(features, HOG.spec, size=(480, 64))


@pytest.mark.parametrize("layer", ["maps", "vector"])
def test_an_output_region_is_returned_at_its_resolution(layer: str) -> None:
    representation, region = ToyNetwork().representation(layer), VIEWS[layer]
    pixels = torch.from_numpy(photographs()["chelsea"][:SIDE, :SIDE].copy()).permute(2, 0, 1)[None]
    method = TrainedInverter(tiny_inverter(representation.spec, region), device="cpu")
    made = method.invert(representation(pixels), representation.spec)
    assert made.shape == method.target(pixels).shape == (1, 3, region.size, region.size)
    assert torch.equal(method.target(pixels), region.of(pixels).float() / 255)
    whole = method.invert(representation(pixels), representation.spec, size=(2 * SIDE, SIDE))
    fraction = region.crop / region.image_size
    assert whole.shape[2:] == (round(2 * SIDE * fraction), round(SIDE * fraction))


def test_large_batches_are_inverted_in_parts(tiny: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    features = HOG(images)[[0, 1, 1, 0, 1]]
    whole = TrainedInverter(tiny, device="cpu").invert(features, HOG.spec)
    monkeypatch.setattr(reconstruct, "at_once", lambda each, most: min(2, most))
    parts: list[int] = []
    method = TrainedInverter(tiny, device="cpu")
    method.inverter.register_forward_pre_hook(lambda _module, given: parts.append(len(given[0])))
    told: list[tuple[int, int]] = []
    made = method.invert(features, HOG.spec, progress=lambda done, total: told.append((done, total)))
    assert parts == [2, 2, 1]
    torch.testing.assert_close(made, whole)
    assert told[-1] == (5, 5)
    assert all(total == 5 for _, total in told)


def test_other_features_are_refused(tiny: Path, images: torch.Tensor) -> None:
    method = TrainedInverter(tiny, device="cpu")
    coarse = create_representation("hog", cell_size=4)
    with pytest.raises(ValueError, match="cell_size: 8 != 4"):
        method.invert(coarse(images), coarse.spec)
    features = HOG(images)
    with pytest.raises(ValueError, match=r"\(2, 30, 6, 8\)"):
        method.invert(features[:, :30], HOG.spec)
    with pytest.raises(ValueError, match=r"\(31, 6, 8\)"):
        method.invert(features[0], HOG.spec)
    features[1, 3, 2, 2] = torch.nan
    with pytest.raises(ValueError, match=r"finite.*1"):
        method.invert(features, HOG.spec)
    with pytest.raises(TypeError, match="int"):
        method.invert(features.int(), HOG.spec)
    with pytest.raises(ValueError, match="no-such-inverter"):
        TrainedInverter("no-such-inverter")


class Stops(Display):
    def update(self, progress: object, loss: float) -> None:
        raise OSError("the machine went away")


@pytest.fixture
def tiny_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the paper's network for HOG by one that takes a step in milliseconds."""
    small = {"architecture": "single-stream", "layers": ["c3/1 8", "up 8", "up 8", "up 3"]}
    monkeypatch.setattr(Hog, "presets", {**Hog.presets, "paper": small})


@pytest.mark.usefixtures("tiny_paper")
def test_the_papers_network_is_trained_as_another(photo_folder: Path, tmp_path: Path) -> None:
    ours, paper = tmp_path / "ours", tmp_path / "paper"
    summary = training.run(training_runs.small_config(photo_folder, ours, steps=12, seed=3, optimizer="muon"))
    with pytest.raises(OSError, match="went away"):
        train_paper(ours, paper, display=Stops())
    made = train_paper(ours, paper, resume=True)
    settings = [json.loads((folder / "train.json").read_text()) for folder in (ours, paper)]
    changed = {name for name, value in settings[0].items() if value != settings[1][name]}
    assert changed == {"output", "preset", "steps", "max_hours"}
    assert settings[1]["preset"] == "paper"
    assert made.seconds >= 3600 * settings[1]["max_hours"] == pytest.approx(summary.seconds)
    lists = [checkpoint.read_images(folder / checkpoint.CHECKPOINT) for folder in (ours, paper)]
    assert lists[0] == lists[1], "trained and validated on the same images"
    assert made.mean_image_error == summary.mean_image_error
    notes = [TrainedInverter(folder, device="cpu").inverter.training_notes for folder in (ours, paper)]
    assert [note["images_seen"] for note in notes] == [summary.images_seen, made.images_seen]
    assert [note["seconds"] for note in notes] == [round(summary.seconds), round(made.seconds)]


@pytest.mark.usefixtures("tiny_paper")
def test_runs_that_give_no_equal_time(photo_folder: Path, tmp_path: Path, tiny: Path) -> None:
    cut = training_runs.small_config(photo_folder, tmp_path / "cut", steps=3)
    with pytest.raises(OSError, match="went away"):
        training.run(cut, display=Stops())
    with pytest.raises(ValueError, match=r"finished.*1 step"):
        train_paper(tmp_path / "cut", tmp_path / "paper")
    training.run(cut, resume=True)
    again = training_runs.small_config(photo_folder, tmp_path / "again", steps=1, init=cut.output, preset=None)
    training.run(again)
    with pytest.raises(ValueError, match=r"started from.*cut"):
        train_paper(again.output, tmp_path / "paper")
    with pytest.raises(ValueError, match=r"run.*checkpoint"):
        train_paper(tiny, tmp_path / "paper")
    with pytest.raises(TypeError, match="no_such_setting"):
        train_paper(cut.output, tmp_path / "paper", no_such_setting=1)
    assert not (tmp_path / "paper").exists()
