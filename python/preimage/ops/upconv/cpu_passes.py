"""Compute the passes on the CPU with oneDNN, by the algorithm that is fastest for the layer.

The choice is based on measurements (`docs/upconv.md`). A transposed convolution to three channels leaves vector
registers mostly empty; as a 3×3 convolution to twelve channels it takes a third of the time. With bias and activation
fused and the weight in oneDNN's blocked format, a deep layer takes half of the time for small batches. In training
oneDNN would reorder the weight at every use, which takes longer than the convolution of a deep layer; matrix products
are used there instead.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F

from preimage.ops.upconv import cpu_matmul, torch_passes

_mkldnn = torch.ops.mkldnn
_CHANNELS_LAST = torch.channels_last
_TWO, _ONE = [2, 2], [1, 1]
_lock = threading.Lock()


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, negative_slope: float | None, *, repeated: bool
) -> torch.Tensor:
    """Compute `torch_passes.forward` for maps in channels_last.

    Args:
        x: Feature maps (B, Ci, H, W).
        weight: (Ci, Co, 5, 5).
        bias: (Co,) or ``None``.
        negative_slope: Slope of the leaky ReLU, or ``None``.
        repeated: Whether the weight will be used again unchanged, as in inference, so that its blocked format is
            cached.
    """
    if not usable(x.dtype) or x.numel() == 0:
        return torch_passes.forward(x, weight, bias, negative_slope)
    activation = ("none", [], "") if negative_slope is None else ("leaky_relu", [negative_slope], "")
    if weight.shape[1] <= 4:
        kernel = _packed(x, weight, _pack_subpixel)[0] if repeated else _subpixel_kernel(weight)
        return _subpixel(x, kernel, bias, activation)
    if not repeated:
        # In half precision the products of single taps would be rounded before they are added.
        if x.dtype == torch.float32 and _reading_decides(_pixels(x), weight.shape[0]) and weight.numel() >= 1 << 19:
            return cpu_matmul.forward(x, weight, bias, negative_slope)
        return _deconvolution(x, weight, bias, activation)
    if _phases_win(x, weight):
        return _phases(x, _packed(x, weight, _pack_phases), bias, activation)
    return _deconvolution(x, _packed(x, weight, _pack_whole)[0], bias, activation)


def dgrad(
    dz: torch.Tensor, weight: torch.Tensor, below: torch.Tensor | None, negative_slope: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `torch_passes.dgrad` for maps in channels_last."""
    if not usable(dz.dtype) or dz.numel() == 0:
        return torch_passes.dgrad(dz, weight, below, negative_slope)
    if _reading_decides(_pixels(dz) // 4, weight.shape[0]):
        dx = cpu_matmul.input_gradient(dz, weight)
    else:
        dx = F.conv2d(dz, weight, stride=2, padding=2).contiguous(memory_format=_CHANNELS_LAST)
    return torch_passes.after_dgrad(dx, below, negative_slope)


def wgrad(x: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
    """Compute `torch_passes.wgrad` for maps in channels_last; the result is channels_last, like `UpConv2d.weight`."""
    if not usable(dz.dtype) or dz.numel() == 0:
        return torch_passes.wgrad(x, dz)
    if _pixels(x) <= 2 * x.shape[1]:
        return cpu_matmul.wgrad(x, dz)
    # The weight gradient of a transposed convolution is that of the convolution from dz to x.
    shape = (x.shape[1], dz.shape[1], 5, 5)
    weight = torch.empty(shape, dtype=x.dtype, memory_format=_CHANNELS_LAST)  # only shape and strides are used
    _, dw, _ = torch.ops.aten.convolution_backward(
        x, dz, weight, None, _TWO, _TWO, _ONE, False, [0, 0], 1, [False, True, False]
    )
    return dw


def _pixels(maps: torch.Tensor) -> int:
    return maps[:, 0].numel()


def _reading_decides(pixels: int, in_channels: int) -> bool:
    """Return whether there are so few pixels that reading the weight dominates the time."""
    return 2 * pixels <= in_channels


Activation = tuple[str, list[float], str]


def _subpixel(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> torch.Tensor:
    """Compute the layer by one 3×3 convolution to the four phases of the output, which are then interleaved."""
    batch, _, height, width = x.shape
    offsets = None if bias is None else bias.repeat(4)
    z = _mkldnn._convolution_pointwise(x, kernel, offsets, _ONE, _ONE, _ONE, 1, *activation)
    out_channels = z.shape[1] // 4
    y = torch.empty((batch, height, 2, width, 2 * out_channels), dtype=z.dtype)
    y.copy_(z.permute(0, 2, 3, 1).view(batch, height, width, 2, 2 * out_channels).transpose(2, 3))
    return y.view(batch, 2 * height, 2 * width, out_channels).permute(0, 3, 1, 2)


# Index 5 ky + kx of the weight that phase (a, b) applies to the pixel at (sy - 1, sx - 1); 25 is the index of a zero.
_SUBPIXEL_TAPS = torch.tensor(
    [
        5 * (4 + a - 2 * sy) + 4 + b - 2 * sx if 2 * sy >= a and 2 * sx >= b else 25
        for a, b, sy, sx in itertools.product(range(2), range(2), range(3), range(3))
    ],
    device="cpu",
)


def _subpixel_kernel(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight of the 3×3 convolution, (4 Co, Ci, 3, 3), ordered by phase and output channel."""
    in_channels, out_channels = weight.shape[:2]
    taps = F.pad(weight.flatten(2), (0, 1))[:, :, _SUBPIXEL_TAPS].view(in_channels, out_channels, 4, 9)
    return taps.permute(2, 1, 3, 0).reshape(4 * out_channels, 3, 3, in_channels).permute(0, 3, 1, 2)


def _deconvolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation
) -> torch.Tensor:
    return _mkldnn._convolution_transpose_pointwise(x, weight, bias, _TWO, _ONE, _TWO, _ONE, 1, *activation)


def _phases_win(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return whether four convolutions, one per phase, are fastest, as for the deepest layers, bound by memory."""
    return max(x.shape[2:]) <= 8 and _pixels(x) >= 64 and weight[:, :, 0, 0].numel() >= 1 << 18


def _phases(
    x: torch.Tensor, kernels: list[torch.Tensor], bias: torch.Tensor | None, activation: Activation
) -> torch.Tensor:
    batch, _, height, width = x.shape
    y: torch.Tensor | None = None
    for phase, kernel in enumerate(kernels):
        a, b = divmod(phase, 2)
        z = _mkldnn._convolution_pointwise(x, kernel, bias, _ONE, _ONE, _ONE, 1, *activation).permute(0, 2, 3, 1)
        if y is None:
            y = torch.empty((batch, height, 2, width, 2, z.shape[-1]), dtype=x.dtype)
        y[:, :, a, :, b] = z[:, a:, b:]  # a phase of two taps computes one extra row at the top
    assert y is not None
    return y.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _pack_whole(weight: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
    return [_mkldnn._reorder_convolution_transpose_weight(weight, _TWO, _ONE, _TWO, _ONE, 1, size)]


def _pack_subpixel(weight: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
    return [_mkldnn._reorder_convolution_weight(_subpixel_kernel(weight), _ONE, _ONE, _ONE, 1, size)]


def _pack_phases(weight: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
    flipped = weight.flip(2, 3).transpose(0, 1)  # weight of the equivalent conv2d
    kernels = [flipped[:, :, a::2, b::2].contiguous(memory_format=_CHANNELS_LAST) for a in (0, 1) for b in (0, 1)]
    return [_mkldnn._reorder_convolution_weight(kernel, _ONE, _ONE, _ONE, 1, size) for kernel in kernels]


class _Packed:
    """Cached blocked formats of a weight for a few input sizes, valid while the weight exists and is unchanged."""

    SIZES = 4

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weakref.ref(weight)
        self.state = _state(weight)
        self.by_size: OrderedDict[tuple[object, ...], list[torch.Tensor]] = OrderedDict()


_cache: dict[int, _Packed] = {}


def _packed(
    x: torch.Tensor, weight: torch.Tensor, pack: Callable[[torch.Tensor, list[int]], list[torch.Tensor]]
) -> list[torch.Tensor]:
    if weight.is_inference():  # inference tensors do not track changes
        return pack(weight, list(x.shape))
    key, size = id(weight), (pack, tuple(x.shape), torch.get_num_threads())
    with _lock:
        entry = _cache.get(key)
        if entry is None or entry.weight() is not weight or entry.state != _state(weight):
            if entry is None or entry.weight() is not weight:
                weakref.finalize(weight, _cache.pop, key, None)
            entry = _cache[key] = _Packed(weight)
        if size not in entry.by_size:
            entry.by_size[size] = pack(weight, list(x.shape))
            if len(entry.by_size) > _Packed.SIZES:
                entry.by_size.popitem(last=False)
        entry.by_size.move_to_end(size)
        return entry.by_size[size]


def _state(weight: torch.Tensor) -> tuple[object, ...]:
    """Return a key that changes with the weight. Some values are included, because ``weight.data`` has no version."""
    in_channels, out_channels = weight.shape[:2]
    samples = weight.detach()[:: max(1, in_channels // 8), :: max(1, out_channels // 8), 2, 2].tolist()
    return weight._version, weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, samples


@functools.cache
def usable(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's fused convolutions, a private API of torch, work on this CPU for a dtype, by a test."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16) or not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 2 * 16 * 9).view(2, 16, 3, 3).to(dtype).contiguous(memory_format=_CHANNELS_LAST)
    weight = torch.linspace(-1, 1, 16 * 16 * 25).view(16, 16, 5, 5).to(dtype)
    bias = torch.linspace(-1, 1, 16).to(dtype)
    wanted = torch_passes.forward(x.float(), weight.float(), bias.float(), 0.2)
    activation = ("leaky_relu", [0.2], "")
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    try:
        with torch.no_grad():
            size = list(x.shape)
            for got in (
                _deconvolution(x, weight, bias, activation),
                _deconvolution(x, _pack_whole(weight, size)[0], bias, activation),
                _phases(x, _pack_phases(weight, size), bias, activation),
                _subpixel(x, _subpixel_kernel(weight), bias, activation),
                _subpixel(x, _pack_subpixel(weight, size)[0], bias, activation),
            ):
                error = (got.float() - wanted).norm() / wanted.norm()
                if not (math.isfinite(error) and error <= tolerance):
                    return False
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    return True
