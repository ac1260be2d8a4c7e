"""Compare the worked examples, two real networks, with known statistics and accuracy."""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.feature
import torch

import preimage
from paths import EXAMPLES
from preimage.io import decode_image, list_images

# mean, standard deviation, maximum, fraction of zeros (%) over the 200 validation images of 227²
GOOGLENET = {
    "conv1": (-0.0272, 1.2982, 30.88, 0.0),
    "conv2": (-0.1335, 1.6338, 29.37, 0.0),
    "a3": (0.1236, 0.1922, 9.859, 46.4),
    "b3": (0.0965, 0.1507, 6.468, 51.5),
    "c3": (0.0511, 0.1025, 5.376, 65.3),
    "a4": (0.0717, 0.1214, 6.510, 55.6),
    "b4": (0.0711, 0.1196, 4.780, 56.0),
    "c4": (0.0604, 0.1097, 3.587, 59.9),
    "d4": (0.0559, 0.1079, 3.335, 63.3),
    "e4": (0.0183, 0.0599, 2.728, 83.2),
    "a5": (0.0302, 0.0796, 2.336, 75.7),
    "b5": (0.5241, 1.2782, 71.46, 59.3),
    "pooled": (0.5241, 0.7767, 16.343, 12.0),
    "scores": (1.7102, 2.5528, 33.167, 0.0),
}


@pytest.fixture
def examples_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture(scope="module")
def validation(shared_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (200, 3, 227, 227) uint8 and their classes."""
    sources = list_images([str(shared_data / "images" / "val" / "val227.tar")])
    images = torch.stack([torch.from_numpy(decode_image(source.read(), name=source.name)) for source in sources])
    with (shared_data / "images" / "index.csv").open(newline="") as file:
        labels = {row["key"]: int(row["label"]) for row in csv.DictReader(file) if row["label"]}
    return images.permute(0, 3, 1, 2), torch.tensor([labels[source.key] for source in sources])


def batches(network: preimage.Network, images: torch.Tensor, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    with torch.inference_mode():
        for part in images.split(20):
            yield network.layers(part, names)


def test_digits_are_recognized_as_with_scikit_image(
    examples_importable: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script for scikit-image's hog, of which only the import has been changed."""
    pytest.importorskip("sklearn")
    script = importlib.import_module("hog_digits")
    accuracy, confusion = script.main()
    printed = capsys.readouterr().out
    assert accuracy > 0.95 and int(confusion.sum()) == 450
    monkeypatch.setattr(script, "hog", skimage.feature.hog)
    original_accuracy, original_confusion = script.main()
    assert (accuracy, confusion.tolist()) == (original_accuracy, original_confusion.tolist())
    assert printed == capsys.readouterr().out
    assert re.findall(r"^from.*import hog\b.*", Path(str(script.__file__)).read_text(), re.MULTILINE) == [
        "from preimage.compat.skimage.feature import hog  # instead of: from skimage.feature import hog"
    ]


def test_googlenet_is_the_network_that_it_claims(
    examples_importable: None, shared_data: Path, validation: tuple[torch.Tensor, torch.Tensor]
) -> None:
    network = importlib.import_module("googlenet").network(str(shared_data / "googlenet" / "googlenet.npz"))
    images, labels = validation
    center = images[:, :, 1:225, 1:225].contiguous()
    right = count = 0
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in GOOGLENET}
    most = dict.fromkeys(GOOGLENET, -torch.inf)
    sizes = dict.fromkeys(GOOGLENET, 0)
    for features in batches(network, center, [*GOOGLENET, "prob"]):
        for name in GOOGLENET:
            values = features[name].double()
            sums[name] += torch.stack([values.sum(), values.square().sum(), (values == 0).sum().double()])
            most[name] = max(most[name], values.max().item())
            sizes[name] += values.numel()
        right += int((features["scores"].argmax(1) == labels[count : count + len(features["scores"])]).sum())
        count += len(features["scores"])
        torch.testing.assert_close(features["prob"], features["scores"].softmax(dim=1))
    assert count == 200 and right == 148  # 74.0 %
    for name, (mean, deviation, largest, zeros) in GOOGLENET.items():
        total, squares, none = (sums[name] / sizes[name]).tolist()
        assert total == pytest.approx(mean, abs=1e-4)
        assert (squares - total**2) ** 0.5 == pytest.approx(deviation, rel=2e-3)
        assert most[name] == pytest.approx(largest, rel=1e-3)
        assert 100 * none == pytest.approx(zeros, abs=0.1)


def test_squeezenet_is_the_network_that_it_claims(
    examples_importable: None, shared_data: Path, validation: tuple[torch.Tensor, torch.Tensor]
) -> None:
    network = importlib.import_module("squeezenet").network(str(shared_data / "squeezenet" / "squeezenet1_0.npz"))
    images, labels = validation
    parts = [part["scores"] for part in batches(network, images, ["scores"])]
    scores = torch.cat(parts)
    assert int((scores.argmax(1) == labels).sum()) == 134  # 67.0 %
    assert scores.shape == (200, 1000) and scores.min() >= 0  # a ReLU before the mean
    shapes = {name: shape.features for name, shape in network.shapes(["fire4", "fire8", "fire9", "scores"]).items()}
    assert shapes == {"fire4": (256, 55, 55), "fire8": (512, 27, 27), "fire9": (512, 13, 13), "scores": (1000,)}


def test_digits_are_classified_with_both_libraries(examples_importable: None) -> None:
    accuracies = importlib.import_module("classify_digits").accuracies()
    assert accuracies["scikit-image"] > 0.8
    assert abs(accuracies["preimage"] - accuracies["scikit-image"]) < 0.01
    assert accuracies["preimage, VLFeat's variant"] > 0.9


@pytest.mark.parametrize(
    ("name", "layer"), [("googlenet", "pooled"), ("squeezenet", "prob"), ("squeezenet_1_1", "fire9")]
)
def test_an_example_without_its_weights_says_so(
    examples_importable: None, name: str, layer: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"torch:{name}:network.*FileNotFoundError: .*missing\.npz"):
        preimage.create_representation(f"torch:{name}:network", layer=layer, weights=str(tmp_path / "missing.npz"))
