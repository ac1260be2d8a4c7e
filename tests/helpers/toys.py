"""Provide toy representations of images of one size, and networks that invert them after little training."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F

from preimage.inverters import SingleStreamConfig
from preimage.inverters.output_region import OutputRegion
from preimage.inverters.plan import Plan, plan
from preimage.representations import registry
from preimage.representations.base import Presets, Representation
from preimage.spec import Spec
from preimage.training import builders

SIDE = 32


@dataclasses.dataclass(frozen=True)
class ToyMaps(Representation):
    """Features (6, 4, 4): mean and variation of the colors in blocks of 8×8 pixels."""

    name: ClassVar[str] = "toy-maps"
    presets: ClassVar[Presets] = {"tiny": {"architecture": "single-stream", "layers": ["c3/1 8", "up 8", "up 3"]}}
    variant: str = "toy"
    scale: float = 1.0
    calls: ClassVar[int] = 0  # number of images whose features were computed

    @property
    def spec(self) -> Spec:
        return Spec(self.name, self.variant, channels=6, stride=8, parameters={"scale": self.scale})

    @property
    def image_side(self) -> int:
        return SIDE

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        type(self).calls += len(images)
        if images.shape[2:] != (SIDE, SIDE):
            raise ValueError(f"a toy takes images of {SIDE}×{SIDE} pixels, got {tuple(images.shape)}")
        pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
        means = F.avg_pool2d(pixels, 8)
        return self.scale * torch.cat((means, F.avg_pool2d(pixels.square(), 8) - means.square()), dim=1)

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        return height // 8, width // 8

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return SIDE, SIDE


class ToyVectors(ToyMaps):
    """Features (6,): the same for the whole image, one of which is always 0."""

    name = "toy-vectors"

    @property
    def spec(self) -> Spec:
        return Spec(self.name, self.variant, channels=7, stride=None, parameters={"scale": self.scale})

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return F.pad(super().__call__(images).mean(dim=(2, 3)), (0, 1))

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        return None


class ToyProbabilities(ToyVectors):
    """Features (7,): non-negative with sum one; some are far below the range of half precision."""

    name = "toy-probabilities"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (40 * super().__call__(images)).softmax(dim=1)


class SlowToy(ToyMaps):
    name = "toy-slow"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return super().__call__(images)


NETWORKS = {
    None: (SingleStreamConfig(layers=("fc 64", "grid 4 4", "up 8", "up 3")), OutputRegion(SIDE, SIDE, 16)),
    (4, 4): (SingleStreamConfig(layers=("c3/1 8", "up 8", "up 3")), OutputRegion(SIDE, 24, 12)),
}


def toy_plan(spec: Spec, name: str, *, cells: tuple[int, int] | None, image_size: int, **options: Any) -> Plan:
    """Replace `plan`: return networks for the toys, and for user-provided features of the same shapes."""
    if spec.variant in ("toy", "user"):
        return Plan(*NETWORKS[cells])
    return plan(spec, name, cells=cells, image_size=image_size, **options)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the toys, and plan networks for them."""
    introduce(monkeypatch)


def introduce(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (ToyMaps, ToyVectors, ToyProbabilities, SlowToy):
        monkeypatch.setitem(registry._REGISTER, kind.name, kind)
        monkeypatch.setattr(kind, "calls", 0)
    monkeypatch.setattr(builders, "plan", toy_plan)
