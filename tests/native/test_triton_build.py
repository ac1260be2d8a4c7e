"""Test Triton kernels compiled ahead of time: spills, tensor cores, pipelines, shared memory, and their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paths import HELPERS
from preimage.ops.upconv.kernel_configs import shared_memory_limit

pytest.importorskip("triton")

ELEMENTWISE = {"sum_parts", "subpixel_weight", "image_distance", "activation", "activation_backward"}


def _run(script: str, *arguments: str, cache: Path) -> Any:
    """Return what a script prints, run in a process of its own, since kernels here may be those of the interpreter."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, str(HELPERS / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("options", "architectures"),
    [
        (("--dtypes", "bf16", "tf32", "--architectures", "90"), {90}),
        pytest.param((), {80, 90, 100, 120}, marks=pytest.mark.nightly),
        pytest.param(("--candidates", "--dtypes", "bf16", "--architectures", "90"), {90}, marks=pytest.mark.nightly),
    ],
    ids=["chosen", "all", "candidates"],
)
def test_kernels_compile_clean(options: tuple[str, ...], architectures: set[int], tmp_path: Path) -> None:
    """One configuration per kernel and dtype; without --representative the script takes them all."""
    layers = ["F2", "F3", "F4", "F5", "U4"]
    found = _run("triton_resources.py", "--json", "--representative", *options, "--layers", *layers, cache=tmp_path)
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


def test_first_calls_compile_few_kernels(tmp_path: Path) -> None:
    """Each takes about a second, while the user waits. Training also compiles those for Adam and for crops."""
    found = _run("triton_first_calls.py", "hog/compact", "hog/paper", cache=tmp_path)
    for network, kernels in found.items():
        assert len(kernels["one image"]) <= 10, network
        assert kernels["16 images"] == kernels["one image"], network
        assert len(kernels["training"]) <= 24, network


@pytest.mark.parametrize(
    "architectures", [("90",), pytest.param(("80", "100", "120"), marks=pytest.mark.nightly)], ids=" ".join
)
def test_other_kernels_of_training(architectures: tuple[str, ...], tmp_path: Path) -> None:
    rows = _run("triton_training_kernels.py", "--architectures", *architectures, cache=tmp_path)
    assert len(rows) == 3 * len(architectures)
    for row in rows:
        assert row["spilled"] == row["stack"] == 0 and row["registers"] <= 128, row
        assert row["wide"] or row["kernel"] == "crop_resize", row
