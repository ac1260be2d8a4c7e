"""Any layer of any torch network as a representation."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from preimage.errors import brief, is_out_of_memory
from preimage.representations.base import NETWORK, Representation
from preimage.representations.network_identity import Preprocess, described, digest, tensors_of, versions
from preimage.representations.network_layers import describe_output, find_layer, layer_outputs, place_of, trace
from preimage.representations.network_layout import LayerShape, as_features, check_output_layout, looks_channels_last
from preimage.representations.network_state import check_weights, copied_to, evaluating, unwrapped
from preimage.representations.preprocessing import Preprocessing, unit_rgb
from preimage.spec import Scalar, Spec

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class TracedLayer:
    """A layer called in a forward pass.

    Attributes:
        name: Dotted name, ``""`` for the network itself.
        kind: Name of its class.
        output: Description of its output for one image.
        features: Shape (C, h, w) or (C,) of its features, or ``None`` if its output cannot be features.
        prefix_tokens: Number of tokens that are not part of the grid, see `Network`.
        problem: Reason why it has no features; else empty.
        channels_last: The output seems to be a map (B, h, w, C), which needs ``output_layout="nhwc"``.
        parameters: Number of parameters, those of its parts included.
        calls: Number of calls in one pass; a representation takes the first.
    """

    name: str
    kind: str
    output: str
    features: tuple[int, ...] | None
    prefix_tokens: int
    problem: str
    channels_last: bool
    parameters: int
    calls: int


class Network:
    """A torch network with its preprocessing, for features of any of its layers, or of several in one pass.

    The shape of a layer's output decides what its features are. (B, C, h, w) is a map, or a vector if h = w = 1;
    (B, C) is a vector. (B, N, C) are tokens: with N = n² + k and k ≤ 8 the last n² form a map of n × n cells, and each
    of the k tokens before them (class token, registers) adds C channels that are the same at every cell:
    (B, (1 + k)·C, n, n). ``output_layout="tokens-last"``, ``"tokens-middle"`` and ``"tokens-at-N"`` are for networks
    that put the k tokens at the end, after the first half of the n², or after N of them. ``output_layout="nhwc"`` takes
    maps with the channels last; a map that is square only in that order is an error without it, unless
    ``output_layout="nchw"`` confirms its order. ``output_layout="vector"`` flattens any output. ``"class-token"`` is
    the first token alone, ``"grid"`` the n² tokens without the others, and ``"mean"`` their mean, or that of a map.

    The module is not changed: each pass runs in evaluation mode, without gradients of the weights, and then restores
    the mode and ``requires_grad`` of every submodule. Images on another device are processed by a copy of the network
    on that device, which is created again only if the weights change. Passes of several threads run one after the
    other.

    Args:
        module: Network whose input is (B, 3, H, W) in the precision of its weights. Wrappers of `torch.compile` and of
            data parallelism are removed, also from submodules. The only layer of TorchScript is ``""``, its output.
        preprocess: A `Preprocessing`, or any function of images (B, 3, side, side) float32 RGB in [0, 1], of which a
            spec contains only the name.
        image_size: Side of the images in pixels; required if `preprocess` is a function, and not allowed otherwise.
        name: Name of the network in specs; by default that of its class, with its package.
        identify: Function that returns a digest of a module's weights for specs; by default a digest of the whole
            state, see `weights`.

    Raises:
        TypeError: Not a module, or a `preprocess` that cannot be called.
        ValueError: An `image_size` missing, out of range, or given twice; weights without values (on the meta device,
            of lazy layers) or only a part of them.

    Example:
        >>> network = preimage.Network(vit, preimage.Preprocessing(224))
        >>> features = network.representation("blocks.3")(images)
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Preprocess,
        *,
        image_size: int | None = None,
        name: str | None = None,
        identify: Callable[[nn.Module], str] = digest,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {describe_output(module)}")
        self._described, self.image_size = described(preprocess, image_size)
        self.module: nn.Module = unwrapped(module)
        self.name = name or f"{type(self.module).__module__}.{type(self.module).__qualname__}"
        self._called = f"the network {self.name}"
        check_weights(self.module, self._called)
        self._preprocess = preprocess
        self._identify = identify
        self._lock = threading.RLock()
        self._versions = versions(self.module)  # state of the weights to which the next three attributes belong
        self._weights = ""
        self._shapes: dict[tuple[str, str], LayerShape] = {}
        self._copies: dict[torch.device, nn.Module] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_copies": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    @property
    def weights(self) -> str:
        """Digest of the weights, 16 hexadecimal digits, computed again when they change."""
        with self._lock:
            self._forget_if_changed()
            self._weights = self._weights or self._identify(self.module)
            return self._weights

    def representation(self, layer: str, output_layout: str = "auto") -> NetworkRepresentation:
        """Return the representation of one layer.

        Args:
            layer: Name in ``module.named_modules()``; ``""`` is the output of the network.
            output_layout: Axis order of its output: ``"auto"``, ``"nchw"``, ``"nhwc"``, ``"vector"``,
                ``"tokens-middle"``, ``"tokens-last"`` or ``"tokens-at-N"``; or a part of it: ``"class-token"``,
                ``"grid"`` or ``"mean"``.

        Raises:
            ValueError: No such layer (similar names are listed), or no such `output_layout`.
        """
        return NetworkRepresentation(self, layer, output_layout)

    def layers(
        self, images: torch.Tensor, names: Iterable[str], output_layout: str = "auto"
    ) -> dict[str, torch.Tensor]:
        """Return the features of several layers by name, computed in one pass.

        The features are (B, C, h, w) or (B, C), float32, on the device of the images. If a layer is called several
        times, its first call is used. NaN and infinite values are kept.

        Args:
            images: (B, 3, side, side) RGB, uint8 or floating in [0, 1]. Gradients flow back to them if required.
            names: Of the layers; the pass ends after the last of them.
            output_layout: Axis order of all outputs.

        Raises:
            TypeError: Images of another dtype, or an output that is not one floating tensor; the message names the
                layer.
            ValueError: Images of another size, no such layer, or an output of another shape.
        """
        wanted = list(names)
        if not wanted:
            raise ValueError("names must contain at least one layer, got none")
        shapes = self.shapes(wanted, output_layout)
        with self._on(images.device, gradients=torch.is_grad_enabled() and images.requires_grad) as module:
            outputs = layer_outputs(module, wanted, self.pixels(images), self._called)
        features: dict[str, torch.Tensor] = {}
        for name in wanted:
            features[name], shape = as_features(self._output(outputs[name]), output_layout, len(images), name)
            if shape != shapes[name]:
                raise ValueError(
                    f"layer {name!r} has features {shape.features} here but {shapes[name].features} for a single "
                    "image: they must not depend on the number or the contents of the images"
                )
        return features

    def shapes(self, names: Collection[str], output_layout: str = "auto") -> dict[str, LayerShape]:
        """Return the shapes of the features of these layers, from one pass over a black image that is done once.

        Raises:
            TypeError, ValueError: As `layers`; also if the network fails on an image of its size.
        """
        check_output_layout(output_layout)
        with self._lock:
            self._forget_if_changed()
            missing = [name for name in names if (name, output_layout) not in self._shapes]
            for name in missing:
                find_layer(self.module, name)
            if missing:
                outputs = self._on_black(lambda module, pixels: layer_outputs(module, missing, pixels, self._called))
                for name, output in outputs.items():
                    self._shapes[name, output_layout] = as_features(self._output(output), output_layout, 1, name)[1]
            return {name: self._shapes[name, output_layout] for name in names}

    def trace(self) -> list[TracedLayer]:
        """Return all layers called in a pass over one image, in the order in which they finish."""
        return [
            dataclasses.replace(found, calls=calls)
            for calls, found in self._on_black(lambda module, pixels: trace(module, pixels, self._traced, self._called))
        ]

    def described_preprocessing(self) -> dict[str, Scalar]:
        """Return the preprocessing as parameters of a spec."""
        return dict(self._described)

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Return the input of the network for images (B, 3, side, side), in the precision of its weights.

        Raises:
            TypeError: As `layers`, or a preprocessing that does not return (B, 3, H, W).
            ValueError: Images of another size, or a preprocessing that fails.
        """
        floating = (tensor.dtype for tensor in tensors_of(self.module) if tensor.is_floating_point())
        dtype = next(floating, torch.float32)
        if isinstance(self._preprocess, Preprocessing):
            return self._preprocess(images).to(dtype)
        unit = unit_rgb(self.image_size)(images)
        try:
            pixels = self._preprocess(unit)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            position = place_of(error)
            raise ValueError(f"the preprocessing of {self._called} fails: {brief(error)}{position}") from error
        if not isinstance(pixels, torch.Tensor) or pixels.dim() != 4:
            raise TypeError(
                f"the preprocessing of {self._called} must return (B, 3, H, W), got {describe_output(pixels)}"
            )
        return pixels.to(dtype)

    def with_module(self, module: nn.Module) -> Network:
        """Return a network of the same name and preprocessing with another module, such as one with other weights.

        Raises:
            TypeError, ValueError: As the constructor.
        """
        return type(self)(module, self._preprocess, image_size=self.image_size, name=self.name, identify=self._identify)

    def _output(self, output: Any) -> Any:
        """Return the part of a layer's output that is its features; a subclass may take one tensor of several."""
        return output

    def _traced(self, name: str, layer: nn.Module, output: Any) -> TracedLayer:
        return _traced(name, layer, self._output(output))

    @contextmanager
    def _on(self, device: torch.device, gradients: bool = False) -> Iterator[nn.Module]:
        """Prepare the module, or its copy on that device, for a pass in the precision of its weights."""
        has_autocast = torch.amp.is_autocast_available(device.type)
        precise = torch.autocast(device.type, enabled=False) if has_autocast else nullcontext()
        with self._lock, torch.set_grad_enabled(gradients), precise:
            module = self.module if device == self._device else self._copies.get(device)
            if module is None:
                module = self._copies[device] = copied_to(self.module, device, self._called)
            with evaluating(module):
                yield module

    def _forget_if_changed(self) -> None:
        """Forget digests, shapes and copies if the caller has changed the weights."""
        if (now := versions(self.module)) != self._versions:
            self._versions, self._weights = now, ""
            self._shapes.clear()
            self._copies.clear()

    @property
    def _device(self) -> torch.device:
        return next((tensor.device for tensor in tensors_of(self.module)), torch.device("cpu"))

    def _on_black(self, work: Callable[[nn.Module, torch.Tensor], T]) -> T:
        side = self.image_size
        # Not in inference mode, because tensors that the network caches in this pass may need gradients later.
        with torch.inference_mode(False), self._on(self._device) as module:
            return work(module, self.pixels(torch.zeros(1, 3, side, side, device=self._device)))


@dataclasses.dataclass(frozen=True)
class NetworkRepresentation(Representation):
    """A layer of a network as a representation, see `Network`.

    The stride of its spec is the side of the image divided by the rows of the map, rounded, at least 1.
    """

    name: ClassVar[str] = NETWORK
    network: Network
    layer: str
    output_layout: str = "auto"

    def __post_init__(self) -> None:
        check_output_layout(self.output_layout)
        find_layer(self.network.module, self.layer)

    @property
    def spec(self) -> Spec:
        shape = self._shape
        side = self.network.image_size
        parameters: dict[str, Scalar] = {
            "layer": self.layer,
            "output_layout": self.output_layout,
            "prefix_tokens": shape.prefix_tokens,
            "weights": self.network.weights,
        }
        return Spec(
            self.name,
            self.network.name,
            channels=shape.features[0],
            stride=max(1, round(side / shape.features[1])) if len(shape.features) == 3 else None,
            parameters=self.network.described_preprocessing() | parameters,
        )

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        batch = images[None] if images.dim() == 3 else images
        features = self.network.layers(batch, [self.layer], self.output_layout)[self.layer]
        return features[0] if images.dim() == 3 else features

    @property
    def image_side(self) -> int:
        return self.network.image_size

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        side = self.network.image_size
        if (height, width) != (side, side):
            raise ValueError(f"the network takes images of {side}×{side} pixels, got {height}×{width}")
        features = self._shape.features
        return (features[1], features[2]) if len(features) == 3 else None

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return self.network.image_size, self.network.image_size

    @property
    def _shape(self) -> LayerShape:
        return self.network.shapes([self.layer], self.output_layout)[self.layer]


def _traced(name: str, layer: nn.Module, output: Any) -> TracedLayer:
    shape, problem = None, ""
    try:
        shape = as_features(output, "auto", 1, name)[1]
    except (TypeError, ValueError) as error:
        problem = str(error)
    return TracedLayer(
        name=name,
        kind=type(layer).__name__,
        output=describe_output(output),
        features=shape.features if shape else None,
        prefix_tokens=shape.prefix_tokens if shape else 0,
        problem=problem,
        channels_last=isinstance(output, torch.Tensor) and looks_channels_last(output.shape),
        parameters=sum(value.numel() for value in layer.parameters()),
        calls=1,
    )
