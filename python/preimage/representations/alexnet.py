"""The layers of AlexNet as representations (paper §3.1: CONV1…CONV5, FC6, FC7, FC8), with imported weights."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch

from preimage.representations.alexnet_network import (
    LAYERS,
    SIDES,
    STRIDES,
    VARIANTS,
    AlexNet,
    channels,
    check_layer,
    check_variant,
)
from preimage.representations.alexnet_weights import (
    DIGEST,
    PREPROCESSINGS,
    ImportedWeights,
    find,
    preprocessing_of,
)
from preimage.representations.base import Representation, register
from preimage.representations.preprocessing import Preprocessing
from preimage.spec import Scalar, Spec

_MOST_NETWORKS = 2  # kept in memory; a whole one takes 240 MB


@dataclasses.dataclass(frozen=True)
class AlexNetLayer(Representation):
    """The output of one layer of AlexNet, after its ReLU, pooling and normalisation.

    Weights are looked for when they are first needed, not before, and nothing is ever downloaded.

    Attributes:
        variant: ``"caffenet"`` (the paper's: pools, then normalises), ``"bvlc"`` or ``"torchvision"``.
        weights: ``""`` for the imported weights of the variant, the digest of some, or the path of an imported file.
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
        if self.preprocessing and self.preprocessing not in PREPROCESSINGS:
            known = ", ".join(PREPROCESSINGS)
            raise ValueError(f"unknown preprocessing {self.preprocessing!r}; known are {known}")

    @classmethod
    def from_parameters(cls, variant: str, values: Mapping[str, Any]) -> Representation:
        """The representation of a spec: there the preprocessing is spelt out, and the weights are a digest."""
        check_variant(variant)
        digest = values.get("weights")
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            # A path would make whoever wrote the file choose what is opened here.
            raise ValueError(f"weights in a spec of {cls.name} are 16 hex digits, got {digest!r:.40}")
        others = {name: value for name, value in values.items() if name != "weights"}
        for name in PREPROCESSINGS:
            if preprocessing_of(name, variant).parameters() == others:
                return cls(variant, digest, name)
        raise ValueError(f"this version's {cls.name} knows no preprocessing with {others!r:.200}")

    @property
    def spec(self) -> Spec:
        parameters: dict[str, Scalar] = {**self._pixels.parameters(), "weights": self._file.digest}
        size = channels(self.variant, self.layer)
        return Spec(self.name, self.variant, size, STRIDES.get(self.layer), parameters)

    @functools.cached_property
    def _file(self) -> ImportedWeights:
        return find(self.variant, self.weights)

    @functools.cached_property
    def _pixels(self) -> Preprocessing:
        return preprocessing_of(self.preprocessing or self._file.preprocessing, self.variant)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images, [self.layer])[self.layer]

    def layers(self, images: torch.Tensor, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The outputs of any layers in one pass, with this representation's weights and preprocessing.

        Args:
            images: (B, 3, side, side) in [0, 1] or uint8, RGB, of `image_side`. The network runs where they are, and
                gives gradients where they require some.
            names: ``"conv1"`` … ``"prob"``.

        Returns:
            (B, C, h, w) or (B, C) by name, float32.

        Raises:
            ValueError: images of another size, unknown layers, or ones whose weights were not imported.
            FileNotFoundError: no weights.
        """
        wanted = list(names)
        for name in wanted:
            check_layer(name)
        pixels = self._pixels(images)
        network = _network(self._file, max(map(LAYERS.index, wanted), default=0), pixels.device)
        with torch.autocast(pixels.device.type, enabled=False):
            return network.layers(pixels, wanted)

    @property
    def image_side(self) -> int:
        return VARIANTS[self.variant].image_side

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        if (height, width) != (self.image_side, self.image_side):
            side = self.image_side
            raise ValueError(f"{self.name} takes images of {side}×{side} pixels, got {height}×{width}")
        return (SIDES[self.layer], SIDES[self.layer]) if self.layer in SIDES else None

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return self.image_side, self.image_side


_NETWORKS: OrderedDict[tuple[str, str, torch.device], AlexNet] = OrderedDict()  # the most recently used last
_LOCK = threading.Lock()


def _network(file: ImportedWeights, depth: int, device: torch.device) -> AlexNet:
    """The network of these weights on that device, built at least up to the layer at `depth` of `LAYERS`."""
    key = (file.variant, file.digest, device)
    with _LOCK:
        network = _NETWORKS.pop(key, None)
        if network is None or LAYERS.index(network.last) < depth:
            network = _build(file, LAYERS[depth], device)
        _NETWORKS[key] = network
        while len(_NETWORKS) > _MOST_NETWORKS:
            _NETWORKS.popitem(last=False)
        return network


@torch.inference_mode(False)  # or a network first used in that mode could never give gradients
def _build(file: ImportedWeights, last: str, device: torch.device) -> AlexNet:
    network = AlexNet(file.variant, last, device="meta")
    tensors = file.tensors(LAYERS[: LAYERS.index(last) + 1])
    network.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()}, assign=True)
    return network.requires_grad_(False).eval()


@register
class Conv1(AlexNetLayer):
    """96 channels (torchvision: 64) of 27×27 cells."""

    name, layer = "alexnet-conv1", "conv1"


@register
class Conv2(AlexNetLayer):
    """256 channels (torchvision: 192) of 13×13 cells."""

    name, layer = "alexnet-conv2", "conv2"


@register
class Conv3(AlexNetLayer):
    """384 channels of 13×13 cells."""

    name, layer = "alexnet-conv3", "conv3"


@register
class Conv4(AlexNetLayer):
    """384 channels (torchvision: 256) of 13×13 cells."""

    name, layer = "alexnet-conv4", "conv4"


@register
class Conv5(AlexNetLayer):
    """256 channels of 6×6 cells."""

    name, layer = "alexnet-conv5", "conv5"


@register
class Fc6(AlexNetLayer):
    """Vectors of 4096, after ReLU."""

    name, layer = "alexnet-fc6", "fc6"


@register
class Fc7(AlexNetLayer):
    """Vectors of 4096, after ReLU."""

    name, layer = "alexnet-fc7", "fc7"


@register
class Fc8(AlexNetLayer):
    """Vectors of 1000 class scores, before the softmax."""

    name, layer = "alexnet-fc8", "fc8"


@register
class Prob(AlexNetLayer):
    """Vectors of 1000 class probabilities."""

    name, layer = "alexnet-prob", "prob"
