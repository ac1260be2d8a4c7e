"""What HOG accepts, in which layouts, and what it says about everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hog_implementations import IMPLEMENTATIONS, KERNELS
from preimage.ops import _native
from preimage.ops.hog import hog

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)
every_kernel = pytest.mark.parametrize("name", KERNELS)

BATCH = np.random.default_rng(3).integers(0, 256, (3, 3, 45, 83), dtype=np.uint8)


def field_of_a_record(batch: np.ndarray) -> np.ndarray:
    """The same values, seven or four bytes apart: floats at addresses that are no multiples of four."""
    records = np.zeros(batch.shape, dtype=np.dtype([("flag", "u1"), ("value", batch.dtype), ("rest", "u1", 2)]))
    records["value"] = batch
    return records["value"]


# Functions of a contiguous array (B, C, H, W) that give equal values in another layout.
ARRAY_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda batch: batch,
    "channels last": lambda batch: np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "rows and columns swapped": lambda batch: np.ascontiguousarray(batch.swapaxes(2, 3)).swapaxes(2, 3),
    "all axes backwards": lambda batch: np.ascontiguousarray(batch[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "columns backwards": lambda batch: np.ascontiguousarray(batch[..., ::-1])[..., ::-1],
    "every other column": lambda batch: np.repeat(batch, 2, axis=3)[..., ::2],
    "cut out of a larger one": lambda batch: np.pad(batch, ((1, 1), (1, 2), (3, 5), (1, 7)))[1:-1, 1:-2, 3:-5, 1:-7],
    "read-only": lambda batch: np.frombuffer(batch.tobytes(), batch.dtype).reshape(batch.shape),
    "other byte order": lambda batch: batch.astype(batch.dtype.newbyteorder()),
    "unaligned": field_of_a_record,
}


@every_kernel
@pytest.mark.parametrize("color", ["luma", "strongest"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("layout", ARRAY_LAYOUTS)
def test_array_layouts(name: str, color: str, dtype: type, layout: str) -> None:
    batch = BATCH if dtype == np.uint8 else BATCH.astype(np.float32) / 255
    values = ARRAY_LAYOUTS[layout](batch)
    assert torch.equal(KERNELS[name](values, color=color), KERNELS[name](batch, color=color))
    assert torch.equal(KERNELS[name](values[:, :1]), KERNELS[name](np.ascontiguousarray(batch[:, :1])))


@every_kernel
@pytest.mark.parametrize("cell_size", [8, 5])
def test_tensor_layouts(name: str, cell_size: int) -> None:
    hog = KERNELS[name]
    batch = torch.from_numpy(BATCH.astype(np.float32) / 255)
    expected = hog(batch, cell_size=cell_size)
    assert torch.equal(hog(batch.to(memory_format=torch.channels_last), cell_size=cell_size), expected)
    assert torch.equal(hog(batch.mT.contiguous().mT, cell_size=cell_size), expected)
    assert torch.equal(hog(batch[1:2].expand(5, -1, -1, -1), cell_size=cell_size)[4], expected[1])
    assert torch.equal(hog(torch.cat([batch, batch], dim=3)[..., : batch.shape[3]], cell_size=cell_size), expected)
    gray = batch[:, :1].expand(-1, 3, -1, -1)  # a channel axis of stride zero
    assert torch.equal(hog(gray, cell_size=cell_size, color="strongest"), hog(batch[:, :1], cell_size=cell_size))


@every_implementation
def test_ranks_and_batches(name: str) -> None:
    hog = IMPLEMENTATIONS[name]
    batch = torch.from_numpy(BATCH)
    features = hog(batch)
    assert features.shape == (3, 31, 6, 10)
    assert features.dtype == torch.float32 and features.is_contiguous()
    assert torch.equal(hog(batch[1]), features[1])  # alone as in a batch
    assert torch.equal(hog(batch[0, 0]), hog(batch[0, :1]))
    assert torch.equal(hog(batch[0, :1]), hog(batch[:1, :1])[0])
    assert torch.equal(hog(batch[None]), features[None])
    assert torch.equal(hog(torch.stack([batch, batch.flip(3)], dim=1))[:, 0], features)
    assert hog(batch[None, :0]).shape == (1, 0, 31, 6, 10)
    assert hog(batch[:0]).shape == (0, 31, 6, 10)
    assert hog(BATCH[:0], cell_size=3).shape == (0, 31, 15, 28)


@every_implementation
def test_bytes_and_floats_agree_to_the_bit(name: str) -> None:
    for color in ("luma", "strongest"):
        floats = BATCH.astype(np.float32) / np.float32(255)
        assert torch.equal(IMPLEMENTATIONS[name](BATCH, color=color), IMPLEMENTATIONS[name](floats, color=color))


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_converted(name: str, dtype: torch.dtype) -> None:
    images = (torch.from_numpy(BATCH) / 255).to(dtype)
    expected = KERNELS[name](images.float())
    assert torch.equal(KERNELS[name](images), expected)
    if dtype != torch.bfloat16:
        assert torch.equal(KERNELS[name](images.numpy()), expected)


IMAGE = torch.rand(3, 16, 16)
WRONG = {
    "a list": (lambda hog: hog([[0.0] * 16] * 16), TypeError, r"torch\.Tensor.*numpy\.ndarray.*list"),
    "int64 tensor": (lambda hog: hog(torch.zeros(16, 16, dtype=torch.int64)), TypeError, "int64"),
    "int64 array": (lambda hog: hog(np.zeros((16, 16), dtype=np.int64)), TypeError, "int64"),
    "bool array": (lambda hog: hog(np.zeros((16, 16), dtype=bool)), TypeError, "bool"),
    "complex": (lambda hog: hog(torch.zeros(16, 16, dtype=torch.complex64)), TypeError, "complex64"),
    "rank 1": (lambda hog: hog(torch.zeros(16)), ValueError, r"\(B, C, H, W\).*\(16,\)"),
    "two channels": (lambda hog: hog(torch.zeros(2, 16, 16)), ValueError, r"\(2, 16, 16\)"),
    "no rows": (lambda hog: hog(torch.zeros(3, 0, 16)), ValueError, "0 x 16"),
    "no rows, big cell": (lambda hog: hog(torch.zeros(3, 16, 0), cell_size=1), ValueError, "16 x 0"),
    "too small": (lambda hog: hog(torch.zeros(3, 3, 16)), ValueError, "3 x 16"),
    "huge cell": (lambda hog: hog(IMAGE, cell_size=2**70), ValueError, "16 x 16"),
    "cell of 0": (lambda hog: hog(IMAGE, cell_size=0), ValueError, r"cell_size.*0"),
    "cell of 8.0": (lambda hog: hog(IMAGE, cell_size=8.0), TypeError, r"cell_size.*8\.0"),
    "cell of True": (lambda hog: hog(IMAGE, cell_size=True), TypeError, r"cell_size.*True"),
    "variant": (lambda hog: hog(IMAGE, variant="dalal-triggs"), ValueError, r"vlfeat-uoctti.*'dalal-triggs'"),
    "color": (lambda hog: hog(IMAGE, color="mean"), ValueError, r"luma.*strongest.*'mean'"),
    "meta device": (lambda hog: hog(IMAGE.to("meta")), ValueError, "meta"),
}


@pytest.mark.parametrize("name", ["reference", next(iter(KERNELS))])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named(name: str, case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call(IMPLEMENTATIONS[name])


def test_channels_last_shape_is_hinted_at() -> None:
    with pytest.raises(ValueError, match=r"channels.*before"):
        hog(np.zeros((64, 48, 3), dtype=np.uint8))


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_other_types_are_rounded(name: str, dtype: torch.dtype) -> None:
    features = KERNELS[name](IMAGE, dtype=dtype)
    assert features.dtype == dtype
    assert torch.equal(features, KERNELS[name](IMAGE).to(dtype))


def test_defaults_of_torch_do_not_matter() -> None:
    expected = hog(IMAGE)
    torch.set_default_dtype(torch.float64)
    try:
        assert hog(IMAGE).dtype == torch.float32
        with torch.device("meta"):
            assert torch.equal(hog(IMAGE), expected)
            assert np.array_equal(hog(IMAGE.numpy()), expected.numpy())
    finally:
        torch.set_default_dtype(torch.float32)


def test_lazily_negated_tensor() -> None:
    """The imaginary part of a conjugate shares the memory of what it is the negative of."""
    values = torch.complex(torch.rand(16, 16), torch.rand(16, 16)).conj().imag
    assert values.is_neg()
    assert torch.equal(hog(values), hog(values.clone()))


def test_unknown_instruction_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREIMAGE_ISA", "mmx")
    with pytest.raises(ValueError, match=r"PREIMAGE_ISA='mmx'.*portable"):
        hog(IMAGE)


def described(array: np.ndarray, **changes: Any) -> tuple[Any, ...]:
    fields = {
        "address": array.ctypes.data,
        "shape": array.shape,
        "strides": array.strides,
        "dtype": array.dtype.name,
        "device": "cpu",
    }
    return tuple((fields | changes).values())


NATIVE_IMAGE = np.zeros((1, 1, 16, 16), dtype=np.float32)
NATIVE_OUTPUT = np.zeros((1, 31, 2, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("image", "output", "options", "message"),
    [
        ({"address": 0}, {}, (8, "luma", "", 1), "address"),
        ({"address": NATIVE_IMAGE.ctypes.data + 1}, {}, (8, "luma", "", 1), "element size"),
        ({"strides": (1024, 1024, 66, 4)}, {}, (8, "luma", "", 1), "element size"),
        ({"shape": (1, 1, -1, 16)}, {}, (8, "luma", "", 1), "negative"),
        ({"shape": (2**40, 1, 2**40, 16)}, {}, (8, "luma", "", 1), "64-bit"),
        ({"strides": (0, 0, 2**62, 4)}, {}, (8, "luma", "", 1), "64-bit"),
        ({"dtype": "int8"}, {}, (8, "luma", "", 1), "int8"),
        ({"device": "cuda"}, {}, (8, "luma", "", 1), "cuda"),
        ({"shape": (1, 2, 8, 16)}, {}, (8, "luma", "", 1), "1 or 3 channels"),
        ({"shape": (1, 1, 2, 16)}, {}, (8, "luma", "", 1), "cell"),
        ({}, {"shape": (1, 31, 2, 3)}, (8, "luma", "", 1), "output"),
        ({}, {"strides": (496, 16, 8, 8)}, (8, "luma", "", 1), "output"),
        ({}, {"dtype": "uint8"}, (8, "luma", "", 1), "output"),
        ({}, {}, (0, "luma", "", 1), "cell_size"),
        ({}, {}, (2**31, "luma", "", 1), "cell_size"),
        ({}, {}, (8, "gray", "", 1), "'gray'"),
    ],
)
def test_native_boundary_checks_again(
    image: dict[str, Any], output: dict[str, Any], options: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _native.hog(described(NATIVE_IMAGE, **image), described(NATIVE_OUTPUT, **output), *options)
