"""What LBP accepts, in which layouts, and what it says about everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_hog_input import ARRAY_LAYOUTS, BATCH, described

import implementations
from lbp_implementations import CODES, IMPLEMENTATIONS, KERNELS
from preimage.ops import _native
from preimage.ops.lbp import lbp, lbp_codes

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)
every_kernel = pytest.mark.parametrize("name", KERNELS)
CODE_KERNELS = implementations.kernels(lbp_codes)


@every_kernel
@pytest.mark.parametrize("cell_size", [16, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("layout", ARRAY_LAYOUTS)
def test_array_layouts(name: str, cell_size: int, dtype: type, layout: str) -> None:
    batch = BATCH if dtype == np.uint8 else BATCH.astype(np.float32) / 255
    values = ARRAY_LAYOUTS[layout](batch)
    assert torch.equal(KERNELS[name](values, cell_size=cell_size), KERNELS[name](batch, cell_size=cell_size))
    gray = np.ascontiguousarray(batch[:, :1])
    assert torch.equal(KERNELS[name](values[:, :1], cell_size=cell_size), KERNELS[name](gray, cell_size=cell_size))
    assert torch.equal(CODE_KERNELS[name](values), CODE_KERNELS[name](batch))


@every_kernel
def test_tensor_layouts(name: str) -> None:
    batch = torch.from_numpy(BATCH.astype(np.float32) / 255)
    for op in (KERNELS[name], CODE_KERNELS[name]):
        expected = op(batch)
        assert torch.equal(op(batch.to(memory_format=torch.channels_last)), expected)
        assert torch.equal(op(batch.mT.contiguous().mT), expected)
        assert torch.equal(op(batch[1:2].expand(5, -1, -1, -1))[4], expected[1])
        assert torch.equal(op(torch.cat([batch, batch], dim=3)[..., : batch.shape[3]]), expected)


@every_implementation
def test_ranks_and_batches(name: str) -> None:
    batch = torch.from_numpy(BATCH)
    for op, shape in ((IMPLEMENTATIONS[name], (58, 2, 5)), (CODES[name], (1, 45, 83))):
        result = op(batch)
        assert result.shape == (3, *shape) and result.is_contiguous()
        assert torch.equal(op(batch[1]), result[1])  # alone as in a batch
        assert torch.equal(op(batch[0, 0]), op(batch[0, :1]))
        assert torch.equal(op(batch[0, :1]), op(batch[:1, :1])[0])
        assert op(batch[:0]).shape == (0, *shape)
        assert op(BATCH[:0]).shape == (0, *shape)
    assert IMPLEMENTATIONS[name](batch, cell_size=4).shape == (3, 58, 11, 20)


@every_implementation
def test_scales_of_one_channel_agree_to_the_bit(name: str) -> None:
    gray = BATCH[:, :1]
    floats = gray.astype(np.float32)
    for op in (IMPLEMENTATIONS[name], CODES[name]):
        assert torch.equal(op(floats), op(gray))
        assert torch.equal(op(floats / np.float32(255)), op(gray))
        assert torch.equal(op(BATCH.astype(np.float32) / np.float32(255)), op(BATCH))  # three, at this scale


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_converted(name: str, dtype: torch.dtype) -> None:
    images = (torch.from_numpy(BATCH) / 255).to(dtype)
    for op in (IMPLEMENTATIONS[name], CODES[name]):
        expected = op(images.float())
        assert torch.equal(op(images), expected)
        if dtype != torch.bfloat16:
            assert torch.equal(op(images.numpy()), expected)


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_other_types_are_rounded(name: str, dtype: torch.dtype) -> None:
    batch = torch.from_numpy(BATCH)
    features = IMPLEMENTATIONS[name](batch, dtype=dtype)
    assert features.dtype == dtype
    assert torch.equal(features, IMPLEMENTATIONS[name](batch).to(dtype))


IMAGE = torch.rand(3, 16, 16)
WRONG = {
    "a list": (lambda op: op([[0.0] * 16] * 16), TypeError, r"torch\.Tensor.*numpy\.ndarray.*list"),
    "int64 tensor": (lambda op: op(torch.zeros(16, 16, dtype=torch.int64)), TypeError, "int64"),
    "int64 array": (lambda op: op(np.zeros((16, 16), dtype=np.int64)), TypeError, "int64"),
    "complex": (lambda op: op(torch.zeros(16, 16, dtype=torch.complex64)), TypeError, "complex64"),
    "rank 1": (lambda op: op(torch.zeros(16)), ValueError, r"\(B, C, H, W\).*\(16,\)"),
    "two channels": (lambda op: op(torch.zeros(2, 16, 16)), ValueError, r"\(2, 16, 16\)"),
    "no rows": (lambda op: op(torch.zeros(3, 0, 16)), ValueError, "0 x 16"),
    "variant": (lambda op: op(IMAGE, variant="riu2"), ValueError, r"vlfeat-uniform.*'riu2'"),
    "meta device": (lambda op: op(IMAGE.to("meta")), ValueError, "meta"),
}
WRONG_CELLS = {
    "too small": (lambda op: op(torch.zeros(3, 15, 16)), ValueError, "15 x 16"),
    "cell of 17": (lambda op: op(IMAGE, cell_size=17), ValueError, "16 x 16"),
    "huge cell": (lambda op: op(IMAGE, cell_size=2**15 + 1), ValueError, r"32768.*32769"),
    "cell of 0": (lambda op: op(IMAGE, cell_size=0), ValueError, r"cell_size.*0"),
    "cell of 8.0": (lambda op: op(IMAGE, cell_size=8.0), TypeError, r"cell_size.*8\.0"),
    "cell of True": (lambda op: op(IMAGE, cell_size=True), TypeError, r"cell_size.*True"),
    "dtype": (lambda op: op(IMAGE, dtype=torch.float64), ValueError, "float64"),
}


@pytest.mark.parametrize("name", ["reference", next(iter(KERNELS))])
@pytest.mark.parametrize("case", [*WRONG, *WRONG_CELLS])
def test_wrong_input_is_named(name: str, case: str) -> None:
    call, error, message = (WRONG | WRONG_CELLS)[case]
    for op in (IMPLEMENTATIONS, CODES) if case in WRONG else (IMPLEMENTATIONS,):
        with pytest.raises(error, match=message):
            call(op[name])


def test_gradients_are_refused_not_dropped() -> None:
    image = IMAGE.clone().requires_grad_()
    for op in (lbp, lbp_codes):
        with pytest.raises(ValueError, match=r"derivative.*zero"):
            op(image)
        with torch.no_grad():
            assert torch.equal(op(image), op(IMAGE))


def test_largest_cell() -> None:
    """The sums of 2^30 pixels need 62 bits."""
    image = torch.zeros(1, 1).expand(1, 2**15, 2**15)  # one pixel in memory
    features = lbp(image, cell_size=2**15)
    assert features[:, 0, 0].tolist() == [0.0] * 56 + [1.0, 0.0]


NATIVE_IMAGE = np.zeros((1, 1, 16, 16), dtype=np.float32)
NATIVE_OUTPUT = np.zeros((1, 58, 1, 1), dtype=np.float32)
NATIVE_CODES = np.zeros((1, 1, 16, 16), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "output", "options", "message"),
    [
        ({"address": 0}, {}, (16, "", 1), "address"),
        ({"dtype": "uint8", "shape": (1, 2, 16, 16)}, {}, (16, "", 1), "1 or 3 channels"),
        ({"shape": (1, 1, 15, 16)}, {}, (16, "", 1), "cell"),
        ({}, {"shape": (1, 58, 1, 2)}, (16, "", 1), "output"),
        ({}, {"strides": (232, 8, 8, 8)}, (16, "", 1), "output"),
        ({}, {"dtype": "uint8"}, (16, "", 1), "output"),
        ({}, {"device": "cuda:0"}, (16, "", 1), "cuda:0"),
        ({}, {}, (0, "", 1), "cell_size"),
        ({}, {}, (2**15 + 1, "", 1), "cell_size"),
        ({}, {}, (16, "mmx", 1), "mmx"),
    ],
)
def test_native_boundary_checks_again(
    image: dict[str, Any], output: dict[str, Any], options: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _native.lbp(described(NATIVE_IMAGE, **image), described(NATIVE_OUTPUT, **output), *options)


@pytest.mark.parametrize("output", [{"shape": (1, 1, 16, 15)}, {"dtype": "float32"}, {"device": "cuda:0"}])
def test_native_boundary_of_the_map(output: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"output|cuda:0|element size"):
        _native.lbp_codes(described(NATIVE_IMAGE), described(NATIVE_CODES, **output), "", 1)


def test_gradients_are_refused_under_compile_too() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lbp, backend="eager")
    with pytest.raises(ValueError, match=r"derivative.*zero"):
        compiled(torch.rand(1, 1, 16, 16, requires_grad=True))
