"""Test the autoencoder: a network fine-tuned along with its inverter, its file, resuming, and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import preimage
from conftest import Run
from networks import SIDE, Cnn, Shared, Vit
from preimage import training
from preimage.baselines.autoencoder import Autoencoder
from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.metrics import NormalizedError
from preimage.pipelines.image_loading import batches
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation, create_representation
from preimage.training import Display, TrainConfig
from preimage.training.finetuning import ENCODER, Encoder
from training_runs import metrics_without_time, weights

CPU = torch.device("cpu")
_MEAN, _STD = 120.0, 60.0


def layer(module: nn.Module, name: str) -> Representation:
    """Return a layer of a small network as a representation."""
    pixels = preimage.Preprocessing(SIDE, "bgr", 255.0, (_MEAN,) * 3, (_STD,) * 3)
    return preimage.Network(module, pixels, name="toy").representation(name)


@pytest.fixture
def cnn() -> Cnn:
    torch.manual_seed(0)
    module = Cnn()
    for buffer in module.buffers():  # running statistics unlike those of any batch
        if buffer.is_floating_point():
            buffer.add_(0.25)
    return module


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def settings(photo_folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return the settings of a run of a few seconds."""
    given = {
        "representation": "network",
        "images": (str(photo_folder),),
        "output": str(output),
        "preset": "auto",
        "budget": 30_000,
        "val_count": 4,
        "steps": 12,
        "batch_size": 4,
        "warmup_steps": 0,
        "precision": "float32",
        "device": "cpu",
        "finetune": True,
        "finetune_lr": 1e-3,
        "log_every": 1,
        "eval_every": 6,
        "save_every": 4,
    }
    return given | changes


def trained(representation: Representation, photo_folder: Path, output: Path, **changes: Any) -> training.TrainSummary:
    config = TrainConfig(**settings(photo_folder, output, **changes))
    return training.run(config, representation=representation)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], prefix: str = "") -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items() if name.startswith(prefix))


@pytest.mark.parametrize(
    ("make", "name", "before"),
    [
        (Cnn, "features.1", {"features.0", "features.1"}),
        (Cnn, "again", {"features.0", "features.1", "features.3", "again"}),
        (Shared, "first", {"first"}),
        (Vit, "blocks.0.norm1", {"", "patches", "blocks.0.norm1"}),
    ],
)
def test_gradients_are_those_of_the_features(
    make: Callable[[], nn.Module], name: str, before: set[str], images: torch.Tensor
) -> None:
    """Compare with the gradients of the whole network, whose input is computed from the pixels by hand."""
    torch.manual_seed(0)
    module = make()
    representation = layer(module, name)
    encoder = Encoder(representation, CPU)
    features = encoder(images)
    assert torch.equal(features, representation(images))
    factors = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    (features * factors).sum().backward()
    names = {parameter: name for name, parameter in encoder.module.named_parameters()}
    assert {names[one].rpartition(".")[0] for one in encoder.parameters} == before

    outputs: list[torch.Tensor] = []
    module.eval().get_submodule(name).register_forward_hook(lambda _module, _given, output: outputs.append(output + 0))
    module((images.flip(1).float() - _MEAN) / _STD)
    by_hand = outputs[0] if outputs[0].dim() == 4 else _grid(outputs[0])
    torch.testing.assert_close(by_hand, features)
    (by_hand * factors).sum().backward()
    for parameter in encoder.parameters:
        torch.testing.assert_close(parameter.grad, module.get_parameter(names[parameter]).grad, rtol=1e-4, atol=1e-3)


def _grid(tokens: torch.Tensor) -> torch.Tensor:
    """Return a class token and 4×4 tokens as maps, the class token at every cell."""
    grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    return torch.cat((grid, tokens[:, :1].transpose(1, 2)[..., None].expand_as(grid)), 1)


def test_the_network_is_copied_and_batch_norm_keeps_its_statistics(
    cnn: Cnn, photo_folder: Path, tmp_path: Path
) -> None:
    cnn.train()
    representation, before = layer(cnn, "again"), state_of(cnn)
    spec = representation.spec
    trained(representation, photo_folder, tmp_path / "run")
    assert same(before, state_of(cnn))
    assert representation.spec == spec
    assert all(part.training for part in cnn.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in cnn.parameters())
    after = safetensors.torch.load_file(tmp_path / "run" / ENCODER)
    assert after.keys() == before.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {
        f"{part}.{kind}" for part in ("features.0", "features.1", "features.3", "again") for kind in ("weight", "bias")
    }, "neither the statistics, nor weights after the layer"


def test_the_first_step_of_adam_has_the_length_of_the_learning_rate(
    cnn: Cnn, photo_folder: Path, tmp_path: Path
) -> None:
    before = state_of(cnn)
    trained(layer(cnn, "again"), photo_folder, tmp_path / "run", steps=1, finetune_lr=2e-4, lr=3e-3)
    tensors = safetensors.torch.load_file(tmp_path / "run" / "checkpoint.safetensors")
    moved = (tensors["encoder.again.weight"] - before["again.weight"]).abs()
    assert moved.max() == pytest.approx(2e-4, rel=1e-2)
    averaged = tensors["encoder_average.again.weight"] - before["again.weight"]
    torch.testing.assert_close(averaged.abs(), 0.9 * moved, atol=1e-7, rtol=1e-3)  # the first decay is a tenth


def test_a_loaded_autoencoder_has_the_error_of_its_validation(cnn: Cnn, photo_folder: Path, tmp_path: Path) -> None:
    representation = layer(cnn, "again")
    images = sorted(map(str, photo_folder.iterdir()))
    summary = trained(
        representation, photo_folder, tmp_path / "run", images=tuple(images[4:]), val_images=tuple(images[:4])
    )
    autoencoder = Autoencoder.load(tmp_path / "run", representation, device="cpu")
    spec = autoencoder.representation.spec
    assert spec == Inverter.load(tmp_path / "run").spec
    (difference,) = representation.spec.differences(spec)
    assert difference.startswith("parameters.weights")
    notes = autoencoder.inverter.training_notes
    assert notes["finetuned_from"] == representation.spec.parameters["weights"]
    measure = NormalizedError()
    for _, pixels in batches(preimage.io.list_images(images[:4]), SIDE, 4):
        features = autoencoder.representation(pixels)
        measure.update(autoencoder.target(pixels), autoencoder.invert(features, spec))
        with pytest.raises(ValueError, match="weights"):
            autoencoder.invert(representation(pixels), representation.spec)
    assert measure.report().error == pytest.approx(summary.error, rel=1e-5)
    assert summary.error == pytest.approx(notes["normalized_error"])
    reconstructor = Reconstructor(autoencoder.representation, tmp_path / "run", device="cpu")
    assert torch.equal(reconstructor(pixels), autoencoder.invert(features, spec))
    assert (autoencoder.name, autoencoder.title) == ("autoencoder", "autoencoder")


class StopsAt(Display):
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, progress: object, loss: float) -> None:
        if progress.step == self.step:  # type: ignore[attr-defined]
            raise OSError("the machine went away")


@pytest.mark.parametrize(("stop", "optimizer"), [(5, "adam"), (9, "muon")])
def test_resumes_bit_for_bit(cnn: Cnn, photo_folder: Path, tmp_path: Path, stop: int, optimizer: str) -> None:
    representation = layer(cnn, "again")
    trained(representation, photo_folder, tmp_path / "full", optimizer=optimizer)
    config = TrainConfig(**settings(photo_folder, tmp_path / "cut", optimizer=optimizer))
    with pytest.raises(OSError, match="went away"):
        training.run(config, representation=representation, display=StopsAt(stop))
    with pytest.raises(ValueError, match="finetune: False != True"):
        training.run(
            TrainConfig(**settings(photo_folder, tmp_path / "cut", optimizer=optimizer, finetune=False)),
            representation=representation,
            resume=True,
        )
    training.run(config, representation=representation, resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert (tmp_path / "full" / ENCODER).read_bytes() == (tmp_path / "cut" / ENCODER).read_bytes()
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


def test_it_starts_from_an_inverter_of_the_network_before(cnn: Cnn, photo_folder: Path, tmp_path: Path) -> None:
    representation = layer(cnn, "again")
    trained(representation, photo_folder, tmp_path / "first", finetune=False)
    assert not (tmp_path / "first" / ENCODER).exists()
    again = {"init": str(tmp_path / "first"), "preset": None, "budget": None}
    trained(representation, photo_folder, tmp_path / "second", **again)
    # An autoencoder is continued with its own representation, and with no other.
    autoencoder = Autoencoder.load(tmp_path / "second", representation)
    continued = again | {"init": str(tmp_path / "second")}
    trained(autoencoder.representation, photo_folder, tmp_path / "third", steps=1, **continued)
    with pytest.raises(ValueError, match="weights"):
        trained(representation, photo_folder, tmp_path / "fourth", **continued)


def test_it_learns_more_than_the_inverter_alone(cnn: Cnn, photo_folder: Path, tmp_path: Path) -> None:
    """From features of random weights, the loss of the last steps is lower if the weights may change, too."""
    representation = layer(cnn, "features.3")
    losses = {}
    for finetune in (False, True):
        output = tmp_path / str(finetune)
        trained(representation, photo_folder, output, finetune=finetune, finetune_lr=3e-3, steps=80, eval_every=80)
        losses[finetune] = np.mean([line["loss"] for line in metrics_without_time(output)[-21:] if "loss" in line])
    assert losses[True] < losses[False]


def test_layers_of_the_package_need_no_representation(
    photo_folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tune CONV1 of an AlexNet with random weights; its file is one that ``-p weights`` accepts."""
    monkeypatch.setenv("PREIMAGE_WEIGHTS", str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    tensors = {"conv1.weight": torch.randn(96, 3, 11, 11, generator=generator) / 20, "conv1.bias": torch.zeros(96)}
    safetensors.torch.save_file(tensors, tmp_path / "conv1.safetensors")
    folder, param = tmp_path / "run", ("-p", "variant=bvlc")
    options = ("--max-steps", 1, "--batch-size", 2, "--val-count", 2, "--preset", "auto", "--budget", 40_000)
    named = ("-p", f"weights={tmp_path / 'conv1.safetensors'}")
    code, _, err = run(
        "train", "alexnet-conv1", photo_folder, *param, *named, "-o", folder, "--finetune", "--device", "cpu", *options
    )
    assert code == 0, err
    autoencoder = Autoencoder.load(folder, device="cpu")
    again = create_representation("alexnet-conv1", variant="bvlc", weights=str(folder / ENCODER))
    assert autoencoder.representation.spec == again.spec == Inverter.load(folder).spec
    assert not torch.equal(again.network.module.conv1.weight, tensors["conv1.weight"])
    code, out, err = run("evaluate", folder, photo_folder, "--representation", "alexnet-conv1", *param, "-p",
                         f"weights={folder / ENCODER}", "--device", "cpu")  # fmt: skip
    assert code == 0, err
    assert "normalized error" in out


class NoWeights(nn.Module):
    """Network whose first layer has no weights, and whose second depends on none of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.after = nn.AvgPool2d(4), nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.pool(x))


def test_refusals(cnn: Cnn, photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(ValueError, match=r"layer of a network.*hog"):
        training.run(TrainConfig(**settings(photo_folder, output, representation="hog", preset="compact", budget=None)))
    with pytest.raises(ValueError, match=r"finetune.*user-provided"):
        TrainConfig(images=("photos",), output="run", features="f.npz", finetune=True)
    with pytest.raises(ValueError, match=r"cache.*finetune.*'on'"):
        TrainConfig(**settings(photo_folder, output, cache="on"))
    with pytest.raises(ValueError, match=r"finetune_lr.*0.*-1"):
        TrainConfig(**settings(photo_folder, output, finetune_lr=-1))
    with pytest.raises(ValueError, match=r"pool.*no weights"):
        trained(layer(NoWeights(), "pool"), photo_folder, output)
    with pytest.raises(ValueError, match=r"float32.*float64"):
        trained(layer(copy.deepcopy(cnn).double(), "again"), photo_folder, output)
    assert not output.exists()


def test_folders_that_are_no_autoencoder(cnn: Cnn, photo_folder: Path, tmp_path: Path) -> None:
    representation, folder = layer(cnn, "again"), tmp_path / "run"
    trained(representation, photo_folder, folder, steps=1)
    with pytest.raises(ValueError, match=r"toy.*pass its representation"):
        Autoencoder.load(folder)
    with pytest.raises(ValueError, match=rf"{ENCODER}.*another network"):
        Autoencoder.load(folder, layer(NoWeights(), "after"))
    with pytest.raises(FileFormatError, match=r"layer: 'features\.3' != 'again'"):
        Autoencoder.load(folder, layer(cnn, "features.3"))
    with pytest.raises(ValueError, match=r"layer of a network.*hog"):
        Autoencoder.load(folder, create_representation("hog"))
    with pytest.raises(ValueError, match="weights"):
        Autoencoder(Inverter.load(folder), representation)
    path = folder / ENCODER
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors | {"again.bias": tensors["again.bias"] + 1}, path)
    with pytest.raises(FileFormatError, match=rf"{ENCODER}.*weights"):
        Autoencoder.load(folder, representation)
    path.write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match=rf"{ENCODER}.*safetensors"):
        Autoencoder.load(folder, representation)
    path.unlink()
    with pytest.raises(FileFormatError, match=rf"no {ENCODER}"):
        Autoencoder.load(folder, representation)
