"""Report the resources that the Triton kernels need on each architecture, without a GPU.

`python tests/helpers/triton_resources.py` prints a table of the configurations that the tables or the rule choose, or
with --candidates of all that can be tuned. The launchers run on tensors without memory (device "meta"), and every
launch that they would make is compiled ahead of time instead, for the signature, alignment and constants that the real
launch would have.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from preimage.ops.upconv import kernel_choice, kernel_configs, kernels
from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels import _launch

ARCHITECTURES = (80, 90, 100, 120)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}
_POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}

# name: Ci, Co, side of the low-resolution map
LAYERS = {
    "F1": (256, 256, 4),
    "F2": (256, 128, 8),
    "F3": (128, 64, 16),
    "F4": (64, 32, 32),
    "F5": (32, 3, 64),
    "H1": (512, 512, 4),
    "H2": (512, 256, 8),
    "H3": (256, 128, 16),
    "H4": (128, 64, 32),
    "H5": (64, 32, 64),
    "H6": (32, 3, 128),
    "context1": (1024, 512, 4),
    "joint2": (64, 32, 64),
    "U1": (176, 128, 4),
    "U2": (128, 96, 4),
    "U3": (96, 64, 8),
    "U4": (64, 48, 16),
    "U5": (48, 32, 32),
    "U6": (32, 16, 64),
    "U7": (16, 3, 128),
    "odd": (7, 5, 33),
    "odd image": (5, 1, 17),
}
BATCH = 64


@dataclass(frozen=True)
class Task:
    """A configuration for a pass of a layer on an architecture."""

    which: str
    layer: str
    dtype: str
    architecture: int
    config: Config
    may_spill: bool  # chosen only where measured to be the fastest


@dataclass(frozen=True)
class Resources:
    """Resources of one kernel that a task launches; sizes in bytes."""

    which: str
    layer: str
    dtype: str
    architecture: int
    config: str
    may_spill: bool
    kernel: str
    registers: int
    spilled: int
    stack: int
    shared: int
    wgmma: bool
    asynchronous_copies: int
    pipelined: bool  # buffers of several stages in shared memory


def tasks(
    layers: list[str], dtypes: list[str], architectures: list[int], *, candidates: bool = False
) -> Iterator[Task]:
    """Yield every configuration that is chosen, then, if requested, all other candidates."""
    seen = set()
    for others in (False, True) if candidates else (False,):
        for layer, dtype, architecture in itertools.product(layers, dtypes, architectures):
            in_channels, out_channels, side = LAYERS[layer]
            for which in kernel_configs.PASSES[:4]:
                known = (which, in_channels, out_channels, BATCH * side * side, DTYPES[dtype])
                capability = divmod(architecture, 10)
                clean = kernel_configs.candidates(*known, capability, tf32=True)
                found = kernel_configs.candidates(*known, capability, tf32=True, spilling=True)
                if not others:
                    chosen = kernel_choice.choose(*known, capability, tf32=True)
                    found = () if chosen is None else (chosen,)
                for config in found:
                    # Sizes and splits are numbers to most kernels: nothing else would be compiled.
                    unsplit = (config.kernel, config.block, config.num_warps, config.num_stages)
                    key = (unsplit, in_channels, out_channels, dtype, architecture)
                    if key not in seen:
                        seen.add(key)
                        yield Task(which, layer, dtype, architecture, config, may_spill=config not in clean)


def launches(task: Task) -> list[tuple[Any, dict[str, Any], dict[str, int]]]:
    """Return (kernel, values of its parameters, options) for each launch of a kernel of the package in the task."""
    in_channels, out_channels, side = LAYERS[task.layer]
    dtype, config = DTYPES[task.dtype], task.config
    x = torch.empty(BATCH, side, side, in_channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    y = torch.empty(BATCH, 2 * side, 2 * side, out_channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    weight = torch.empty(in_channels, 5, 5, out_channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    bias = torch.empty(out_channels, device="meta")
    found: list[tuple[Any, dict[str, Any], dict[str, int]]] = []

    def record(
        kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int, num_stages: int, **constants: Any
    ) -> None:
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        found.append((kernel, values, {"num_warps": num_warps, "num_stages": num_stages}))

    real, _launch.launch = _launch.launch, record
    try:
        if task.which == "forward":
            kernels.forward(x, weight, bias, 0.2, config)
        elif task.which == "dgrad":
            kernels.dgrad(y, weight, x, 0.2, config)
        elif task.which == "wgrad":
            kernels.wgrad(x, y, config)
        else:
            scale, target = torch.empty(BATCH, device="meta"), torch.empty_like(y, dtype=torch.uint8)
            kernels.image_backward(x, y, weight, 0.2, config)
            kernels.distance_backward(x, y, target, bias, scale, weight, 0.2, config)
            kernels.image_distance(y, target, bias)
    finally:
        _launch.launch = real
    return found


def specialization(kernel: Any, values: dict[str, Any]) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
    """Return what a kernel is compiled for in a launch with these values: signature, constants and attributes."""
    signature, constants, attributes = {}, {}, {}
    unspecialized = set(kernel.do_not_specialize)
    for index, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif kernel.params[index].is_constexpr or (value == 1 and name not in unspecialized):
            signature[name] = "constexpr"
            constants[(index,)] = value
        else:
            signature[name] = "i32"
            if value % 16 == 0 and name not in unspecialized:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compiled(kernel: Any, values: dict[str, Any], options: dict[str, int], architecture: int) -> tuple[Any, str]:
    """Return the kernel compiled for a launch with these values, and the assembler's report."""
    signature, constants, attributes = specialization(kernel, values)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True  # cached kernels have no report
    report = io.StringIO()
    with contextlib.redirect_stdout(report):  # where Triton prints the assembler's report
        built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return built, report.getvalue()


def resources(task: Task) -> list[Resources]:
    """Return the resources of every kernel that the task launches, according to the assembler's report."""
    found = []
    for kernel, values, options in launches(task):
        built, report = compiled(kernel, values, options, task.architecture)
        buffers = re.findall(r"ttg.local_alloc : \(\) -> !ttg.memdesc<(\d+)x\d+x\d+x", built.asm["ttgir"])
        found.append(
            Resources(
                *(task.which, task.layer, task.dtype, task.architecture, str(task.config), task.may_spill),
                _name(kernel, values),
                *reported_numbers(report),
                shared=built.metadata.shared,
                wgmma="wgmma.mma_async" in built.asm["ptx"],
                asynchronous_copies=built.asm["ptx"].count("cp.async.c"),
                pipelined=any(int(stages) > 1 for stages in buffers),
            )
        )
    return found


def _name(kernel: Any, values: dict[str, Any]) -> str:
    name: str = kernel.__name__.removesuffix("_kernel")
    return f"{name} (loss)" if values.get("LOSS") else name


def reported_numbers(report: str) -> tuple[int, int, int]:
    """Return registers, spilled bytes and bytes of stack from the assembler's report."""
    stack, stored, loaded = (
        int(number) for number in re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", report)
    )
    used = re.search(r"Used (\d+) registers", report)
    assert used is not None, report
    return int(used[1]), stored + loaded, stack


def _safely(task: Task) -> list[Resources] | str:
    try:
        return resources(task)
    except Exception as error:  # a kernel that does not compile is a finding, too
        return f"{task}: {type(error).__name__}: {str(error).strip()[:500]}"


def table(work: list[Task], jobs: int) -> Iterator[list[Resources] | str]:
    """Yield the resources of every task as they become known, or the failure."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_safely, work)


def main() -> None:
    """Print the table in Markdown, or everything as JSON; exit with 1 if one does not compile, or spills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--architectures", nargs="*", type=int, default=list(ARCHITECTURES))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--candidates", action="store_true", help="all configurations that may be tuned")
    parser.add_argument("--representative", action="store_true", help="one task per kernel, dtype and architecture")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    work = list(tasks(options.layers, options.dtypes, options.architectures, candidates=options.candidates))
    if options.representative:
        work = list({(task.config.kernel, task.dtype, task.architecture): task for task in reversed(work)}.values())
    rows, failures = [], []
    if not options.json:
        print(
            "| kernel | configuration | layer | dtype | sm | registers | spilled | shared memory | wgmma | pipelined |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
    for found in table(work, options.jobs):
        if isinstance(found, str):
            failures.append(found)
            continue
        rows += found
        if not options.json:
            print("\n".join(_line(row) for row in found), flush=True)
    if options.json:
        json.dump({"rows": [asdict(row) for row in rows], "failures": failures}, sys.stdout)
    else:
        spilling = sum(row.spilled > 0 for row in rows)
        print("\n".join(failures))
        print(f"{len(work)} configurations, {len(rows)} kernels: {spilling} spill, {len(failures)} do not compile")
    sys.exit(bool(failures) or any(row.spilled and not row.may_spill for row in rows))


def _line(row: Resources) -> str:
    return (
        f"| {row.kernel} | {row.config} | {row.layer} | {row.dtype} | {row.architecture} | {row.registers} "
        f"| {row.spilled} | {row.shared} | {'yes' if row.wgmma else 'no'} | {'yes' if row.pipelined else 'no'} |"
    )


if __name__ == "__main__":
    main()
