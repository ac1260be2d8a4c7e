"""Inverters: up-convolutional networks from features to images."""

from preimage.inverters.architectures import ArchitectureConfig, SingleStreamConfig, TwoStreamConfig, UShapedConfig
from preimage.inverters.device import extraction_device, resolve_device
from preimage.inverters.inverter import Inverter, load_inverter
from preimage.inverters.output_region import OutputRegion
from preimage.inverters.plan import Plan, plan
from preimage.inverters.presets import preset
from preimage.inverters.pretrained import find_inverter, list_inverters

__all__ = [
    "ArchitectureConfig",
    "Inverter",
    "OutputRegion",
    "Plan",
    "SingleStreamConfig",
    "TwoStreamConfig",
    "UShapedConfig",
    "extraction_device",
    "find_inverter",
    "list_inverters",
    "load_inverter",
    "plan",
    "preset",
    "resolve_device",
]
