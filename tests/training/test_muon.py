"""Test the orthogonalized step of Muon in both precisions."""

from __future__ import annotations

import pytest
import torch

from preimage.inverters import precision
from preimage.training import muon


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 600), (64, 64), (3, 48, 20)])
def test_singular_values_come_near_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    turned = muon.orthogonalized(matrix, dtype)
    assert turned.shape == matrix.shape and turned.dtype == matrix.dtype
    values = torch.linalg.svdvals(turned)
    well = torch.linalg.svdvals(matrix) > 0.05 * torch.linalg.matrix_norm(matrix, 2)[..., None]
    assert values.max() < 1.3 and values[well].min() > 0.6


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_not_emulated(native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(precision, "fastest_dtype", precision.fastest_dtype.__wrapped__)
    monkeypatch.setattr(muon, "fastest_dtype", precision.fastest_dtype)
    assert precision.choose_dtype("auto", torch.device("cpu")) == expected
    assert precision.choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16, "as asked for"
    matrix = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(muon.orthogonalized(matrix), muon.orthogonalized(matrix, expected))


@pytest.mark.parametrize("channels", [(6, 4), (4, 40), (16, 16)])
def test_an_up_convolution_moves_as_the_matrix_of_its_output_channels(
    channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps equal those of the kernel in the orientation of conv2d, (Co, Ci, 5, 5)."""
    monkeypatch.setattr(muon, "fastest_dtype", lambda device: torch.float32)
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(*channels, 5, 5, generator=generator))
    kernel = torch.nn.Parameter(weight.detach().flip(2, 3).transpose(0, 1).contiguous())
    ours, theirs = muon.Muon([{"params": [weight], "rows": 1}]), muon.Muon([kernel])
    start = weight.detach().clone()
    for _ in range(3):
        weight.grad = torch.randn(weight.shape, generator=generator)
        kernel.grad = weight.grad.flip(2, 3).transpose(0, 1).contiguous()
        ours.step()
        theirs.step()
    assert (weight - start).abs().mean() > 1e-3
    torch.testing.assert_close(weight, kernel.flip(2, 3).transpose(0, 1), atol=1e-5, rtol=0)
