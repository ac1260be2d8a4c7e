"""The paper's network and the trainer's step, written in plain torch: what the trainer is measured against on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from preimage.inverters import Inverter
from preimage.inverters.layers import ConvLayer
from preimage.nn import UpConv2d
from preimage.training.step import TrainState, average_decay, schedule

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PlainNetwork(nn.Module):
    """The paper's two-stream network of torch's own layers, with an inverter's weights.

    As an experienced user of torch would write it: channels last, transposed convolutions, leaky ReLU in place.
    """

    def __init__(self, inverter: Inverter) -> None:
        super().__init__()
        network = inverter.network
        self.streams = nn.ModuleList([_plain_layers(network.context), _plain_layers(network.detail)])
        self.joint = _plain_layers(network.joint)
        self.register_buffer("mean", inverter.feature_mean[:, None, None])
        self.register_buffer("deviation", inverter.feature_deviation[:, None, None])
        self.register_buffer("colour", inverter.image_mean[:, None, None])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        standard = ((features - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)
        return self.joint(torch.cat([stream(standard) for stream in self.streams], dim=1)).float() + self.colour


def _plain_layers(chain: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for module in _leaves(chain):
        if isinstance(module, UpConv2d):
            layer = nn.ConvTranspose2d(*module.weight.shape[:2], 5, 2, 2, 1, device=module.weight.device)
            layer.load_state_dict(module.state_dict())
            slope = module.negative_slope
        else:
            source = module.conv
            layer = nn.Conv2d(
                source.in_channels,
                source.out_channels,
                source.kernel_size,
                source.stride,
                source.padding,
                device=source.weight.device,
            )
            layer.load_state_dict(source.state_dict())
            slope = 0.2
        layers += [layer] if slope is None else [layer, nn.LeakyReLU(slope, inplace=True)]
    return nn.Sequential(*layers)


def _leaves(module: nn.Module) -> list[nn.Module]:
    """The layers of a chain, however it nests them."""
    if isinstance(module, (UpConv2d, ConvLayer)):
        return [module]
    return [leaf for child in module.children() for leaf in _leaves(child)]


class PlainStep:
    """The trainer's step in plain torch: mixed precision, clipping, fused Adam, a moving average of the weights.

    Args:
        state: what it starts from; nothing of it is changed.
        compile_network: given, the network and the loss go through it.
    """

    def __init__(self, state: TrainState, compile_network: Callable[[Loss], Loss] | None = None) -> None:
        self._state = state
        self.network = PlainNetwork(state.model).to(state.device)
        self._parameters = list(self.network.parameters())
        self._average = [parameter.detach().clone() for parameter in self._parameters]
        fused = state.device.type == "cuda"
        self._adam = torch.optim.Adam(self._parameters, state.config.learning_rate, fused=fused)
        self._loss = compile_network(self._plain_loss) if compile_network else self._plain_loss
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=state.device)

    def _plain_loss(self, features: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        images = batch.float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(features.device.type, self._state.dtype, enabled=self._state.dtype != torch.float32):
            reconstructions = self.network(features)
        distances = torch.linalg.vector_norm(images - reconstructions, dim=(1, 2, 3))
        return distances.mean() / math.sqrt(images[0].numel())

    def __call__(self, batch: torch.Tensor, step: int) -> None:
        state, config = self._state, self._state.config
        batch = batch.to(state.device, non_blocking=True)
        self._adam.zero_grad(set_to_none=True)
        loss = self._loss(state.representation(batch), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
        self._adam.param_groups[0]["lr"] = schedule(step, config) * config.learning_rate
        self._adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._parameters, 1 - average_decay(step, config))
        self.loss_sum += loss.detach()
