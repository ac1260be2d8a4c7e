"""Store weights and optimizer state in a few flat buffers, with a view of each buffer for every parameter."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import torch
from torch import nn

from preimage.inverters import Inverter
from preimage.inverters.layers import upconv_weights

# Parameters start at multiples of 64 elements: 128 bytes in bfloat16, a cache line, and as aligned as kernels require.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Slot:
    """Position of a parameter in each of the flat buffers.

    Attributes:
        name: Name of the parameter in its module.
        offset: Index of its first element.
        shape: Logical shape; four dimensions are channels last in memory.
        transposed: Whether it is the weight of an up-convolution, (Ci, Co, 5, 5), rather than (Co, Ci, K, K).
    """

    name: str
    offset: int
    shape: tuple[int, ...]
    transposed: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def padded_size(self) -> int:
        """Number of elements up to the next parameter."""
        return -(-self.size // _ALIGNMENT) * _ALIGNMENT

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return the view of the parameter in a buffer, in its logical shape."""
        part = buffer[self.offset : self.offset + self.size]
        if len(self.shape) != 4:
            return part.view(self.shape)
        first, channels, *window = self.shape
        return part.view(first, *window, channels).permute(0, 3, 1, 2)


@dataclasses.dataclass(frozen=True)
class Stack:
    """Consecutive kernels of one shape, as a batch of matrices (n, Co, Ci·K·K) with columns in the order of memory.

    In memory the output channels are the first axis, or the last one as in an up-convolution.
    """

    slots: tuple[Slot, ...]

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return the view of the kernels in a buffer, (n, Co, Ci·K·K)."""
        first, count = self.slots[0], len(self.slots)
        end = first.offset + count * first.padded_size
        parts = buffer[first.offset : end].view(count, first.padded_size)[:, : first.size]
        if first.transposed:
            return parts.unflatten(1, (-1, first.shape[1])).mT
        return parts.unflatten(1, (first.shape[0], -1))


class FlatState:
    """A copy of a run's weights, moments and moving average in flat memory; `adopt` makes the run's tensors views.

    Adam's parameters come first, then Muon's, with equal shapes together. Padding is always zero.

    Args:
        model: The network in training.
        average: Copy of the network with the moving average of its weights.
        optimizers: Adam, and optionally Muon, over `model`'s parameters.
        dtype: Precision of the network's arithmetic, float32 or bfloat16.

    Attributes:
        slots: Slot of every parameter, in the order of memory.
        adam_end: Number of elements of Adam's parameters.
        stacks: Muon's parameters.
        weights, average, exp_avg: (N,) float32. `exp_avg` also contains Muon's momentum.
        exp_avg_sq: (adam_end,) float32.
        gradient: (N,) of `dtype`; `gradients` contains its views in the order of `slots`.
        rounded: (N,) bfloat16, the weights that the network computes with, or ``None`` for float32.
        steps: (number of Adam's parameters,) float32, Adam's step counts.
        network: A copy of the model whose parameters are views of `rounded`, or of `weights` for float32.
        leaves: Its parameters in the order of `slots`.
    """

    def __init__(
        self, model: Inverter, average: Inverter, optimizers: list[torch.optim.Optimizer], dtype: torch.dtype
    ) -> None:
        self._modules = (model, average)
        self._optimizers = optimizers
        adam, *others = (_names(model, optimizer) for optimizer in optimizers)
        transposed = upconv_weights(model)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        muon = sorted((name for names in others for name in names), key=lambda name: (shapes[name], name in transposed))
        self.slots: list[Slot] = []
        offset = 0
        for name in [*adam, *muon]:
            self.slots.append(Slot(name, offset, shapes[name], name in transposed))
            offset += self.slots[-1].padded_size
        self._adam, self._muon = self.slots[: len(adam)], self.slots[len(adam) :]
        self.adam_end = self._muon[0].offset if self._muon else offset
        groups = itertools.groupby(self._muon, key=lambda slot: (slot.shape, slot.transposed))
        self.stacks = [Stack(tuple(slots)) for _, slots in groups]

        device = model.image_mean.device
        self.weights, self.average, self.exp_avg = torch.zeros(3, offset, device=device).unbind()
        self.exp_avg_sq = torch.zeros(self.adam_end, device=device)
        self.gradient = torch.zeros(offset, device=device, dtype=dtype)
        self.gradients = [slot.view(self.gradient) for slot in self.slots]
        self.rounded = None if dtype == torch.float32 else torch.zeros(offset, device=device, dtype=dtype)
        self.steps = torch.zeros(len(adam), device=device)
        self.network = copy.deepcopy(model)
        self.leaves = [self.network.get_parameter(slot.name) for slot in self.slots]
        for leaf, slot in zip(self.leaves, self.slots, strict=True):
            leaf.data = slot.view(self.weights if self.rounded is None else self.rounded)

    @torch.no_grad()
    def load(self) -> None:
        """Copy the values of the run's modules and optimizers."""
        model, average = self._modules
        for slot in self.slots:
            slot.view(self.weights).copy_(model.get_parameter(slot.name))
            slot.view(self.average).copy_(average.get_parameter(slot.name))
        adam, *others = self._optimizers
        for index, slot in enumerate(self._adam):
            state = adam.state.get(model.get_parameter(slot.name), {})
            for name, buffer in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
                _set(slot.view(buffer), state.get(name))
            _set(self.steps[index], state.get("step"))
        for slot in self._muon:
            state = others[0].state.get(model.get_parameter(slot.name), {})
            _set(slot.view(self.exp_avg), state.get("momentum"))
        if self.rounded is not None:
            self.rounded.copy_(self.weights)

    def adopt(self) -> None:
        """Replace the modules' parameters and the optimizers' state by views of this memory, with the same shapes."""
        model, average = self._modules
        adam, *others = self._optimizers
        for slot in self.slots:
            model.get_parameter(slot.name).data = slot.view(self.weights)
            model.get_parameter(slot.name).grad = None
            average.get_parameter(slot.name).data = slot.view(self.average)
        for index, slot in enumerate(self._adam):
            adam.state[model.get_parameter(slot.name)] = {
                "step": self.steps[index],
                "exp_avg": slot.view(self.exp_avg),
                "exp_avg_sq": slot.view(self.exp_avg_sq),
            }
        for slot in self._muon:
            others[0].state[model.get_parameter(slot.name)] = {"momentum": slot.view(self.exp_avg)}


def _set(target: torch.Tensor, value: torch.Tensor | None) -> None:
    """Copy a value of an optimizer's state, which is zero before the first step."""
    if value is None:
        target.zero_()
    else:
        target.copy_(value)


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of an optimizer's parameters, in its order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
