"""Descriptors as modules; `tests/ops/upconv` tests the up-convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import preimage
from preimage import nn


@pytest.mark.parametrize(
    ("module", "function", "parameters"),
    [
        (nn.HOG, preimage.hog, {"cell_size": 5, "color": "strongest"}),
        (nn.LBP, preimage.lbp, {"cell_size": 5}),
        (nn.DenseSIFT, preimage.dense_sift, {"step": 3, "bin_size": 5, "window": "flat", "window_size": 1.5}),
    ],
)
def test_modules_compute_the_functions(module: Any, function: Any, parameters: dict[str, Any]) -> None:
    images = torch.rand(2, 3, 40, 48)
    assert torch.equal(module()(images), function(images))
    layer = module(**parameters)
    assert torch.equal(layer(images), function(images, **parameters))
    assert all(f"{name}={value!r}" in repr(layer) for name, value in parameters.items())


def test_descriptors_train_what_makes_the_image() -> None:
    image = torch.rand(1, 3, 40, 48, requires_grad=True)
    descriptors = torch.nn.ModuleList([nn.HOG(), nn.DenseSIFT()])
    sum(descriptor(image).square().sum() for descriptor in descriptors).backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
