"""Gradients of dense SIFT with respect to the images, on the CPU and, where there is one, a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conftest import photographs
from preimage import reference
from preimage.ops.dense_sift import dense_sift
from tolerances import DENSE_SIFT_GRADIENT

pytestmark = pytest.mark.instruction_set

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WINDOWS = ["gaussian", "flat"]
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "every pixel": {"step": 1, "bin_size": 3},
    "step 3, bins of 5, bounds": {"step": 3, "bin_size": 5, "bounds": (2, 3, 44, 50)},
    "step 7, bins of 2": {"step": 7, "bin_size": 2, "window_size": 1.0},
    "bins of 1": {"step": 2, "bin_size": 1},
    "one descriptor": {"bin_size": 15, "step": 40},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For the reference: on a busy machine threads that wait for each other make it a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photograph(name: str, height: int = 47, width: int = 52) -> torch.Tensor:
    """(1, 3, H, W) float32, with a little noise: exact axes and diagonals are kinks, flat patches have no gradient."""
    crop = torch.from_numpy(photographs()[name])[60 : 60 + height, 150 : 150 + width].permute(2, 0, 1)[None].float()
    return (crop + torch.rand(crop.shape, generator=torch.Generator().manual_seed(0))) / 256


def weights_of(outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(output.shape, generator=generator, dtype=torch.float64) for output in outputs]


def gradient(
    images: torch.Tensor, compute: Callable[..., Any] = dense_sift, norms: bool = True, **options: Any
) -> torch.Tensor:
    """Of a weighted sum of descriptors, and of norms."""
    images = images.detach().clone().requires_grad_()
    outputs = compute(images, norms=True, **options)
    weights = [weight.to(output) for weight, output in zip(weights_of(outputs), outputs, strict=True)]
    kept = slice(None) if norms else slice(1)
    (found,) = torch.autograd.grad(outputs[kept], images, weights[kept])
    assert found.dtype == images.dtype and found.shape == images.shape and found.device == images.device
    return found


def of_reference(images: torch.Tensor, **options: Any) -> torch.Tensor:
    return gradient(images.double(), reference.dense_sift, dtype=torch.float64, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("case", OPTIONS)
def test_against_the_reference(device: str, window: str, case: str) -> None:
    options = {"window": window, **OPTIONS[case]}
    noise = torch.rand(2, 1, 47, 52, generator=torch.Generator().manual_seed(2))
    for images in (photograph("astronaut"), photograph("chelsea"), noise):
        expected = of_reference(images, **options)
        found = gradient(images.to(device), **options).cpu()
        assert (found - expected).norm() <= DENSE_SIFT_GRADIENT * expected.norm()


@pytest.mark.parametrize("window", WINDOWS)
def test_finite_differences_of_the_reference(window: str) -> None:
    torch.manual_seed(1)
    images = torch.rand(1, 3, 9, 10, dtype=torch.float64, requires_grad=True)

    def compute(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return reference.dense_sift(values, step=2, bin_size=2, window=window, norms=True, dtype=torch.float64)

    assert torch.autograd.gradcheck(compute, (images,), eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", WINDOWS)
def test_along_a_direction(device: str, window: str) -> None:
    """The gradient tells by how much the reference's descriptors change on a step so small that none cross a kink."""
    image = photograph("coffee")
    step = torch.randn(image.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def total(images: torch.Tensor) -> float:
        outputs = reference.dense_sift(images, window=window, norms=True, dtype=torch.float64)
        return sum((output * weight).sum().item() for output, weight in zip(outputs, weights_of(outputs), strict=True))

    size = 1e-7
    expected = (total(image.double() + size * step) - total(image.double() - size * step)) / (2 * size)
    found = (gradient(image.to(device), window=window).cpu() * step).sum().item()
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_down_the_gradient_comes_closer(device: str) -> None:
    target = dense_sift(photograph("chelsea").to(device))
    image = photograph("rocket").to(device).requires_grad_()
    errors = []
    for _ in range(3):
        error = (dense_sift(image) - target).square().sum()
        (step,) = torch.autograd.grad(error, image)
        errors.append(error.item())
        image = (image - 1e-3 * step / step.abs().max()).detach().requires_grad_()
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("device", DEVICES)
def test_flat_images_have_no_gradient(device: str) -> None:
    flat = torch.full((1, 3, 24, 24), 0.5, device=device)
    assert gradient(flat).abs().max().item() == 0
    assert of_reference(flat.cpu()).abs().max().item() == 0
    nearly = flat + 1e-5 * torch.rand_like(flat)  # no pixel votes
    assert gradient(nearly).abs().max().item() == 0
    half = torch.cat([flat, photograph("coffee", 24, 24).to(device)], dim=3)
    assert gradient(half).isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_pixels_that_nobody_sees_have_none(device: str) -> None:
    found = gradient(photograph("coffee").to(device), bounds=(16, 12, 30, 32)).cpu()
    # Bins reach 3 pixels beyond the bounds, and a pixel's vote its neighbors.
    assert found[..., 12:35, 8:37].abs().max() > 0
    found[..., 12:35, 8:37] = 0
    assert found.abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_descriptors_and_norms_add_up(device: str) -> None:
    image = photograph("coffee").to(device)
    both, alone = gradient(image), gradient(image, norms=False)
    of_norms = image.clone().requires_grad_()
    _, norms = dense_sift(of_norms, norms=True)
    (rest,) = torch.autograd.grad(norms, of_norms, weights_of(dense_sift(image, norms=True))[1].to(norms))
    torch.testing.assert_close(alone + rest, both, rtol=1e-4, atol=1e-4 * both.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradient_has_the_images_dtype(dtype: torch.dtype) -> None:
    image = photograph("coffee").to(dtype)
    assert torch.equal(gradient(image), gradient(image.float()).to(dtype))


def test_descriptors_of_other_types() -> None:
    image = photograph("coffee").requires_grad_()
    for dtype in (torch.float16, torch.bfloat16):
        features = dense_sift(image, dtype=dtype)
        assert torch.equal(features, dense_sift(image.detach(), dtype=dtype))
        weights = torch.ones_like(features)
        (found,) = torch.autograd.grad(features, image, weights)
        (expected,) = torch.autograd.grad(dense_sift(image), image, weights.float())
        assert torch.equal(found, expected)
    assert not dense_sift(image, dtype=torch.uint8).requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["one image", "one plane", "channels last", "sliced", "expanded", "empty batch"])
def test_gradient_of_every_layout(device: str, layout: str) -> None:
    images = photograph("coffee", 40, 48).repeat(2, 1, 1, 1).to(device)
    view: Callable[[torch.Tensor], torch.Tensor] = {
        "one image": lambda x: x[0],
        "one plane": lambda x: x[1, 2],
        "channels last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "sliced": lambda x: x[:, :, 3:, ::2],
        "expanded": lambda x: x[:1, :1].expand(2, 3, -1, -1),
        "empty batch": lambda x: x[:0],
    }[layout]
    found = gradient(images, lambda x, **options: dense_sift(view(x), **options))
    of_view = gradient(view(images).contiguous())
    (expected,) = torch.autograd.grad(view(images.requires_grad_()), images, of_view)
    assert torch.equal(found, expected)


def test_threads_and_batch_do_not_change_the_gradient() -> None:
    images = torch.cat([photograph(name, 200, 240) for name in ("astronaut", "coffee", "chelsea")])
    features = dense_sift(images)
    weights = torch.randn(features.shape)

    def of(part: slice) -> torch.Tensor:
        norms = torch.zeros(features[part].shape[0], 1, *features.shape[2:])
        parameters = 4, 4, "gaussian", 2.0, None
        return torch.ops.preimage.dense_sift_backward(weights[part], norms, images[part], *parameters)

    expected = of(slice(None))
    for threads in (1, 2, 5, 8):
        torch.set_num_threads(threads)
        assert torch.equal(of(slice(None)), expected)
        assert torch.equal(of(slice(1, 2)), expected[1:2])


def test_the_gradient_has_no_gradient() -> None:
    image = photograph("coffee").requires_grad_()
    (first,) = torch.autograd.grad(dense_sift(image).sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        first.sum().backward()


# What torch does when it traces an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_gradient() -> None:
    torch._dynamo.reset()
    image = photograph("coffee").requires_grad_()

    def energy(images: torch.Tensor) -> torch.Tensor:
        features, norms = dense_sift(images, norms=True)
        return features.square().sum() + (features * norms).sum()

    (expected,) = torch.autograd.grad(energy(image), image)
    (found,) = torch.autograd.grad(torch.compile(energy, backend="aot_eager", fullgraph=True)(image), image)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device: str) -> None:
    for images in (torch.rand(2, 3, 24, 33), torch.rand(2, 24, 33, 3).permute(0, 3, 1, 2), torch.rand(0, 1, 16, 16)):
        features, norms = dense_sift(images.to(device), norms=True)
        arguments = (torch.rand_like(features), torch.rand_like(norms), images.to(device), 4, 4, "flat", 2.0, None)
        torch.library.opcheck(torch.ops.preimage.dense_sift_backward.default, arguments)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 128, 1, 2), (1, 1, 1, 1)), r"gradient.*\(B, 128, h, w\)"),
        (((1, 128, 1, 1), (2, 1, 1, 1)), r"norms.*gradient.*\(B, 1, h, w\)"),
    ],
)
def test_native_boundary_checks_again(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    gradients = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        torch.ops.preimage.dense_sift_backward(*gradients, torch.zeros(1, 1, 16, 16), 4, 4, "flat", 2.0, None)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@cuda
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


@cuda
def test_gradient_on_the_callers_stream() -> None:
    image = photograph("coffee")
    expected = gradient(image.cuda())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        source = image.cuda()
        torch.cuda._sleep(10_000_000)  # whoever does not wait on this stream reads too early
        found = gradient(source * 1)
    stream.synchronize()
    assert torch.equal(found, expected)


@cuda
@pytest.mark.parametrize("window", WINDOWS)
def test_gradient_again_and_again(window: str) -> None:
    images = photograph("coffee", 200, 240).cuda().repeat(3, 1, 1, 1)
    first = gradient(images, window=window)
    for _ in range(100):
        assert torch.equal(gradient(images, window=window), first)


@cuda
def test_largest_bins_on_the_device() -> None:
    image = torch.rand(1, 1, 440, 440)
    expected = dense_sift(image, bin_size=143)
    torch.testing.assert_close(dense_sift(image.cuda(), bin_size=143).cpu(), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="143"):
        dense_sift(image.cuda(), bin_size=144)
