"""Test gradient descent on a batch of images with objectives whose minima are known."""

from __future__ import annotations

import pytest
import torch

from preimage.baselines.descent import Objective, Settings, descend

TARGET = torch.linspace(-0.4, 0.4, 2 * 8 * 8).view(2, 1, 8, 8)


def settings(steps: int, tolerance: float = 0) -> Settings:
    return Settings(steps, lr=0.02, momentum=0.97, preconditioning=0, tolerance=tolerance)


def quadratic(scale: torch.Tensor) -> Objective:
    """Return the squared distances from `TARGET`, weighted by `scale`, and their roots."""

    def objective(images: torch.Tensor, indices: torch.Tensor, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        value = (scale * (images - TARGET[indices])).flatten(1).square().mean(dim=1)
        return value, value.sqrt()

    return objective


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_the_minimum_is_found_whatever_the_scale_of_the_objective(scale: float) -> None:
    found = descend(torch.zeros(2, 1, 8, 8), quadratic(torch.tensor(scale)), settings(100), lambda _: None)
    torch.testing.assert_close(found, TARGET, rtol=0, atol=0.01)


def test_images_stay_in_range() -> None:
    def objective(images: torch.Tensor, indices: torch.Tensor, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        value = (images - 3).flatten(1).square().mean(dim=1)
        return value, value

    assert (descend(torch.zeros(1, 1, 8, 8), objective, settings(100), lambda _: None) == 0.5).all()


def test_the_state_with_the_smallest_error_is_returned() -> None:
    seen: list[torch.Tensor] = []

    def objective(images: torch.Tensor, indices: torch.Tensor, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(images.detach().clone())
        value = (images - TARGET[indices]).flatten(1).square().mean(dim=1)
        return value, torch.full((len(images),), abs(len(seen) - 4.0))

    found = descend(torch.zeros(2, 1, 8, 8), objective, settings(80), lambda _: None)
    assert len(seen) == 17  # the error does not fall within the second tenth of the steps
    assert (found == seen[3]).all()


def test_images_that_stop_are_left_out_and_their_steps_reported() -> None:
    sizes: list[int] = []
    reported: list[int] = []
    falling = quadratic(torch.tensor(1.0))

    def objective(images: torch.Tensor, indices: torch.Tensor, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(images))
        value, _ = falling(images, indices, progress)
        return value, torch.where(indices == 0, 1.0, 1 / len(sizes))  # the error of the first one never falls

    descend(torch.zeros(2, 1, 8, 8), objective, settings(20, tolerance=0.01), reported.append)
    assert sizes[0] == 2 and sizes[-1] == 1
    assert len(sizes) == 21  # the state after the last step is considered as well
    assert sum(reported) == 40
