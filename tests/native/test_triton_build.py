"""Test Triton kernels compiled ahead of time: no spills unless measured to be the fastest, tensor cores, pipelines, limits of shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import HELPERS
from preimage.ops.upconv.kernel_configs import shared_memory_limit

pytest.importorskip("triton")

ELEMENTWISE = {"sum_parts", "subpixel_weight", "image_distance", "activation", "activation_backward"}


@pytest.mark.parametrize(
    ("options", "architectures"),
    [
        (("--dtypes", "bf16", "tf32", "--architectures", "90"), {90}),
        pytest.param((), {80, 90}, marks=pytest.mark.nightly),
        pytest.param(("--candidates", "--dtypes", "bf16", "--architectures", "90"), {90}, marks=pytest.mark.nightly),
    ],
    ids=["chosen", "all", "candidates"],
)
def test_kernels_compile_clean(options: tuple[str, ...], architectures: set[int], tmp_path: Path) -> None:
    """One configuration per kernel and dtype; without --representative the script takes them all.

    In a process of its own, because in this one the kernels may be those of Triton's interpreter.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    script = HELPERS / "triton_resources.py"
    layers = ["F2", "F3", "F4", "F5", "U4"]
    command = [sys.executable, str(script), "--json", "--representative", *options, "--layers", *layers]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failures"] == []
    assert {row["architecture"] for row in found["rows"]} == architectures
    for row in found["rows"]:
        assert row["spilled"] == 0 or row["may_spill"], row
        assert row["shared"] <= shared_memory_limit(divmod(row["architecture"], 10)), row
        if row["kernel"] in ELEMENTWISE:
            continue
        # The image's backward pass forms or turns what it reads; only there no copy runs ahead, with the exception of
        # plain 16-bit gradients on 9.0.
        ahead = row["kernel"] == "image_backward" and row["architecture"] == 90 and row["dtype"] != "tf32"
        if ahead or not row["kernel"].startswith("image_backward"):
            assert row["pipelined"] and row["asynchronous_copies"] > 0, row
        if row["architecture"] == 90 and not row["kernel"].startswith("wgrad"):
            assert row["wgmma"], row
