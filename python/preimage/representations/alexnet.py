"""AlexNet with weights that a user brings, and its layers as representations (paper §3.1: CONV1…CONV5, FC6…FC8)."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from preimage.representations.alexnet_network import LAYERS, STRIDES, VARIANTS, build, channels, check_variant
from preimage.representations.alexnet_weights import DIGEST, check_name, digest, find, read
from preimage.representations.base import Representation, register
from preimage.representations.network import Network, NetworkRepresentation
from preimage.representations.preprocessing import PREPROCESSINGS, check_preprocessing
from preimage.spec import Spec


def alexnet(weights: str | Path = "", variant: str | None = None, preprocessing: str | None = None) -> Network:
    """Return AlexNet up to the last layer that there are weights for; its layers are called conv1 … fc8 and prob.

    Args:
        weights: path of a file as `preimage.pipelines.weights.import_weights` takes them; the digest of imported ones;
            or empty for the only ones of the variant that were imported.
        variant: ``"caffenet"`` (the paper's: pools, then normalizes), ``"bvlc"`` or ``"torchvision"``; ``None`` for
            what the file tells.
        preprocessing: ``"caffe-bgr"`` or ``"imagenet-rgb"``; ``None`` for what the file tells, or else the variant's.

    Raises:
        FileNotFoundError: no weights; says what to get.
        FileFormatError: a damaged file, or not the weights of that network.
        ValueError: unknown variant or preprocessing, a variant that the file contradicts or that it does not tell.
    """
    if preprocessing is not None:
        check_preprocessing(preprocessing)
    path = find(variant or "caffenet", str(weights)).absolute()
    return _load(path, path.stat().st_mtime_ns, variant, preprocessing)


@functools.lru_cache(maxsize=2)  # a whole network takes 240 MB
@torch.inference_mode(False)  # or a network first used in that mode could never give gradients
def _load(path: Path, _modified: int, variant: str | None, preprocessing: str | None) -> Network:
    found = read(path, variant)
    module = build(found.variant, "prob" if found.layers[-1] == "fc8" else found.layers[-1], device="meta")
    tensors = {name: torch.from_numpy(values).float() for name, values in found.load().items()}
    module.load_state_dict(tensors, assign=True)
    pixels = PREPROCESSINGS[preprocessing or found.preprocessing](VARIANTS[found.variant].image_side)
    name = f"alexnet-{found.variant}"
    network = Network(module.requires_grad_(False).eval(), pixels, name=name, identify=_identify)
    check_name(path, network.weights)
    return network


def _identify(module: torch.nn.Module) -> str:
    return digest({name: tensor.numpy(force=True) for name, tensor in module.state_dict().items()})


@dataclasses.dataclass(frozen=True)
class AlexNetLayer(Representation):
    """The output of one layer of AlexNet, after its ReLU, pooling and normalization.

    Weights are looked for when they are first needed, not before, and nothing is ever downloaded.

    Attributes:
        variant: ``"caffenet"`` (the paper's: pools, then normalizes), ``"bvlc"`` or ``"torchvision"``.
        weights: ``""`` for the imported weights of the variant, the digest of some, or the path of a file.
        preprocessing: ``"caffe-bgr"``, ``"imagenet-rgb"``, or ``""`` for what the weights' file says.
    """

    layer: ClassVar[str]
    variant: str = "caffenet"
    weights: str = ""
    preprocessing: str = ""

    def __post_init__(self) -> None:
        check_variant(self.variant)
        if isinstance(self.weights, os.PathLike):
            object.__setattr__(self, "weights", os.fspath(self.weights))
        if not isinstance(self.weights, str):
            raise ValueError(f"weights is a digest, a path or empty, got {self.weights!r}")
        if self.preprocessing:
            check_preprocessing(self.preprocessing)

    @classmethod
    def from_parameters(cls, variant: str, values: Mapping[str, Any]) -> Representation:
        """The representation of a spec: there the preprocessing is spelt out, and the weights are a digest."""
        check_variant(variant)
        weights = values.get("weights")
        if not isinstance(weights, str) or not DIGEST.fullmatch(weights):
            # A path would make whoever wrote the file choose what is opened here.
            raise ValueError(f"weights in a spec of {cls.name} are 16 hex digits, got {weights!r:.40}")
        others = {name: value for name, value in values.items() if name != "weights"}
        for name, pixels in PREPROCESSINGS.items():
            if pixels(VARIANTS[variant].image_side).parameters() == others:
                return cls(variant, weights, name)
        raise ValueError(f"this version's {cls.name} knows no preprocessing with {others!r:.200}")

    @functools.cached_property
    def network(self) -> Network:
        """The network with these weights, which representations of other layers share."""
        return alexnet(self.weights, self.variant, self.preprocessing or None)

    @functools.cached_property
    def _of_network(self) -> NetworkRepresentation:
        built = dict(self.network.module.named_children())
        if self.layer not in built:
            raise ValueError(f"there is no {self.name} with these weights, which end with {list(built)[-1]}")
        return self.network.representation(self.layer)

    @property
    def spec(self) -> Spec:
        parameters = self._of_network.network.described_preprocessing() | {"weights": self.network.weights}
        size = channels(self.variant, self.layer)
        return Spec(self.name, self.variant, size, STRIDES.get(self.layer), parameters)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._of_network(images)

    @property
    def image_side(self) -> int:
        return VARIANTS[self.variant].image_side

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        return self._of_network.feature_size(height, width)

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return self.image_side, self.image_side


for _layer in LAYERS:
    _members = {"name": f"alexnet-{_layer}", "layer": _layer, "__module__": __name__}
    register(type(_layer.capitalize(), (AlexNetLayer,), _members))
