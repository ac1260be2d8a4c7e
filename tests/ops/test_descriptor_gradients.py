"""Compare gradients of HOG and dense SIFT with the reference's autograd, and that with finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conftest import photographs
from implementations import IMPLEMENTATIONS, OPS, Implementation
from preimage import dense_sift, hog, lbp, lbp_codes, reference
from tolerances import (
    CUDA,
    DENSE_SIFT_DIRECTION,
    DENSE_SIFT_GRADIENT,
    FINITE_DIFFERENCES,
    FINITE_DIFFERENCES_RELATIVE,
    HOG_GRADIENT,
)

pytestmark = pytest.mark.instruction_set

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WINDOWS = ["gaussian", "flat"]
TOLERANCES = {"hog": HOG_GRADIENT, "dense_sift": DENSE_SIFT_GRADIENT}
# An op, the size of the images, and the parameters.
CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    f"{op}, {name}, {value}": (op, size, {option: value, **parameters})
    for op, option, values, cases in [
        (
            "hog",
            "color",
            ["luma", "strongest"],
            {
                "cells of 8": ((61, 83), {}),
                "cells of 5": ((47, 52), {"cell_size": 5}),
                "one cell": ((9, 8), {}),
            },
        ),
        (
            "dense_sift",
            "window",
            WINDOWS,
            {
                "default": ((47, 52), {}),
                "every pixel": ((47, 52), {"step": 1, "bin_size": 3}),
                "step 3, bins of 5, bounds": ((47, 52), {"step": 3, "bin_size": 5, "bounds": (2, 3, 44, 50)}),
                "step 7, bins of 2": ((47, 52), {"step": 7, "bin_size": 2, "window_size": 1.0}),
                "bins of 1": ((47, 52), {"step": 2, "bin_size": 1}),
                "one descriptor": ((47, 52), {"bin_size": 15, "step": 40}),
            },
        ),
    ]
    for value in values
    for name, (size, parameters) in cases.items()
}

every_op = pytest.mark.parametrize("op", TOLERANCES)
every_device = pytest.mark.parametrize("device", DEVICES)
every_window = pytest.mark.parametrize("window", WINDOWS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Limit the reference to one thread: on a busy machine, waiting threads make it a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photograph(name: str, height: int = 47, width: int = 52) -> torch.Tensor:
    """Return (1, 3, H, W) float32 with a little noise: ties between directions and flat patches have no gradient."""
    crop = torch.from_numpy(photographs()[name])[60 : 60 + height, 150 : 150 + width].permute(2, 0, 1)[None].float()
    return (crop + torch.rand(crop.shape, generator=torch.Generator().manual_seed(0))) / 256


def outputs_of(run: Implementation, images: torch.Tensor, options: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    result = run(images, **options)
    return result if isinstance(result, tuple) else (result,)


def weights_of(outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(output.shape, generator=generator, dtype=torch.float64) for output in outputs]


def gradient(run: Implementation, images: torch.Tensor, **options: Any) -> torch.Tensor:
    """Return the gradient of a weighted sum of all outputs; of dense SIFT these are descriptors and norms."""
    if run in (dense_sift, reference.dense_sift):
        options = {"norms": True, **options}
    images = images.detach().clone().requires_grad_()
    outputs = outputs_of(run, images, options)
    weights = [weight.to(output) for weight, output in zip(weights_of(outputs), outputs, strict=True)]
    (found,) = torch.autograd.grad(outputs, images, weights)
    assert found.dtype == images.dtype and found.shape == images.shape and found.device == images.device
    return found


# ---- Against the definition ----


@every_device
@pytest.mark.parametrize("case", CASES)
def test_gradient_agrees_with_the_reference(device: str, case: str) -> None:
    op, (height, width), options = CASES[case]
    noise = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(2))
    for images in (photograph("astronaut", height, width), photograph("chelsea", height, width), noise):
        if op == "hog":  # whose decisions between directions depend on the precision: the same numbers for both
            expected = gradient(reference.hog, images, **options)
        else:
            expected = gradient(reference.dense_sift, images.double(), dtype=torch.float64, **options)
        found = gradient(OPS[op], images.to(device), **options).cpu()
        assert (found - expected).norm() <= TOLERANCES[op] * expected.norm()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("hog", {"cell_size": 4, "color": "luma"}),
        ("hog", {"cell_size": 4, "color": "strongest"}),
        ("dense_sift", {"step": 2, "bin_size": 2, "window": "gaussian", "norms": True, "dtype": torch.float64}),
        ("dense_sift", {"step": 2, "bin_size": 2, "window": "flat", "norms": True, "dtype": torch.float64}),
    ],
    ids=str,
)
def test_finite_differences_of_the_reference(op: str, options: dict[str, Any], channels: int) -> None:
    torch.manual_seed(1)
    images = torch.rand(1, channels, 9, 10, dtype=torch.float64, requires_grad=True)
    run = getattr(reference, op)
    allowed = {"atol": FINITE_DIFFERENCES[op], "rtol": FINITE_DIFFERENCES_RELATIVE}
    assert torch.autograd.gradcheck(lambda x: run(x, **options), (images,), eps=1e-7, **allowed)


@every_device
@every_window
def test_gradient_of_dense_sift_along_a_direction(device: str, window: str) -> None:
    """The gradient predicts how the reference's descriptors change on a step so small that none cross a kink."""
    image = photograph("coffee")
    step = torch.randn(image.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def total(images: torch.Tensor) -> float:
        outputs = reference.dense_sift(images, window=window, norms=True, dtype=torch.float64)
        return sum((output * weight).sum().item() for output, weight in zip(outputs, weights_of(outputs), strict=True))

    size = 1e-7
    expected = (total(image.double() + size * step) - total(image.double() - size * step)) / (2 * size)
    found = (gradient(dense_sift, image.to(device), window=window).cpu() * step).sum().item()
    assert found == pytest.approx(expected, rel=DENSE_SIFT_DIRECTION)


# ---- Of special images ----


@every_device
@pytest.mark.parametrize(("op", "size"), [("hog", 2e-3), ("dense_sift", 1e-3)])
def test_a_step_down_the_gradient_reduces_the_error(op: str, size: float, device: str) -> None:
    target = OPS[op](photograph("chelsea", 64, 64).to(device))
    image = photograph("rocket", 64, 64).to(device).requires_grad_()
    errors = []
    for _ in range(3):
        error = (OPS[op](image) - target).square().sum()
        (step,) = torch.autograd.grad(error, image)
        errors.append(error.item())
        image = (image - size * step / step.abs().max()).detach().requires_grad_()
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in TOLERANCES for name in IMPLEMENTATIONS[op]])
def test_flat_images_have_no_gradient(op: str, name: str) -> None:
    flat = torch.full((1, 3, 24, 24), 0.5)
    options = {"norms": True} if op == "dense_sift" else {}
    assert gradient(IMPLEMENTATIONS[op][name], flat, **options).abs().max().item() == 0
    half = torch.cat([flat, photograph("coffee", 24, 24)], dim=3)
    assert gradient(IMPLEMENTATIONS[op][name], half, **options).isfinite().all()


@every_device
def test_nearly_flat_images_have_no_gradient_of_dense_sift(device: str) -> None:
    flat = torch.full((1, 3, 24, 24), 0.5, device=device)
    assert gradient(dense_sift, flat + 1e-5 * torch.rand_like(flat)).abs().max().item() == 0


def test_an_image_without_interior_has_no_gradient_of_hog() -> None:
    assert gradient(hog, torch.rand(1, 3, 16, 2), cell_size=4).abs().max().item() == 0


@every_device
def test_pixels_outside_the_bounds_have_no_gradient(device: str) -> None:
    found = gradient(dense_sift, photograph("coffee").to(device), bounds=(16, 12, 30, 32)).cpu()
    # Bins reach 3 pixels beyond the bounds, and a pixel's vote its neighbors.
    assert found[..., 12:35, 8:37].abs().max() > 0
    found[..., 12:35, 8:37] = 0
    assert found.abs().max() == 0


@every_device
def test_gradients_of_descriptors_and_norms_add_up(device: str) -> None:
    image = photograph("coffee").to(device).requires_grad_()
    features, norms = dense_sift(image, norms=True)
    of_features, of_norms = (weight.to(features) for weight in weights_of((features, norms)))
    (first,) = torch.autograd.grad(features, image, of_features, retain_graph=True)
    (second,) = torch.autograd.grad(norms, image, of_norms)
    both = gradient(dense_sift, image)
    assert (first + second - both).norm() <= DENSE_SIFT_GRADIENT * both.norm()


# ---- Types, layouts, threads ----


@every_op
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradient_has_the_dtype_of_the_images(op: str, dtype: torch.dtype) -> None:
    image = photograph("coffee").to(dtype)
    assert torch.equal(gradient(OPS[op], image), gradient(OPS[op], image.float()).to(dtype))


def test_gradient_of_descriptors_in_other_types() -> None:
    image = photograph("coffee").requires_grad_()
    for dtype in (torch.float16, torch.bfloat16):
        features = dense_sift(image, dtype=dtype)
        assert torch.equal(features, dense_sift(image.detach(), dtype=dtype))
        weights = torch.ones_like(features)
        (found,) = torch.autograd.grad(features, image, weights)
        (expected,) = torch.autograd.grad(dense_sift(image), image, weights.float())
        assert torch.equal(found, expected)
    assert not dense_sift(image, dtype=torch.uint8).requires_grad


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one image": lambda x: x[0],
    "one plane": lambda x: x[1, 2],
    "channels last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "sliced": lambda x: x[:, :, 3:, ::2],
    "expanded": lambda x: x[:1, :1].expand(2, 3, -1, -1),
    "empty batch": lambda x: x[:0],
}


@every_device
@every_op
@pytest.mark.parametrize("layout", VIEWS)
def test_gradient_of_every_layout(op: str, layout: str, device: str) -> None:
    images = photograph("coffee", 40, 48).repeat(2, 1, 1, 1).to(device)
    view = VIEWS[layout]
    options = {"norms": True} if op == "dense_sift" else {}
    found = gradient(lambda x: OPS[op](view(x), **options), images)
    of_view = gradient(OPS[op], view(images).contiguous())
    (expected,) = torch.autograd.grad(view(images.requires_grad_()), images, of_view)
    assert torch.equal(found, expected)


@every_op
def test_threads_and_batch_do_not_change_the_gradient(op: str) -> None:
    images = torch.cat([photograph(name, 200, 240) for name in ("astronaut", "coffee", "chelsea")])
    features = OPS[op](images)
    weights = torch.randn(features.shape)

    def gradient_of(part: slice) -> torch.Tensor:
        source = images[part].clone().requires_grad_()
        (found,) = torch.autograd.grad(OPS[op](source), source, weights[part])
        return found

    expected = gradient_of(slice(None))
    for threads in (1, 2, 5, 8):
        torch.set_num_threads(threads)
        assert torch.equal(gradient_of(slice(None)), expected)
        assert torch.equal(gradient_of(slice(1, 2)), expected[1:2])


# ---- Autograd and torch.compile ----


@every_op
def test_second_derivatives_are_rejected(op: str) -> None:
    image = photograph("coffee").requires_grad_()
    (first,) = torch.autograd.grad(OPS[op](image).sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        first.sum().backward()


@pytest.mark.parametrize("op", [lbp, lbp_codes])
def test_gradients_of_lbp_are_rejected(op: Implementation) -> None:
    image = torch.rand(3, 16, 16, requires_grad=True)
    with pytest.raises(ValueError, match=r"derivative.*zero"):
        op(image)
    with torch.no_grad():
        assert torch.equal(op(image), op(image.detach()))


def test_gradients_of_compiled_lbp_are_rejected() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lbp, backend="eager")
    with pytest.raises(ValueError, match=r"derivative.*zero"):
        compiled(torch.rand(1, 1, 16, 16, requires_grad=True))


# What torch does when it traces an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_op
def test_gradient_of_compiled_functions(op: str) -> None:
    torch._dynamo.reset()
    image = photograph("coffee").requires_grad_()

    def energy(images: torch.Tensor) -> torch.Tensor:
        if op == "hog":
            return hog(images).square().sum()
        features, norms = dense_sift(images, norms=True)
        return features.square().sum() + (features * norms).sum()

    (expected,) = torch.autograd.grad(energy(image), image)
    (found,) = torch.autograd.grad(torch.compile(energy, backend="aot_eager", fullgraph=True)(image), image)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 128, 1, 2), (1, 1, 1, 1)), r"gradient.*\(B, 128, h, w\)"),
        (((1, 128, 1, 1), (2, 1, 1, 1)), r"norms.*gradient.*\(B, 1, h, w\)"),
    ],
)
def test_native_gradient_of_dense_sift_checks_again(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    gradients = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        torch.ops.preimage.dense_sift_backward(*gradients, torch.zeros(1, 1, 16, 16), 4, 4, "flat", 2.0, None)


# ---- On a CUDA device ----


@pytest.mark.gpu
def test_gradient_in_a_cuda_graph() -> None:
    image = photograph("coffee").cuda()
    features, norms = dense_sift(image, norms=True)
    gradients = torch.randn_like(features), torch.randn_like(norms)
    parameters = 4, 4, "gaussian", 2.0, None
    source = torch.zeros_like(image)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = torch.ops.preimage.dense_sift_backward(*gradients, source, *parameters)
    source.copy_(image)
    graph.replay()
    assert torch.equal(found, torch.ops.preimage.dense_sift_backward(*gradients, image, *parameters))


@pytest.mark.gpu
@every_op
def test_gradient_on_the_stream_of_the_caller(op: str) -> None:
    image = photograph("coffee")
    expected = gradient(OPS[op], image.cuda())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        source = image.cuda()
        torch.cuda._sleep(10_000_000)  # a kernel that does not wait for this stream reads too early
        found = gradient(OPS[op], source * 1)
    stream.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.gpu
@every_window
def test_gradient_of_dense_sift_is_deterministic(window: str) -> None:
    images = photograph("coffee", 200, 240).cuda().repeat(3, 1, 1, 1)
    first = gradient(dense_sift, images, window=window)
    for _ in range(100):
        assert torch.equal(gradient(dense_sift, images, window=window), first)


@pytest.mark.gpu
def test_largest_bins_on_the_device() -> None:
    image = torch.rand(1, 1, 440, 440)
    expected = dense_sift(image, bin_size=143)
    torch.testing.assert_close(dense_sift(image.cuda(), bin_size=143).cpu(), expected, atol=CUDA, rtol=0)
    with pytest.raises(ValueError, match=r"bin_size.*143"):
        dense_sift(image.cuda(), bin_size=144)
