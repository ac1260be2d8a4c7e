"""Inverters: up-convolutional networks from features to images."""

from preimage.inverters.architectures import ArchitectureConfig, SingleStreamConfig, TwoStreamConfig, UShapedConfig
from preimage.inverters.device import checked_device, extraction_device
from preimage.inverters.inverter import Inverter
from preimage.inverters.plan import Plan, plan
from preimage.inverters.presets import preset
from preimage.inverters.pretrained import find, list_inverters
from preimage.inverters.view import View

__all__ = [
    "ArchitectureConfig",
    "Inverter",
    "Plan",
    "SingleStreamConfig",
    "TwoStreamConfig",
    "UShapedConfig",
    "View",
    "checked_device",
    "extraction_device",
    "find",
    "list_inverters",
    "plan",
    "preset",
]
