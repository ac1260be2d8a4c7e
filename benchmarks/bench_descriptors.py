"""Descriptors side by side: preimage, the real VLFeat, and functions of the same names in other libraries.

On the CPU one thread against one thread, with every instruction set, appended to descriptors-cpu.csv and, for sparse
SIFT, keypoints-cpu.csv; `ratio` is how many times VLFeat's speed. On a GPU batches in its memory, appended to
descriptors-gpu.csv; `ratio` is how many times the speed of the other implementation on that GPU. Every result of
preimage is compared with the float64 reference before it is timed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import skimage.feature
import torch

import preimage
from _harness import Run, Runner, Table, WrongResultError, check, cuda_graph, parser
from preimage import reference
from preimage.ops import _native
from torch_hog import torch_hog

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
vlfeat: Any = importlib.import_module("vlfeat")

STEP, BIN = 4, 4  # pixels, of dense SIFT
SECONDS = 3.0  # for the turns of a descriptor on one set of images
# Dense SIFT's roots are 3e-6 off. Plain torch's HOG decides otherwise where two directions score equal.
TOLERANCE, TORCH_TOLERANCE, HALF_TOLERANCE = 1e-5, 1e-3, 1e-3
REPEATS = 100  # of a kernel, whose results must be equal to the bit
COLUMNS = ("descriptor", "images", "implementation", "milliseconds", "ratio", "remark")
GPU_COLUMNS = (*COLUMNS[:-1], "gigabytes_per_second", "share_of_copy_speed", "remark")
NAMES = ("hog", "lbp", "dense_sift", "sift", "sift_grid")
NO_VLFEAT = "VLFeat: libvl.so.1 (package libvlfeat1) is not installed"


class ImageSet:
    """Images of one size, on the device in all forms that the contenders take; made outside of what is timed."""

    def __init__(self, name: str, pixels: np.ndarray, run: Run) -> None:  # pixels: [B, H, W, 3] uint8
        self.name, self.count = name, len(pixels)
        self.gray_bytes = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pixels]
        self.gray_arrays = np.stack(self.gray_bytes).astype(np.float32) / 255  # [B, H, W]
        self.interleaved = torch.from_numpy(pixels).to(run.device).permute(0, 3, 1, 2)  # [B, 3, H, W]
        self.planar = self.interleaved.contiguous()
        self.gray = torch.from_numpy(self.gray_arrays).to(run.device)[:, None]  # [B, 1, H, W]


def image_sets(run: Run) -> Iterator[ImageSet]:
    """Yield a photograph, the same enlarged, and many pieces of it; on a GPU frames that no cache holds."""
    photograph = skimage.data.astronaut()
    if run.gpu:
        count, height, width = (2, 108, 192) if run.rehearsal else (64, 1080, 1920)
        yield ImageSet(f"{count} x {width}x{height}", rolled(count, height, width), run)
    else:
        yield ImageSet("512x512", photograph[None], run)
        if not run.quick:
            yield ImageSet("1920x1080", rolled(1, 1080, 1920), run)
            crops = [photograph[4 * i : 4 * i + 256, 256 - 4 * i : 512 - 4 * i] for i in range(64)]
            yield ImageSet("64 x 256x256", np.stack(crops), run)


def rolled(count: int, height: int, width: int) -> np.ndarray:
    """Return photographs (B, H, W, 3) uint8 that differ from one to the next."""
    photograph = cv2.resize(skimage.data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.roll(photograph, (7 * i, 11 * i), (0, 1)) for i in range(count)])


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A function of `preimage` with its options, and the same in VLFeat."""

    name: str
    function: str
    options: dict[str, Any]
    vlfeat: Callable[[int, int], Callable[[np.ndarray], object]]  # from an image's height and width
    variants: tuple[tuple[str, str, dict[str, Any]], ...]  # label, form of the images, further options
    gpu_variants: tuple[tuple[str, str, dict[str, Any]], ...] = ()  # on a GPU also these

    def compute(self, images: torch.Tensor | np.ndarray, **options: Any) -> Any:
        return getattr(preimage, self.function)(images, **self.options, **options)

    def expected(self, images: torch.Tensor, *, of_cpu: bool = False, **options: Any) -> torch.Tensor:
        """Return the features of the first image by the definition in float64, or by the kernel for the CPU."""
        if of_cpu:
            features = getattr(preimage, self.function)(images[:1].cpu(), **self.options, **options)
            return features.double()  # type: ignore[no-any-return]
        dtype = {} if self.function == "lbp" else {"dtype": torch.float64}  # LBP's sums are exact in float32
        features = getattr(reference, self.function)(images[:1].cpu(), **{**self.options, **options, **dtype})
        return features.double()  # type: ignore[no-any-return]


GRAY, RGB = ("gray f32", "gray", {}), ("RGB u8", "planar", {})
STRONGEST: dict[str, Any] = {"color": "strongest"}
HOG_VARIANTS = (GRAY, RGB, ("RGB u8 interleaved", "interleaved", {}), ("RGB u8 strongest", "planar", STRONGEST))


def dense_sift(window: str) -> Descriptor:
    options = {"step": STEP, "bin_size": BIN, "window": window}
    name, theirs = f"dense_sift {window}", functools.partial(vlfeat.DenseSift, **options)
    narrow = tuple((f"{label} to f16", form, {"dtype": "float16"}) for label, form, _ in (GRAY, RGB))
    return Descriptor(
        name, "dense_sift", options, lambda height, width: theirs(height, width).process, (GRAY, RGB), narrow
    )


DESCRIPTORS = (
    Descriptor("hog", "hog", {}, lambda height, width: vlfeat.Hog(), HOG_VARIANTS),
    Descriptor("lbp", "lbp", {}, lambda height, width: vlfeat.Lbp(), (GRAY, RGB)),
    *(dense_sift("flat"), dense_sift("gaussian")),
)


def with_instruction_set(name: str, run: Runner) -> Runner:
    """Return the function, run with one instruction set."""

    def forced() -> object:
        _native.set_instruction_set(name)
        try:
            return run()
        finally:
            _native.set_instruction_set(_native.instruction_sets()[0])

    return forced


def with_two_threads(run: Runner) -> Runner:
    """Return the function, run with two threads."""

    def threaded() -> object:
        torch.set_num_threads(2)
        try:
            return run()
        finally:
            torch.set_num_threads(1)

    return threaded


def other_libraries(descriptor: Descriptor, images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    """Return functions of the same names in other libraries: their numbers differ, even with equal parameters."""
    gray, pictures = images.gray_arrays, images.gray_bytes
    height, width = gray.shape[1:]
    found: dict[str, Runner] = {}
    if descriptor.name == "hog":
        found["scikit-image hog"] = lambda: [skimage.feature.hog(image) for image in pictures]
        if hasattr(cv2, "HOGDescriptor"):
            w, h = width // 8 * 8, height // 8 * 8
            theirs = cv2.HOGDescriptor((w, h), (16, 16), (8, 8), (8, 8), 9)
            found["OpenCV HOGDescriptor"] = lambda: [theirs.compute(image[:h, :w]) for image in pictures]
        else:
            absent.add(f"OpenCV HOGDescriptor: OpenCV {cv2.__version__} is built without it")
        if fhog := dlib_fhog():
            found["dlib fhog gray"] = lambda: [fhog(image.ctypes.data, height, width) for image in gray]
        else:
            absent.add("dlib fhog: needs a C++ compiler and dlib's headers (package libdlib-dev)")
    elif descriptor.name == "lbp":
        codes = functools.partial(skimage.feature.local_binary_pattern, P=8, R=1, method="nri_uniform")
        found["scikit-image codes, no histograms"] = lambda: [codes(image) for image in pictures]
    elif descriptor.name == "dense_sift gaussian":
        first = 3 * BIN // 2  # the bins of OpenCV are 1.5 times a keypoint's size wide, around its center
        places = [(x, y) for y in range(first, height - first, STEP) for x in range(first, width - first, STEP)]
        grid = [cv2.KeyPoint(float(x), float(y), BIN / 1.5) for x, y in places]
        sift = cv2.SIFT_create()
        found["OpenCV SIFT on a grid"] = lambda: [sift.compute(image, grid) for image in pictures]
    else:
        found |= kornia_sift(images, absent)
    return found


def kornia_sift(images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    """Return kornia's dense SIFT at our step and bin size, without a Gaussian window."""
    try:
        kornia: Any = importlib.import_module("kornia.feature")
    except ImportError:
        absent.add("kornia DenseSIFTDescriptor: kornia is not installed")
        return {}
    module = kornia.DenseSIFTDescriptor(spatial_bin_size=BIN, rootsift=False, stride=STEP, padding=0)
    module = module.to(images.gray.device)
    return {"kornia DenseSIFTDescriptor": lambda: [module(image[None]) for image in images.gray]}


@functools.cache
def dlib_fhog() -> Callable[[int, int, int], None] | None:
    """Return dlib's fhog for an address, height and width, compiled here."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    library = Path(tempfile.mkdtemp()) / "libdlib_fhog.so"
    options = ["-std=c++17", "-O3", "-march=native", "-DDLIB_NO_GUI_SUPPORT", "-shared", "-fPIC", "-w"]
    for libraries in ([], ["-ldlib"]) if compiler else ():
        command = [compiler, *options, str(Path(__file__).with_name("dlib_fhog.cpp")), "-o", str(library), *libraries]
        if subprocess.run([*command, "-Wl,--no-undefined"], capture_output=True, check=False).returncode == 0:
            function = ctypes.CDLL(str(library)).dlib_fhog
            function.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
            return function  # type: ignore[no-any-return]
    return None


def right(
    run: Run, name: str, compute: Runner, expected: torch.Tensor, tolerance: float = TOLERANCE
) -> dict[str, Runner]:
    """Return a contender by its name if it runs here and the features of its first image are right."""
    try:
        features: Any = compute()
        check(name, features[:1].cpu(), expected, tolerance)
    except WrongResultError as error:
        run.refuse(name, error)
    except (RuntimeError, ValueError) as error:  # no kernels for this device, or not enough memory
        run.absent.add(f"{name}: {str(error).splitlines()[0]}")
    else:
        return {name: compute}
    return {}


def ours(run: Run, descriptor: Descriptor, images: ImageSet) -> dict[str, Runner]:
    """Return our variants, on the CPU with every instruction set and with two threads."""
    found: dict[str, Runner] = {}
    for label, form, options in (*descriptor.variants, *(descriptor.gpu_variants if run.gpu else ())):
        pixels = getattr(images, form)
        # The definition takes seconds per frame; gpu_check compares all kernels in detail.
        expected = descriptor.expected(pixels, of_cpu=run.cuda, **options)
        compute = functools.partial(descriptor.compute, pixels, **options)
        if run.gpu:
            tolerance = HALF_TOLERANCE if "dtype" in options else TOLERANCE
            if checked := right(run, f"preimage {label}", compute, expected, tolerance):
                found |= checked
                check_repeats(run, f"{descriptor.name} {label}", compute)
            continue
        for name in _native.instruction_sets():  # best first
            found |= right(run, f"preimage {name} {label}", with_instruction_set(name, compute), expected)
        if label == "gray f32" and (os.cpu_count() or 1) > 1:
            found |= right(run, f"preimage 2 threads {label}", with_two_threads(compute), expected)
    return found


def check_repeats(run: Run, name: str, compute: Runner) -> None:
    """Compare the results of repeated calls to the bit."""
    first: Any = compute()
    same = torch.ones((), dtype=torch.bool, device=first.device)
    for _ in range(2 if run.rehearsal else REPEATS):
        same &= (compute() == first).all()  # type: ignore[attr-defined]
    if not same:
        run.refuse(name, WrongResultError("repeated calls differ"))


def rivals(run: Run, descriptor: Descriptor, images: ImageSet) -> dict[str, Runner]:
    """Return what the ratios compare with first, and then other libraries."""
    if run.gpu:
        if descriptor.name == "hog":
            plain = functools.partial(torch_hog, images.gray)
            expected = descriptor.expected(images.gray)
            return right(run, "plain torch gray f32", plain, expected, TORCH_TOLERANCE)
        return kornia_sift(images, run.absent) if descriptor.name == "dense_sift flat" else {}
    found: dict[str, Runner] = {}
    if vlfeat.library() is None:
        run.absent.add(NO_VLFEAT)
    else:
        call = descriptor.vlfeat(*images.gray.shape[2:])
        found["VLFeat gray"] = lambda: [call(image) for image in images.gray_arrays]
        if descriptor.name == "hog":
            color = images.planar.numpy().astype(np.float32) / 255
            found["VLFeat color"] = lambda: [call(image) for image in color]
    return found | other_libraries(descriptor, images, run.absent)


def measure(run: Run, descriptor: Descriptor, images: ImageSet, table: Table, copy_speed: float) -> None:
    """Measure a descriptor on a set of images; `copy_speed` in bytes per millisecond."""
    others, mine = rivals(run, descriptor, images), ours(run, descriptor, images)
    times = {
        name: found.median for name, found in run.time({**others, **mine}, SECONDS / (3 if run.gpu else 1)).items()
    }
    if not run.gpu:
        moved = images.gray.nbytes + images.count * descriptor.compute(images.gray[:1]).nbytes
        times["gray f32 at the speed of copying"] = moved / copy_speed
    for name, milliseconds in times.items():
        rival = next(iter(others), "") if run.gpu else "VLFeat gray"
        if name == "VLFeat color" or "strongest" in name:
            rival = rival.replace("gray", "color")
        cells: dict[str, Any] = {"ratio": times[rival] / milliseconds if rival in times else None}
        for label, form, options in (*descriptor.variants, *descriptor.gpu_variants):
            if run.gpu and name == f"preimage {label}":
                pixels = getattr(images, form)
                moved = pixels.nbytes + images.count * descriptor.compute(pixels[:1], **options).nbytes
                cells["gigabytes_per_second"] = moved / milliseconds / 1e6
                cells["share_of_copy_speed"] = moved / milliseconds / copy_speed
                run.highlights.append(f"{descriptor.name} {label} {cells['share_of_copy_speed']:.0%}")
        row = {"descriptor": descriptor.name, "images": images.name, "implementation": name}
        table.add(**row, milliseconds=milliseconds, **cells)


def measure_calls(run: Run, descriptor: Descriptor, table: Table) -> None:
    """Measure the cost of a call: on an image of hardly any pixels, on a GPU on small batches and as CUDA graphs."""
    for count in (1, 16, 64) if run.cuda else (1,):
        side = 256 if run.cuda else 16
        images = ImageSet(f"{count} x {side}x{side}" if run.gpu else "16x16", rolled(count, side, side), run)
        if run.gpu:
            call = functools.partial(descriptor.compute, images.gray)
            contenders = {"preimage gray f32, calls in a row": call}
            contenders |= {"preimage gray f32, CUDA graph": cuda_graph(call)} if run.cuda else {}
        else:
            tensor, array = images.gray[0, 0], images.gray_arrays[0]
            contenders = {
                "call with a tensor": functools.partial(descriptor.compute, tensor),
                "call with an array": functools.partial(descriptor.compute, array),
                "torch.empty, for comparison": functools.partial(torch.empty, 1, 31, 1, 1),
            }
        for name, times in run.time(contenders, 0.5, wall=True).items():
            row = {"descriptor": descriptor.name, "images": images.name, "implementation": name}
            table.add(**row, milliseconds=times.median)


def right_keypoints(run: Run, name: str, images: ImageSet) -> bool:
    """Return whether the keypoints of a piece of the first image, all of them, are those of the definition."""
    piece = images.gray[:1, :, :128, :128].contiguous()
    found: Any = with_instruction_set(name, functools.partial(preimage.sift, piece))()
    expected = reference.sift(piece)
    try:
        for field, tolerance in {"x": 1e-3, "y": 1e-3, "scale": 1e-3, "descriptors": 1e-2}.items():
            check(field, getattr(found, field), getattr(expected, field).double(), tolerance)
    except WrongResultError as error:
        run.refuse(f"sift {name}", error)
        return False
    return True


def measure_keypoints(run: Run, function: str, images: ImageSet, table: Table) -> None:
    """Measure sparse SIFT, or the grid of its keypoints."""
    keypoints = preimage.sift(images.gray)
    height, width = images.gray.shape[2:]
    contenders: dict[str, Runner] = {}
    if function == "sift_grid":
        names = ("x", "y", "scale", "angle", "descriptors", "offsets")
        expected = reference.sift_grid(*(getattr(keypoints, name) for name in names), (height, width))
        grid = functools.partial(preimage.sift_grid, keypoints, (height, width))
        contenders |= right(run, "preimage", grid, expected[:1].double())
    else:
        if vlfeat.library() is None:
            run.absent.add(NO_VLFEAT)
        else:
            theirs = vlfeat.Sift(height, width)
            contenders["VLFeat gray"] = lambda: [theirs(image) for image in images.gray_arrays]
        for name in filter(lambda name: right_keypoints(run, name, images), _native.instruction_sets()):
            sift = functools.partial(preimage.sift, images.gray)
            contenders[f"preimage {name} gray f32"] = with_instruction_set(name, sift)
        detector = cv2.SIFT_create()  # doubles the image, and leaves out what has little contrast
        contenders["OpenCV SIFT"] = lambda: [detector.detectAndCompute(image, None) for image in images.gray_bytes]
        contenders["preimage opencv"] = functools.partial(preimage.sift, images.gray, variant="opencv")
    times = {name: found.median for name, found in run.time(contenders, SECONDS).items()}
    for name, milliseconds in times.items():
        ratio = times["VLFeat gray"] / milliseconds if "VLFeat gray" in times else None
        remark = f"{1e3 * images.count / milliseconds:.0f} images/s"
        if "opencv" not in name.lower():
            remark += f", {len(keypoints.x) / images.count:.0f} keypoints each"
        row = {"descriptor": function, "images": images.name, "implementation": name}
        table.add(**row, milliseconds=milliseconds, ratio=ratio, remark=remark)


def main(arguments: list[str] | None = None) -> int:
    """Append to the CSVs; 1 where a result was wrong."""
    made = parser(__doc__, "python benchmarks/bench_descriptors.py --quick --only hog,sift", gpu=True)
    made.add_argument("--only", default=",".join(NAMES), help="functions, separated by commas (default: %(default)s)")
    options = made.parse_args(arguments)
    names = options.only.split(",")
    if unknown := set(names) - set(NAMES):
        made.error(f"--only takes {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    run = Run(options)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _native.set_instruction_set(_native.instruction_sets()[0])
    dense = [descriptor for descriptor in DESCRIPTORS if descriptor.function in names]
    sparse = [name for name in ("sift", "sift_grid") if name in names and not run.gpu]
    with torch.inference_mode():
        if dense:
            table = run.table("descriptors", GPU_COLUMNS if run.gpu else COLUMNS, "processor")
            copy_speed = run.copy_speed()
            for images in image_sets(run):
                for descriptor in dense:
                    measure(run, descriptor, images, table, copy_speed)
            for descriptor in dense:
                measure_calls(run, descriptor, table)
        if sparse:
            table = run.table("keypoints", COLUMNS, "processor")
            for images in image_sets(run):
                for name in sparse:
                    measure_keypoints(run, name, images, table)
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
