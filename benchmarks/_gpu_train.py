"""Pack photographs into tars of a limited size, and train an inverter on them within minutes. See gpu_train.sh."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch

import preimage
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, pretrained
from preimage.io import ImageSource, decode_image, find_images, resize_and_center_crop
from preimage.metrics import ErrorReport, psnr
from preimage.pipelines.image_loading import as_batch
from preimage.pipelines.prefetch import in_order
from preimage.training import LineDisplay, TrainConfig, TrainSummary
from preimage.training.checkpoint import Progress

BUILD = Path(__file__).resolve().parents[1] / "build"  # ignored by git
FOLDER = BUILD / "gpu-train"
TRAIN, VAL = "train.tar", "val.tar"
SIDE = 256
MEBIBYTE = 1 << 20
MAX_FILE = 16 * MEBIBYTE  # maximum size of a file that comes back from the other machine

# The settings with which the pretrained inverters were trained longest.
RECIPE = {
    "optimizer": "muon",
    "muon_lr": 0.015,
    "lr": 5e-4,
    "batch_size": 32,
    "grad_clip": 0.5,
    "ema_decay": 0.9995,
    "min_crop": 0.4,
    "warmup_steps": 200,
}
RECIPES: dict[str, dict[str, Any]] = {"dense-sift": {"muon_lr": 0.012}}  # differences from RECIPE
WARM_UP_STEPS = 2
PILOT_SECONDS = 10.0  # maximum training time of the run that measures the pace
PILOT_FRACTION = 0.05  # of the budget, if that is less


# Packing


class Packed(NamedTuple):
    """A photograph as it is packed.

    Attributes:
        name: Digest of the pixels before they were compressed, which finds equal photographs.
        data: WebP file.
        psnr: PSNR of the WebP file in dB.
    """

    name: str
    data: bytes
    psnr: float


class Tar:
    """A tar file with a known size.

    The format is WebP because `preimage.io` decodes it with every version of OpenCV. AVIF takes about an eighth less
    space at the same PSNR, but `preimage.io` does not support it.
    """

    def __init__(self, path: Path) -> None:
        self.count, self._psnr, self._blocks = 0, 0.0, 2  # a tar ends with two blocks of zeros
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by `close`
        self.close = self._tar.close

    def size_with(self, length: int) -> int:
        """Return the size of the file after another member of this length, in bytes."""
        return _rounded((self._blocks * tarfile.BLOCKSIZE) + _member_size(length), tarfile.RECORDSIZE)

    @property
    def size(self) -> int:
        return _rounded(self._blocks * tarfile.BLOCKSIZE, tarfile.RECORDSIZE)

    @property
    def psnr(self) -> float:
        """Mean PSNR of the photographs in dB."""
        return self._psnr / max(self.count, 1)

    def add(self, packed: Packed) -> None:
        member = tarfile.TarInfo(f"{packed.name}.webp")
        member.size = len(packed.data)
        self._tar.addfile(member, io.BytesIO(packed.data))
        self._blocks += _member_size(member.size) // tarfile.BLOCKSIZE
        self.count, self._psnr = self.count + 1, self._psnr + packed.psnr


def _member_size(length: int) -> int:
    return tarfile.BLOCKSIZE + _rounded(length, tarfile.BLOCKSIZE)


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def compress(source: ImageSource, quality: int) -> Packed | str:
    """Return the center square of a photograph at 256² as WebP, or why it is left out."""
    try:
        image = decode_image(source.read(), name=source.name)
    except (FileFormatError, OSError):
        return "unreadable"
    if min(image.shape[:2]) < SIDE:
        return "smaller than 256 pixels"
    square = resize_and_center_crop(image, SIDE)
    done, encoded = cv2.imencode(".webp", square[:, :, ::-1], (cv2.IMWRITE_WEBP_QUALITY, quality))
    assert done
    data = encoded.tobytes()
    both = [as_batch([pixels]).float() / 255 for pixels in (decode_image(data, name=source.name), square)]
    return Packed(hashlib.sha256(square).hexdigest()[:16], data, psnr(*both).item())


def distinct(sources: Sequence[ImageSource], quality: int, seen: set[str], left_out: Counter[str]) -> Iterator[Packed]:
    """Yield the usable photographs that are not in `seen`, in order, and count the others."""
    workers = os.cpu_count() or 1
    work = in_order(lambda source: compress(source, quality), sources, workers=workers, ahead=2 * workers, name="pack")
    with closing(work) as results:
        for result in results:
            problem = result if isinstance(result, str) else "repeated" if result.name in seen else ""
            if isinstance(result, Packed) and not problem:
                seen.add(result.name)
                yield result
            else:
                left_out[problem] += 1


def pack(options: argparse.Namespace) -> None:
    """Draw distinct photographs at random until train.tar and val.tar reach the limit; print counts and sizes."""
    limit = int(options.mebibytes * MEBIBYTE)
    sources = find_images(options.photographs, skip_bad=True).sources
    random.Random(options.seed).shuffle(sources)
    separate, sources = sources[: options.val_count], sources[options.val_count :]
    if options.val:
        separate, sources = find_images(options.val, skip_bad=True).sources, separate + sources
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.inverters:
        shutil.copytree(pretrained.resolve(name), options.folder / name, dirs_exist_ok=True)
        limit -= sum(path.stat().st_size for path in (options.folder / name).iterdir())
    val, train = Tar(options.folder / VAL), Tar(options.folder / TRAIN)
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    with closing(val), closing(train):
        with closing(distinct(separate, options.val_quality, seen, left_out)) as found:
            for packed in found:
                val.add(packed)
        with closing(distinct(sources, options.quality, seen, left_out)) as found:
            for packed in found:
                if val.size + train.size_with(len(packed.data)) > limit:
                    break
                train.add(packed)
    if not train.count:
        raise SystemExit(f"no photograph is left to train on: {val.count} to validate take {val.size} bytes of {limit}")
    for name, tar in ((TRAIN, train), (VAL, val)):
        fields = {"photographs": tar.count, "bytes": tar.size, "psnr": round(tar.psnr, 2)}
        print(json.dumps({"file": str(options.folder / name), **fields}))
    print(json.dumps({"bytes": train.size + val.size, "limit": limit, "left_out": left_out}))


# Training


class Results:
    """The folder of results: ``metrics.jsonl``, the inverters ``best`` and ``last``, and ``samples.png``.

    Every line is printed, too. The inverters are written one after the other, so that a process killed at any time
    leaves at least one of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.best = folder, float("inf")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)

    def line(self, event: str, **fields: Any) -> None:
        """Print a JSON object and append it to the file."""
        text = json.dumps({"event": event, **fields})
        print(text, flush=True)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def keep(self, run: Path, error: float) -> bool:
        """Keep the inverter in a run's folder as the last one; return whether it is also the best."""
        inverter, is_best = Inverter.load(run), error < self.best
        for name in ["best", "last"] if is_best else ["last"]:
            inverter.save(self.folder / name, dtype=compact_dtype(inverter))
        self.best = min(error, self.best)
        if sheets := sorted(run.glob("samples/*.png")):
            shutil.copyfile(sheets[-1], self.folder / "samples.png")
        return is_best


def compact_dtype(inverter: Inverter) -> torch.dtype:
    """Return float16 if its weights fit in a file of 16 MiB, else int8.

    Raises:
        SystemExit: Neither fits.
    """
    count = sum(weight.numel() for weight in inverter.parameters())
    room = MAX_FILE - MEBIBYTE // 4  # scales of int8, statistics and header
    for dtype in (torch.float16, torch.int8):
        if count * dtype.itemsize <= room:
            return dtype
    raise SystemExit(f"{count:,} parameters do not fit in a file of 16 MiB: choose a smaller preset")


class Keeper(LineDisplay):
    """Display that keeps the inverter of each validation and measures what a run spends besides training."""

    def __init__(self, results: Results, event: str, run: Path) -> None:
        self._results, self._event, self._run = results, event, run
        self._loss = float("nan")
        self.created = self.started = self.updated = time.monotonic()
        self.validation = 0.0  # seconds that the last validation took

    def start(self, config: TrainConfig, progress: Progress, image_count: int, dtype: torch.dtype) -> None:
        super().start(config, progress, image_count, dtype)
        self.started = time.monotonic()

    def update(self, progress: Progress, loss: float) -> None:
        super().update(progress, loss)
        self._loss, self.updated = loss, time.monotonic()

    def validated(self, progress: Progress, report: ErrorReport) -> None:
        seen = progress.step * self._config.batch_size
        self._results.line(
            self._event,
            step=progress.step,
            images_seen=seen,
            seconds=round(progress.seconds, 2),
            images_per_second=round(seen / max(progress.seconds, 1e-9), 1),
            waited=round(progress.waited, 2),
            loss=self._loss,
            error=report.error,
            best=self._results.keep(self._run, report.error),
        )
        self.validation = time.monotonic() - self.updated


def train(options: argparse.Namespace) -> None:
    """Train in three runs: two steps that compile kernels, a pilot that measures the pace, and the run that counts."""
    began = time.monotonic()
    budget = 60 * options.minutes
    train_tar, val_tar = (options.data / name for name in (TRAIN, VAL))
    if missing := [str(path) for path in (train_tar, val_tar) if not path.exists()]:
        raise SystemExit(f"no {' and no '.join(missing)}: write them with `gpu_train.sh pack`, and take them along")
    results = Results(options.output)
    init = find_init(options)
    settings: dict[str, Any] = {
        "preset": options.preset,
        "init": init,
        "device": options.device,
        "seed": options.seed,
        "workers": os.cpu_count() or 1,
        "val_images": str(val_tar),
        "save_every": sys.maxsize,  # the folder of the run does not outlive the machine: `Results` keeps inverters
        **RECIPE,
        **RECIPES.get(options.representation, {}),
        **dict(options.set),
    }
    results.line("start", representation=options.representation, minutes=options.minutes, **settings, **environment())
    evaluated = time.monotonic()
    if init is not None:
        found = score(init, options.representation, val_tar, settings.get("size"))
        results.line("init", best=results.keep(pretrained.resolve(init), found["error"]), **found)
    evaluated = time.monotonic() - evaluated

    with tempfile.TemporaryDirectory(prefix="preimage-train-") as temporary:
        run = {"representation": options.representation, "images": train_tar} | settings
        run.setdefault("cache_folder", str(Path(temporary, "cache")))  # the runs share it

        def run_named(name: str, **limits: Any) -> tuple[Keeper, TrainSummary]:
            keeper = Keeper(results, name, Path(temporary, name))
            return keeper, preimage.train(output=Path(temporary, name), display=keeper, **run, **limits)

        run_named("warm-up", steps=WARM_UP_STEPS)
        pilot_seconds = min(PILOT_SECONDS, PILOT_FRACTION * budget)
        limits: dict[str, Any] = {"eval_every": sys.maxsize, "log_every": 100}
        pilot, done = run_named("pilot", max_hours=pilot_seconds / 3600, **limits)
        left = budget - (time.monotonic() - began)
        overhead = pilot.started - pilot.created + max(evaluated, pilot.validation)
        overhead += pilot.validation * (left // options.every + 1)
        # If the budget is used up, because many kernels had to be compiled, the run is as long as the pilot.
        seconds = max(left - overhead, pilot_seconds)
        interval = max(1, round(done.steps / done.seconds * options.every))
        limits = {"eval_every": interval, "log_every": max(1, interval // 4)}
        run_named("validation", max_hours=seconds / 3600, **limits)
    best = options.output / "best"
    sizes = {path.relative_to(options.output).as_posix(): path.stat().st_size for path in options.output.glob("*/*.*")}
    wall = round(time.monotonic() - began, 1)
    results.line(
        "done", wall_seconds=wall, sizes=sizes, **score(best, options.representation, val_tar, settings.get("size"))
    )


def find_init(options: argparse.Namespace) -> str | None:
    """Return the inverter to start from: with ``auto`` the pretrained one of this preset, if it is here."""
    name = f"{options.representation}-{options.preset}"
    if options.init != "auto":
        return None if options.init == "none" else str(options.init)
    if (options.data / name / pretrained.CONFIG).exists():
        return str(options.data / name)
    return name if name in preimage.list_inverters() else None


def score(inverter: str | Path, representation: str, images: Path, size: int | None) -> dict[str, Any]:
    """Return the errors of an inverter as it is stored, evaluated on the CPU, where no kernels are compiled for it."""
    found = preimage.evaluate(inverter, images, representation=representation, size=size, device="cpu")
    return {"inverter": str(inverter), "error": found.error, "psnr": found.psnr, "ssim": found.ssim}


def environment() -> dict[str, Any]:
    """Return versions and devices."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"preimage": preimage.__version__, "torch": torch.__version__, "opencv": cv2.__version__}
    return {"gpu": gpu, "cpus": os.cpu_count(), "python": platform.python_version(), **versions}


def setting(text: str) -> tuple[str, Any]:
    """Parse ``name=value``, with a value in JSON or a plain string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the given arguments, by default those of the command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="gpu_train.sh", description=__doc__)
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="pack photographs", description=pack.__doc__, formatter_class=formatter)
    packing.set_defaults(run=pack)
    packing.add_argument("photographs", nargs="+", help="folders, image files or tar shards")
    packing.add_argument("--val", nargs="+", help="validation photographs (default: held out of the others)")
    packing.add_argument("--val-count", type=int, default=200, help="number of photographs held out without --val")
    packing.add_argument("--inverters", nargs="+", default=[], help="pretrained inverters that `train` starts from")
    packing.add_argument("--mebibytes", type=float, default=45, help="maximum size of everything that is packed")
    packing.add_argument("--quality", type=int, default=30, help="WebP quality")
    packing.add_argument("--val-quality", type=int, default=80, help="WebP quality of validation photographs")
    packing.add_argument("--seed", type=int, default=0, help="seed of the choice of photographs")
    packing.add_argument("--folder", type=Path, default=FOLDER, help="folder to take along, which git ignores")
    training = commands.add_parser(
        "train", help="train an inverter", description=train.__doc__, formatter_class=formatter
    )
    training.set_defaults(run=train)
    training.add_argument("representation", help="such as hog, sift, lbp or dense-sift")
    training.add_argument("--preset", default="compact", help="architecture; its int8 weights must fit in 16 MiB")
    training.add_argument("--minutes", type=float, default=8, help="time for everything but a last look at the result")
    training.add_argument("--every", type=float, default=60, help="training time between validations in seconds")
    training.add_argument("--init", default="auto", help="inverter to start from: auto, none, a name or a folder")
    training.add_argument("--set", type=setting, action="append", default=[], help="NAME=VALUE of preimage.train")
    training.add_argument("--device", default="auto", help="auto, cpu or cuda")
    training.add_argument("--seed", type=int, default=0, help="seed of weights and crops")
    training.add_argument("--data", type=Path, default=FOLDER, help="folder of train.tar and val.tar")
    output = Path(os.environ.get("OUT") or BUILD / "gpu-train-results")
    training.add_argument("-o", "--output", type=Path, default=output, help="at most 6 files, each below 16 MiB")
    return parser.parse_args(given)


if __name__ == "__main__":
    options = arguments()
    options.run(options)
