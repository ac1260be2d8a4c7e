"""AlexNet with user-provided weights, and its layers as representations (paper §3.1: CONV1…CONV5, FC6…FC8)."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.representations.alexnet_variants import DIGEST, LAYERS, STRIDES, VARIANTS, channels, check_variant
from preimage.representations.base import Representation, parameter
from preimage.representations.preprocessing import PREPROCESSINGS, check_preprocessing
from preimage.representations.registry import register
from preimage.spec import Spec

if TYPE_CHECKING:
    import torch

    from preimage.representations.network import Network, NetworkRepresentation


def alexnet(weights: str | Path = "", variant: str | None = None, preprocessing: str | None = None) -> Network:
    """Return AlexNet up to the last layer with weights; its layers are named conv1 … fc8 and prob.

    Args:
        weights: Path of a file that `preimage.import_weights` reads, the digest of imported weights,
            or ``""`` for the only imported weights of the variant.
        variant: ``"caffenet"`` (the paper's: pools, then normalizes), ``"bvlc"`` or ``"torchvision"``; ``None`` for the
            variant stated in the file.
        preprocessing: ``"caffe-bgr"`` or ``"imagenet-rgb"``; ``None`` for the one stated in the file, or else the
            default of the variant.

    Raises:
        FileNotFoundError: No weights; the message names the file to download.
        FileFormatError: A damaged file, or not the weights of that network.
        ValueError: An unknown variant or preprocessing, or a file that states another variant or none.
    """
    from preimage.representations.alexnet_weights import find

    if preprocessing is not None:
        check_preprocessing(preprocessing)
    path = find(variant or "caffenet", str(weights)).absolute()
    return _load(path, path.stat().st_mtime_ns, variant, preprocessing)


@functools.lru_cache(maxsize=2)  # a whole network takes 240 MB
def _load(path: Path, _modified: int, variant: str | None, preprocessing: str | None) -> Network:
    import torch

    from preimage.representations.alexnet_network import build
    from preimage.representations.alexnet_weights import check_name, read
    from preimage.representations.network import Network

    found = read(path, variant)
    with torch.inference_mode(False):  # otherwise a network first used in inference mode never has gradients
        module = build(found.variant, "prob" if found.layers[-1] == "fc8" else found.layers[-1], device="meta")
        tensors = {name: torch.from_numpy(values).float() for name, values in found.load().items()}
        module.load_state_dict(tensors, assign=True)
    pixels = PREPROCESSINGS[preprocessing or found.preprocessing](VARIANTS[found.variant].image_side)
    name = f"alexnet-{found.variant}"
    network = Network(module.requires_grad_(False).eval(), pixels, name=name, identify=_identify)
    check_name(path, network.weights)
    return network


def _identify(module: torch.nn.Module) -> str:
    from preimage.representations.alexnet_weights import digest

    return digest({name: tensor.numpy(force=True) for name, tensor in module.state_dict().items()})


@dataclasses.dataclass(frozen=True)
class AlexNetLayer(Representation):
    """The output of one layer of AlexNet, after its ReLU, pooling and normalization.

    Weights are loaded on first use. Nothing is downloaded.
    """

    layer: ClassVar[str]
    variant: str = parameter(
        "caffenet", "Network: caffenet (the paper's: pools, then normalizes), bvlc or torchvision."
    )
    weights: str = parameter(
        "", "Path of a file of weights, or the digest of imported weights; empty for the only imported ones."
    )
    preprocessing: str = parameter("", "Preprocessing: caffe-bgr or imagenet-rgb; empty for that stated in the file.")

    def __post_init__(self) -> None:
        check_variant(self.variant)
        if isinstance(self.weights, os.PathLike):
            object.__setattr__(self, "weights", os.fspath(self.weights))
        if not isinstance(self.weights, str):
            raise ValueError(f"weights must be a digest, a path or empty, got {self.weights!r}")
        if self.preprocessing:
            check_preprocessing(self.preprocessing)

    @classmethod
    def from_parameters(cls, variant: str, values: Mapping[str, Any]) -> Representation:
        """Return the representation of a spec, whose parameters include preprocessing and digest of the weights."""
        check_variant(variant)
        weights = values.get("weights")
        if not isinstance(weights, str) or not DIGEST.fullmatch(weights):
            # With a path, the author of the file could choose what is opened here.
            raise ValueError(f"weights in a spec of {cls.name} must be 16 hexadecimal digits, got {weights!r:.40}")
        others = {name: value for name, value in values.items() if name != "weights"}
        for name, pixels in PREPROCESSINGS.items():
            if pixels(VARIANTS[variant].image_side).parameters() == others:
                return cls(variant, weights, name)
        raise ValueError(f"this version of {cls.name} has no preprocessing with {others!r:.200}")

    @functools.cached_property
    def network(self) -> Network:
        """The network with these weights, shared by the representations of other layers."""
        return alexnet(self.weights, self.variant, self.preprocessing or None)

    @functools.cached_property
    def _of_network(self) -> NetworkRepresentation:
        built = dict(self.network.module.named_children())
        if self.layer not in built:
            raise ValueError(f"{self.name} is not in the network of these weights, which ends with {list(built)[-1]}")
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
    _members = {
        "__module__": __name__,
        "name": f"alexnet-{_layer}",
        "title": f"AlexNet {_layer}",
        "summary": f"Output of {_layer} of AlexNet, with user-provided weights.",
        "layer": _layer,
    }
    register(type(_layer.capitalize(), (AlexNetLayer,), _members))
