"""Test images, memory layouts and parameters that HOG, LBP and dense SIFT accept or reject."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from implementations import IMPLEMENTATIONS, KERNELS, OPS
from layouts import ARRAY_LAYOUTS
from native_arguments import described
from preimage import dense_sift, dense_sift_frames, lbp, reference
from preimage.ops import _native

BATCH = np.random.default_rng(3).integers(0, 256, (3, 3, 45, 83), dtype=np.uint8)
IMAGE = torch.rand(3, 16, 16)
# The calls whose results are compared: an op and its parameters.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "hog": ("hog", {}),
    "hog, strongest": ("hog", {"color": "strongest"}),
    "hog, cells of 5": ("hog", {"cell_size": 5}),
    "hog, dalal-triggs": ("hog", {"variant": "dalal-triggs", "color": "strongest", "cell_size": (5, 4)}),
    "hog, dalal-triggs, luma": ("hog", {"variant": "dalal-triggs", "block_norm": "L1-sqrt"}),
    "lbp": ("lbp", {}),
    "lbp, cells of 5": ("lbp", {"cell_size": 5}),
    "lbp_codes": ("lbp_codes", {}),
    "dense_sift": ("dense_sift", {}),
    "dense_sift, flat": ("dense_sift", {"window": "flat"}),
}

every_op = pytest.mark.parametrize("op", OPS)
every_implementation = pytest.mark.parametrize(
    ("op", "name"), [(op, name) for op in OPS for name in IMPLEMENTATIONS[op]]
)
every_kernel_call = pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call, (op, _) in CALLS.items() for name in KERNELS[op]]
)
every_call = pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call, (op, _) in CALLS.items() for name in IMPLEMENTATIONS[op]]
)


def compute(call: str, name: str, images: Any) -> torch.Tensor:
    op, options = CALLS[call]
    return IMPLEMENTATIONS[op][name](images, **options)


# ---- Layouts, ranks and types ----


@every_kernel_call
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("layout", ARRAY_LAYOUTS)
def test_array_layouts_agree(call: str, name: str, dtype: type, layout: str) -> None:
    batch = BATCH if dtype == np.uint8 else BATCH.astype(np.float32) / 255
    values = ARRAY_LAYOUTS[layout](batch)
    assert torch.equal(compute(call, name, values), compute(call, name, batch))
    gray = np.ascontiguousarray(batch[:, :1])
    assert torch.equal(compute(call, name, values[:, :1]), compute(call, name, gray))


@every_kernel_call
def test_tensor_layouts_agree(call: str, name: str) -> None:
    batch = torch.from_numpy(BATCH.astype(np.float32) / 255)
    expected = compute(call, name, batch)
    assert torch.equal(compute(call, name, batch.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(compute(call, name, batch.mT.contiguous().mT), expected)
    assert torch.equal(compute(call, name, batch[1:2].expand(5, -1, -1, -1))[4], expected[1])
    assert torch.equal(compute(call, name, torch.cat([batch, batch], dim=3)[..., : batch.shape[3]]), expected)


@pytest.mark.parametrize("name", KERNELS["hog"])
def test_hog_of_a_channel_axis_of_stride_zero(name: str) -> None:
    batch = torch.from_numpy(BATCH.astype(np.float32) / 255)
    gray = batch[:, :1].expand(-1, 3, -1, -1)
    found = KERNELS["hog"][name](gray, cell_size=5, color="strongest")
    assert torch.equal(found, KERNELS["hog"][name](batch[:, :1], cell_size=5))


SHAPES: dict[str, list[tuple[dict[str, Any], tuple[int, int, int]]]] = {
    "hog": [({}, (31, 6, 10)), ({"cell_size": 3}, (31, 15, 28))],
    "lbp": [({}, (58, 2, 5)), ({"cell_size": 4}, (58, 11, 20))],
    "lbp_codes": [({}, (1, 45, 83))],
    "dense_sift": [({}, (128, 9, 18)), ({"bin_size": 3, "step": 2}, (128, 18, 37))],
}


@every_implementation
def test_ranks_and_batches(op: str, name: str) -> None:
    run = IMPLEMENTATIONS[op][name]
    batch = torch.from_numpy(BATCH)
    for options, shape in SHAPES[op]:
        features = run(batch, **options)
        assert features.shape == (3, *shape) and features.is_contiguous()
        assert features.dtype == (torch.uint8 if op == "lbp_codes" else torch.float32)
        assert torch.equal(run(batch[1], **options), features[1])  # single images equal those in a batch
        assert torch.equal(run(batch[None], **options), features[None])
        assert run(batch[:0], **options).shape == (0, *shape)
        assert run(BATCH[:0], **options).shape == (0, *shape)
        assert run(batch[None, :0], **options).shape == (1, 0, *shape)
    assert torch.equal(run(batch[0, 0]), run(batch[0, :1]))
    assert torch.equal(run(batch[0, :1]), run(batch[:1, :1])[0])
    assert torch.equal(run(torch.stack([batch, batch.flip(3)], dim=1))[:, 0], run(batch))


@pytest.mark.parametrize("name", IMPLEMENTATIONS["dense_sift"])
def test_norms_of_dense_sift_have_one_channel(name: str) -> None:
    features, norms = IMPLEMENTATIONS["dense_sift"][name](torch.from_numpy(BATCH), norms=True)
    assert features.shape == (3, 128, 9, 18) and norms.shape == (3, 1, 9, 18)
    assert features.dtype == norms.dtype == torch.float32
    assert features.is_contiguous() and norms.is_contiguous()


@every_call
def test_bytes_and_floats_agree_to_the_bit(call: str, name: str) -> None:
    floats = BATCH.astype(np.float32)
    if "dalal-triggs" not in call:  # which takes the values as they are
        floats /= np.float32(255)
    assert torch.equal(compute(call, name, BATCH), compute(call, name, floats))


@pytest.mark.parametrize(
    ("call", "name", "dtype"),
    [
        (call, name, dtype)
        for call, (op, _) in CALLS.items()
        for name in IMPLEMENTATIONS[op]
        for dtype in (torch.float16, torch.bfloat16, torch.float64)
        # The references of HOG and dense SIFT compute in double precision where the images have it.
        if (name, dtype) != ("reference", torch.float64) or op.startswith("lbp")
    ],
)
def test_other_floating_types_are_converted(call: str, name: str, dtype: torch.dtype) -> None:
    images = (torch.from_numpy(BATCH) / 255).to(dtype)
    expected = compute(call, name, images.float())
    assert torch.equal(compute(call, name, images), expected)
    if dtype != torch.bfloat16:
        assert torch.equal(compute(call, name, images.numpy()), expected)


@pytest.mark.parametrize(
    ("op", "name"),
    [*(("hog", name) for name in KERNELS["hog"]), *(("lbp", name) for name in IMPLEMENTATIONS["lbp"])],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_other_types_are_rounded(op: str, name: str, dtype: torch.dtype) -> None:
    batch = torch.from_numpy(BATCH)
    features = IMPLEMENTATIONS[op][name](batch, dtype=dtype)
    assert features.dtype == dtype
    assert torch.equal(features, IMPLEMENTATIONS[op][name](batch).to(dtype))


@pytest.mark.parametrize("op", ["lbp", "lbp_codes"])
@pytest.mark.parametrize("name", IMPLEMENTATIONS["lbp"])
def test_lbp_does_not_depend_on_the_scale_of_one_channel(op: str, name: str) -> None:
    gray = BATCH[:, :1]
    assert torch.equal(IMPLEMENTATIONS[op][name](gray.astype(np.float32)), IMPLEMENTATIONS[op][name](gray))


@every_op
def test_lazily_negated_tensor(op: str) -> None:
    """The imaginary part of a conjugate shares the memory of the values it negates."""
    values = torch.complex(torch.rand(16, 16), torch.rand(16, 16)).conj().imag
    assert values.is_neg()
    assert torch.equal(OPS[op](values), OPS[op](values.clone()))


@every_op
def test_defaults_of_torch_do_not_matter(op: str) -> None:
    expected = OPS[op](IMAGE)
    torch.set_default_dtype(torch.float64)
    try:
        assert OPS[op](IMAGE).dtype == expected.dtype
        with torch.device("meta"):
            assert torch.equal(OPS[op](IMAGE), expected)
            assert np.array_equal(OPS[op](IMAGE.numpy()), expected.numpy())
            assert isinstance(dense_sift_frames(16, 16), np.ndarray)
    finally:
        torch.set_default_dtype(torch.float32)


# ---- Wrong images and parameters ----


EVERY_OP = list(OPS)
CELLS = ["hog", "lbp"]
# The ops, their arguments, the error, and the field and value it names.
WRONG: dict[str, tuple[list[str], Any, dict[str, Any], type[Exception], str]] = {
    "list": (EVERY_OP, [[0.0] * 16] * 16, {}, TypeError, r"torch\.Tensor.*numpy\.ndarray.*list"),
    "int64 tensor": (EVERY_OP, torch.zeros(16, 16, dtype=torch.int64), {}, TypeError, "int64"),
    "int64 array": (EVERY_OP, np.zeros((16, 16), dtype=np.int64), {}, TypeError, "int64"),
    "bool array": (EVERY_OP, np.zeros((16, 16), dtype=bool), {}, TypeError, "bool"),
    "complex": (EVERY_OP, torch.zeros(16, 16, dtype=torch.complex64), {}, TypeError, "complex64"),
    "rank 1": (EVERY_OP, torch.zeros(16), {}, ValueError, r"\(B, C, H, W\).*\(16,\)"),
    "two channels": (EVERY_OP, torch.zeros(2, 16, 16), {}, ValueError, r"\(2, 16, 16\)"),
    "meta device": (EVERY_OP, IMAGE.to("meta"), {}, ValueError, "meta"),
    "no rows": (["hog", "lbp", "lbp_codes"], torch.zeros(3, 0, 16), {}, ValueError, "0 x 16"),
    "no columns": (["hog"], torch.zeros(3, 16, 0), {"cell_size": 1}, ValueError, "16 x 0"),
    "cell_size 0": (CELLS, IMAGE, {"cell_size": 0}, ValueError, r"cell_size.*0"),
    "cell_size 8.0": (CELLS, IMAGE, {"cell_size": 8.0}, TypeError, r"cell_size.*8\.0"),
    "cell_size True": (CELLS, IMAGE, {"cell_size": True}, TypeError, r"cell_size.*True"),
    "hog, too small": (["hog"], torch.zeros(3, 3, 16), {}, ValueError, "3 x 16"),
    "hog, huge cells": (["hog"], IMAGE, {"cell_size": 2**70}, ValueError, "16 x 16"),
    "hog, variant": (["hog"], IMAGE, {"variant": "opencv"}, ValueError, r"vlfeat-uoctti.*'opencv'"),
    "hog, color": (["hog"], IMAGE, {"color": "mean"}, ValueError, r"luma.*strongest.*'mean'"),
    "hog, pair": (["hog"], IMAGE, {"cell_size": (8, 8)}, TypeError, r"cell_size.*\(8, 8\)"),
    **{
        f"hog, {name} in vlfeat-uoctti": (["hog"], IMAGE, {name: value}, ValueError, rf"{name}.*{value}")
        for name, value in [("orientations", 8), ("block_size", 2), ("block_norm", "L1"), ("transform_sqrt", True)]
    },
    **{
        f"dalal-triggs, {name}": (["hog"], IMAGE, {"variant": "dalal-triggs", **options}, error, message)
        for name, options, error, message in [
            ("too small", {}, ValueError, r"24.*24.*16.*16"),
            ("huge cells", {"cell_size": 2**70}, ValueError, r"16.*16"),
            ("cells of 0", {"cell_size": (4, 0)}, ValueError, r"cell_size.*0"),
            ("cells of True", {"cell_size": (True, 4)}, TypeError, r"cell_size.*True"),
            ("cells of three sides", {"cell_size": (4, 4, 4)}, ValueError, r"cell_size.*\(4, 4, 4\)"),
            ("blocks of 0", {"cell_size": 4, "block_size": 0}, ValueError, r"block_size.*0"),
            ("blocks of 2.0", {"cell_size": 4, "block_size": (2.0, 2)}, TypeError, r"block_size.*2\.0"),
            ("orientations 0", {"cell_size": 4, "orientations": 0}, ValueError, r"orientations.*0"),
            ("orientations 181", {"cell_size": 4, "orientations": 181}, ValueError, r"orientations.*180.*181"),
            ("block_norm", {"cell_size": 4, "block_norm": "L3"}, ValueError, r"L2-Hys.*'L3'"),
            ("transform_sqrt", {"cell_size": 4, "transform_sqrt": 1}, TypeError, r"transform_sqrt.*1"),
            ("color", {"cell_size": 4, "color": "mean"}, ValueError, r"luma.*strongest.*'mean'"),
        ]
    },
    "lbp, too small": (["lbp"], torch.zeros(3, 15, 16), {}, ValueError, "15 x 16"),
    "lbp, cells of 17": (["lbp"], IMAGE, {"cell_size": 17}, ValueError, "16 x 16"),
    "lbp, huge cells": (["lbp"], IMAGE, {"cell_size": 2**15 + 1}, ValueError, r"32768.*32769"),
    "lbp, dtype": (["lbp"], IMAGE, {"dtype": torch.float64}, ValueError, r"dtype.*float64"),
    "lbp, variant": (["lbp", "lbp_codes"], IMAGE, {"variant": "riu2"}, ValueError, r"vlfeat-uniform.*'riu2'"),
    **{
        f"dense_sift, {name}": (["dense_sift"], images, options, error, message)
        for name, images, options, error, message in [
            ("too low", torch.zeros(12, 40), {}, ValueError, r"13 x 13.*12 x 40"),
            ("too narrow", torch.zeros(40, 12), {}, ValueError, r"13 x 13.*40 x 12"),
            ("huge bins", IMAGE, {"bin_size": 2**70}, ValueError, "16 x 16"),
            ("step 0", IMAGE, {"step": 0}, ValueError, r"step.*1.*0"),
            ("step 2.0", IMAGE, {"step": 2.0}, TypeError, r"step.*2\.0"),
            ("bin_size -1", IMAGE, {"bin_size": -1}, ValueError, r"bin_size.*1.*-1"),
            ("bin_size True", IMAGE, {"bin_size": True}, TypeError, r"bin_size.*True"),
            ("bounds below 0", IMAGE, {"bounds": (-1, 0, 15, 15)}, ValueError, "16 x 16"),
            ("bounds past the end", IMAGE, {"bounds": (0, 0, 15, 16)}, ValueError, r"\(0, 0, 15, 16\)"),
            ("bounds reversed", IMAGE, {"bounds": (15, 0, 0, 15)}, ValueError, r"\(15, 0, 0, 15\)"),
            ("bounds too close", IMAGE, {"bounds": (0, 0, 15, 11)}, ValueError, "16 x 12"),
            ("bounds of floats", IMAGE, {"bounds": (0, 0, 15.0, 15)}, TypeError, r"bounds.*four"),
            ("window", IMAGE, {"window": "box"}, ValueError, r"gaussian, flat.*'box'"),
            ("window_size 0", IMAGE, {"window_size": 0.0}, ValueError, r"window_size.*0"),
            ("window_size nan", IMAGE, {"window_size": float("nan")}, ValueError, r"window_size.*nan"),
            ("dtype", IMAGE, {"dtype": torch.int32}, ValueError, r"dtype.*torch\.int32"),
        ]
    },
}


@pytest.mark.parametrize("kind", ["reference", "kernel"])
@pytest.mark.parametrize(("case", "op"), [(case, op) for case, (ops, *_) in WRONG.items() for op in ops])
def test_wrong_input_is_rejected(case: str, op: str, kind: str) -> None:
    _, images, options, error, message = WRONG[case]
    run = IMPLEMENTATIONS[op]["reference" if kind == "reference" else next(iter(KERNELS[op]))]
    with pytest.raises(error, match=message):
        run(images, **options)


@every_op
def test_images_with_channels_last_get_a_hint(op: str) -> None:
    with pytest.raises(ValueError, match=r"channels.*before"):
        OPS[op](np.zeros((64, 48, 3), dtype=np.uint8))


def test_unknown_instruction_set_is_rejected() -> None:
    before = _native.instruction_set()
    with pytest.raises(ValueError, match=r"'mmx'.*portable"):
        _native.set_instruction_set("mmx")
    assert _native.instruction_set() == before


def run_with_instruction_set(name: str) -> subprocess.CompletedProcess[str]:
    code = "import numpy, preimage; from preimage.ops import _native; preimage.hog(numpy.zeros((16, 16), 'uint8')); "
    command = [sys.executable, "-c", code + "print(_native.instruction_set())"]
    environment = os.environ | {"PREIMAGE_ISA": name}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["", *_native.instruction_sets()])
def test_environment_chooses_the_instruction_set(name: str) -> None:
    assert run_with_instruction_set(name).stdout.strip() == (name or _native.instruction_sets()[0])


def test_unknown_instruction_set_in_the_environment_is_rejected() -> None:
    done = run_with_instruction_set("mmx")
    assert done.returncode == 1
    assert re.search(r"ValueError: PREIMAGE_ISA='mmx'.*portable", done.stderr)


@pytest.mark.parametrize("frames", [dense_sift_frames, reference.dense_sift_frames])
def test_frames_of_dense_sift_check_their_parameters(frames: Any) -> None:
    with pytest.raises(ValueError, match="12 x 40"):
        frames(12, 40)
    with pytest.raises(ValueError, match="inside"):
        frames(40, 40, bounds=(0, 0, 40, 39))
    with pytest.raises(TypeError, match="step"):
        frames(40, 40, step="2")


# ---- Extreme parameters ----


@pytest.mark.parametrize("name", IMPLEMENTATIONS["dense_sift"])
def test_bounds_of_the_whole_image_are_the_default(name: str) -> None:
    run = IMPLEMENTATIONS["dense_sift"][name]
    for bounds in ((0, 0, 44, 82), [0, 0, 44, 82]):
        assert torch.equal(run(BATCH, bounds=bounds), run(BATCH))


def test_huge_steps_and_windows_of_dense_sift() -> None:
    image = torch.rand(30, 40)
    assert dense_sift(image, step=2**29).shape == (128, 1, 1)
    assert torch.isfinite(dense_sift(image, window_size=1e-3)).all()
    assert torch.isfinite(dense_sift(image, window_size=1e20)).all()


def test_largest_cell_of_lbp() -> None:
    """The sums of 2^30 pixels need 62 bits."""
    image = torch.zeros(1, 1).expand(1, 2**15, 2**15)  # one pixel in memory
    features = lbp(image, cell_size=2**15)
    assert features[:, 0, 0].tolist() == [0.0] * 56 + [1.0, 0.0]


# ---- The native functions check their arguments again ----


NATIVE_IMAGE = np.zeros((1, 1, 16, 20), dtype=np.float32)
# The tensors after the images, and the parameters after the tensors, in the order of the native function.
NATIVE: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
    "hog": ({"features": np.zeros((1, 31, 2, 3), dtype=np.float32)}, {"cell_size": 8, "color": "luma"}),
    "lbp": ({"features": np.zeros((1, 58, 1, 1), dtype=np.float32)}, {"cell_size": 16}),
    "lbp_codes": ({"features": np.zeros((1, 1, 16, 20), dtype=np.uint8)}, {}),
    "dense_sift": (
        {"features": np.zeros((1, 128, 1, 2), np.float32), "norms": np.zeros((1, 1, 1, 2), np.float32)},
        {"step": 4, "bin_size": 4, "window": "flat", "window_size": 2.0, "bounds": (0, 0, 15, 19)},
    ),
}
# The ops, the changed fields of a tensor, the changed parameters, and the field and value of the message.
WRONG_NATIVE: list[tuple[list[str], dict[str, dict[str, Any]], dict[str, Any], str]] = [
    (EVERY_OP, {"images": {"address": 0}}, {}, "address"),
    (EVERY_OP, {"images": {"address": NATIVE_IMAGE.ctypes.data + 1}}, {}, "element size"),
    (EVERY_OP, {"images": {"strides": (1280, 1280, 82, 4)}}, {}, "element size"),
    (EVERY_OP, {"images": {"shape": (1, 1, -1, 20)}}, {}, "negative"),
    (EVERY_OP, {"images": {"shape": (2**40, 1, 2**40, 20)}}, {}, "64-bit"),
    (EVERY_OP, {"images": {"strides": (0, 0, 2**62, 4)}}, {}, "64-bit"),
    (EVERY_OP, {"images": {"dtype": "int8"}}, {}, "int8"),
    (EVERY_OP, {"images": {"dtype": "float16", "strides": (8, 8, 40, 2)}}, {}, "uint8 or float32"),
    (EVERY_OP, {"images": {"device": "cuda:0"}}, {}, "cuda"),
    (EVERY_OP, {"images": {"shape": (1, 2, 8, 20)}}, {}, "1 or 3 channels"),
    (EVERY_OP, {"features": {"device": "cuda:0"}}, {}, "cuda"),
    (["hog"], {"images": {"shape": (1, 1, 2, 20)}}, {}, "cell"),
    (["lbp"], {"images": {"shape": (1, 1, 15, 20)}}, {}, "cell"),
    (["hog"], {"features": {"shape": (1, 31, 3, 2)}}, {}, "output"),
    (["hog"], {"features": {"strides": (744, 24, 12, 8)}}, {}, "output"),
    (["lbp"], {"features": {"shape": (1, 58, 1, 2)}}, {}, "output"),
    (["lbp"], {"features": {"strides": (232, 8, 8, 8)}}, {}, "output"),
    (["lbp_codes"], {"features": {"shape": (1, 1, 16, 19)}}, {}, "output"),
    (["hog", "lbp"], {"features": {"dtype": "uint8"}}, {}, "output"),
    (["lbp_codes"], {"features": {"dtype": "float32"}}, {}, "output|element size"),
    (["hog", "lbp"], {}, {"cell_size": 0}, "cell_size"),
    (["hog"], {}, {"cell_size": 2**31}, "cell_size"),
    (["lbp"], {}, {"cell_size": 2**15 + 1}, "cell_size"),
    (["hog"], {}, {"color": "gray"}, "'gray'"),
    *(
        (["dense_sift"], tensors, parameters, message)
        for tensors, parameters, message in [
            ({"features": {"shape": (1, 128, 2, 1)}}, {}, "features"),
            ({"features": {"strides": (1024, 8, 8, 8)}}, {}, "features"),
            ({"features": {"dtype": "uint8"}}, {}, "features"),
            ({"norms": {"shape": (1, 2, 1, 1)}}, {}, "norms"),
            ({"norms": {"dtype": "uint8", "strides": (2, 2, 2, 1)}}, {}, "norms"),
            ({}, {"step": 0}, "step"),
            ({}, {"bin_size": 2**40}, "bin_size"),
            ({}, {"bin_size": 6}, "too small"),
            ({}, {"window": "box"}, "'box'"),
            ({}, {"window_size": float("inf")}, "window_size"),
            ({}, {"window_size": float("nan")}, "window_size"),
            ({}, {"bounds": (0, 0, 16, 19)}, "inside"),
            ({}, {"bounds": (0, -1, 15, 19)}, "inside"),
            ({}, {"bounds": (3, 0, 2, 19)}, "inside"),
        ]
    ),
]


@pytest.mark.parametrize(
    ("op", "tensors", "parameters", "message"),
    [(op, tensors, parameters, message) for ops, tensors, parameters, message in WRONG_NATIVE for op in ops],
)
def test_native_functions_check_again(
    op: str, tensors: dict[str, dict[str, Any]], parameters: dict[str, Any], message: str
) -> None:
    outputs, right = NATIVE[op]
    arrays = {"images": NATIVE_IMAGE, **outputs}
    arguments = [described(array, **tensors.get(name, {})) for name, array in arrays.items()]
    function = getattr(_native, op)
    with pytest.raises(ValueError, match=message):
        function(*arguments, *(right | parameters).values(), 1)
    function(*(described(array) for array in arrays.values()), *right.values(), 1)
