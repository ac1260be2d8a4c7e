"""Test the probe: what it measures, that a training is not affected by it, and what happens when something fails."""

from __future__ import annotations

import csv
import math
import random
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from preimage import Network, Preprocessing, Probe, load_inverter
from preimage.errors import FileFormatError
from preimage.io import decode_file, resize_and_center_crop
from preimage.metrics import NormalizedError
from preimage.studies import probe as probe_module
from preimage.studies import probe_measurement
from preimage.studies.probe_measurement import layer_names
from preimage.studies.probe_page import ProbeStudy
from preimage.training.process_state import kept_random_state

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 32
FAST: dict[str, Any] = {"seconds": None, "steps": 2, "budget": 40_000, "batch_size": 4, "show_count": 2, "tile": 32}
HEADER = ["step", "weights", "layer", "normalized_error", "mean_image_error", "inverter_steps", "seconds", "problem"]


class Toy(nn.Module):
    """Network with everything that depends on its mode, or on random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 6, 5, 4, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.vector = nn.Linear(6 * 8 * 8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return vectors (B, 10)."""
        return self.vector(self.drop(self.maps(images)).flatten(1))


@pytest.fixture(autouse=True)
def plain_plot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the plot, whose text takes longer than a short training, except where it is looked at."""
    if "page" not in request.node.name:
        monkeypatch.setattr(ProbeStudy, "plot", lambda study: np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def images(photo_folder: Path) -> torch.Tensor:
    """Return ten photographs, (10, 3, 32, 32) uint8."""
    photos = [resize_and_center_crop(decode_file(path), SIDE) for path in sorted(photo_folder.iterdir())[::2]]
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()


def _network() -> Network:
    torch.manual_seed(3)
    return Network(Toy(), Preprocessing(SIDE), name="toys.net")


def _rows(probe: Probe) -> list[dict[str, str]]:
    with open(probe.csv, newline="") as file:
        return list(csv.DictReader(file))


def _train(
    network: Network, images: torch.Tensor, steps: int, probe: Callable[[int], object] = lambda step: None
) -> Iterator[float]:
    """Yield the losses of a training that uses all three random generators."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = network.module
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for step in range(steps):
        rows = torch.randperm(len(images))[: random.randint(4, 6)]
        noise = torch.from_numpy(np.random.normal(0, 0.1, (len(rows), 3, 1, 1)))
        loss = model(images[rows].float() / 255 + noise.float()).square().mean()
        loss.backward()
        optimizer.step()
        probe(step)
        optimizer.zero_grad()
        yield loss.item()


def _state(model: nn.Module) -> list[Any]:
    grads = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    flags = [(part.training, [one.requires_grad for one in part.parameters()]) for part in model.modules()]
    return [{name: one.clone() for name, one in model.state_dict().items()}, grads, flags]


def test_a_training_is_the_same_with_a_probe(images: torch.Tensor, tmp_path: Path) -> None:
    without = list(_train(_network(), images, 5))
    network = _network()
    probe = Probe(network, images, tmp_path / "probe", layers=["maps", "vector"], every=4, **FAST)

    def checked(step: int) -> None:
        before = _state(network.module)
        found = probe(step)
        torch.testing.assert_close(_state(network.module), before, rtol=0, atol=0)
        assert len(found) == (2 if step % 4 == 0 else 0)

    assert list(_train(network, images, 5, checked)) == without
    assert [score.step for score in probe.scores] == [0, 0, 4, 4]
    assert len({score.weights for score in probe.scores}) == 2, "the digest follows the weights"
    assert probe.scores[-1].weights == network.weights


def test_random_generators_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.random()), float(torch.rand(()))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(KeyError), kept_random_state():
        torch.manual_seed(7)
        draw()
        raise KeyError
    assert draw() == expected


def test_rows_page_and_files(images: torch.Tensor, tmp_path: Path) -> None:
    network = _network()
    probe = Probe(network, images, tmp_path, layers=["maps", "vector"], every=3, val_count=3, **FAST)
    for step in range(4):
        probe(step)
        for weight in network.module.parameters():
            weight.data.add_(0.01)  # which torch does not count
    rows = _rows(probe)
    assert list(rows[0]) == HEADER
    assert [(row["step"], row["layer"]) for row in rows] == [
        (step, layer) for step in ("0", "3") for layer in ("maps", "vector")
    ]
    assert len({row["weights"] for row in rows}) == 2
    assert [row["inverter_steps"] for row in rows] == ["2", "2", "4", "4"], "inverters are continued"
    sheet = decode_file(tmp_path / "sheet.png")
    assert sheet.shape[1] == 48 + 3 * (32 + 12) - 12, "the photograph and two probes"
    page = probe.page.read_text()
    for part in ("maps", "vector", "step 3", "continues the one of the probe before", "toys.net", "7 photographs"):
        assert part in page
    assert not (tmp_path / "work").exists()
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"inverters/maps/config.json", "strips/vector-000000003.png", "plot.png", "images/000009.png"} <= names
    assert not [name for name in names if "checkpoint" in name]


def test_the_error_is_that_of_the_saved_inverter(images: torch.Tensor, tmp_path: Path) -> None:
    network = _network()
    probe = Probe(network, images, tmp_path, layers=["maps"], val_count=4, **FAST)
    (score,) = probe(5)
    inverter = load_inverter(tmp_path / "inverters" / "maps", device="cpu")
    held_out = images[[index * 10 // 4 for index in range(4)]]
    representation = network.representation("maps")
    assert not inverter.spec.differences(representation.spec)
    assert inverter.training_notes["training_step"] == 5
    report = NormalizedError()
    report.update(held_out.float() / 255, inverter(representation(held_out)))
    assert score.error == pytest.approx(report.report().error, rel=0.02), "the run may compute in bfloat16"
    assert score.mean_image_error == pytest.approx(report.report().mean_image, rel=1e-3)


def test_probes_may_train_from_the_beginning(images: torch.Tensor, tmp_path: Path) -> None:
    network = _network()
    options = {**FAST, "layers": ["maps"], "every": 1}
    cold = Probe(network, images, tmp_path / "cold", warm_start=False, **options)
    warm = Probe(network, images, tmp_path / "warm", **options)
    for step in range(2):
        cold(step), warm(step)
    errors = [score.error for score in cold.scores]
    assert errors == [errors[0]] * 2, "the same weights, inverters and photographs"
    assert [score.inverter_steps for score in cold.scores] == [2, 2]
    assert [score.inverter_steps for score in warm.scores] == [2, 4]
    assert warm.scores[0].error == errors[0]
    assert warm.scores[1].error != errors[0]
    assert "from the beginning" in cold.page.read_text()


def test_steps_are_due_when_a_multiple_is_passed(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe(_network(), images, tmp_path, layers=["maps"], every=10, **FAST)
    done: list[int] = []

    def measure(step: int) -> tuple[()]:
        done.append(step)
        return ()

    monkeypatch.setattr(probe, "measure", measure)
    for step in (3, 4, 9, 10, 11, 19, 32, 33, 40):
        probe(step)
    assert done == [3, 10, 32, 40]
    counted = Probe(_network(), images, tmp_path, layers=["maps"], every=4, **FAST)
    monkeypatch.setattr(counted, "measure", measure)
    done.clear()
    for _ in range(9):
        counted.step()
    assert done == [0, 4, 8]


def test_surrounding_torch_settings_change_nothing(images: torch.Tensor, tmp_path: Path) -> None:
    network = _network()

    def error(name: str) -> float | None:
        return Probe(network, images, tmp_path / name, layers=["maps"], **{**FAST, "steps": 4})(0)[0].error

    expected = error("plain")
    with torch.autocast("cpu", torch.bfloat16):
        assert error("autocast") == expected
    with torch.no_grad():
        assert error("no_grad") == expected
    with torch.inference_mode():
        assert error("inference") == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert error("double") == expected
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_resumed_training_continues_its_probe(images: torch.Tensor, tmp_path: Path) -> None:
    options: dict[str, Any] = {**FAST, "layers": ["maps"], "every": 2}
    first = Probe(_network(), images, tmp_path, **options)
    for step in range(5):
        first(step)
    with pytest.raises(ValueError, match=r"contains a probe already.*resume=True"):
        Probe(_network(), images, tmp_path, **options)
    with pytest.raises(ValueError, match=r"layers maps, got vector"):
        Probe(_network(), images, tmp_path, **{**options, "layers": ["vector"]}, resume=True)
    resumed = Probe(_network(), images, tmp_path, **options, resume=True)
    assert [score.step for score in resumed.scores] == [0, 2, 4]
    resumed(3)  # from a checkpoint before the last probe
    assert [(score.step, score.inverter_steps) for score in resumed.scores] == [(0, 2), (2, 4), (3, 6)]
    assert [row["step"] for row in _rows(resumed)] == ["0", "2", "3"]
    other = Probe(_network(), images.flip(3), tmp_path, **options, resume=True)
    with pytest.raises(ValueError, match="other photographs"):
        other(9)
    (tmp_path / "probe.csv").write_text("a,b\n")
    with pytest.raises(FileFormatError, match=r"probe\.csv"):
        Probe(_network(), images, tmp_path, **options, resume=True)
    (tmp_path / "probe.csv").write_text(",".join(HEADER) + "\nx,y,z,1,1,1,1,\n")
    with pytest.raises(FileFormatError, match=r"probe\.csv.*damaged"):
        Probe(_network(), images, tmp_path, **options, resume=True)
    fresh = Probe(_network(), images, tmp_path / "new", **options, resume=True)
    assert fresh.scores == ()


def test_features_that_are_not_finite_are_reported(images: torch.Tensor, tmp_path: Path) -> None:
    network = _network()
    probe = Probe(network, images, tmp_path, layers=["maps", "vector"], every=1, **FAST)
    probe(0)
    with torch.no_grad():
        network.module.vector.weight[0, 0] = math.nan
    found = probe(1)
    assert [score.error is None for score in found] == [False, True]
    assert "NaN" in _rows(probe)[-1]["problem"]
    assert "vector at step 1: no error" in probe.page.read_text()
    with torch.no_grad():
        network.module.vector.weight[0, 0] = 0
    assert [score.inverter_steps for score in probe(2)] == [6, 4], "the last inverter is continued"


def test_a_later_failure_does_not_end_the_training(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe(_network(), images, tmp_path, layers=["maps"], every=1, **FAST)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probe_measurement, "write_features", full)
    with pytest.raises(OSError, match="No space"):
        probe(0)
    monkeypatch.undo()
    probe = Probe(_network(), images, tmp_path / "again", layers=["maps"], every=1, **FAST)
    assert probe(0)
    monkeypatch.setattr(probe_measurement, "write_features", full)
    with pytest.warns(UserWarning, match=r"step 1 failed: OSError.*No space"):
        assert probe(1) == ()
    monkeypatch.undo()
    assert [score.step for score in probe(2) and probe.scores] == [0, 2]


def test_only_rank_0_probes(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(_network(), images, tmp_path / "group", layers=["maps"], **FAST)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert probe(0) == ()
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert probe(0), "and alone, although torchrun has started two processes"
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setenv("RANK", "1")
    other = Probe(_network(), images, tmp_path / "group", layers=["maps"], **FAST)
    assert other(0) == ()


def _lightning(monkeypatch: pytest.MonkeyPatch) -> type:
    """Put a module in the place of Lightning, and return its class of callbacks."""

    class Callback:
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            raise NotImplementedError

    package = types.ModuleType("lightning.pytorch")
    package.Callback = Callback  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    return Callback


def test_a_callback_of_lightning(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(_network(), images, tmp_path, layers=["maps"], every=3, **FAST)
    base = _lightning(monkeypatch)
    callback = probe.lightning()
    assert isinstance(callback, base)
    trainer = types.SimpleNamespace(global_step=0)
    callback.on_train_start(trainer, None)
    for batch in range(10):
        trainer.global_step = batch // 2 + 1  # gradients are accumulated over two batches
        callback.on_train_batch_end(trainer, None, None, None, batch)
    callback.on_train_end(trainer, None)
    assert [score.step for score in probe.scores] == [0, 3, 5]
    callback.on_train_end(trainer, None)
    assert len(probe.scores) == 3


def test_without_lightning_there_is_advice(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install lightning"):
        Probe(_network(), images, tmp_path, layers=["maps"], **FAST).lightning()


def test_a_trainer_of_lightning(images: torch.Tensor, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("lightning.pytorch")

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.losses = _network().module, []

            def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
                loss = self.net(batch[0]).square().mean()
                self.losses.append(loss.item())
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), 0.05)

        def fit(name: str) -> tuple[list[float], Probe]:
            lightning.seed_everything(1)
            module = Module()
            network = Network(module.net, Preprocessing(SIDE))
            probe = Probe(network, images, tmp_path / name, layers=["maps"], every=2, **FAST)
            data = torch.utils.data.TensorDataset(images.float() / 255)
            loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
            trainer = lightning.Trainer(
                max_epochs=1,
                accelerator="cpu",
                callbacks=[probe.lightning()] if name == "with" else [],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=tmp_path,
            )
            trainer.fit(module, loader)
            return module.losses, probe

        losses, probe = fit("with")
        assert losses == fit("without")[0]
    assert [score.step for score in probe.scores] == [0, 2, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "one to 8.*0"),
        ({"layers": [f"l{index}" for index in range(9)]}, "one to 8.*9"),
        ({"layers": ["map"]}, "map"),
        ({"every": 0}, "every.*0"),
        ({"steps": None}, "seconds or steps"),
        ({"steps": 0}, "steps.*0"),
        ({"seconds": 0}, "seconds.*0"),
        ({"lr": math.nan}, "lr.*nan"),
        ({"columns": 1}, "columns.*1"),
        ({"tile": 8}, "tile.*8"),
        ({"val_count": 1}, "val_count.*1"),
        ({"val_count": 9}, "10 photographs.*9"),
        ({"device": "gpu7"}, "gpu7"),
        ({"images": torch.zeros(3, 8, 8)}, r"\(N, 3, H, W\)"),
        ({"images": "nothing/"}, "nothing"),
        ({"output": "FILE"}, "is a file"),
    ],
)
def test_bad_arguments(images: torch.Tensor, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given = {"images": images, "output": tmp_path / "probe", "layers": ["maps"], **FAST, **options}
    if given["output"] == "FILE":
        given["output"] = tmp_path / "file"
        given["output"].touch()
    with pytest.raises((ValueError, OSError), match=message):
        Probe(_network(), given.pop("images"), given.pop("output"), **given)


@pytest.mark.parametrize("factor", [2.0, -1.0, float("nan")])
def test_tensors_out_of_range_are_refused(images: torch.Tensor, tmp_path: Path, factor: float) -> None:
    floating = images.float() / 255
    floating[3] = factor
    with pytest.raises(ValueError, match=r"in \[0, 1\]: image 3"):
        Probe(_network(), floating, tmp_path / "probe", layers=["maps"])
    assert not (tmp_path / "probe").exists()


def test_types_that_are_refused(images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="preprocess must be given"):
        Probe(Toy(), images, tmp_path, layers=["maps"])
    with pytest.raises(TypeError, match="preprocess must be left out"):
        Probe(_network(), images, tmp_path, layers=["maps"], preprocess=Preprocessing(SIDE))
    with pytest.raises(TypeError, match="'maps'"):
        Probe(_network(), images, tmp_path, layers="maps")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int64"):
        Probe(_network(), images.long(), tmp_path, layers=["maps"])


def test_photographs_from_files(photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    options: dict[str, Any] = {**FAST, "layers": ["vector"], "val_count": 2}
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        Probe(Toy(), tmp_path / "photos", tmp_path / "out", preprocess=Preprocessing(SIDE), **options)(0)
    probe = Probe(
        Toy(), tmp_path / "photos", tmp_path / "out", preprocess=Preprocessing(SIDE), skip_bad=True, **options
    )
    assert len(probe(0)) == 1
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 20


def test_names_of_layers_become_names_of_files() -> None:
    names = layer_names(["", "a.b", "A.B", "x/../y", "output"])
    assert names == {"": "output", "a.b": "a.b", "A.B": "A.B-2", "x/../y": "x_.._y", "output": "output-4"}
    assert probe_module.MOST_SERIES == 8
