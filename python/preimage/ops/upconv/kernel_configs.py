"""List the kernel configurations that can run a pass of a layer. Does not import Triton."""

from __future__ import annotations

import dataclasses

import torch

IMAGE_PASSES = ("image_backward", "distance_backward")
PASSES = ("forward", "dgrad", "wgrad", *IMAGE_PASSES)
MOST = 8  # maximum number of candidates, in addition to cuDNN's convolution
IMAGE_CHANNELS = 4  # layers with at most so many output channels have separate kernels
HALVES = (torch.bfloat16, torch.float16)

MOST_ELEMENTS = 2**31 - 1  # the kernels' offsets are int32


@dataclasses.dataclass(frozen=True)
class Config:
    """Kernel and its block sizes. The numbers of `block` are described in the module of the kernel."""

    kernel: str
    block: tuple[int, ...]
    num_warps: int
    num_stages: int
    split: int = 1  # number of parts of the sum over pixels, for kernels with such a sum

    def __str__(self) -> str:
        blocks = "x".join(map(str, self.block))
        split = f" /{self.split}" if self.split > 1 else ""
        return f"{self.kernel} {blocks} w{self.num_warps} s{self.num_stages}{split}"


# cuDNN's convolution, with one kernel for all elementwise operations.
CUDNN = {"forward": Config("cudnn", (64, 64), 4, 1), "dgrad": Config("dgrad_cudnn", (64, 64), 4, 1)}


def tf32_allowed() -> bool:
    """Return whether torch's settings allow TF32 in cuDNN's convolutions, which our kernels follow."""
    # Prefer the newer setting: reading the older one raises if the two disagree.
    precision: str | None = getattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision", None)
    return torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32"


def supported(
    which: str,
    in_channels: int,
    out_channels: int,
    pixels: int,
    dtype: torch.dtype,
    capability: tuple[int, int],
    *,
    tf32: bool,
) -> bool:
    """Return whether any kernel can run a pass, see `candidates`."""
    if which not in PASSES:
        raise ValueError(f"which must be one of {', '.join(PASSES)}, got {which!r}")
    largest = max(pixels * in_channels, 4 * pixels * out_channels, 25 * in_channels * out_channels)
    return (
        (dtype in HALVES or (dtype == torch.float32 and tf32))
        and capability >= (8, 0)
        and pixels >= 1
        and largest <= MOST_ELEMENTS
        and (which not in IMAGE_PASSES or out_channels <= IMAGE_CHANNELS)
    )


def candidates(
    which: str,
    in_channels: int,
    out_channels: int,
    pixels: int,
    dtype: torch.dtype,
    capability: tuple[int, int],
    *,
    tf32: bool,
    spilling: bool = False,
) -> tuple[Config, ...]:
    """Return a few configurations for a pass that are worth measuring, the best estimate first.

    Args:
        which: Pass, one of `PASSES`.
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        pixels: B · H · W at the input resolution.
        dtype: Dtype of maps and weight.
        capability: Compute capability of the device, as returned by ``torch.cuda.get_device_capability``.
        tf32: Whether float32 may be computed in TF32.
        spilling: Whether to include large tiles that may spill registers, which only a measurement can justify.

    Returns:
        Configurations; empty if no kernel applies: for float32 without TF32 (exact products are slow in Triton), other
        dtypes, capabilities below 8.0, maps or weights of more than 2^31 - 1 elements, and ``"image_backward"`` and
        ``"distance_backward"`` with more than 4 output channels.

    Raises:
        ValueError: `which` is not a pass.
    """
    if not supported(which, in_channels, out_channels, pixels, dtype, capability, tf32=tf32):
        return ()
    make = {"forward": _forward, "dgrad": _dgrad, "wgrad": _wgrad}.get(which, _image_backward)
    found = make(in_channels, out_channels, pixels, dtype)
    fitting = [
        config
        for config in dict.fromkeys(found)  # each once
        if _in_shared_memory(config, dtype, capability)
        and ((spilling and _is_large(config)) or _in_registers(config, out_channels, dtype, capability))
    ]
    has_cudnn = which in CUDNN and out_channels > IMAGE_CHANNELS
    return (*fitting[:MOST], *([CUDNN[which]] if has_cudnn else []))


def shared_memory_limit(capability: tuple[int, int]) -> int:
    """Return the maximum shared memory of one program in bytes."""
    if capability in ((8, 6), (8, 9)) or capability >= (12, 0):
        return 99 * 1024
    return (163 if capability < (9, 0) else 227) * 1024


def _power(number: int) -> int:
    """Return the smallest power of two that is at least `number` and at least 16, the minimum of tensor cores."""
    return max(16, 1 << (number - 1).bit_length())


def _covering(channels: int, most: int, waste: float = 1.1) -> int:
    """Return the largest block size that covers the channels with little padding, avoiding 16.

    `waste` is the largest ratio of the padded number of channels to the smallest possible one.
    """
    sizes = [size for size in (16, 32, 64, 128, 256) if size <= most]
    total = {size: -(-channels // size) * size for size in sizes}
    found = max(size for size in sizes if total[size] <= waste * min(total.values()))
    return _covering(channels, most, 1.34) if found == 16 and channels > 16 and waste < 1.34 else found


def _rows(most: int, pixels: int) -> int:
    """Return the number of pixels of a tile, not more than necessary."""
    return min(most, max(64, _power(pixels)))


def _step(channels: int, dtype: torch.dtype) -> int:
    """Return the number of channels summed in a step: 128 bytes, or less if that needs less padding."""
    return _covering(channels, 128 // dtype.itemsize)


def _forward(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    k = _step(in_channels, dtype)
    rows = _rows(128, pixels)
    if out_channels <= IMAGE_CHANNELS:
        k = min(k, 32)
        # A single stage loads through the L1 cache, where neighboring taps find the same pixels.
        large = _rows(256, pixels)
        tiles = ((rows, 4, 4), (rows, 4, 3), (large, 8, 4), (64, 4, 4), (rows, 4, 1), (large, 8, 1))
        return [Config("subpixel", (m, 16, k), warps, stages) for m, warps, stages in tiles]
    found = []
    if out_channels <= 64:
        n = _covering(2 * out_channels, 128, 1.34)
        found += [Config("row_pair", (rows, n, k), 8, 3), Config("row_pair", (rows, n, k), 4, 3)]
        found += [Config("row_pair", (64, n, k), 4, 3)]
    if out_channels <= 128:
        n = _covering(out_channels, 64)
        short = min(k, 64 // dtype.itemsize)  # longer steps spill, because each has four products
        found += [Config("all_phases", (rows, n, short), 8, 3), Config("all_phases", (64, n, short), 4, 3)]
        n = _covering(out_channels, 32)
        found += [Config("all_phases", (rows, n, k), 8, 3), Config("all_phases", (64, n, k), 4, 3)]
    if _covering(out_channels, 256) == 256:
        found.append(Config("phase", (rows, 256, k), 8, 3))
    for waste in (1.34, 1.1):
        n = _covering(out_channels, 128, waste)
        found += [Config("phase", (m, n, k), w, s) for m, w, s in ((rows, 8, 3), (rows, 4, 4), (64, 4, 4))]
    return found


def _dgrad(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    rows = _rows(128, pixels)
    found = []
    if out_channels <= 64:
        n, run = _covering(in_channels, 128, 1.34), _step(5 * out_channels, dtype)
        found += [Config("dgrad_window", (rows, n, run), 8, 3), Config("dgrad_window", (rows, n, run), 4, 3)]
        found += [Config("dgrad_window", (64, n, run), 4, 3)]
    if out_channels > IMAGE_CHANNELS:
        k = _step(out_channels, dtype)
        for waste in (1.34, 1.1):
            n = _covering(in_channels, 128, waste)
            found += [Config("dgrad", (m, n, k), warps, 4) for m, warps in ((rows, 8), (rows, 4), (64, 4))]
        if out_channels > 64 and _covering(in_channels, 256) == 256:
            found.append(Config("dgrad", (rows, 256, k), 8, 3))
    return found


def _wgrad(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    k = 128 // dtype.itemsize
    found = []
    if out_channels <= 64:
        i, run = _covering(in_channels, 64), 5 * out_channels
        first = max(16, min(128, 1 << (run.bit_length() - 1)))  # the rest goes to a second accumulator
        blocks = 5 * -(-in_channels // i)
        if run - first <= first:
            for warps in (4, 8):
                splits = _splits(blocks, pixels, k)
                found += [Config("wgrad_window", (i, first, k), warps, 3, split) for split in splits]
    if out_channels > IMAGE_CHANNELS:
        i, o = _covering(in_channels, 128), _covering(out_channels, 128)
        tiles = [(i, o, 4, 3), (i, o, 8, 3), (min(i, 64), min(o, 64), 4, 4)]
        if i == o == 128 and _covering(out_channels, 256) == 256:
            tiles.append((128, 256, 8, 3))
        elif i == o == 128 and _covering(in_channels, 256) == 256:
            tiles.append((256, 128, 8, 3))
        for i_, o_, warps, stages in tiles:
            blocks = 25 * -(-in_channels // i_) * -(-out_channels // o_)
            found += [Config("wgrad", (i_, o_, k), warps, stages, split) for split in _splits(blocks, pixels, k)]
    return found


def _splits(blocks: int, pixels: int, step: int) -> tuple[int, ...]:
    """Return numbers of parts that give two or eight programs per multiprocessor (of about 130), with several steps."""
    most = max(1, pixels // (4 * step))
    return tuple(dict.fromkeys(min(most, max(1, -(-programs // blocks))) for programs in (264, 1056)))


def _image_backward(in_channels: int, out_channels: int, pixels: int, dtype: torch.dtype) -> list[Config]:
    run = _power(5 * out_channels)
    n = _covering(in_channels, 1024 // run)
    tiles = ((64, 4, 2, 264), (64, 4, 2, 528), (128, 8, 2, 132), (128, 8, 2, 264), (64, 4, 1, 264), (64, 4, 1, 528))
    found = [Config("image_backward", (m, n, run), warps, stages, programs) for m, warps, stages, programs in tiles]
    return [*found, Config("image_backward", (64, 16, run), 4, 2, 264)]


def _is_large(config: Config) -> bool:
    """Return whether a tile is twice as large as the largest that surely fits in registers."""
    return config.kernel in ("dgrad", "wgrad") and config.block[0] * config.block[1] == 128 * 256


def _in_registers(config: Config, out_channels: int, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Return whether the sums fit in registers and loops are pipelined, according to compiled kernels.

    Before 9.0, and from 12.0 on, operands of tensor cores are in registers, too.
    """
    (m, n, k), kernel, warps, stages = config.block, config.kernel, config.num_warps, config.num_stages
    old = not (9, 0) <= capability < (12, 0)
    if kernel == "image_backward":
        narrow = n == 16 or dtype != torch.float32 or capability < (12, 0)
        return narrow and (m == 64 or not (old or dtype == torch.float32))
    sums = {"all_phases": 4 * m * n, "row_pair": 2 * m * n}.get(kernel, m * n)
    if kernel == "wgrad_window" and 5 * out_channels > n:
        sums *= 2
    most = 128 * 32 * warps
    found_to_spill = [
        kernel == "all_phases" and warps == 4 and (sums >= most or (old and k > 32)),
        old and kernel == "all_phases" and stages < 3,
        old and kernel == "row_pair" and warps < 8,
        old and kernel == "subpixel" and (m, stages) == (128, 4),
        old and kernel == "wgrad" and n == 16 and stages == 4,
    ]
    if (10, 0) <= capability < (12, 0):
        found_to_spill += [
            sums >= most and (kernel == "dgrad" or (kernel == "wgrad_window" and warps == 4)),
            kernel == "all_phases" and (warps, n, k) == (8, 32, 32),
            kernel == "wgrad" and (warps, m, n) == (8, 128, 128),
        ]
    if capability >= (12, 0):
        found_to_spill += [
            kernel == "phase" and (warps, sums, k) == (4, most // 2, 64),
            kernel == "wgrad" and n <= 32 and stages == 4,
        ]
    few = old or (dtype == torch.float32 and kernel.startswith("dgrad"))
    return sums <= (most // 2 if few else most) and not any(found_to_spill)


def _in_shared_memory(config: Config, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Return whether the shared memory suffices for a tile of each operand for each of `num_stages`, an estimate."""
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
    return config.num_stages * tiles * dtype.itemsize <= shared_memory_limit(capability)
