"""Which kernel with which blocks may run a pass of a layer: the choices that measuring picks from. Knows no triton."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

PASSES = ("forward", "dgrad", "wgrad", "image_backward")
IMAGE_CHANNELS = 4  # at most: such layers have kernels of their own
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_MOST_ELEMENTS = 2**31 - 1  # the kernels' offsets are int32


@dataclasses.dataclass(frozen=True)
class Config:
    """A kernel and its blocks. What the three numbers of `block` are is said in the kernel's own file."""

    kernel: str
    block: tuple[int, ...]
    num_warps: int
    num_stages: int
    split: int = 1  # parts of the sum over pixels, where there is one

    def __str__(self) -> str:
        blocks = "x".join(map(str, self.block))
        split = f" /{self.split}" if self.split > 1 else ""
        return f"{self.kernel} {blocks} w{self.num_warps} s{self.num_stages}{split}"

    def to_list(self) -> list[Any]:
        """For JSON."""
        return [self.kernel, list(self.block), self.num_warps, self.num_stages, self.split]

    @classmethod
    def from_list(cls, values: list[Any]) -> Config:
        """The inverse of `to_list`. Raises ``ValueError`` for anything else."""
        try:
            kernel, block, num_warps, num_stages, split = values
            return cls(str(kernel), tuple(int(n) for n in block), int(num_warps), int(num_stages), int(split))
        except TypeError as error:
            raise ValueError(f"not a configuration: {values!r}") from error


def candidates(
    which: str,
    in_channels: int,
    out_channels: int,
    pixels: int,
    dtype: torch.dtype,
    capability: tuple[int, int],
) -> tuple[Config, ...]:
    """The configurations of a pass worth measuring, a handful, likely best first.

    Args:
        which: one of `PASSES`.
        in_channels, out_channels: of the layer.
        pixels: B·H·W, of the low resolution.
        dtype: of maps and weight.
        capability: of the device, as ``torch.cuda.get_device_capability`` tells it.

    Returns:
        Empty where no kernel applies: another dtype, a device before 8.0, a map of more than 2^31 - 1 elements,
        "image_backward" of more than 4 output channels.

    Raises:
        ValueError: an unknown pass.
    """
    if which not in PASSES:
        raise ValueError(f"which must be one of {', '.join(PASSES)}, got {which!r}")
    largest = pixels * max(in_channels, 4 * out_channels)
    if dtype not in DTYPES or capability < (8, 0) or not 0 < largest <= _MOST_ELEMENTS:
        return ()
    make = {"forward": _forward, "dgrad": _dgrad, "wgrad": _wgrad, "image_backward": _image_backward}[which]
    found = make(in_channels, out_channels, pixels, dtype)
    limit = shared_memory_limit(capability)
    fitting = (config for config in found if _shared_memory(config, out_channels, dtype) <= limit)
    return tuple(dict.fromkeys(fitting))  # each once


def shared_memory_limit(capability: tuple[int, int]) -> int:
    """Bytes that one program may have."""
    if capability in ((8, 6), (8, 9)) or capability >= (12, 0):
        return 99 * 1024
    return (163 if capability < (9, 0) else 227) * 1024


def _power(number: int) -> int:
    """The smallest power of two that is not below, and not below 16, the least that the tensor cores take."""
    return max(16, 1 << (number - 1).bit_length())


def _covering(channels: int, most: int) -> int:
    """The block that covers the channels with the least waste: the largest of those that waste up to a tenth more."""
    sizes = [size for size in (16, 32, 64, 128, 256) if size <= most]
    total = {size: -(-channels // size) * size for size in sizes}
    least = min(total.values())
    return max(size for size in sizes if total[size] <= 1.1 * least or size == 16)


def _rows(most: int, pixels: int) -> int:
    """Pixels of a tile: not more than there are."""
    return min(most, max(64, _power(pixels)))


def _forward(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    wide = 32 if dtype == torch.float32 else 64
    k = _covering(in_channels, wide)
    if out_channels <= IMAGE_CHANNELS:
        narrow = _covering(in_channels, 32)
        tiles = ((128, 4, 4), (256, 4, 3), (256, 8, 4), (64, 4, 4))
        return [Config("subpixel", (_rows(m, pixels), 16, narrow), warps, stages) for m, warps, stages in tiles]
    found = []
    if out_channels <= 64:
        pair = _covering(2 * out_channels, 128)
        found += [
            Config("row_pair", (_rows(m, pixels), pair, k), w, s) for m, w, s in ((128, 8, 3), (128, 4, 3), (64, 4, 3))
        ]
    narrow = _covering(out_channels, 64)
    if out_channels <= 128:
        found += [
            Config("all_phases", (_rows(128, pixels), narrow, k), 8, 2),
            Config("all_phases", (64, narrow, k), 4, 2),
        ]
    wide_n = _covering(out_channels, 256)
    if wide_n == 256:
        found.append(Config("phase", (_rows(128, pixels), 256, k), 8, 3))
    middle = _covering(out_channels, 128)
    found += [Config("phase", (_rows(128, pixels), middle, k), w, s) for w, s in ((8, 3), (4, 4))]
    if middle <= 64:
        found.append(Config("phase", (_rows(256, pixels), middle, k), 8, 3))
    found.append(Config("phase", (64, middle, k), 4, 4))
    return found


def _dgrad(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    wide = 32 if dtype == torch.float32 else 64
    k = _covering(out_channels, wide)
    n = _covering(in_channels, 128)
    found = []
    if out_channels <= 64:
        run = _covering(5 * out_channels, wide)
        found += [Config("dgrad_window", (_rows(128, pixels), n, run), w, s) for w, s in ((8, 3), (4, 3))]
    if out_channels > IMAGE_CHANNELS:
        if _covering(in_channels, 256) == 256:
            found.append(Config("dgrad", (_rows(128, pixels), 256, k), 8, 3))
        found += [Config("dgrad", (_rows(128, pixels), n, k), w, s) for w, s in ((8, 4), (4, 4))]
        found.append(Config("dgrad", (64, n, k), 4, 4))
    return found


def _wgrad(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    k = 32 if dtype == torch.float32 else 64
    found = []
    if out_channels <= 64:
        i = _covering(in_channels, 64)
        run = 5 * out_channels
        first = max(16, min(128, 1 << (run.bit_length() - 1)))
        if run - first <= 128:
            blocks = 5 * -(-in_channels // i)
            found += [Config("wgrad_window", (i, first, k), 4, 3, split) for split in _splits(blocks, pixels, k)]
    if out_channels > IMAGE_CHANNELS:
        i, o = _covering(in_channels, 128), _covering(out_channels, 128)
        blocks = 25 * -(-in_channels // i) * -(-out_channels // o)
        found += [Config("wgrad", (i, o, k), 4, 3, split) for split in _splits(blocks, pixels, k)]
        if max(i, o) > 64:
            i, o = min(i, 64), min(o, 64)
            blocks = 25 * -(-in_channels // i) * -(-out_channels // o)
            found += [Config("wgrad", (i, o, k), 4, 4, split) for split in _splits(blocks, pixels, k)[:1]]
    return found


def _splits(blocks: int, pixels: int, step: int) -> tuple[int, ...]:
    """Parts so that two or eight programs come to each of some 130 multiprocessors, each with some steps to do."""
    most = max(1, pixels // (4 * step))
    return tuple(dict.fromkeys(min(most, max(1, -(-programs // blocks))) for programs in (264, 1056)))


def _image_backward(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    if out_channels > IMAGE_CHANNELS:
        return []
    n, run = _covering(in_channels, 64), _power(5 * out_channels)
    return [
        Config("image_backward", (_rows(m, pixels), n, run), warps, 2, programs)
        for m, warps, programs in ((64, 4, 264), (64, 4, 528), (128, 8, 264), (128, 8, 132), (128, 4, 264))
    ]


def _shared_memory(config: Config, out_channels: int, dtype: torch.dtype) -> int:
    """Bytes of the operands' buffers, an estimate: each of `num_stages` has a tile of every operand."""
    m, n, k = config.block
    tiles = {
        "phase": m * k + n * k,
        "all_phases": m * k + 4 * n * k,
        "row_pair": m * k + 2 * n * k,
        "subpixel": m * k + n * k,
        "dgrad": m * k + n * k,
        "dgrad_window": m * k + n * k,
        "wgrad": m * k + n * k,
        "wgrad_window": m * k + 2 * n * k,
        "image_backward": m * n + 5 * m * k,
    }[config.kernel]
    return config.num_stages * tiles * dtype.itemsize
