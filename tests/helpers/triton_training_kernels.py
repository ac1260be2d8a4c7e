"""Compile the Triton kernels of a training step apart from the up-convolution, and print their resources as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import torch

from preimage.ops import _adam_triton, _crop_resize_triton
from triton_resources import ARCHITECTURES, compiled, reported_numbers

PARAMETERS = 1 << 20  # of Adam


def launches() -> Iterator[tuple[str, Any, dict[str, Any], int]]:
    """Yield (name, kernel, values of its parameters, number of warps)."""
    state = ("weights", "exp_avg", "exp_avg_sq", "ema", "grad_scale", "scalars")
    numbers = {"GRAD_WEIGHT": 0.1, "BETA_2": 0.999, "GRAD_SQ_WEIGHT": 0.001, "EPS": 1e-8, "BLOCK": _adam_triton._BLOCK}
    for rounds, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        narrow = torch.empty(1, dtype=dtype, device="meta")
        values = dict.fromkeys(state, torch.empty(1, device="meta")) | numbers
        values |= {"grad": narrow, "bfloat16_weights": narrow, "count": PARAMETERS, "ROUND": rounds}
        yield f"adam {dtype}", _adam_triton._adam, values, _adam_triton._WARPS
    dtypes = {"out": torch.uint8, "pixels": torch.uint8, "offsets": torch.int64, "sizes": torch.int32}
    values = {name: torch.empty(1, dtype=dtype, device="meta") for name, dtype in dtypes.items()}
    values |= {"crops": torch.empty(1, device="meta"), "SIZE": 256, "TAPS": 4, "BLOCK": _crop_resize_triton._BLOCK}
    yield "crop_resize", _crop_resize_triton._crop_resize, values, _crop_resize_triton._WARPS


def main() -> None:
    """Print one object for each kernel and architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="*", type=int, default=list(ARCHITECTURES))
    rows = []
    for architecture in parser.parse_args().architectures:
        for name, kernel, values, warps in launches():
            built, report = compiled(kernel, values, {"num_warps": warps, "num_stages": 1}, architecture)
            registers, spilled, stack = reported_numbers(report)
            wide = all(f"{access}.global.v4" in built.asm["ptx"] for access in ("ld", "st"))
            row = {"kernel": name, "architecture": architecture, "registers": registers}
            rows.append({**row, "spilled": spilled, "stack": stack, "wide": wide})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
