"""Test looking into an encoder: runs, page, files, and the errors that users meet."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import preimage as pi
from conftest import Run, photographs
from look_networks import SIDE, ResNet, ViT
from preimage.errors import FileFormatError
from preimage.io import decode_file, write_png
from preimage.studies.look import LookSummary, look
from preimage.studies.look_page import LookStudy
from preimage.studies.look_training import Schedule

# A run of a few steps: enough for a page, and far too few to reconstruct anything.
QUICK: dict[str, Any] = {"minutes": 1.0, "steps": 2, "output_size": 16, "budget": 40_000, "batch_size": 4, "tile": 32}
COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of squares of photographs, 40 × 40 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    found = list(photographs().values())
    for index in range(COUNT):
        image = found[index % len(found)]
        top = 30 + 60 * (index // len(found))
        write_png(folder / f"photo {index:02d}.png", np.ascontiguousarray(image[top : top + 40, 50:90]))
    return folder


@pytest.fixture(scope="module")
def network() -> pi.Network:
    return pi.Network(ResNet(), pi.Preprocessing(SIDE), name="toy & net")


@pytest.fixture(scope="module")
def found(photos: Path, network: pi.Network, tmp_path_factory: pytest.TempPathFactory) -> LookSummary:
    output = tmp_path_factory.mktemp("look") / "new" / "out"
    return look(network, photos, output, layers=["layer2", "avgpool"], val_count=4, command="preimage look x", **QUICK)


def test_scores_are_those_of_the_saved_inverters(found: LookSummary, photos: Path, network: pi.Network) -> None:
    assert [layer.label for layer in found.layers] == ["layer2", "avgpool"]
    assert [layer.features for layer in found.layers] == [(16, 8, 8), (32,)]
    held_out = [photos / f"photo {index:02d}.png" for index in (0, 3, 6, 9)]
    for layer in found.layers:
        assert [score.key for score in layer.scores] == [path.stem for path in held_out]
        again = pi.evaluate(layer.folder, held_out, representation=network.representation(layer.label), device="cpu")
        assert (layer.error, layer.psnr, layer.ssim) == pytest.approx((again.error, again.psnr, again.ssim), rel=1e-3)
        assert layer.mean_image_error == pytest.approx(again.mean_image_error, rel=1e-4)
        assert layer.error_low <= layer.error <= layer.error_high
        assert (layer.run.steps, layer.run.images_seen, layer.images) == (2, 8, 4)
        assert layer.run.curve[-1][1] == pytest.approx(layer.error, rel=1e-3)
        assert pi.load_inverter(layer.folder).spec == network.representation(layer.label).spec


def test_photographs_are_trained_on_as_squares_and_held_out_ones_are_not(found: LookSummary) -> None:
    run = found.layers[0].run
    assert (found.photographs, run.photographs, run.squares) == (COUNT - 4, COUNT - 4, 8 * (COUNT - 4))
    assert not (found.page.parent / "cache").exists()


def test_the_page_shows_every_held_out_photograph(found: LookSummary, photos: Path) -> None:
    page = found.page.read_text()
    assert "A look into toy &amp; net" in page and "toy & net" not in page
    assert page.count("<img ") == 3, "sheet, errors, learning curves"
    assert "preimage look x" in page and "random" not in page
    for layer in found.layers:
        assert f"<td>{layer.error:.3f}</td>" in page
        assert f"load_inverter(&quot;{layer.folder.as_posix()}&quot;)" in page
    sheet = decode_file(found.sheet)
    assert sheet.shape[1] == 48 + 3 * (32 + 12) - 12
    left = decode_file(photos / "photo 00.png").astype(float).mean(axis=(0, 1))
    top = 24 + round((2 + 1.6) * 12)
    assert np.abs(sheet[top : top + 32, 24 : 24 + 32].astype(float).mean(axis=(0, 1)) - left).max() < 3
    assert sorted(path.name for path in found.page.parent.iterdir()) == [
        *("avgpool", "index.html", "layer2", "look-images.csv", "look.csv", "look.json", "plot.png", "sheet.png")
    ]


def test_an_error_above_that_of_the_mean_image_is_not_blamed_on_the_layer(found: LookSummary) -> None:
    worse, better = found.layers
    layers = [
        dataclasses.replace(worse, error=0.71, mean_image_error=0.7),
        dataclasses.replace(better, error=0.5, mean_image_error=0.7),
    ]
    *_, last = LookStudy("toy", layers, side=SIDE, minutes=1).findings()
    assert (
        last.startswith("The inverter of layer2 recovers no more than the mean image") and "limit of this run" in last
    )


def test_the_tables_agree_with_the_summary(found: LookSummary) -> None:
    with open(found.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    for row, layer in zip(rows, found.layers, strict=True):
        assert (row["layer"], row["steps"], row["inverter"]) == (layer.label, "2", str(layer.folder))
        assert float(row["normalized_error"]) == pytest.approx(layer.error, abs=1e-6)
    with open(found.csv.with_name("look-images.csv"), newline="") as file:
        each = list(csv.DictReader(file))
    assert len(each) == 8
    record = json.loads(found.json.read_text())
    assert [one["error"] for one in record["layers"]] == [layer.error for layer in found.layers]
    assert [score["key"] for score in record["layers"][0]["scores"]] == [row["key"] for row in each[:4]]


def test_a_second_call_trains_only_what_is_missing(
    found: LookSummary, photos: Path, network: pi.Network, tmp_path: Path
) -> None:
    output = shutil.copytree(found.page.parent, tmp_path / "look")
    shutil.rmtree(output / "avgpool")
    (output / "index.html").unlink()
    kept = (output / "layer2" / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    again = look(network, photos, output, layers=["layer2", "avgpool"], val_count=4, status=said.append, **QUICK)
    assert (output / "layer2" / "model.safetensors").stat().st_mtime_ns == kept
    assert again.layers[0].scores == found.layers[0].scores
    assert (output / "avgpool" / "config.json").is_file() and again.page.is_file()
    assert sum("training for" in sentence for sentence in said) == 1
    with pytest.raises(ValueError, match=r"minutes 1\.0 != 2\.0.*another folder"):
        look(network, photos, output, layers=["layer2", "avgpool"], val_count=4, **QUICK | {"minutes": 2.0})
    with pytest.raises(ValueError, match="specs"):
        look(network, photos, output, layers=["layer2"], val_count=4, **QUICK)
    (output / "look.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"look\.json.*settings"):
        look(network, photos, output, **QUICK)


def test_tokens_and_the_class_token_of_a_module(photos: Path, tmp_path: Path) -> None:
    module = ViT(pools=False, classes=3)
    summary = look(
        *(module, photos, tmp_path / "look"),
        **{**QUICK, "steps": 1, "layer_count": 2, "preprocessing": "unit", "input_size": SIDE},
    )
    assert [(layer.label, layer.features) for layer in summary.layers] == [
        ("blocks.5", (24, 4, 4)),
        ("norm:class-token", (12,)),
    ]
    token = summary.layers[1].folder
    assert token.name == "norm-class-token"
    network = pi.Network(module, pi.representations.preprocessing.unit_rgb(SIDE))
    representation = network.representation("norm", "class-token")
    assert pi.load_inverter(token).spec.parameters == representation.spec.parameters
    images = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(representation(images), network.layers(images, ["norm"])["norm"][:, 12:, 0, 0])


def test_features_of_a_user(photos: Path, network: pi.Network, tmp_path: Path) -> None:
    vectors = network.representation("avgpool")
    arrays = {}
    for path in sorted(photos.iterdir()):
        pixels = decode_file(path)[4:36, 4:36]
        arrays[path.name] = vectors(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0].numpy()
    arrays.pop("photo 05.png")
    np.savez(tmp_path / "mine.npz", **arrays)
    said: list[str] = []
    options = {"features": tmp_path / "mine.npz", "input_size": SIDE, "val_count": 3, "status": said.append}
    summary = look(None, photos, tmp_path / "look", **options, **QUICK)
    assert (summary.network, summary.layers[0].features) == ("mine.npz", (32,))
    assert summary.photographs == COUNT - 1 - 3
    assert any("photo 05" in sentence for sentence in said)
    with pytest.raises(ValueError, match=r"layers, weights.*features"):
        look(None, photos, tmp_path / "other", layers=["a"], weights="w", **options, **QUICK)


def test_copies_of_held_out_photographs_are_not_trained_on(photos: Path, network: pi.Network, tmp_path: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    for name in ("x", "y"):
        shutil.copy(photos / "photo 00.png", folder / f"{name}.png")
    summary = look(network, folder, tmp_path / "look", layers=["avgpool"], val_count=2, **QUICK)
    assert summary.photographs == COUNT + 2 - 2 - 2
    assert any("2 photographs" in note for note in summary.notes)
    assert "2 photographs" in summary.page.read_text()


def test_bad_images_are_named_or_left_out(photos: Path, network: pi.Network, tmp_path: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png"):
        look(network, folder, tmp_path / "look", layers=["avgpool"], val_count=2, **QUICK)
    summary = look(network, folder, tmp_path / "look", layers=["layer4"], val_count=3, skip_bad=True, **QUICK)
    assert [Path(name).name for name, _ in summary.skipped] == ["bad.png"]


def test_nothing_is_left_of_a_look_that_fails(photos: Path, network: pi.Network, tmp_path: Path) -> None:
    class Nowhere(torch.nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * float("nan")

    module = torch.nn.Sequential(Nowhere(3, 4, 3, 2, 1))
    with pytest.raises(ValueError, match=r"photo 00\.png: the features of 0 are NaN or infinite"):
        look(module, photos, tmp_path / "out", layers=["0"], preprocessing=pi.Preprocessing(SIDE), **QUICK)
    assert not (tmp_path / "out").exists()
    earlier = tmp_path / "empty"
    earlier.mkdir()
    shutil.copytree(photos, tmp_path / "bad")
    (tmp_path / "bad" / "photo 01.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"photo 01\.png"):
        look(network, tmp_path / "bad", earlier, layers=["layer2"], **QUICK)
    assert list(earlier.iterdir()) == []


def test_features_beyond_half_precision_are_kept_in_float32(photos: Path, tmp_path: Path) -> None:
    class Large(torch.nn.Module):
        """Features that grow with the brightness, beyond the range of float16 for bright images only."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = torch.nn.functional.avg_pool2d(x, 4)
            return 10 * (20 * pooled).exp()

    summary = look(Large(), photos, tmp_path / "look", layers=[""], preprocessing="unit", input_size=SIDE, **QUICK)
    assert summary.layers[0].folder.name == "output"
    assert np.isfinite(summary.layers[0].error)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"minutes": 0}, ValueError, r"minutes.*0"),
        ({"minutes": float("nan")}, ValueError, r"minutes.*nan"),
        ({"layer_count": 0}, ValueError, r"layer_count.*1"),
        ({"val_count": 1}, ValueError, r"val_count.*2"),
        ({"val_count": 12}, ValueError, r"12 images.*12"),
        ({"tile": 31}, ValueError, r"tile.*32"),
        ({"steps": 0}, ValueError, r"steps.*1"),
        ({"output_size": 10}, ValueError, r"output_size.*11"),
        ({"budget": 5}, ValueError, r"layer1.*parameters.*5"),
        ({"device": "gpu"}, ValueError, r"device.*'gpu'"),
        ({"weights": "w.pth"}, ValueError, r"weights.*'w\.pth'.*Network"),
        ({"input_size": 64}, ValueError, r"own preprocessing"),
        ({"layers": ["conv9"]}, ValueError, r"conv9.*conv1"),
        ({"layers": ["conv1:grid"]}, ValueError, r"conv1.*grid.*tokens"),
        ({"network": None}, ValueError, "network or features.*neither"),
        ({"network": 5}, TypeError, r"network.*int"),
        ({"network": "hog"}, ValueError, r"hog has no layers.*timm:NAME"),
        ({"network": "resnet"}, ValueError, r"timm:NAME or hf:NAME.*'resnet'"),
        ({"network": ResNet()}, ValueError, r"preprocessing must be given for a ResNet"),
        ({"network": ResNet(), "preprocessing": "tf"}, ValueError, r"preprocessing.*'tf'"),
        ({"network": "hog", "preprocessing": pi.Preprocessing(64)}, TypeError, r"preprocessing.*imagenet-rgb"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    photos: Path, network: pi.Network, tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments = {"network": network, "images": photos, "output": tmp_path / "look", **QUICK, **change}
    with pytest.raises(error, match=words):
        look(**arguments)
    assert not (tmp_path / "look").exists()


def test_too_few_photographs_or_a_folder_in_use(photos: Path, network: pi.Network, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 4 photographs, got 3"):
        look(network, sorted(photos.iterdir())[:3], tmp_path / "look", **QUICK)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        look(network, photos, tmp_path, **QUICK)
    with pytest.raises(ValueError, match="is a file"):
        look(network, photos, tmp_path / "mine.txt", **QUICK)


def test_the_rest_of_the_time_is_divided_evenly(monkeypatch: pytest.MonkeyPatch, found: LookSummary) -> None:
    now = [0.0]
    monkeypatch.setattr("preimage.studies.look_training.time.perf_counter", lambda: now[0])
    schedule = Schedule(deadline=100.0, reserve=10.0, layers=3)
    assert schedule.seconds() == pytest.approx(21.0), "90 s for three layers, 0.7 of it for training"
    now[0] = 40.0
    schedule.done(dataclasses.replace(found.layers[0].run, seconds=40.0, training_seconds=20.0))
    assert schedule.seconds() == pytest.approx(12.5), "50 s for two layers, half of it for training"
    now[0] = 120.0
    assert schedule.seconds() == 1.0, "late"


def test_without_matplotlib_the_rest_is_there(
    found: LookSummary, photos: Path, network: pi.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shutil.copytree(found.page.parent, tmp_path / "look")
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    again = look(network, photos, output, layers=["layer2", "avgpool"], val_count=4, **QUICK)
    assert again.plot is None
    assert any("matplotlib" in note for note in again.notes)
    assert again.page.read_text().count("<img ") == 1


FACTORY = """
import preimage as pi
from look_networks import SIDE, ResNet

def net():
    return pi.Network(ResNet(), pi.Preprocessing(SIDE), name="torch:mynets:net")
"""


def test_on_the_command_line(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    quick = ["--max-steps", 1, "--output-size", 16, "--budget", 40_000, "--batch-size", 4, "--tile", 32]
    common = ("look", "torch:mynets:net", photos, "--minutes", 1, "--val-count", 3, *quick)
    code, out, err = run(*common, "--layers", "layer3,layer4", "--layers", "avgpool")
    assert code == 0, err
    assert "3 layers of torch:mynets:net, 9 photographs" in out
    assert re.search(r"layer4: error \d\.\d{3} \(0\.\d{3} to \d\.\d{3}\), mean image", out)
    assert "layers: layer3, layer4 and avgpool" in err
    assert (tmp_path / "look" / "index.html").is_file() and "wrote look/index.html" in out
    assert "preimage look torch:mynets:net" in (tmp_path / "look" / "index.html").read_text()

    code, out, err = run(*common, "-o", "two", "--layer-count", 2, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert [layer["label"] for layer in summary["layers"]] == ["layer4", "avgpool"]
    assert (summary["photographs"], summary["random_weights"]) == (9, False)

    keys = [path.stem for path in sorted(photos.iterdir())]
    np.savez("mine.npz", **{key: np.full(5, index, np.float32) for index, key in enumerate(keys)})
    code, out, err = run("look", "--features", "mine.npz", photos, "-o", "three", "--input-size", SIDE, *quick)
    assert code == 0, err
    assert "1 layer of mine.npz" in out

    code, _, err = run("look", photos)
    assert (code, bool(re.search(r"ENCODER IMAGES", err))) == (2, True)
    code, _, err = run(*common, "--layers", "layer9")
    assert (code, bool(re.search(r"error: .*layer9.*layer4", err))) == (1, True)
