"""Descriptors as modules, also in pipelines of torchvision and kornia; `tests/ops/upconv` tests the up-convolutions."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad, jacrev, jvp, vmap

import preimage
from preimage import nn
from tolerances import COMPILED

# Modules, and the smallest side of images with two features along it: torch exports no sizes of which one is 1.
MODULES: dict[str, tuple[Callable[..., torch.nn.Module], int]] = {
    "HOG": (nn.HOG, 12),
    "HOG, Dalal and Triggs": (lambda **options: nn.HOG((4, 5), "dalal-triggs", block_size=2, **options), 15),
    "LBP": (nn.LBP, 32),
    "DenseSIFT": (nn.DenseSIFT, 17),
}
every_module = pytest.mark.parametrize("name", MODULES)
differentiable = pytest.mark.parametrize("name", [name for name in MODULES if name != "LBP"])
SHAPES = [(2, 3, 40, 48), (5, 1, 64, 36), (1, 40, 48), (2, 2, 3, 40, 48)]


@pytest.mark.parametrize(
    ("module", "function", "parameters"),
    [
        (nn.HOG, preimage.hog, {"cell_size": 5, "color": "strongest", "dtype": "float16"}),
        (nn.HOG, preimage.hog, {"cell_size": (4, 5), "variant": "dalal-triggs", "orientations": 8}),
        (nn.HOG, preimage.hog, {"variant": "dalal-triggs", "block_size": (1, 2), "block_norm": "L2"}),
        (nn.LBP, preimage.lbp, {"cell_size": 5, "dtype": torch.bfloat16}),
        (nn.DenseSIFT, preimage.dense_sift, {"step": 3, "bin_size": 5, "window": "flat", "window_size": 1.5}),
        (nn.DenseSIFT, preimage.dense_sift, {"dtype": "uint8"}),
    ],
)
def test_modules_compute_the_functions(module: Any, function: Any, parameters: dict[str, Any]) -> None:
    images = torch.rand(2, 3, 40, 48)
    assert torch.equal(module()(images), function(images))
    layer = module(**parameters)
    assert torch.equal(layer(images), function(images, **parameters))
    assert all(f"{name}={value!r}" in repr(layer) for name, value in parameters.items())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.HOG(0), ValueError, "cell_size.*got 0"),
        (lambda: nn.HOG(8.0), TypeError, r"cell_size.*got 8\.0"),  # type: ignore[arg-type]
        (lambda: nn.HOG(variant="x"), ValueError, "variant.*got 'x'"),
        (lambda: nn.HOG(color="x"), ValueError, "color.*got 'x'"),
        (lambda: nn.HOG(block_size=2), ValueError, "block_size"),  # of the other variant
        (lambda: nn.HOG(variant="dalal-triggs", block_norm="x"), ValueError, "block_norm.*'x'"),
        (lambda: nn.HOG(dtype="int8"), ValueError, "dtype.*got 'int8'"),
        (lambda: nn.LBP(40000), ValueError, "cell_size.*got 40000"),
        (lambda: nn.LBP(dtype=np.int8), ValueError, "dtype.*int8"),
        (lambda: nn.DenseSIFT(step=0), ValueError, "step.*got 0"),
        (lambda: nn.DenseSIFT(bin_size="4"), TypeError, "bin_size.*got '4'"),  # type: ignore[arg-type]
        (lambda: nn.DenseSIFT(window_size=0.0), ValueError, r"window_size.*got 0\.0"),
    ],
)
def test_parameters_are_checked_on_creation(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# ---- As any module ----


@every_module
def test_copies_and_casts_change_nothing(name: str) -> None:
    images = torch.rand(2, 3, 40, 48)
    module = MODULES[name][0](dtype="float16")
    expected = module(images)
    assert expected.dtype == torch.float16 and not module.state_dict() and not list(module.parameters())
    module.load_state_dict({})
    with torch.device("meta"):
        on_meta = MODULES[name][0](dtype="float16")
    for copied in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        copy.deepcopy(module).to("meta").to(torch.float64).half().eval(),
        on_meta,
    ):
        assert torch.equal(copied(images), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(images), expected)
        assert module(images.bfloat16()).dtype == torch.float16


@differentiable
def test_descriptors_train_what_makes_the_image(name: str) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Sigmoid(), MODULES[name][0]())
    loss = network(torch.rand(1, 3, 40, 48)).square().mean()
    loss.backward()
    assert network[0].weight.grad.abs().max() > 0


def test_lbp_says_that_it_has_no_gradient() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), nn.LBP())
    with pytest.raises(ValueError, match=r"gradient.*LBP is zero"):
        network(torch.rand(1, 3, 40, 48))
    with torch.no_grad():
        assert network(torch.rand(1, 3, 40, 48)).shape == (1, 58, 2, 3)


# ---- torch.compile and torch.export ----


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in MODULES), ("HOG", torch.uint8)])
def test_compile_with_sizes_as_variables(name: str, dtype: torch.dtype) -> None:
    torch.compiler.reset()
    module = MODULES[name][0](dtype="float16")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    for shape in SHAPES:
        images = (torch.rand(shape) * (255 if dtype == torch.uint8 else 1)).to(dtype)
        assert torch.equal(compiled(images), module(images))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo does
@differentiable
def test_compile_with_gradient(name: str) -> None:
    torch.compiler.reset()
    module = MODULES[name][0]()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    images = torch.rand(2, 3, 40, 48, requires_grad=True)
    (found,) = torch.autograd.grad(compiled(images).square().sum(), images)
    (expected,) = torch.autograd.grad(module(images).square().sum(), images)
    assert torch.allclose(found, expected, rtol=COMPILED, atol=1e-7)


@pytest.mark.parametrize(("name", "strict"), [*((name, False) for name in MODULES), ("HOG", True)])
def test_export(name: str, strict: bool) -> None:
    """The saved program takes other sizes and batches, down to two features along each side."""
    create, least = MODULES[name]
    module = create()
    Dim = torch.export.Dim  # noqa: N806
    sizes = {0: Dim("batch", min=1), 2: Dim("height", min=least), 3: Dim("width", min=least)}
    program = torch.export.export(
        torch.nn.Sequential(module), (torch.rand(2, 3, 64, 72),), dynamic_shapes=(sizes,), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for shape in ((2, 3, 64, 72), (1, 3, least, least), (5, 3, 100, 83)):
        images = torch.rand(shape)
        assert torch.equal(loaded(images), module(images))


# ---- torch.func ----


@every_module
def test_vmap(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    module, images = MODULES[name][0](), torch.rand(4, 3, 40, 48)
    expected = module(images)
    assert torch.equal(vmap(module)(images), expected)
    assert torch.equal(vmap(module, in_dims=1)(images.view(2, 2, 3, 40, 48).transpose(0, 1)).flatten(0, 1), expected)
    assert torch.equal(vmap(vmap(module))(images.view(2, 2, 3, 40, 48)).flatten(0, 1), expected)
    assert torch.equal(vmap(module)(images[:, :1]), module(images[:, :1]))
    assert torch.equal(
        vmap(module)(images[:, 0]), module(images[:, :1]).flatten(0, 1).view_as(vmap(module)(images[:, 0]))
    )
    assert "performance" not in capfd.readouterr().err


@differentiable
def test_gradients_of_torch_func(name: str) -> None:
    module = MODULES[name][0]()
    images = torch.rand(3, 3, 40, 48, requires_grad=True)

    def energy(some: torch.Tensor) -> torch.Tensor:
        return module(some).square().sum()

    (expected,) = torch.autograd.grad(energy(images), images)
    images = images.detach()
    assert torch.allclose(grad(energy)(images), expected, rtol=COMPILED, atol=1e-7)
    assert torch.allclose(vmap(grad(energy))(images), expected, rtol=COMPILED, atol=1e-7)
    assert torch.allclose(jacrev(energy)(images), expected, rtol=COMPILED, atol=1e-7)


def test_a_compiled_graph_of_torch_func_is_an_error_rather_than_zero() -> None:
    torch.compiler.reset()
    module = nn.HOG()
    compiled = torch.compile(grad(lambda images: module(images).sum()), fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="graph_break"):
        compiled(torch.rand(1, 3, 40, 48))


@pytest.mark.parametrize("name", ["HOG", "LBP"])
def test_a_compiled_vmap_without_gradients(name: str) -> None:
    torch.compiler.reset()
    module, images = MODULES[name][0](), torch.rand(4, 3, 40, 48)
    compiled = torch.compile(vmap(module), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(images), module(images))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's on first use of jvp
@every_module
def test_derivatives_that_do_not_exist(name: str) -> None:
    module, images = MODULES[name][0](), torch.rand(1, 3, 40, 48)
    with pytest.raises(RuntimeError, match=r"no forward-mode derivative.*reverse mode"):
        jvp(module, (images,), (images,))
    error, message = (ValueError, "gradient") if name == "LBP" else (RuntimeError, "no second derivative")
    with pytest.raises(error, match=message):
        grad(lambda some: grad(lambda image: module(image).square().sum())(some).sum())(images)


# ---- Other libraries' pipelines ----


@every_module
def test_torchvision(name: str) -> None:
    v2: Any = pytest.importorskip("torchvision.transforms.v2")
    tv_tensors: Any = pytest.importorskip("torchvision.tv_tensors")
    module = MODULES[name][0]()
    images = torch.randint(0, 256, (2, 3, 48, 56), dtype=torch.uint8)
    pipeline = v2.Compose([v2.CenterCrop(40), v2.ToDtype(torch.float32, scale=True), module])
    expected = module(images[..., 4:44, 8:48].float() / 255)
    assert torch.equal(pipeline(images), expected)
    found = pipeline(tv_tensors.Image(images))
    assert torch.equal(found, expected) and type(found) is torch.Tensor


@every_module
def test_kornia(name: str) -> None:
    augmentation: Any = pytest.importorskip("kornia.augmentation")
    module, images = MODULES[name][0](), torch.rand(2, 3, 40, 48)
    flip = augmentation.RandomHorizontalFlip(p=1.0)
    expected = module(images.flip(-1))
    assert torch.equal(augmentation.ImageSequential(flip, module)(images), expected)
    assert torch.equal(augmentation.AugmentationSequential(flip, module, data_keys=["input"])(images), expected)
    features, mask = augmentation.AugmentationSequential(flip, module, data_keys=["input", "mask"])(
        images, images[:, :1]
    )
    assert torch.equal(features, expected) and torch.equal(mask, images[:, :1].flip(-1))
    video = augmentation.VideoSequential(flip, module, data_format="BTCHW")(images[None])
    assert torch.equal(video[0], expected)


@differentiable
def test_gradients_through_kornia(name: str) -> None:
    augmentation: Any = pytest.importorskip("kornia.augmentation")
    images = torch.rand(2, 3, 40, 48, requires_grad=True)
    pipeline = augmentation.ImageSequential(augmentation.RandomAffine(10.0, p=1.0), MODULES[name][0]())
    pipeline(images).square().mean().backward()
    assert images.grad is not None and images.grad.abs().max() > 0
