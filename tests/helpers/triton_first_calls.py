"""Count the up-convolution kernels that a network's first inversion and training step compile, without a GPU.

The network runs on tensors without memory, and what every launch would be compiled for is noted instead. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any
from unittest import mock

import torch

from preimage.inverters import Inverter
from preimage.inverters.presets import preset
from preimage.ops.upconv import passes
from preimage.ops.upconv.kernels import _launch
from preimage.representations import create_representation
from triton_resources import specialization

SIDE = 256


def compiled_by(representation: str, name: str, batch: int, dtype: torch.dtype, *, training: bool) -> list[str]:
    """Return the names of the kernels that a call of a preset's network compiles, once for every specialization."""
    kind = create_representation(representation)
    with torch.device("meta"):
        inverter = Inverter(kind.spec, preset(representation, name)).to(dtype)
    found: dict[tuple[Any, ...], str] = {}

    def note(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        key = kernel.__name__, str(specialization(kernel, values)), str(options)
        found[key] = kernel.__name__.removesuffix("_kernel")

    cells = kind.feature_size(SIDE, SIDE) or ()
    features = torch.empty(batch, kind.spec.channels, *cells, dtype=dtype, device="meta")
    with (
        mock.patch.object(_launch, "launch", note),
        mock.patch.object(passes, "_on_gpu", lambda maps: True),
        mock.patch.object(passes, "_capability", lambda device: (9, 0)),
        torch.backends.cudnn.flags(allow_tf32=True),
    ):
        if training:
            images = torch.empty(batch, 3, SIDE, SIDE, dtype=torch.uint8, device="meta")
            inverter.distances(features, images).mean().backward()
        else:
            with torch.no_grad():
                inverter.reconstruct(features)
    return sorted(found.values())


def main() -> None:
    """Print the kernels by network and use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["hog/compact", "hog/paper"])
    found = {}
    for network in parser.parse_args().networks:
        names = network.split("/")
        found[network] = {
            "one image": compiled_by(*names, 1, torch.float32, training=False),
            "16 images": compiled_by(*names, 16, torch.float32, training=False),
            "training": compiled_by(*names, 64, torch.bfloat16, training=True),
        }
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
