"""Compare the fused Adam over flat memory, as kernel and as torch operations, with torch's optimizer."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from preimage.ops import adam
from tolerances import ADAM

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the kernel's file is imported
HAS_TRITON = importlib.util.find_spec("triton") is not None

FORMS = [
    "plain",
    pytest.param("kernel", marks=pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")),
]


def steps(form: str):
    if form == "plain":
        return adam.adam_step_torch
    from preimage.ops import _adam_triton  # noqa: PLC0415 - not everywhere

    def kernel(*tensors: object) -> None:
        _adam_triton.adam_step(*tensors, adam.BETAS, adam.EPS)

    return kernel


def numbers(step: int, rate: float, decay: float, device: torch.device) -> torch.Tensor:
    corrections = [1 - beta ** (step + 1) for beta in adam.BETAS]
    return torch.tensor([rate, *corrections, 1 - decay], device=device)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 7, 1023, 1024, 2500])
def test_equals_torch_over_many_steps(count: int, dtype: torch.dtype, form: str) -> None:
    device = torch.device("cuda" if CUDA and form == "kernel" else "cpu")
    generator = torch.Generator().manual_seed(count)
    start = torch.randn(count, generator=generator).to(device)
    reference = torch.nn.Parameter(start.double())
    optimizer = torch.optim.Adam([reference], 1e-2, foreach=False)
    reference_average = start.double()
    # Each buffer is followed by elements that must not be touched, and the output is filled with NaN.
    room = {name: torch.full((count + 5,), 7.0, device=device) for name in ("weights", "mean", "square", "average")}
    rounded = torch.full((count + 5,), torch.nan, dtype=torch.bfloat16, device=device)
    flat = {name: buffer[:count] for name, buffer in room.items()}
    for name, value in (("weights", start), ("mean", 0.0), ("square", 0.0), ("average", start)):
        flat[name].copy_(torch.as_tensor(value))
    step_once = steps(form)
    for step in range(30):
        rate, decay = 1e-2 * (1 - step / 40), min(0.97, (step + 1) / (step + 10))
        size = 10.0 ** float(torch.randint(-6, 3, (), generator=generator))  # gradients of very different sizes
        gradient = (torch.randn(count, generator=generator) * size).to(device, dtype)
        scale = torch.tensor(0.25 if step % 2 else 1.0, device=device)
        step_once(
            flat["weights"],
            gradient,
            flat["mean"],
            flat["square"],
            flat["average"],
            rounded[:count],
            scale,
            numbers(step, rate, decay, device),
        )
        reference.grad = gradient.double() * scale.double()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        reference_average.lerp_(reference.detach(), 1 - decay)
    moments = optimizer.state[reference]
    for name, wanted in (
        ("weights", reference.detach()),
        ("average", reference_average),
        ("mean", moments["exp_avg"]),
        ("square", moments["exp_avg_sq"]),
    ):
        torch.testing.assert_close(flat[name].double(), wanted, atol=ADAM, rtol=ADAM)
        assert (room[name][count:] == 7).all()
    # Triton's interpreter cuts off the lower half instead of rounding: up to an ulp of bfloat16.
    ulp = 2.0**-7 if form == "kernel" and not CUDA else 0.0
    torch.testing.assert_close(rounded[:count], flat["weights"].bfloat16(), atol=0, rtol=ulp)
    assert rounded[count:].isnan().all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, in Triton's interpreter
@pytest.mark.parametrize("form", FORMS)
def test_edge_cases(form: str) -> None:
    """Edge cases: no copy, a weight of 1 in the average, no gradient yet, and tiny, huge and NaN gradients."""
    device = torch.device("cuda" if CUDA and form == "kernel" else "cpu")
    weights = torch.ones(6, device=device)
    mean, square, average = torch.zeros(3, 6, device=device).unbind()
    gradient = torch.tensor([0.0, -0.0, 1e-18, 1e18, torch.inf, torch.nan], device=device)
    steps(form)(
        weights, gradient, mean, square, average, None, torch.tensor(1.0, device=device), numbers(0, 0.1, 0.0, device)
    )
    assert torch.equal(average[:4], weights[:4])  # decay 0: the weights themselves, to the bit
    assert average[4:].isnan().all()
    assert (weights[:2] == 1).all()
    torch.testing.assert_close(weights[3].item(), 0.9, atol=ADAM, rtol=0)
    assert weights[2] == 1  # 1e-18 is far below epsilon
    assert weights[4:].isnan().all()  # as torch's: infinity / infinity


def test_public_function_checks_its_tensors() -> None:
    def call(**changes: object) -> None:
        names = ("weights", "grad", "exp_avg", "exp_avg_sq", "ema")
        tensors = {name: torch.zeros(8) for name in names}
        others = {"bfloat16_weights": None, "grad_scale": torch.ones(()), "scalars": torch.ones(4)}
        adam.adam_step(**{**tensors, **others, **changes})

    call()
    call(bfloat16_weights=torch.zeros(8, dtype=torch.bfloat16), grad=torch.zeros(8, dtype=torch.bfloat16))
    for change, message in (
        ({"exp_avg": torch.zeros(7)}, r"shape.*8"),
        ({"weights": torch.zeros(2, 4)}, "contiguous"),
        ({"ema": torch.zeros(16)[::2]}, "contiguous"),
        ({"bfloat16_weights": torch.zeros(8)}, "torch.bfloat16.*float32"),
        ({"grad": torch.zeros(8, dtype=torch.float64)}, "torch.bfloat16.*float64"),
        ({"scalars": torch.ones(3)}, "scalars.*3"),
        ({"grad_scale": torch.ones((), dtype=torch.float64)}, "grad_scale.*float64"),
        ({"exp_avg_sq": torch.zeros(8, device="meta")}, "device.*meta"),
    ):
        with pytest.raises(ValueError, match=message):
            call(**change)
