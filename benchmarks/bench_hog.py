"""HOG side by side on one thread: ours with each instruction set, the real VLFeat, dlib, OpenCV, scikit-image.

One run, in turns, medians of wall time; on a busy machine the figures mean little. Appends to results/hog-cpu.csv.
"""

from __future__ import annotations

import csv
import ctypes
import datetime
import functools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import skimage.feature
import torch

from preimage import _native
from preimage.ops.hog import hog

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))  # the driver of the real VLFeat

import vlfeat  # noqa: E402

ROUNDS = {"512x512": 15, "1920x1080": 5, "64 x 256x256": 5}
REPEATS = 3  # calls in a row at each turn, so that most find the caches as they left them
CONTEXT_ROUNDS = 1  # for what is only there for context, and slow

Runner = Callable[[], object]


def image_sets() -> dict[str, np.ndarray]:
    """Name -> uint8 (B, H, W, 3), all from one photograph."""
    photograph = skimage.data.astronaut()
    large = cv2.resize(photograph, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    crops = [photograph[4 * i : 4 * i + 256, 256 - 4 * i : 512 - 4 * i] for i in range(64)]
    return {"512x512": photograph[None], "1920x1080": large[None], "64 x 256x256": np.stack(crops)}


def forced(instruction_set: str, images: torch.Tensor, colour: str = "luma") -> Runner:
    """Ours, with PREIMAGE_ISA set."""

    def run() -> object:
        os.environ["PREIMAGE_ISA"] = instruction_set
        return hog(images, colour=colour)

    return run


@functools.cache
def load_dlib() -> Callable[[np.ndarray], None] | None:
    """dlib's fhog, compiled here; None without a compiler or dlib's headers."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp()) / "libdlib_fhog.so"
    options = ["-std=c++17", "-O3", "-march=native", "-DDLIB_NO_GUI_SUPPORT", "-shared", "-fPIC", "-w"]
    source = HERE / "dlib_fhog.cpp"
    for libraries in ([], ["-ldlib"]):
        command = [compiler, *options, str(source), "-o", str(library), *libraries, "-Wl,--no-undefined"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            function = ctypes.CDLL(str(library)).dlib_fhog
            function.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
            return lambda image: function(image.ctypes.data, *image.shape)
    return None


def contenders(images: np.ndarray) -> dict[str, Runner]:
    """Everything timed in turns; the images as each wants them are made beforehand."""
    planar = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    interleaved = torch.from_numpy(images).permute(0, 3, 1, 2)
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]).astype(np.float32) / 255
    runners: dict[str, Runner] = {}
    if vlfeat.library() is not None:
        theirs = vlfeat.Hog()
        colour = planar.numpy().astype(np.float32) / 255
        runners["VLFeat grey"] = lambda: [theirs(image) for image in grey]
        runners["VLFeat colour"] = lambda: [theirs(image) for image in colour]
    fhog = load_dlib()
    if fhog is not None:
        runners["dlib fhog grey"] = lambda: [fhog(image) for image in grey]
    for name in _native.instruction_sets():
        runners[f"{name} grey f32"] = forced(name, torch.from_numpy(grey)[:, None])
        runners[f"{name} RGB u8"] = forced(name, planar)
        runners[f"{name} RGB u8 interleaved"] = forced(name, interleaved)
        runners[f"{name} RGB u8 strongest"] = forced(name, planar, "strongest")
    return runners


def context(images: np.ndarray) -> dict[str, Runner]:
    """Other definitions of HOG (numbers not comparable), on grey images."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    runners: dict[str, Runner] = {"scikit-image hog": lambda: [skimage.feature.hog(image) for image in grey]}
    if hasattr(cv2, "HOGDescriptor"):
        height, width = (side // 8 * 8 for side in grey[0].shape)
        descriptor = cv2.HOGDescriptor((width, height), (16, 16), (8, 8), (8, 8), 9)
        runners["OpenCV HOGDescriptor"] = lambda: [descriptor.compute(image[:height, :width]) for image in grey]
    return runners


def medians(runners: dict[str, Runner], rounds: int) -> dict[str, float]:
    """Milliseconds, the contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 1):
        for name, run in runners.items():
            for _ in range(REPEATS):
                begin = time.perf_counter()
                run()
                if turn > 0:  # the first round warms up
                    times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def memory_floor(images: np.ndarray) -> float:
    """Milliseconds to read the images as float32 and write the features, at this machine's speed of copying."""
    source = np.zeros(64 << 20, dtype=np.uint8)
    target = np.ones_like(source)
    copy = medians({"copy": lambda: np.copyto(target, source)}, 7)["copy"]
    batch, height, width, _ = images.shape
    count = batch * (4 * height * width + 4 * 31 * ((height + 4) // 8) * ((width + 4) // 8))
    return copy * count / (2 * source.nbytes)


def call_overhead() -> dict[str, float]:
    """Microseconds of a call on 8 x 8 pixels."""
    os.environ.pop("PREIMAGE_ISA", None)
    image = torch.rand(8, 8)
    array = image.numpy()
    runners = {"tensor": lambda: hog(image), "array": lambda: hog(array), "op": lambda: torch.empty(1, 31, 1, 1)}
    names = {"tensor": "hog(tensor)", "array": "hog(array)", "op": "torch.empty, for comparison"}
    return {names[name]: 1e3 * value for name, value in medians(runners, 1000).items()}


def thread_gain(images: np.ndarray) -> dict[str, float]:
    """Milliseconds with one and with two threads."""
    os.environ.pop("PREIMAGE_ISA", None)
    planar = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    grey = planar[:, :1].float() / 255

    def with_threads(count: int) -> Runner:
        def run() -> object:
            torch.set_num_threads(count)
            return hog(grey)

        return run

    result = medians({"1 thread": with_threads(1), "2 threads": with_threads(2)}, 7)
    torch.set_num_threads(1)
    return result


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    return f"{fields.get('model name', platform.processor())} family {fields.get('cpu family')} {fields.get('model')}"


class Table:
    """Prints rows and keeps them for the CSV."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self._common = {
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
            "processor": processor(),
            "versions": f"preimage {version('preimage')} {_native.compiler}; torch {torch.__version__}; "
            f"Python {platform.python_version()}",
        }

    def add(self, images: str, implementation: str, milliseconds: float, against: float | None = None) -> None:
        """A row; `against` is the time the ratio is taken of."""
        ratio = f"{against / milliseconds:.2f}" if against else ""
        print(f"{images:14} {implementation:32} {milliseconds:10.4f} ms {ratio:>8}")
        self.rows.append(
            {
                **self._common,
                "images": images,
                "implementation": implementation,
                "milliseconds": f"{milliseconds:.5f}",
                "ratio": ratio,
            }
        )

    def append_to(self, path: Path) -> None:
        """Appends to the CSV, with a header if it is new."""
        path.parent.mkdir(exist_ok=True)
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            if fresh:
                writer.writeheader()
            writer.writerows(self.rows)
        print(f"appended to {path}")


def main() -> None:
    """Prints the table and appends it to results/hog-cpu.csv."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table = Table()
    sets = image_sets()
    load_dlib()  # takes a while to compile
    print("ratio: how many times VLFeat's speed (colour against colour); for threads, one thread's\n")
    for name, images in sets.items():
        times = medians(contenders(images), ROUNDS[name])
        for runner, value in times.items():
            rival = "VLFeat colour" if "strongest" in runner or "colour" in runner else "VLFeat grey"
            table.add(name, runner, value, times.get(rival))
        for runner, value in medians(context(images), CONTEXT_ROUNDS).items():
            table.add(name, runner, value, times.get("VLFeat grey"))
        table.add(name, "bytes at the speed of copying", memory_floor(images), times.get("VLFeat grey"))
    for name, value in call_overhead().items():
        table.add("8x8", name, value / 1e3)
    threads = thread_gain(sets["64 x 256x256"])
    for name, value in threads.items():
        table.add("64 x 256x256", name, value, threads["1 thread"])
    table.append_to(HERE / "results" / "hog-cpu.csv")


if __name__ == "__main__":
    main()
