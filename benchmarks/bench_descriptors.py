"""Descriptors side by side: ours, the real VLFeat's, and other libraries' functions of the same names.

One run, in turns, medians; on a busy machine the figures mean little. On the CPU one thread against one thread, with
every instruction set there is, appended to results/descriptors-cpu.csv (keypoints to keypoints-cpu.csv); on a GPU
(where there is one) batches in its memory against its own speed of copying, appended to results/descriptors-gpu.csv.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from pathlib import Path

import cv2
import torch

import _others
import _sparse
from _descriptors import Descriptor, ImageSet, chosen, image_sets, instruction_sets, rival, vlfeat_runners
from _gpu import FULL, QUICK, REHEARSAL, GpuPart
from _timing import Runner, Table, copy_speed, load, medians, processor

ROUNDS = {"512x512": 21, "1920x1080": 9, "64 x 256x256": 9}
QUICK_ROUNDS = 3
COLUMNS = ("descriptor", "images", "implementation", "milliseconds", "ratio", "remark")


class CpuPart:
    """Measures descriptors on one thread of the CPU, and a little on two."""

    def __init__(self, quick: bool, results: Path) -> None:
        self.quick = quick
        self._results = results
        self._machine = {"processor": processor(), "load": load()}
        self.table = Table(results / "descriptors-cpu.csv", self._machine, COLUMNS)
        self.absent: set[str] = set()
        self._copying = copy_speed()

    def measure(self, descriptor: Descriptor, images: ImageSet) -> None:
        """All rows of a descriptor on one set of images."""
        rounds = QUICK_ROUNDS if self.quick else ROUNDS[images.name]
        runners = vlfeat_runners(descriptor, images, self.absent)
        if descriptor.present():
            for name in instruction_sets():
                runners |= descriptor.runners(images, name)
        else:
            self.absent.add(f"preimage.{descriptor.function}: not in this version")
        times = medians(runners, rounds)
        context = _others.runners(descriptor, images, self.absent)
        times |= medians(context, QUICK_ROUNDS, slow_rounds=0)  # for context: the slow ones once
        for row, milliseconds in times.items():
            against = times.get(rival(row))
            self._add(descriptor, images, row, milliseconds, against)
        if descriptor.present():
            against = times.get("VLFeat grey")
            self._threads(descriptor, images, against)
            floor = descriptor.bytes_moved(images.grey) / self._copying
            self._add(descriptor, images, "grey f32 at the speed of copying", floor, against)

    def _add(
        self,
        descriptor: Descriptor,
        images: ImageSet,
        row: str,
        milliseconds: float,
        against: float | None,
        remark: str = "",
    ) -> None:
        self.table.add(
            descriptor=descriptor.name,
            images=images.name,
            implementation=row,
            milliseconds=milliseconds,
            ratio=against / milliseconds if against else None,
            remark=remark,
        )

    def _threads(self, descriptor: Descriptor, images: ImageSet, against: float | None, memory: str = "") -> None:
        """The best instruction set with one and with two threads."""
        if (os.cpu_count() or 1) < 2:
            self.absent.add("two threads: this machine has one core")
            return

        def with_threads(count: int) -> Runner:
            def run() -> object:
                before = torch.get_num_threads()
                torch.set_num_threads(count)
                try:
                    return descriptor.compute(images.grey)
                finally:
                    torch.set_num_threads(before)

            return run

        times = medians({"1": with_threads(1), "2": with_threads(2)}, QUICK_ROUNDS if self.quick else 7)
        gain = f"{times['1'] / times['2']:.2f} times one thread's speed"
        self._add(descriptor, images, f"preimage 2 threads grey f32{memory}", times["2"], against, gain)

    def threads_in_kept_memory(self, descriptors: list[Descriptor], images: ImageSet) -> None:
        """The same where large results do not come in memory fresh from the system, which hands it out page by page."""
        if not keep_freed_memory():
            self.absent.add("two threads in kept memory: this C library has no mallopt")
            return
        for descriptor in descriptors:
            if descriptor.present():
                self._threads(descriptor, images, None, ", memory kept")

    def measure_sparse(self, function: str, images: ImageSet) -> None:
        """The same of what gives keypoints, in a table of its own."""
        table = Table(self._results / "keypoints-cpu.csv", self._machine, COLUMNS)
        rounds = QUICK_ROUNDS if self.quick else ROUNDS[images.name]
        _sparse.measure(function, images, table, rounds, self.absent)

    def call_overhead(self, descriptor: Descriptor) -> None:
        """A call on an image that is hardly worth one."""
        if not descriptor.present():
            return
        tensor = torch.rand(16, 16)
        array = tensor.numpy()
        runners: dict[str, Runner] = {
            "call with a tensor": lambda: descriptor.compute(tensor),
            "call with an array": lambda: descriptor.compute(array),
            "torch.empty, for comparison": lambda: torch.empty(1, 31, 1, 1),
        }
        for row, milliseconds in medians(runners, 30 if self.quick else 1000).items():
            self.table.add(descriptor=descriptor.name, images="16x16", implementation=row, milliseconds=milliseconds)


def keep_freed_memory() -> bool:
    """Tells the C library to keep what is freed, whatever its size, for the rest of this process."""
    function = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_max = -1, -4
    return function is not None and bool(function(mmap_max, 0)) and bool(function(trim_threshold, 2**31 - 1))


def measure_cpu(descriptors: list[Descriptor], sparse: list[str], quick: bool, results: Path) -> set[str]:
    """Prints and keeps the CPU's table; what it had to do without."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ.pop("PREIMAGE_ISA", None)
    if any(descriptor.function == "hog" for descriptor in descriptors):
        _others.load_dlib()  # takes a while to compile
    part = CpuPart(quick, results)
    print(f"{processor()}, load {load()}; one thread; x: how many times VLFeat's speed (colour against colour)")
    for images in image_sets(quick):
        for descriptor in descriptors:
            part.measure(descriptor, images)
        for function in sparse:
            part.measure_sparse(function, images)
    for descriptor in descriptors:
        part.call_overhead(descriptor)
    part.threads_in_kept_memory(descriptors, images)
    return part.absent


def measure_gpu(descriptors: list[Descriptor], quick: bool, results: Path, rehearsal: bool) -> tuple[set[str], bool]:
    """Prints and keeps the GPU's table; what it had to do without, and whether all checks held."""
    scale = REHEARSAL if rehearsal else QUICK if quick else FULL
    with torch.inference_mode():
        part = GpuPart(torch.device("cpu" if rehearsal else "cuda:0"), scale, results)
        print("x: how many times the speed, a frame, of the other implementation on this device")
        for descriptor in descriptors:
            part.measure(descriptor)
    for failure in part.failures:
        print(f"FAILED: {failure}")
    return part.absent, not part.failures


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="functions, with commas between: hog,lbp,sift")
    parser.add_argument("--quick", action="store_true", help="few turns; on the CPU only the 512x512 image")
    devices = ("auto", "cpu", "cuda", "rehearsal")
    parser.add_argument(
        "--device", choices=devices, default="auto", help="rehearsal: the GPU's part on the CPU, tiny, to try its code"
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    return parser.parse_args()


def main() -> int:
    """Prints the tables and appends them to the CSVs; 1 when a check on the GPU failed."""
    options = arguments()
    descriptors, sparse = chosen(options.only)
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        print(f"torch {torch.__version__} sees no CUDA device", file=sys.stderr)
        return 1
    absent: set[str] = set()
    sound = True
    if options.device in ("cuda", "rehearsal") or (options.device == "auto" and there):
        missing, sound = measure_gpu(descriptors, options.quick, options.results, options.device == "rehearsal")
        absent |= missing
    if options.device in ("auto", "cpu"):
        absent |= measure_cpu(descriptors, sparse, options.quick, options.results)
    for line in sorted(absent):
        print(f"absent: {line}")
    print(f"appended to {options.results}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
