"""Everything that a training step changes, in a few flat pieces of memory, and each parameter's view of them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import torch
from torch import nn

from preimage.inverters import Inverter
from preimage.inverters.layers import upconv_weights

# Parameters start at multiples of 64 elements: 128 bytes in bfloat16, a cache line, and what every kernel asks for.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter lies in each of the flat buffers.

    Attributes:
        name: of the parameter in its module.
        offset: its first element.
        shape: its logical shape.
        order: its axes in the order in which they follow each other in memory.
    """

    name: str
    offset: int
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def room(self) -> int:
        """Elements up to the next parameter."""
        return -(-self.size // _ALIGNMENT) * _ALIGNMENT

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """The parameter's part of a buffer, in its logical shape."""
        part = buffer[self.offset : self.offset + self.size]
        axes = range(len(self.shape))
        return part.view([self.shape[axis] for axis in self.order]).permute([self.order.index(axis) for axis in axes])


@dataclasses.dataclass(frozen=True)
class Stack:
    """Kernels of one shape, one after the other: a batch of matrices (n, Co, Ci·K·K), columns in memory's order.

    In memory the output channels come first, or last as in an up-convolution.
    """

    places: tuple[Place, ...]

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        first, count = self.places[0], len(self.places)
        parts = buffer[first.offset : first.offset + count * first.room].view(count, first.room)[:, : first.size]
        if first.order[0] == 0:
            return parts.unflatten(1, (first.shape[0], -1))
        return parts.unflatten(1, (-1, first.shape[first.order[-1]])).mT


class FlatState:
    """A copy of a run's weights, moments and average in flat memory; `adopt` makes the run's tensors views of it.

    Adam's parameters come first, then Muon's, equal shapes together. An up-convolution's weight lies in the kernels'
    packed layout (5, 5, Ci, Co), others of four dimensions with the channels last. What is between two parameters is
    zero and stays it.

    Args:
        model: the network that is trained.
        average: the same with the moving average of its weights.
        optimizers: Adam, and possibly Muon, over `model`'s parameters.
        dtype: of the network's arithmetic; float32 or bfloat16.

    Attributes:
        places: of every parameter, in the order of memory.
        adam_end: elements that are Adam's.
        stacks: Muon's parameters.
        weights, average, mean: (N,) float32. `mean` holds Muon's momentum too.
        square: (adam_end,) float32.
        gradient: (N,) of `dtype`, and `gradients` its views in the order of `places`.
        rounded: (N,) bfloat16, the weights that the network computes with, or ``None`` for float32.
        steps: (parameters of Adam,) float32, Adam's count of its steps.
        network: a copy of the model whose parameters are views of `rounded`, or else of `weights`.
        leaves: its parameters in the order of `places`.
    """

    def __init__(
        self, model: Inverter, average: Inverter, optimizers: list[torch.optim.Optimizer], dtype: torch.dtype
    ) -> None:
        self._modules = (model, average)
        self._optimizers = optimizers
        adam, *others = (_names(model, optimizer) for optimizer in optimizers)
        orders = _orders(model)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        muon = sorted((name for names in others for name in names), key=lambda name: (shapes[name], orders[name]))
        self.places: list[Place] = []
        offset = 0
        for name in [*adam, *muon]:
            self.places.append(Place(name, offset, shapes[name], orders[name]))
            offset += self.places[-1].room
        self._adam, self._muon = self.places[: len(adam)], self.places[len(adam) :]
        self.adam_end = self._muon[0].offset if self._muon else offset
        groups = itertools.groupby(self._muon, key=lambda place: (place.shape, place.order))
        self.stacks = [Stack(tuple(places)) for _, places in groups]

        device = model.image_mean.device
        self.weights, self.average, self.mean = torch.zeros(3, offset, device=device).unbind()
        self.square = torch.zeros(self.adam_end, device=device)
        self.gradient = torch.zeros(offset, device=device, dtype=dtype)
        self.gradients = [place.view(self.gradient) for place in self.places]
        self.rounded = None if dtype == torch.float32 else torch.zeros(offset, device=device, dtype=dtype)
        self.steps = torch.zeros(len(adam), device=device)
        self.network = copy.deepcopy(model)
        self.leaves = [self.network.get_parameter(place.name) for place in self.places]
        for leaf, place in zip(self.leaves, self.places, strict=True):
            leaf.data = place.view(self.weights if self.rounded is None else self.rounded)

    @torch.no_grad()
    def load(self) -> None:
        """Takes over the values that the run's modules and optimizers hold."""
        model, average = self._modules
        for place in self.places:
            place.view(self.weights).copy_(model.get_parameter(place.name))
            place.view(self.average).copy_(average.get_parameter(place.name))
        adam, *others = self._optimizers
        for index, place in enumerate(self._adam):
            state = adam.state.get(model.get_parameter(place.name), {})
            for name, buffer in (("exp_avg", self.mean), ("exp_avg_sq", self.square)):
                _set(place.view(buffer), state.get(name))
            _set(self.steps[index], state.get("step"))
        for place in self._muon:
            state = others[0].state.get(model.get_parameter(place.name), {})
            _set(place.view(self.mean), state.get("momentum"))
        if self.rounded is not None:
            self.rounded.copy_(self.weights)

    def adopt(self) -> None:
        """Makes the modules' parameters and the optimizers' moments views of this memory; names and shapes stay."""
        model, average = self._modules
        adam, *others = self._optimizers
        for place in self.places:
            model.get_parameter(place.name).data = place.view(self.weights)
            model.get_parameter(place.name).grad = None
            average.get_parameter(place.name).data = place.view(self.average)
        for index, place in enumerate(self._adam):
            adam.state[model.get_parameter(place.name)] = {
                "step": self.steps[index],
                "exp_avg": place.view(self.mean),
                "exp_avg_sq": place.view(self.square),
            }
        for place in self._muon:
            others[0].state[model.get_parameter(place.name)] = {"momentum": place.view(self.mean)}


def _set(target: torch.Tensor, value: torch.Tensor | None) -> None:
    """An optimizer that has not taken a step yet has no state: zeros."""
    if value is None:
        target.zero_()
    else:
        target.copy_(value)


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in its order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _orders(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's axes in the order of memory."""
    packed = upconv_weights(model)
    orders: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        if name in packed:
            orders[name] = (2, 3, 0, 1)
        else:
            orders[name] = (0, 2, 3, 1) if parameter.dim() == 4 else tuple(range(parameter.dim()))
    return orders
