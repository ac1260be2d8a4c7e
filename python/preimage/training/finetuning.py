"""Fine-tune the network of a representation along with the inverter of one of its layers: the paper's autoencoder."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from preimage.errors import FileFormatError, brief
from preimage.io.atomic import atomic_write
from preimage.representations import Representation
from preimage.representations.base import NETWORK
from preimage.representations.network import Network, NetworkRepresentation
from preimage.representations.network_layers import layer_outputs
from preimage.representations.network_layout import as_features
from preimage.representations.registry import representation_class
from preimage.spec import Spec

ENCODER = "encoder.safetensors"


class Encoder:
    """A copy of a representation's network, whose weights up to the layer are trained.

    The copy runs in evaluation mode: batch norm keeps its running statistics, of which only scale and shift are
    trained, and dropout does nothing. Weights that the layer does not depend on are not changed. The arithmetic is
    float32, as everywhere where features are computed.

    Args:
        representation: The layer of a network; neither it nor its network is changed.
        device: Device of the copy.

    Attributes:
        module: The network in training.
        average: A copy with the exponential moving average of its weights.
        parameters: The trained parameters of `module`.
        representation: The layer of `average`; its spec contains the digest of the present weights.

    Raises:
        ValueError: The representation is not a layer of a network, or one that no weights come before; or the network
            has weights of another dtype than float32, or cannot be copied.
    """

    def __init__(self, representation: Representation, device: torch.device) -> None:
        of_layer = tunable_layer(representation)
        network, self._layer, self._output_layout = of_layer.network, of_layer.layer, of_layer.output_layout
        self._called = f"layer {self._layer!r} of the network {network.name}"
        self.module = _evaluating_copy(network, device)
        self.average = _evaluating_copy(network, device)
        self._network = network.with_module(self.module)
        self.representation = _with_network(representation, network.with_module(self.average))
        self.parameters = self._found()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, C, h, w) or (B, C), float32, through which gradients flow to the trained parameters.

        Args:
            images: (B, 3, H, W), uint8 or floating in [0, 1], on the device of the copy.
        """
        outputs = layer_outputs(self.module, [self._layer], self._network.pixels(images))
        return as_features(outputs[self._layer], self._output_layout, len(images), self._layer)[0]

    def save(self, folder: Path) -> None:
        """Write the averaged weights of the whole network, those after the layer included, to ``encoder.safetensors``.

        The tensors have the names of the network's state. ``-p weights=PATH`` accepts the file.
        """
        # Copies, because tensors that share memory cannot be saved.
        tensors = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in self.average.state_dict().items()
        }
        with atomic_write(folder / ENCODER) as file:
            file.write(safetensors.torch.save(tensors))

    def _found(self) -> list[nn.Parameter]:
        """Return the parameters that the layer depends on, and let them alone require gradients."""
        parameters = list(self.module.parameters())
        if wrong := {str(one.dtype).removeprefix("torch.") for one in parameters} - {"float32"}:
            raise ValueError(
                f"the weights of a network must be float32 to be fine-tuned, got {', '.join(sorted(wrong))}"
            )
        used: tuple[torch.Tensor | None, ...] = ()
        side = self._network.image_size
        with torch.inference_mode(False), torch.enable_grad():
            self.module.requires_grad_()
            images = torch.zeros(1, 3, side, side, device=parameters[0].device if parameters else "cpu")
            features = self(images)
            if features.requires_grad:
                used = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        self.module.requires_grad_(False)
        found = [one for one, gradient in zip(parameters, used, strict=False) if gradient is not None]
        if not found:
            raise ValueError(f"{self._called} has no weights before it that could be fine-tuned")
        for one in found:
            one.requires_grad_()
        return found


def tunable_layer(representation: Representation) -> NetworkRepresentation:
    """Return the layer of a network that a representation is.

    Raises:
        ValueError: It is none.
    """
    if isinstance(representation, NetworkRepresentation):
        return representation
    network, layer = getattr(representation, "network", None), getattr(representation, "layer", None)
    if not isinstance(network, Network) or not isinstance(layer, str):
        raise ValueError(
            f"only the layer of a network can be fine-tuned, such as efficientnet-lite0, an AlexNet layer or a layer "
            f"of preimage.Network, got {representation.name}"
        )
    return network.representation(layer)


def load_finetuned(
    folder: str | os.PathLike[str], spec: Spec, representation: Representation | None = None
) -> Representation:
    """Return the representation of the fine-tuned network in the folder of a run.

    Args:
        folder: Folder of the run.
        spec: Spec of its features, that of the inverter in the folder.
        representation: The layer before it was fine-tuned, or with any other weights; required for layers of
            `preimage.Network`, whose code is not in the folder.

    Raises:
        ValueError: The representation is required, or not that of the inverter.
        FileFormatError: The folder contains no fine-tuned network, or one that is damaged or not the inverter's.
    """
    path = Path(folder) / ENCODER
    if not path.is_file():
        raise FileFormatError(Path(folder), f"has no {ENCODER}: its network was not fine-tuned")
    if representation is None:
        representation = _named(spec, path)
    else:
        try:
            tensors = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise FileFormatError(path, f"is not a safetensors file: {error}") from error
        representation = _with_weights(representation, tensors, path)
    if differences := representation.spec.differences(spec):
        raise FileFormatError(
            path, f"does not belong to the inverter beside it (its own != the inverter's): {'; '.join(differences)}"
        )
    return representation


def _named(spec: Spec, path: Path) -> Representation:
    """Return a representation of the package, whose weights are in a file."""
    kind = None if spec.representation == NETWORK else representation_class(spec.representation)
    if kind is None or "weights" not in [known.name for known in kind.parameters()]:
        raise ValueError(
            f"the features are of a layer of the network {spec.variant}, whose code is not in {path.parent}: pass its "
            "representation, which may have any weights"
        )
    made = kind.from_parameters(spec.variant, spec.parameters)
    return dataclasses.replace(made, weights=str(path))  # type: ignore[call-arg] # the class has this parameter


def _with_weights(representation: Representation, tensors: dict[str, torch.Tensor], path: Path) -> Representation:
    network = tunable_layer(representation).network
    module = _evaluating_copy(network, torch.device("cpu"))
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} contains weights of another network than {network.name}: {brief(error)}") from error
    return _with_network(representation, network.with_module(module))


def _with_network(representation: Representation, network: Network) -> Representation:
    """Return the same layer of another network."""
    if isinstance(representation, NetworkRepresentation):
        return dataclasses.replace(representation, network=network)
    made = dataclasses.replace(representation)
    vars(made)["network"] = network  # in place of the cached property, which would load the weights again
    if made.network is not network:  # type: ignore[attr-defined] # `tunable_layer` has found it
        raise ValueError(f"the network of {representation.name} cannot be replaced by its fine-tuned copy")
    return made


def _evaluating_copy(network: Network, device: torch.device) -> nn.Module:
    """Return a frozen copy of a network's module in evaluation mode."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            module = copy.deepcopy(network.module).to(device)
    except Exception as error:
        raise ValueError(f"the network {network.name} cannot be copied to be fine-tuned: {brief(error)}") from error
    for part in module.modules():  # not eval(), which may do more in a user's module, such as merge weights
        part.training = False
    return module.requires_grad_(False)
