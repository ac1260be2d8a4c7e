"""Test the up-convolution under torch.compile on a GPU: the Triton kernels in the graph, and their outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from paths import HELPERS

pytest.importorskip("triton")

# The parameters that each kernel writes. Torch would copy others that it considers written before the launch.
WRITES = {
    "phase_kernel": ["y"],
    "all_phases_kernel": ["y"],
    "row_pair_kernel": ["y"],
    "subpixel_kernel": ["y"],
    "subpixel_weight_kernel": ["matrix"],
    "activation_kernel": ["y"],
    "activation_backward_kernel": ["bias_parts", "dz"],
    "dgrad_kernel": ["bias_parts", "dx"],
    "dgrad_window_kernel": ["bias_parts", "dx"],
    "wgrad_kernel": ["parts"],
    "wgrad_window_kernel": ["parts"],
    "sum_parts_kernel": ["result"],
    "image_backward_kernel": ["below_parts", "dw_parts", "dx", "own_parts"],
    "image_distance_kernel": ["parts"],
}

# What is fused around cuDNN's convolutions, if anything.
ELEMENTWISE = {"cudnn": "activation", "dgrad_cudnn": "activation_backward"}

Cases = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cases]:
    """Run in a separate process, because in this one the kernels may be those of Triton's interpreter."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, str(HELPERS / "triton_tracing.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {kind: {case["name"]: case for case in cases} for kind, cases in found.items()}


def _kernels(case: dict[str, Any]) -> list[str]:
    return [launch["kernel"].removesuffix("_kernel") for launch in case["launches"]]


def test_every_op_becomes_its_kernels(traced: dict[str, Cases]) -> None:
    seen = set()
    for name, case in traced["ops"].items():
        kernel = name.split(": ")[1].split()[0]
        if name.startswith("distance:"):
            kernel = "image_distance"
        if kernel in ELEMENTWISE:
            assert set(_kernels(case)) <= {ELEMENTWISE[kernel]}, name
        else:
            assert kernel in _kernels(case), name
        assert case["left"] == [], name
        assert case["traced"] == case["registered"], name
        seen |= {launch["kernel"] for launch in case["launches"]}
    assert seen == set(WRITES)


def test_nothing_but_results_counts_as_written(traced: dict[str, Cases]) -> None:
    for cases in traced.values():
        for name, case in cases.items():
            for launch in case["launches"]:
                written = WRITES[launch["kernel"]]
                # Constants determine which of them are written: sums that are not needed are not.
                assert set(launch["writes"]) <= set(written), (name, launch)
                assert set(written) - set(launch["writes"]) <= {"bias_parts", "own_parts"}, (name, launch)


def test_gradients_of_weights_are_channels_last(traced: dict[str, Cases]) -> None:
    for name, case in traced["ops"].items():
        if "wgrad" in name or name.startswith(("image_backward", "distance_backward")):
            (weight,) = (result for result in case["traced"] if result[2][2:] == [5, 5])
            device, dtype, (_, out_channels, _, _), strides = weight
            assert strides == [25 * out_channels, 1, 5 * out_channels, out_channels], name
            assert device.startswith("cuda") and dtype in name


def test_no_sums_without_a_layer_below(traced: dict[str, Cases]) -> None:
    for name, case in traced["ops"].items():
        if name.startswith("dgrad"):
            assert case["traced"][1][2] == [20 if "below" in name else 0], name


@pytest.mark.parametrize("dtype", ["torch.bfloat16", "torch.float32"])
@pytest.mark.parametrize("name", ["chain", "distance"])
def test_chains_there_and_back(traced: dict[str, Cases], name: str, dtype: str) -> None:
    case = traced["both_ways"][f"{name} {dtype}"]
    assert case["left"] == []
    assert case["traced"] == case["registered"]
    result, dx, *rest = case["traced"]
    assert result[1:3] == (["torch.float32", [2]] if name == "distance" else [dtype, [2, 3, 16, 16]])
    assert dx[1:] == [dtype, [2, 16, 4, 4], [256, 1, 64, 16]]
    assert [gradient[2] for gradient in rest] == [[16, 32, 5, 5], [32, 3, 5, 5], [32], [3]]
    assert {gradient[1] for gradient in rest} == {dtype}
    kernels = _kernels(case)
    assert kernels.count("subpixel") == 1
    assert kernels.count("image_backward") == 1
    assert any(kernel.startswith("wgrad") for kernel in kernels)
    assert any(kernel.startswith("dgrad") for kernel in kernels)
    assert kernels.count("image_distance") == (name == "distance")


@pytest.mark.parametrize("dtype", ["torch.bfloat16", "torch.float32"])
@pytest.mark.parametrize("name", ["chain", "distance"])
def test_compiled_in_one_graph(traced: dict[str, Cases], name: str, dtype: str) -> None:
    without = traced["compiled"][f"{name} {dtype}"]
    assert without["ops"] == []
    assert _kernels(without).count("subpixel") == 1
    assert _kernels(without).count("image_distance") == (name == "distance")
    ops = traced["compiled"][f"{name} {dtype} with gradients"]["ops"]
    assert sum(op == "preimage.upconv" for op in ops) == 2
    assert sum("wgrad" in op for op in ops) == 1
    assert sum("image_backward" in op or "distance_backward" in op for op in ops) == 1
