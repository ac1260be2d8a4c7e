"""The passes on a CPU: for each layer the algorithm of oneDNN that does the least.

Measurements decide (`docs/upconv.md`). A transposed convolution to three channels leaves most of a vector register
empty: as a 3×3 convolution to twelve it takes a third of the time. Fused with bias and activation, and with weights
already in oneDNN's own order, a deep layer of a small batch takes half. In training, turning or reordering the kernels
of deep layers costs more than the convolution itself: there the maps are turned instead, or matrices multiplied.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from preimage.ops import _native
from preimage.ops._tensors import describe
from preimage.ops.upconv import cpu_products, plain

_mkldnn = torch.ops.mkldnn
_CHANNELS_LAST = torch.channels_last
_STRIDE, _ONE = [2, 2], [1, 1]
_lock = threading.Lock()


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, negative_slope: float | None, *, repeated: bool
) -> torch.Tensor:
    """As `plain.forward`, of maps in channels_last.

    Args:
        repeated: the weight will come again unchanged, as in inference: it is then kept as oneDNN wants it.
    """
    if not usable(x.dtype) or x.numel() == 0:
        return plain.forward(x, weight, bias, negative_slope)
    activation = ("none", [], "") if negative_slope is None else ("leaky_relu", [negative_slope], "")
    if weight.shape[0] <= 4:
        kernel = _packed(x, weight, _pack_subpixel)[0] if repeated else _subpixel_kernel(weight)
        return _subpixel(x, kernel, bias, activation)
    if not repeated:
        # In half precision the products of single taps would be rounded before they are summed.
        if x.dtype == torch.float32 and 4 * _pixels(x) <= weight.shape[1] and weight.numel() >= 1 << 20:
            return cpu_products.forward(x, weight, bias, negative_slope)
        with _lent((weight.shape[1], weight.shape[0]), weight.dtype) as buffer:
            return _deconvolution(x, turned(weight, buffer), bias, activation)
    if _phases_win(x, weight):
        return _phases(x, _packed(x, weight, _pack_phases), bias, activation)
    return _deconvolution(x, _packed(x, weight, _pack_whole)[0], bias, activation)


def dgrad(
    dz: torch.Tensor, weight: torch.Tensor, below: torch.Tensor | None, negative_slope: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain.dgrad`, of maps in channels_last."""
    if not usable(dz.dtype) or dz.numel() == 0:
        return plain.dgrad(dz, weight, below, negative_slope)
    if 2 * _pixels(dz) <= weight.shape[1]:  # dz has four times the pixels of x
        dx = cpu_products.input_gradient(dz, weight)
    elif _turn_maps(dz, weight.numel()):
        dx = F.conv2d(cpu_products.turned_maps(dz), weight.transpose(0, 1), stride=2, padding=1).flip(2, 3)
    else:
        with _lent((weight.shape[1], weight.shape[0]), weight.dtype) as buffer:
            dx = F.conv2d(dz, turned(weight, buffer), stride=2, padding=2)
    return plain.after_dgrad(dx.contiguous(memory_format=_CHANNELS_LAST), below, negative_slope)


def wgrad(x: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
    """As `plain.wgrad`, of maps in channels_last; in memory (Ci, Co, 5, 5), as `preimage.nn.UpConv2d` keeps weights."""
    if not usable(dz.dtype) or dz.numel() == 0:
        return plain.wgrad(x, dz)
    if 2 * _pixels(x) <= x.shape[1]:
        return cpu_products.wgrad(x, dz)
    # The transposed convolution's weight gradient is that of the convolution from dz to x, its roles exchanged.
    shape = (x.shape[1], dz.shape[1], 5, 5)
    turn = _turn_maps(dz, math.prod(shape))
    if turn:
        x, dz, padding = x.contiguous().flip(2, 3), cpu_products.turned_maps(dz), _ONE
    else:
        padding = [2, 2]
    layout = torch.contiguous_format if turn else _CHANNELS_LAST
    weight = torch.empty(shape, dtype=x.dtype, memory_format=layout)  # only its shape and layout are read
    _, dw, _ = torch.ops.aten.convolution_backward(
        x, dz, weight, None, _STRIDE, padding, _ONE, False, [0, 0], 1, [False, True, False]
    )
    if turn:
        return dw.transpose(0, 1)
    result = torch.empty(dw.shape, dtype=dw.dtype).transpose(0, 1)
    _turn(dw, result)
    return result


def _turn_maps(dz: torch.Tensor, elements: int) -> bool:
    """Are the maps smaller than a weight of so many elements? One has to be turned: convolution and adjoint differ so.

    The turned maps are contiguous, as the weight's gradient then comes out in the order in which it is to lie.
    """
    return 2 * dz.numel() < elements


def _pixels(maps: torch.Tensor) -> int:
    return maps[:, 0].numel()


def turned(weight: torch.Tensor, result: torch.Tensor | None = None) -> torch.Tensor:
    """`plain.transposed`, in channels_last, which oneDNN reads fastest; in one pass."""
    if result is None:
        result = _channels_last_kernel((weight.shape[1], weight.shape[0]), weight.dtype)
    _turn(weight, result)
    return result


def _channels_last_kernel(channels: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((*channels, 5, 5), dtype=dtype, memory_format=_CHANNELS_LAST)


_buffers: OrderedDict[tuple[tuple[int, int], torch.dtype], torch.Tensor] = OrderedDict()
_BUFFERS = 16


@contextlib.contextmanager
def _lent(channels: tuple[int, int], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Memory for a turned weight that was used before: fresh memory costs a deep layer as much as its convolution."""
    with _lock:
        buffer = _buffers.pop((channels, dtype), None)
    if buffer is None:
        buffer = _channels_last_kernel(channels, dtype)
    try:
        yield buffer
    finally:
        with _lock:
            _buffers[channels, dtype] = buffer
            if len(_buffers) > _BUFFERS:
                _buffers.popitem(last=False)


def _turn(weight: torch.Tensor, result: torch.Tensor) -> None:
    dtype = str(weight.dtype).removeprefix("torch.")
    _native.turn_weight(describe(weight.detach(), dtype), describe(result, dtype))


Activation = tuple[str, list[float], str]


def _subpixel(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> torch.Tensor:
    """One 3×3 convolution to the four phases of every output pixel, laid out row by row."""
    batch, _, height, width = x.shape
    offsets = None if bias is None else bias.repeat(4)
    z = _mkldnn._convolution_pointwise(x, kernel, offsets, _ONE, _ONE, _ONE, 1, *activation)
    out_channels = z.shape[1] // 4
    y = torch.empty((batch, height, 2, width, 2 * out_channels), dtype=z.dtype)
    y.copy_(z.permute(0, 2, 3, 1).view(batch, height, width, 2, 2 * out_channels).transpose(2, 3))
    return y.view(batch, 2 * height, 2 * width, out_channels).permute(0, 3, 1, 2)


def _subpixel_kernel(weight: torch.Tensor) -> torch.Tensor:
    phases = [F.pad(weight[:, :, a::2, b::2], (b, 0, a, 0)) for a in (0, 1) for b in (0, 1)]
    return torch.cat(phases).contiguous(memory_format=_CHANNELS_LAST)


def _deconvolution(
    x: torch.Tensor, transposed: torch.Tensor, bias: torch.Tensor | None, activation: Activation
) -> torch.Tensor:
    return _mkldnn._convolution_transpose_pointwise(x, transposed, bias, [2, 2], _ONE, _STRIDE, _ONE, 1, *activation)


def _phases_win(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Four convolutions to the four phases, 25 taps in all: for the deepest layers, whose time is reading weights."""
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
        y[:, :, a, :, b] = z[:, a:, b:]  # a phase with two taps sees one row too many above
    assert y is not None
    return y.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _pack_whole(weight: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
    return [_mkldnn._reorder_convolution_transpose_weight(turned(weight), [2, 2], _ONE, _STRIDE, _ONE, 1, size)]


def _pack_subpixel(weight: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
    return [_mkldnn._reorder_convolution_weight(_subpixel_kernel(weight), _ONE, _ONE, _ONE, 1, size)]


def _pack_phases(weight: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
    kernels = [weight[:, :, a::2, b::2].contiguous(memory_format=_CHANNELS_LAST) for a in (0, 1) for b in (0, 1)]
    return [_mkldnn._reorder_convolution_weight(kernel, _ONE, _ONE, _ONE, 1, size) for kernel in kernels]


class _Packed:
    """A weight as oneDNN wants it, for a few sizes of maps, as long as the weight lives and stays as it is."""

    SIZES = 4

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weakref.ref(weight)
        self.state = _state(weight)
        self.by_size: OrderedDict[tuple[object, ...], list[torch.Tensor]] = OrderedDict()


_cache: dict[int, _Packed] = {}


def _packed(
    x: torch.Tensor, weight: torch.Tensor, pack: Callable[[torch.Tensor, list[int]], list[torch.Tensor]]
) -> list[torch.Tensor]:
    if weight.is_inference():  # nothing tells whether it has changed
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
    """What changes when the weight does. Writing through ``weight.data`` keeps the version: hence some values."""
    out_channels, in_channels = weight.shape[:2]
    samples = weight.detach()[:: max(1, out_channels // 8), :: max(1, in_channels // 8), 2, 2].tolist()
    return weight._version, weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, samples


@functools.cache
def usable(dtype: torch.dtype) -> bool:
    """Does this torch on this CPU have oneDNN's fused convolutions for a dtype? They are private: it is tried out."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16) or not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 2 * 16 * 9).view(2, 16, 3, 3).to(dtype).contiguous(memory_format=_CHANNELS_LAST)
    weight = torch.linspace(-1, 1, 16 * 16 * 25).view(16, 16, 5, 5).to(dtype)
    bias = torch.linspace(-1, 1, 16).to(dtype)
    wanted = plain.forward(x.float(), weight.float(), bias.float(), 0.2)
    activation = ("leaky_relu", [0.2], "")
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    try:
        with torch.no_grad():
            size = list(x.shape)
            for got in (
                _deconvolution(x, plain.transposed(weight), bias, activation),
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
