"""Compare every op on small irregular shapes, forward and backward, on a GPU with the CPU, or on the CPU with the
reference.

This is a script and not a test, so that compute-sanitizer can run it: `python tests/helpers/gpu_kernels.py --device
cuda`. All data is created on the CPU, so that only the package's kernels run on the GPU. Prints a line of JSON for each
op as soon as it is compared. The exit code is 1 if anything differs or is rejected.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import preimage
from preimage import reference
from preimage.ops import adam
from preimage.ops.crop_resize import crop_resize_torch
from preimage.ops.upconv import kernel_configs, torch_passes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tolerances

# Largest difference, relative to the largest value if that is above 1.
EXACT = 0.0
FLOAT = 1e-5
BFLOAT = 2e-2
ONE_LEVEL = 1 / 200  # one of 255 levels, which is where rounding may differ
TF32 = 5e-3  # precision of float32 in the Triton kernels

SHAPES = [(1, 1, 16, 16), (2, 3, 37, 53), (1, 1, 19, 131), (3, 1, 64, 40), (1, 3, 130, 67), (2, 1, 70, 16)]
# As wide as a strip of LBP or a little wider, with two blocks of dense SIFT in a row; rows of aligned groups of pixels.
SHAPES += [(1, 1, 33, 257), (2, 3, 35, 264), (1, 3, 32, 256)]

# (op, its options, the largest difference)
DESCRIPTORS: list[tuple[str, dict[str, Any], float]] = [
    ("hog", {}, tolerances.CUDA),
    ("hog", {"cell_size": 5}, tolerances.CUDA),
    ("hog", {"cell_size": 4, "color": "strongest"}, tolerances.CUDA),
    ("hog", {"variant": "dalal-triggs", "cell_size": 5}, tolerances.CUDA),
    (
        "hog",
        {"variant": "dalal-triggs", "cell_size": (4, 8), "block_size": 2, "color": "strongest", "orientations": 18},
        tolerances.CUDA,
    ),
    ("lbp", {}, EXACT),
    ("lbp", {"cell_size": 7}, EXACT),
    ("lbp_codes", {}, EXACT),
    ("dense_sift", {}, tolerances.CUDA),
    ("dense_sift", {"dtype": torch.float16}, tolerances.DENSE_SIFT_BLOCKS_STORED["float16"]),
    ("dense_sift", {"dtype": torch.uint8}, tolerances.DENSE_SIFT_BLOCKS_STORED["uint8"] / 64),  # the largest exceeds 64
    ("dense_sift", {"window": "flat"}, tolerances.CUDA),
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


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value of the other tensor if that is above 1."""
    a, b = (tensor.detach().cpu().double() for tensor in (one, other))
    return (a - b).abs().max().item() / max(1.0, b.abs().max().item()) if b.numel() else 0.0


class Comparison:
    """Results that agree and differ, reported op by op.

    Args:
        device: Whose results are compared.
        small: Compare few shapes and layouts, for compute-sanitizer, which slows kernels down.
    """

    def __init__(self, device: torch.device, small: bool) -> None:
        self.device, self.small = device, small
        self.totals = {"comparisons": 0, "problems": 0, "absent": 0}
        self._reset()

    def _reset(self) -> None:
        self.problems: list[str] = []
        self.absent: list[str] = []
        self._count, self._largest = 0, 0.0

    def compare(self, label: str, ours: Any, expected: Any, limit: float) -> None:
        """Compare tensors or tuples of tensors; NaN always differs."""
        pairs = zip(ours, expected, strict=True) if isinstance(ours, tuple) else [(ours, expected)]
        for one, other in pairs:
            if one.shape != other.shape:
                self.problems.append(f"{label}: shape {tuple(one.shape)}, expected {tuple(other.shape)}")
                continue
            worst = difference(one, other)
            if not worst <= limit:
                self.problems.append(f"{label}: differs by {worst:.2e}, at most {limit:.0e}")
            self._count, self._largest = self._count + 1, max(self._largest, worst)

    def report(self, op: str) -> None:
        """Print what was found since the last report."""
        verdict = "differs" if self.problems else "ok" if self._count else "absent"
        fact = {"op": op, "verdict": verdict, "comparisons": self._count, "largest": float(f"{self._largest:.2g}")}
        fact |= {name: found[:5] for name, found in (("problems", self.problems), ("absent", self.absent)) if found}
        print(json.dumps(fact), flush=True)
        for name, count in (("comparisons", self._count), ("problems", len(self.problems))):
            self.totals[name] += count
        self.totals["absent"] += len(self.absent)
        self._reset()


def layouts(shape: tuple[int, int, int, int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Return random images of a shape in several layouts: bytes, floats, interleaved, a window of larger images."""
    batch, channels, height, width = shape
    values = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8)
    yield "uint8", values
    yield "float32 window", torch.rand(batch, channels, height + 3, 2 * width + 1)[:, :, 2:-1, 1::2]
    yield "float32", torch.rand(shape)
    yield "uint8 channels last", values.contiguous(memory_format=torch.channels_last)
    yield "float32 channels last", torch.rand(shape).contiguous(memory_format=torch.channels_last)


def check_descriptor(results: Comparison, name: str) -> None:
    """Compare one descriptor with all its options, on all shapes and layouts, and its gradient."""
    home: Any = reference if results.device.type == "cpu" else preimage
    ours: Callable[..., Any] = getattr(preimage, name)
    theirs: Callable[..., Any] = getattr(home, name)
    count = 2 if results.small else None
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN or invalid labels
    for options, limit in ((options, limit) for other, options, limit in DESCRIPTORS if other == name):
        op = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        for shape in SHAPES[:count]:
            for layout, images in itertools.islice(layouts(shape), count):
                there = images.to(results.device)  # keeps the strides
                results.compare(f"{shape} {layout}", ours(there, **options), theirs(images, **options), limit)
        results.report(op)
        if not name.startswith("lbp") and "dtype" not in options:
            for shape in SHAPES[:count]:
                check_gradient(results, shape, ours, theirs, options)
            results.report(f"gradient of {op}")


def check_gradient(
    results: Comparison,
    shape: tuple[int, ...],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    options: dict[str, Any],
) -> None:
    """Compare the gradient of a weighted sum of the features.

    A value next to a kink of the function, as where values are clipped, may fall on either side of it, but hardly with
    two images in a row: if gradients differ, those of a second image count.
    """
    for _ in range(2):
        images = torch.rand(shape)
        gradients: list[torch.Tensor] = []
        weights: torch.Tensor | None = None
        for function, device in ((ours, results.device), (theirs, torch.device("cpu"))):
            leaf = images.to(device, copy=True).requires_grad_()
            features = function(leaf, **options)
            first = features[0] if isinstance(features, tuple) else features
            weights = torch.rand(first.shape) - 0.5 if weights is None else weights
            gradients.append(torch.autograd.grad((first * weights.to(device)).sum(), leaf)[0])
        if difference(*gradients) <= tolerances.HOG_GRADIENT:
            break
    results.compare(str(shape), *gradients, tolerances.HOG_GRADIENT)


def check_upconv(results: Comparison) -> None:
    """Compare the up-convolution and its three gradients with the plain implementation in float64."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    types = {torch.float32: FLOAT} | ({torch.bfloat16: BFLOAT} if results.device.type == "cuda" else {})
    for dtype, limit in types.items():
        for batch, inside, outside, height, width in UPCONVS[: 2 if results.small else None]:
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
                results.compare(label, output, expected, limit)
                weights = torch.randn(expected.shape).to(dtype)
                ours = torch.autograd.grad(output, there, weights.to(results.device))
                theirs = torch.autograd.grad(expected, plain, weights.double())
                if dtype == torch.float32 or slope is None:  # rounding puts some on the other side of the kink
                    results.compare(f"gradients {label}", ours, theirs, 4 * limit)
        results.report(f"upconv {str(dtype).removeprefix('torch.')} {os.environ.get('PREIMAGE_UPCONV', 'auto')}")


def triton_available(results: Comparison) -> bool:
    """Return whether Triton kernels can run, or note why not."""
    if importlib.util.find_spec("triton") is None:
        results.absent.append("Triton is not installed")
    elif results.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        results.absent.append("Triton kernels need a GPU, or TRITON_INTERPRET=1")
    return not results.absent


def check_adam(results: Comparison) -> None:
    """Compare the fused Adam with its definition in torch; nothing is written past the end of its tensors."""
    if not triton_available(results):
        results.report("adam")
        return
    from preimage.ops import _adam_triton  # noqa: PLC0415 - where Triton is

    names = ("weights", "grad", "exp_avg", "exp_avg_sq", "ema", "bfloat16_weights")
    for dtype, count in itertools.product((torch.float32, torch.bfloat16), (1, 1023, 2500)):
        room = [torch.full((count + 5,), 7.0) for _ in names]
        room[1], room[5] = room[1].to(dtype), torch.full((count + 5,), torch.nan).bfloat16()
        there = [buffer.to(results.device, copy=True) for buffer in room]
        scalars = (torch.tensor(0.25), torch.tensor([1e-2, 0.1, 1e-3, 0.3]))
        scalars_there = [value.to(results.device) for value in scalars]
        for step in range(3):
            for index in range(5):
                if step == 0 or index == 1:
                    values = torch.randn(count) if index != 3 else torch.rand(count)
                    for buffers in (room, there):
                        buffers[index][:count].copy_(values)
            adam.adam_step_torch(*(buffer[:count] for buffer in room), *scalars)
            _adam_triton.adam_step(*(buffer[:count] for buffer in there), *scalars_there, adam.BETAS, adam.EPS)
        for name, expected, ours in zip(names, room, there, strict=True):
            limit = BFLOAT if name == "bfloat16_weights" else tolerances.ADAM
            results.compare(f"{name} {dtype} {count}", ours.nan_to_num(7.0), expected.nan_to_num(7.0), limit)
        results.report(f"adam {str(dtype).removeprefix('torch.')} {count}")


def check_crop_resize(results: Comparison) -> None:
    """Compare crops of two images, averaged and interpolated, mirrored and not, with the definition in torch."""
    if not triton_available(results):
        results.report("crop_resize")
        return
    from preimage.ops import _crop_resize_triton  # noqa: PLC0415 - where Triton is

    shapes = [(40, 71), (60, 41)]
    pixels = torch.randint(0, 256, (sum(3 * height * width for height, width in shapes),), dtype=torch.uint8)
    sides = itertools.product((0, 1), (40.0, 33.5, 24.0, 11.0), (0, 1))
    crops = [[image, 0, 1, side, side, mirrored, side < 24] for image, side, mirrored in sides]
    given = (
        pixels,
        torch.tensor([0, 3 * 40 * 71]),
        torch.tensor(shapes, dtype=torch.int32),
        torch.tensor(crops).float(),
    )
    ours = _crop_resize_triton.crop_resize(*(tensor.to(results.device) for tensor in given), 24, 4)
    results.compare("", ours, crop_resize_torch(*given, 24, 4), ONE_LEVEL)
    results.report("crop_resize")


def check_upconv_pass(results: Comparison, which: str) -> None:
    """Compare the Triton kernels of a pass, with outputs initialized to NaN, with plain torch in float64."""
    if not triton_available(results):
        results.report(which)
        return
    from preimage.ops.upconv import kernels  # noqa: PLC0415 - where Triton is

    on_gpu = results.device.type == "cuda"
    capability = torch.cuda.get_device_capability(results.device) if on_gpu else (9, 0)
    torch.backends.cudnn.allow_tf32 = True
    for sizes, dtypes in TRITON_UPCONVS[-1 if results.small else 0 :]:
        for dtype in dtypes:
            if not on_gpu and dtype == torch.bfloat16:
                dtype = torch.float16  # noqa: PLW2901 - the interpreter multiplies bfloat16 as if it were integers
            with kernels.poisoned():
                check_upconv_kernels(results, kernels, which, sizes, dtype, capability)


def check_upconv_kernels(
    results: Comparison,
    kernels: Any,
    which: str,
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    capability: tuple[int, int],
) -> None:
    """Compare a pass of one layer, with one configuration of every kernel that can run it."""
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
        "distance_backward": (x, y, target, mean, scale, weight, 0.2),
    }
    limit = TF32 if dtype == torch.float32 else BFLOAT
    about = f"{sizes} {str(dtype).removeprefix('torch.')}"
    found = kernel_configs.candidates(which, inside, outside, batch * height * width, dtype, capability, tf32=True)
    for config in {config.kernel: config for config in reversed(found)}.values():
        ours = getattr(kernels, which)(*(_there(value, results.device) for value in passes[which]), config)
        results.compare("", ours, getattr(torch_passes, which)(*map(_double, passes[which])), limit)
        results.report(f"{which} {about} {config}")
    if which == "distance_backward" and outside <= kernel_configs.IMAGE_CHANNELS:
        ours = kernels.image_distance(*(_there(value, results.device) for value in (y, target, mean)))
        results.compare("", ours, torch_passes.image_distance(_double(y), target, mean), FLOAT)
        results.report(f"image_distance {about}")


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
    parser.add_argument("--small", action="store_true", help="few shapes and layouts")
    options = parser.parse_args()
    results = Comparison(torch.device(options.device), options.small)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    checks: dict[str, Callable[[], None]] = {
        **{name: functools.partial(check_descriptor, results, name) for name, _, _ in DESCRIPTORS},
        "adam": functools.partial(check_adam, results),
        "crop_resize": functools.partial(check_crop_resize, results),
        "upconv": functools.partial(check_upconv, results),
        **{which: functools.partial(check_upconv_pass, results, which) for which in kernel_configs.PASSES},
    }
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - set(checks):
        parser.error(f"--only takes {', '.join(checks)}, got {', '.join(sorted(unknown))}")
    for name in only or checks:
        try:
            checks[name]()
        except Exception as error:  # one that does not run must not hide the others
            traceback.print_exc()
            results.problems.append(f"{type(error).__name__}: {error}")
            results.report(name)
    where = torch.cuda.get_device_name(results.device) if options.device == "cuda" else "CPU"
    print(f"{where}: {', '.join(f'{count} {name}' for name, count in results.totals.items())}")
    return 1 if results.totals["problems"] or not results.totals["comparisons"] else 0


if __name__ == "__main__":
    sys.exit(main())
