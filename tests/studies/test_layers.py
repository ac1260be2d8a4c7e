"""Test the study of layers: scores against their definitions, files, and rejected arguments."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Run
from layer_networks import SIDE, VIEWS, ToyLayer, ToyNetwork, saved, tiny_inverter
from preimage.inverters import Inverter
from preimage.inverters.output_region import OutputRegion
from preimage.io import decode_file, resize_and_center_crop, write_png
from preimage.pipelines.evaluate import evaluate
from preimage.representations import network_factory
from preimage.studies.layers import LayersSummary, study_layers

COLUMNS = ["label", "network", "layer", "features", "output_size", "normalized_error", "mean_image_error"]
COLUMNS += ["psnr_db", "ssim", "images", "inverter"]
TILE = 48


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    """Return seven photographs of 96² pixels, larger than the input of the toy network."""
    return sorted(photo_folder.iterdir())[::3]


@pytest.fixture(scope="module")
def network() -> ToyNetwork:
    return ToyNetwork()


@pytest.fixture(scope="module")
def inverters(network: ToyNetwork, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the inverters, that of the vector first: the order is the user's, not the network's."""
    folder = tmp_path_factory.mktemp("inverters")
    return [saved(network, layer, folder / layer) for layer in ("vector", "maps")]


@pytest.fixture(scope="module")
def study(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path_factory: pytest.TempPathFactory
) -> LayersSummary:
    output = tmp_path_factory.mktemp("study") / "new" / "out"
    return study_layers(photos, output, inverter=inverters, network=[network], show_count=2, tile=TILE, batch_size=3)


def _by_hand(layer: ToyLayer, inverter: Inverter, photos: list[Path]) -> tuple[float, float]:
    """Compute the paper's normalized error, and that of the mean image, by the definition."""
    fitted = np.stack([resize_and_center_crop(decode_file(photo), SIDE) for photo in photos])
    images = torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()
    made = inverter(layer(images)).double()
    targets = VIEWS[layer.layer].of(images).double() / 255
    pairs = [(a - b).norm() for a, b in itertools.combinations(targets, 2)]
    normalizer = torch.stack(pairs).mean()
    error = (targets - made).flatten(1).norm(dim=1).mean() / normalizer
    floor = (targets - targets.mean(dim=0)).flatten(1).norm(dim=1).mean() / normalizer
    return float(error), float(floor)


def test_the_table_agrees_with_a_computation_by_hand(
    study: LayersSummary, photos: list[Path], inverters: list[Path], network: ToyNetwork
) -> None:
    with open(study.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [row["label"] for row in rows] == ["vector", "maps"]
    assert [row["features"] for row in rows] == ["12", "3x8x8"]
    assert [row["output_size"] for row in rows] == ["16", "24"]
    for row, folder in zip(rows, inverters, strict=True):
        error, floor = _by_hand(network.representation(row["layer"]), Inverter.load(folder), photos)
        assert float(row["normalized_error"]) == pytest.approx(error, rel=1e-4)
        assert float(row["mean_image_error"]) == pytest.approx(floor, rel=1e-3)  # originals in float16
        assert (row["network"], row["images"], row["inverter"]) == ("toys.net:make", "7", str(folder))
    for row, score in zip(rows, study.scores, strict=True):
        assert float(row["psnr_db"]) == pytest.approx(score.psnr, abs=1e-4)
        assert float(row["ssim"]) == pytest.approx(score.ssim, abs=1e-6)


def test_layers_of_one_network_share_a_pass(photos: list[Path], tmp_path: Path) -> None:
    network, other = ToyNetwork(), ToyNetwork("toys.other:make", gain=0.5)
    pairs = [(network, "maps"), (other, "vector"), (network, "vector")]
    folders = [saved(owner, layer, tmp_path / f"{owner.name[5:8]}-{layer}") for owner, layer in pairs]
    networks = [other, network]
    summary = study_layers(
        photos[:5], tmp_path / "out", inverter=folders, network=networks, show=photos[5], batch_size=2
    )
    assert [score.label for score in summary.scores] == ["maps", "toys.other:make vector", "toys.net:make vector"]
    assert network.passes == [(1, ("maps", "vector")), *[(n, ("maps", "vector")) for n in (2, 2, 1)]]
    assert [names for _, names in other.passes] == [("vector",)] * 4
    alone = study_layers(photos[:5], tmp_path / "alone", inverter=folders[0], network=network.representation("maps"))
    assert alone.scores[0].error == pytest.approx(summary.scores[0].error, rel=1e-6), "batches of another size"
    assert summary.scores[1].error != summary.scores[2].error


def test_the_sheet_has_a_row_an_image_and_a_column_a_layer(
    study: LayersSummary, photos: list[Path], inverters: list[Path], network: ToyNetwork
) -> None:
    page = decode_file(study.sheet)
    assert page.shape[1] == 48 + 3 * (TILE + 12) - 12
    assert study.shown == tuple(photo.stem for photo in photos[:2])
    top = 24 + round((2 + 1.6) * 12)
    fitted = resize_and_center_crop(decode_file(photos[0]), SIDE)
    square = page[top : top + TILE, 24 : 24 + TILE].astype(float)
    assert np.abs(square.mean(axis=(0, 1)) - fitted.mean(axis=(0, 1))).max() < 3, "first the photograph itself"
    images = torch.from_numpy(fitted).permute(2, 0, 1)[None]
    for column, folder in enumerate(inverters, 1):
        inverter = Inverter.load(folder)
        made = inverter(network.representation(folder.name)(images))[0] * 255
        left = 24 + column * (TILE + 12)
        shown = page[top : top + TILE, left : left + TILE].astype(float).mean(axis=(0, 1))
        assert np.abs(shown - made.mean(dim=(1, 2)).numpy()).max() < 3
    heading = page[24 : top - 4, 24 + TILE + 12 :]
    assert (heading.min(axis=(1, 2)) < 128).sum() > 12, "two lines: the layer and its error"


def test_the_page_needs_nothing_else_and_shows_what_was_measured(study: LayersSummary) -> None:
    page = study.page.read_text()
    assert page.count("<img ") == 2
    assert all(source.startswith("data:image/") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert not re.search(r"url\(|@import|<script|<link", page)
    for score in study.scores:
        assert f"<td>{score.error:.3f}</td>" in page
    assert "<td>28 of 32 px at 24</td>" in page
    for sentence in study.findings:
        assert f"<li>{sentence}</li>" in page
    assert study.plot is not None
    assert decode_file(study.plot).shape[1] >= 1400
    names = sorted(path.name for path in study.page.parent.iterdir())
    assert names == ["index.html", "layers.csv", "plot.png", "sheet.png"]


def test_without_matplotlib_the_rest_is_there(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "plot.png").write_bytes(b"of an earlier study")
    summary = study_layers(photos[:2], tmp_path, inverter=inverters, network=network, csv=tmp_path / "sub" / "x.csv")
    assert summary.plot is None
    assert not (tmp_path / "plot.png").exists()
    assert summary.notes == (
        "The plot is left out: plots need matplotlib, which is not installed: pip install 'preimage[plots]'.",
    )
    assert (tmp_path / "sub" / "x.csv").is_file()
    assert not (tmp_path / "layers.csv").exists()


def test_what_has_a_name_of_ours_needs_no_network(photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    [score] = study_layers(photos, tmp_path, inverter=tiny, size=64).scores
    theirs = evaluate(tiny, photos, size=64)
    assert (score.error, score.psnr, score.ssim) == pytest.approx((theirs.error, theirs.psnr, theirs.ssim))
    assert (score.label, score.features, score.input_size, score.output_size) == ("hog", (31, 8, 8), 64, 64)


def test_networks_of_other_sizes_stand_side_by_side(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tiny: Path, tmp_path: Path
) -> None:
    reported: list[tuple[int, int]] = []
    chosen = [inverters[1], tiny, inverters[0]]
    options = {"size": 64, "batch_size": 2, "progress": lambda *steps: reported.append(steps)}
    summary = study_layers(photos[:3], tmp_path, inverter=chosen, network=[network], **options)
    assert [score.label for score in summary.scores] == ["maps", "hog", "vector"]
    assert [score.input_size for score in summary.scores] == [32, 64, 32]
    assert reported == [(done, 9) for done in (2, 4, 5, 6, 8, 9)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 10}, r"size.*11"),
        ({"tile": 31}, r"tile.*32"),
        ({"batch_size": 0}, r"batch_size.*1"),
        ({"show_count": 0}, r"show_count.*1"),
        ({"device": "cuba"}, "device"),
    ],
)
def test_bad_options_are_named(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        study_layers(photos, tmp_path / "out", inverter=inverters, network=[network], **options)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_named(photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path) -> None:
    layers = {"inverter": inverters, "network": [network]}
    with pytest.raises(ValueError, match="is a file"):
        study_layers(photos, photos[0], **layers)
    with pytest.raises(ValueError, match=r"two images.*1"):
        study_layers(photos[0], tmp_path / "out", **layers)
    shutil.copy(photos[0], tmp_path / "same.jpg")
    with pytest.raises(ValueError, match=r"images.*2 equal"):
        study_layers([photos[0], tmp_path / "same.jpg"], tmp_path / "out", **layers)
    (tmp_path / "x.png").write_bytes(b"no image")
    for options in ({"images": [*photos, tmp_path / "x.png"]}, {"images": photos, "show": tmp_path / "x.png"}):
        with pytest.raises(ValueError, match=r"x\.png"):
            study_layers(output=tmp_path / "out", **layers, **options)
    with pytest.raises(ValueError, match=r"inverter.*none"):
        study_layers(photos, tmp_path / "out", inverter=[])
    with pytest.raises(ValueError, match=r"'vector'.*--network"):
        study_layers(photos, tmp_path / "out", inverter=inverters)
    small = tiny_inverter(network.representation("maps").spec, OutputRegion(SIDE, SIDE, 8))
    with pytest.raises(ValueError, match=r"8 pixels.*11"):
        study_layers(photos, tmp_path / "out", inverter=small, network=network)
    other = tiny_inverter(network.representation("maps").spec, OutputRegion(SIDE + 1, SIDE, 16))
    with pytest.raises(ValueError, match=r"^maps: .*33.*32"):
        study_layers(photos, tmp_path / "out", inverter=other, network=network)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_named(photos: list[Path], tmp_path: Path) -> None:
    class Broken(ToyNetwork):
        def layers(
            self, images: torch.Tensor, names: Iterable[str], output_layout: str = "auto"
        ) -> dict[str, torch.Tensor]:
            features = super().layers(images, names, output_layout)
            features["vector"][-1] = torch.nan
            return features

    network = Broken()
    inverter = tiny_inverter(network.representation("vector").spec, VIEWS["vector"])
    with pytest.raises(ValueError, match=f"{photos[1].stem}.*vector.*NaN"):
        study_layers(photos[:3], tmp_path / "out", inverter=inverter, network=network, batch_size=2, show=photos[1])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def torch_names(network: ToyNetwork, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Replace ``torch:`` names by the toy network, and record the arguments."""
    asked: list[dict[str, object]] = []

    def load(name: str, weights: str | None = None) -> nn.Linear:
        asked.append({"name": name, "weights": weights})
        return nn.Linear(1, 1)

    def as_network(name: str, made: nn.Module, preprocessing: str | None, input_size: int | None) -> ToyNetwork:
        asked[-1] |= {"preprocessing": preprocessing, "input_size": input_size}
        return network

    monkeypatch.setattr(network_factory, "load_factory", load)
    monkeypatch.setattr(network_factory, "as_network", as_network)
    return asked


def test_on_the_command_line(
    run: Run, photos: list[Path], inverters: list[Path], torch_names: list[dict[str, object]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    named = [part for folder in inverters for part in ("--inverter", folder)]
    arguments = ("study", "layers", *photos[:4], *named, "-o", out, "--show", photos[5], "--show", photos[6])
    chosen = ("--network", "torch:toys.net:make,weights=w.pth,preprocessing=unit")
    code, out_text, err = run(*arguments, *chosen)
    assert code == 0, err
    assert torch_names == [
        {"name": "torch:toys.net:make", "weights": "w.pth", "preprocessing": "unit", "input_size": None}
    ]
    assert "2 layers on 4 images" in out_text
    assert re.search(r"^vector  normalized error \d\.\d{3}   \(mean image: 0\.\d{3}\)$", out_text, re.M)
    assert str(out / "index.html") in out_text
    assert "preimage study layers" in (out / "index.html").read_text()

    code, out_text, _ = run(*arguments, "--network", "torch:toys.net:make", "--csv", tmp_path / "table.csv", "--json")
    assert code == 0
    found = json.loads(out_text)
    assert [score["label"] for score in found["scores"]] == ["vector", "maps"]
    assert found["shown"] == [photo.stem for photo in photos[5:7]]
    assert found["csv"] == str(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").is_file()

    code, out_text, err = run(*arguments)
    assert (code, out_text) == (1, "")
    assert re.fullmatch(r"error: .*'vector'.*toys\.net:make.*--network.*\n", err)
    code, _, err = run(*arguments, "--network", "torch:toys.net:make,weight=w.pth")
    assert (code, bool(re.search("--network.*'weight'.*weights, preprocessing, input_size", err))) == (2, True)


def test_images_of_any_shape_are_resized_and_center_cropped(
    inverters: list[Path], network: ToyNetwork, tmp_path: Path
) -> None:
    """Only the center square of an image matters, not the rest."""
    inner = [np.random.default_rng(seed).integers(0, 256, (90, 90, 3), np.uint8) for seed in range(3)]
    for index, square in enumerate(inner):
        wide = np.pad(square, ((0, 0), (25, 25), (0, 0)), constant_values=255 * (index % 2))
        for name, picture in (("square", square), ("wide", wide)):
            (tmp_path / name).mkdir(exist_ok=True)
            write_png(tmp_path / name / f"{index}.png", picture)
    layers = {"inverter": inverters, "network": [network]}
    both = [study_layers(tmp_path / name, tmp_path / f"{name}-out", **layers).scores for name in ("square", "wide")]
    assert [score.error for score in both[0]] == [score.error for score in both[1]]
