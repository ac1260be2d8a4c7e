"""Inverters: up-convolutional networks from features to images."""

from preimage.inverters.architectures import ArchitectureConfig, SingleStreamConfig, TwoStreamConfig, UShapedConfig
from preimage.inverters.device import checked_device
from preimage.inverters.files import find, shipped
from preimage.inverters.inverter import Inverter
from preimage.inverters.presets import preset

__all__ = [
    "ArchitectureConfig",
    "Inverter",
    "SingleStreamConfig",
    "TwoStreamConfig",
    "UShapedConfig",
    "checked_device",
    "find",
    "preset",
    "shipped",
]
