"""Compare every op on small irregular shapes, forward and backward, on a GPU with the CPU, or on the CPU with the
reference.

This is a script and not a test, so that compute-sanitizer can run it: `python tests/helpers/gpu_kernels.py --device
cuda`. All data is created on the CPU, so that only the package's kernels run on the GPU. The exit code is 1 if anything
differs or is rejected.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import preimage
from preimage import reference
from preimage.ops.upconv import kernel_configs, torch_passes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tolerances

# Largest difference, relative to the largest value if that is above 1.
EXACT = 0.0
FLOAT = 1e-5
BFLOAT = 2e-2
TF32 = 5e-3  # precision of float32 in the Triton kernels

SHAPES = [(1, 1, 16, 16), (2, 3, 37, 53), (1, 1, 19, 131), (3, 1, 64, 40), (1, 3, 130, 67), (2, 1, 70, 16)]

# (op, its options, the largest difference)
DESCRIPTORS: list[tuple[str, dict[str, Any], float]] = [
    ("hog", {}, tolerances.CUDA),
    ("hog", {"cell_size": 5}, tolerances.CUDA),
    ("hog", {"cell_size": 4, "color": "strongest"}, tolerances.CUDA),
    ("lbp", {}, EXACT),
    ("lbp", {"cell_size": 7}, EXACT),
    ("lbp_codes", {}, EXACT),
    ("dense_sift", {"window": "gaussian", "bin_size": 3}, tolerances.CUDA),
    ("dense_sift", {"window": "flat", "bin_size": 3}, tolerances.CUDA),
    ("dense_sift", {"window": "gaussian", "bin_size": 2, "step": 3, "norms": True}, tolerances.CUDA),
]

# B, Ci, Co, H, W: both of its forms (few output channels and many), sides that fill no tile.
UPCONVS = [(1, 1, 1, 1, 1), (2, 5, 3, 6, 5), (1, 8, 4, 33, 17), (3, 2, 70, 4, 4), (2, 32, 16, 9, 7), (1, 64, 3, 12, 20)]

# For each of the up-convolution's Triton kernels one that it may run: B, Ci, Co, H, W, and the maps' dtypes.
TRITON_UPCONVS = [
    ((2, 64, 32, 6, 5), (torch.bfloat16, torch.float32)),
    ((1, 128, 128, 4, 4), (torch.bfloat16,)),
    ((2, 32, 3, 9, 7), (torch.bfloat16, torch.float32)),
]


class Comparison:
    """Counter of results that agree, and list of those that differ."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.problems: list[str] = []
        self.absent: set[str] = set()
        self.findings: dict[str, tuple[int, float]] = {}

    def compare(self, name: str, label: str, ours: Any, expected: Any, limit: float) -> None:
        """Compare tensors or tuples of tensors; NaN always differs."""
        pairs = zip(ours, expected, strict=True) if isinstance(ours, tuple) else [(ours, expected)]
        for one, other in pairs:
            a, b = (tensor.detach().cpu().double() for tensor in (one, other))
            if a.shape != b.shape:
                self.problems.append(f"{name} {label}: shape {tuple(a.shape)}, expected {tuple(b.shape)}")
                continue
            scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
            worst = (a - b).abs().max().item() / scale if b.numel() else 0.0
            if not worst <= limit:
                self.problems.append(f"{name} {label}: differs by {worst:.2e}, at most {limit:.0e}")
            count, before = self.findings.get(name, (0, 0.0))
            self.findings[name] = (count + 1, max(before, worst))


def layouts(shape: tuple[int, int, int, int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Return random images of a shape in several layouts: bytes, floats, interleaved, a window of larger images."""
    batch, channels, height, width = shape
    values = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8)
    yield "uint8", values
    yield "float32", torch.rand(shape)
    yield "uint8 channels last", values.contiguous(memory_format=torch.channels_last)
    yield "float32 window", torch.rand(batch, channels, height + 3, 2 * width + 1)[:, :, 2:-1, 1::2]


def check_descriptor(results: Comparison, name: str) -> None:
    """Compare one descriptor with all its options, on all shapes and layouts."""
    home: Any = reference if results.device.type == "cpu" else preimage
    ours: Callable[..., Any] = getattr(preimage, name)
    theirs: Callable[..., Any] = getattr(home, name)
    for options, limit in ((options, limit) for other, options, limit in DESCRIPTORS if other == name):
        parameters = " ".join(f"{key}={value}" for key, value in options.items())
        for shape in SHAPES:
            for layout, images in layouts(shape):
                there = images.to(results.device)  # keeps the strides
                label = f"{parameters} {shape} {layout}"
                results.compare(name, label, ours(there, **options), theirs(images, **options), limit)
            check_gradient(results, name, f"{parameters} {shape}", ours, theirs, torch.rand(shape), options)


def check_gradient(
    results: Comparison,
    name: str,
    label: str,
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    images: torch.Tensor,
    options: dict[str, Any],
) -> None:
    """Compare the gradient of a weighted sum of the features."""
    gradients: list[torch.Tensor] = []
    weights: torch.Tensor | None = None
    for function, device in ((ours, results.device), (theirs, torch.device("cpu"))):
        leaf = images.to(device, copy=True).requires_grad_()
        try:
            features = function(leaf, **options)
        except ValueError as error:
            if function is not ours or "gradient" not in str(error):
                raise
            results.absent.add(f"gradient of {name}: {error}")
            return
        first = features[0] if isinstance(features, tuple) else features
        if not first.requires_grad:
            results.absent.add(f"gradient of {name}: what it returns has none")
            return
        weights = torch.rand(first.shape) - 0.5 if weights is None else weights
        gradients.append(torch.autograd.grad((first * weights.to(device)).sum(), leaf)[0])
    results.compare(f"gradient of {name}", label, gradients[0], gradients[1], tolerances.HOG_GRADIENT)


def check_upconv(results: Comparison) -> None:
    """Compare the up-convolution and its three gradients with the plain implementation in float64."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    types = {torch.float32: FLOAT} | ({torch.bfloat16: BFLOAT} if results.device.type == "cuda" else {})
    for dtype, limit in types.items():
        for batch, inside, outside, height, width in UPCONVS:
            for slope in (None, 0.2):
                sizes = ((batch, inside, height, width), (inside, outside, 5, 5), (outside,))
                # Rounded first, so that both start from the same numbers.
                start = [torch.randn(size).to(dtype) for size in sizes]
                start[1] /= (6.25 * inside) ** 0.5
                plain = [value.double().requires_grad_() for value in start]
                there = [value.to(results.device, copy=True).requires_grad_() for value in start]
                expected = reference.upconv(*plain, slope)
                output = preimage.upconv(*there, slope)
                label = f"{(batch, inside, outside, height, width)} slope {slope} {dtype}"
                results.compare("upconv", label, output, expected, limit)
                weights = torch.randn(expected.shape).to(dtype)
                ours = torch.autograd.grad(output, there, weights.to(results.device))
                theirs = torch.autograd.grad(expected, plain, weights.double())
                if dtype == torch.float32 or slope is None:  # rounding puts some on the other side of the kink
                    results.compare("gradients of upconv", label, ours, theirs, 4 * limit)


def check_upconv_kernels(results: Comparison) -> None:
    """Compare every Triton kernel, with outputs initialized to NaN, with plain torch in float64."""
    on_gpu = results.device.type == "cuda"
    if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        results.absent.add("Triton kernels: they need a GPU, or TRITON_INTERPRET=1")
        return
    if importlib.util.find_spec("triton") is None:
        results.absent.add("Triton kernels: Triton is not installed")
        return
    from preimage.ops.upconv import kernels  # noqa: PLC0415 - where Triton is

    capability = torch.cuda.get_device_capability(results.device) if on_gpu else (9, 0)
    torch.backends.cudnn.allow_tf32 = True
    for sizes, dtypes in TRITON_UPCONVS:
        for dtype in dtypes:
            if not on_gpu and dtype == torch.bfloat16:
                dtype = torch.float16  # noqa: PLW2901 - the interpreter multiplies bfloat16 as if it were integers
            with kernels.poisoned():
                check_upconv_passes(results, kernels, sizes, dtype, capability)


def check_upconv_passes(
    results: Comparison, kernels: Any, sizes: tuple[int, ...], dtype: torch.dtype, capability: tuple[int, int]
) -> None:
    """Compare the passes of one layer, each with one configuration of every kernel that can run it."""
    batch, inside, outside, height, width = sizes
    x = torch.nn.functional.leaky_relu(torch.randn(batch, inside, height, width), 0.2).to(dtype)
    weight = (torch.randn(inside, outside, 5, 5) / (6.25 * inside) ** 0.5).to(dtype)
    bias = torch.randn(outside).to(dtype)
    y = torch.randn(batch, outside, 2 * height, 2 * width).to(dtype)
    target = torch.randint(0, 256, y.shape, dtype=torch.uint8)
    mean, scale = torch.rand(outside), torch.rand(batch)
    passes: dict[str, tuple[Any, ...]] = {
        "forward": (x, weight, bias, 0.2),
        "dgrad": (y, weight, x, 0.2),
        "wgrad": (x, y),
        "image_backward": (x, y, weight, 0.2),
    }
    limit = TF32 if dtype == torch.float32 else BFLOAT
    for which, given in passes.items():
        pixels = batch * height * width
        found = kernel_configs.candidates(which, inside, outside, pixels, dtype, capability, tf32=True)
        expected = getattr(torch_passes, which)(*map(_double, given)) if found else None
        for config in {config.kernel: config for config in reversed(found)}.values():
            label = f"{sizes} {dtype} {config}"
            ours = getattr(kernels, which)(*(_there(value, results.device) for value in given), config)
            results.compare(f"{which} of upconv", label, ours, expected, limit)
            if which == "image_backward":
                given_too = (x, y, target, mean, scale, weight, 0.2)
                dz = torch_passes.image_distance_backward(*map(_double, (y, target, mean, scale)))
                expected_too = (
                    *torch_passes.image_backward(x.double(), dz, weight.double(), 0.2),
                    torch_passes.bias_gradient(dz),
                )
                ours = kernels.distance_backward(*(_there(v, results.device) for v in given_too), config)
                results.compare("image_backward_of_distance", label, ours, expected_too, limit)
    if outside <= kernel_configs.IMAGE_CHANNELS:
        ours = kernels.image_distance(*(_there(value, results.device) for value in (y, target, mean)))
        results.compare(
            "image_distance", f"{sizes} {dtype}", ours, torch_passes.image_distance(_double(y), target, mean), FLOAT
        )


def _there(value: Any, device: torch.device) -> Any:
    """Move tensors to the device, maps in channels_last, as in a chain."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, memory_format=torch.channels_last if value.dim() == 4 else torch.contiguous_format)


def _double(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if floating else value


def main() -> int:
    """Return 1 if anything differs or is rejected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", default="", help="ops, with commas between")
    options = parser.parse_args()
    only = {name for name in options.only.split(",") if name}
    results = Comparison(torch.device(options.device))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    checks: dict[str, Callable[[], None]] = {
        **{name: functools.partial(check_descriptor, results, name) for name, _, _ in DESCRIPTORS},
        "upconv": functools.partial(check_upconv, results),
        "upconv_kernels": functools.partial(check_upconv_kernels, results),
    }
    for name, check in checks.items():
        if only and name not in only:
            continue
        try:
            check()
        except Exception as error:  # one that does not run must not hide the others
            traceback.print_exc()
            results.problems.append(f"{name}: {type(error).__name__}: {error}")
    for name, (count, worst) in results.findings.items():
        print(f"{name}: {count} comparisons, largest difference {worst:.1e}")
    for line in sorted(results.absent):
        print(f"absent: {line}")
    for problem in results.problems:
        print(f"DIFFERS: {problem}")
    where = torch.cuda.get_device_name(results.device) if options.device == "cuda" else "CPU"
    total = sum(count for count, _ in results.findings.values())
    print(f"{where}: {total} comparisons, {len(results.problems)} problems, {len(results.absent)} absent")
    return 1 if results.problems or total == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
