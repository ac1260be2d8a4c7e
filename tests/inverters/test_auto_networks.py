"""Test preset ``auto`` end to end on networks for which nothing was tuned: reconstructions resemble the images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Run
from paths import EXAMPLES
from preimage.inverters import Inverter, SingleStreamConfig, UShapedConfig
from preimage.io import decode_file, list_images, resize_and_center_crop
from preimage.metrics import NormalizedError
from preimage.store import FeatureStore

LEARNED = 0.95  # fraction of the mean image's error; measured on held-out images of such runs: 0.60 to 0.81
BUDGET = 600_000
U, EXPANDING = UShapedConfig, SingleStreamConfig


def timms(name: str) -> torch.nn.Module:
    """Create a network with the same random weights at every call, so that feature files match the inverter."""
    timm: Any = importlib.import_module("timm")
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False)
    assert isinstance(module, torch.nn.Module)
    return module


def resnet() -> torch.nn.Module:
    return timms("resnet18")


def vit() -> torch.nn.Module:
    return timms("vit_tiny_patch16_224")


def convnext() -> torch.nn.Module:
    return timms("convnext_atto")


def mixer() -> torch.nn.Module:
    return timms("mixer_s32_224")


def pixels(path: Path, side: int) -> torch.Tensor:
    """Return an image (1, 3, side, side) in [0, 1]."""
    return torch.from_numpy(resize_and_center_crop(decode_file(path), side)).permute(2, 0, 1)[None] / 255


def there_and_back(
    run: Run, folder: Path, steps: int, images: tuple[object, ...], judged_by: Path, network: tuple[object, ...]
) -> tuple[Inverter, float]:
    """Train, evaluate, extract and invert by the command line; return the error as a fraction of the mean image's."""
    trained, features, pictures = folder / "run", folder / "f.safetensors", folder / "pictures"

    def told(*arguments: object) -> dict[str, Any]:
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    length = ("--steps", steps, "--batch-size", 4, "--warmup-steps", 6, "--min-crop", 0.65)
    rates = ("--optimizer", "muon", "--muon-lr", 0.03, "--lr", 2e-3)
    told("train", *network, *images, "-o", trained, "--preset", "auto", "--budget", BUDGET, *length, *rates)
    judged = told("evaluate", trained, judged_by, "--representation", *network)
    told("extract", *network, judged_by, "-o", features)
    written = told("invert", features, "-o", pictures, "--inverter", trained)

    inverter, file, measure = Inverter.load(trained), FeatureStore(features), NormalizedError()
    assert inverter.spec == file.spec
    assert inverter.output_region is not None
    sources = list_images(judged_by)
    assert written["images"] == judged["images"] == len(sources)
    for source in sources:
        picture = pixels(pictures / f"{source.key}.png", inverter.output_region.size)
        loaded = inverter(file[source.key][None])
        assert (loaded - picture).abs().max() < 0.51 / 255
        measure.update(pixels(Path(source.path), inverter.output_region.size), picture)
    assert measure.report().error == pytest.approx(judged["error"], rel=0.01)
    assert sum(weight.numel() for weight in inverter.network.parameters()) <= BUDGET
    return inverter, judged["error"] / judged["mean_image_error"]


@pytest.mark.parametrize(
    ("factory", "layer", "channels", "kind"),
    [
        ("resnet", "layer3", 256, U),
        ("vit", "blocks.6", 2 * 192, U),
        ("convnext", "stages.2", 160, U),
        ("mixer", "blocks.3", 512, EXPANDING),
    ],
)
def test_timms_networks_with_random_weights(
    run: Run, tmp_path: Path, photo_folder: Path, factory: str, layer: str, channels: int, kind: type
) -> None:
    """The error is measured on the training photographs and similar ones."""
    pytest.importorskip("timm")
    images = (photo_folder, "--val-count", 4)
    network = (f"torch:{__name__}:{factory}", "-p", f"layer={layer}")
    inverter, error = there_and_back(run, tmp_path, 40, images, photo_folder, network)
    assert error < LEARNED
    assert isinstance(inverter.config, kind)
    assert inverter.spec.channels == channels


@pytest.mark.nightly  # takes half a minute; test_auto.py tests such shapes in the fast suite
def test_squeezenet_with_its_own_weights(
    run: Run, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is measured on unseen photographs."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    for source in list_images([str(shared_data / "images" / "val" / "val227.tar")])[:40]:
        (held_out / f"{source.key}.jpg").write_bytes(source.read())
    images = (shared_data / "images" / "train" / "train227-00000.tar", "--val-images", held_out)
    weights = shared_data / "squeezenet" / "squeezenet1_1-features.npz"
    network = ("torch:squeezenet_1_1:network", "-p", "layer=fire9", "-p", f"weights={weights}")
    inverter, error = there_and_back(run, tmp_path, 80, images, held_out, network)
    assert error < LEARNED
    assert isinstance(inverter.config, U)
    assert inverter.spec.channels == 512
