"""The energy score, and samplers trained with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch

from preimage.inverters import Inverter
from preimage.training import Display, TrainConfig, run
from preimage.training.checkpoint import Progress
from preimage.training.energy_score import SMALLEST, _mean_blocks, _mean_squares, energy_score
from preimage.training.noise_factor import noise_factor
from training_runs import metrics_without_time, small_config, weights


def _textures(count: int, generator: torch.Generator, *, deviation: float = 0.1, shift: float = 0.0) -> torch.Tensor:
    """Return images whose mean color, coarse structure and noise are random."""
    colors = torch.randn(count, 3, 1, 1, generator=generator) * 0.1
    coarse = torch.randn(count, 3, 8, 8, generator=generator) * deviation
    noise = torch.randn(count, 3, 32, 32, generator=generator) * deviation
    return 0.5 + shift + colors + torch.nn.functional.interpolate(coarse, (32, 32)) + noise


@pytest.mark.parametrize(
    "others",
    [
        lambda count, made: _textures(count, made, deviation=0.05),
        lambda count, made: _textures(count, made, deviation=0.2),
        lambda count, made: _textures(count, made, shift=0.1),
        lambda count, made: torch.full((count, 3, 32, 32), 0.5),
    ],
    ids=["too similar", "too different", "too bright", "always the mean"],
)
def test_samples_of_the_distribution_have_the_best_score(
    others: Callable[[int, torch.Generator], torch.Tensor],
) -> None:
    made = torch.Generator().manual_seed(0)
    images, first, second = (_textures(256, made) for _ in range(3))
    assert energy_score(images, first, second) < energy_score(images, others(256, made), others(256, made))


def test_equal_images_have_a_gradient() -> None:
    image = torch.full((1, 3, 32, 32), 0.5)
    first, second = image.clone().requires_grad_(), image.clone().requires_grad_()
    score = energy_score(image, first, second)
    score.backward()
    assert score.item() < 1e-3
    for sample in (first, second):
        assert sample.grad is not None and bool(sample.grad.isfinite().all())


@pytest.mark.parametrize("side", [SMALLEST, 75, 128])
def test_the_score_of_a_batch_is_the_mean_of_those_of_its_images(side: int) -> None:
    batches = torch.rand(3, 5, 3, side, side, generator=torch.Generator().manual_seed(side))
    single = [energy_score(*(batch[index : index + 1] for batch in batches)) for index in range(5)]
    torch.testing.assert_close(energy_score(*batches), torch.stack(single).mean())


@pytest.mark.parametrize("shape", [(96, 128), (104, 75), (48, 40), (30, 15)])
def test_mean_blocks(shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *shape)
    sides = [side for side in (8, 16, 32) if min(shape) >= 2 * side]
    blocks = _mean_blocks(images)
    assert sorted(blocks) == sides
    rows, columns = (size // max(sides, default=1) * max(sides, default=1) for size in shape)
    for side, block in blocks.items():
        each = [
            images[:, :, top : top + side, left : left + side]
            for top in range(0, rows, side)
            for left in range(0, columns, side)
        ]
        mean = torch.stack(each).mean(dim=0)
        torch.testing.assert_close(block, mean - mean.mean(dim=(2, 3), keepdim=True))


def test_the_gradient_of_mean_squares() -> None:
    differences = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_mean_squares, (differences,))


@pytest.fixture(scope="module")
def inverter(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """Return the folder of a tiny trained inverter."""
    output = tmp_path_factory.mktemp("runs") / "inverter"
    run(small_config(photo_folder, output, steps=30))
    return output


def _sampler_config(images: Path, output: Path, inverter: Path, **changes: object) -> TrainConfig:
    settings: dict[str, object] = {"preset": None, "init": str(inverter), "sampler": True, "lr": 2e-3, "steps": 20}
    return small_config(images, output, **settings | changes)


def test_a_sampler_is_trained_and_its_inverter_stays(tmp_path: Path, photo_folder: Path, inverter: Path) -> None:
    summary = run(_sampler_config(photo_folder, tmp_path / "run", inverter, steps=60))
    before, after = Inverter.load(inverter), Inverter.load(tmp_path / "run")
    assert not before.can_sample and after.can_sample
    for (name, weight), (_, same) in zip(before.state_dict().items(), after.state_dict().items(), strict=False):
        assert torch.equal(weight, same), name
    assert after.training_notes["normalized_error"] == before.training_notes["normalized_error"]
    assert after.training_notes["sampler"]["steps"] == 60
    assert after.training_notes["sampler"]["normalized_error"] == summary.error
    losses = [line["loss"] for line in metrics_without_time(tmp_path / "run") if "loss" in line]
    assert sum(losses[-15:]) < sum(losses[:15])
    features = torch.rand(2, 31, 8, 8) * 0.3
    assert after.moments(features, 8)[1].mean() > 2 * Inverter.load(inverter).feature_mean.new_tensor(1e-3)
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2


class _Stopping(Display):
    def update(self, progress: Progress, loss: float) -> None:
        if progress.step == 12:
            raise RuntimeError("stopped at step 12")


def test_resuming_a_sampler_does_not_change_it(tmp_path: Path, photo_folder: Path, inverter: Path) -> None:
    whole = _sampler_config(photo_folder, tmp_path / "whole", inverter)
    run(whole)
    stopped = dataclasses.replace(whole, output=str(tmp_path / "parts"))

    with pytest.raises(RuntimeError, match="step 12"):
        run(stopped, display=_Stopping())
    run(stopped, resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert metrics_without_time(tmp_path / "whole") == metrics_without_time(tmp_path / "parts")


def test_a_sampler_is_trained_further_or_dropped(tmp_path: Path, photo_folder: Path, inverter: Path) -> None:
    run(_sampler_config(photo_folder, tmp_path / "first", inverter, steps=4))
    run(_sampler_config(photo_folder, tmp_path / "second", tmp_path / "first", steps=1, lr=1e-9))
    first, second = Inverter.load(tmp_path / "first"), Inverter.load(tmp_path / "second")
    features = torch.rand(1, 31, 8, 8) * 0.3
    factor = second.training_notes["sampler"]["noise_factor"]
    assert factor != 1
    same = first.sample(features, 2, spread=factor)
    torch.testing.assert_close(same, second.sample(features, 2), atol=1e-5, rtol=1e-4)
    run(_sampler_config(photo_folder, tmp_path / "third", tmp_path / "first", steps=1, sampler=False))
    assert not Inverter.load(tmp_path / "third").can_sample  # its encoder has changed
    assert json.loads((tmp_path / "third" / "config.json").read_text())["sampler"] is None


class _Drawing:
    """Inverter whose features are the mean image of draws with some deviation."""

    def __init__(self, deviation: float) -> None:
        self._deviation = deviation

    def draws(
        self, features: torch.Tensor, n: int, *, spread: float, positions: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        for draw in range(n):
            noise = [torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(n * p + draw)) for p in positions]
            yield features + spread * self._deviation * torch.stack(noise)


@pytest.mark.parametrize(("deviation", "factor"), [(0.1, 1.0), (0.07, 1 / 0.7), (0.15, 1 / 1.5), (1e-3, 2.0), (0, 1.0)])
def test_noise_is_scaled_to_the_error(deviation: float, factor: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(4):
            mean = torch.rand(8, 3, 64, 64, generator=generator)
            yield mean, mean + 0.1 * torch.randn(8, 3, 64, 64, generator=generator)

    found = noise_factor(cast(Inverter, _Drawing(deviation)), batches)
    assert found == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"init": None, "preset": "tiny"}, "sampler needs init"), ({"finetune": True}, "sampler and finetune")],
)
def test_names_settings_that_do_not_fit(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _sampler_config(tmp_path, tmp_path / "run", tmp_path, **changes)


def test_small_images_are_rejected(tmp_path: Path, photo_folder: Path, inverter: Path) -> None:
    with pytest.raises(ValueError, match=f"sampler.*{SMALLEST}.*24"):
        run(_sampler_config(photo_folder, tmp_path / "run", inverter, size=24))


def test_all_parts_of_the_smallest_images_have_a_score() -> None:
    images = torch.rand(3, 2, 3, SMALLEST, SMALLEST)
    assert energy_score(*images).isfinite()
