"""Pack photographs into tars of a limited size, and train an inverter on them within minutes. See gpu_train.sh."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
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
from preimage.training import LineDisplay
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


def distinct(sources: Sequence[ImageSource], quality: int, seen: set[str], left_out: Counter[str]) -> Generator[Packed]:
    """Yield the usable photographs that are not in `seen`, in order, and count the others."""
    workers = os.cpu_count() or 1
    work = in_order(lambda source: compress(source, quality), sources, workers=workers, ahead=2 * workers, name="pack")
    with closing(work) as results:
        for result in results:
            if isinstance(result, str):
                left_out[result] += 1
            elif result.name in seen:
                left_out["repeated"] += 1
            else:
                seen.add(result.name)
                yield result


def write_tar(path: Path, photographs: Generator[Packed], room: int) -> dict[str, Any]:
    """Write photographs to a tar until the next one would exceed `room` bytes; return their number, size and PSNR.

    They are WebP files because `preimage.io` decodes these with every version of OpenCV. AVIF takes about an eighth
    less space at the same PSNR, but `preimage.io` does not support it.
    """
    size, ratios = 2 * tarfile.BLOCKSIZE, []  # a tar ends with two blocks, and takes a multiple of a record
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar, closing(photographs):
        for packed in photographs:
            member = tarfile.TarInfo(f"{packed.name}.webp")
            member.size = len(packed.data)
            size += tarfile.BLOCKSIZE + member.size + -member.size % tarfile.BLOCKSIZE
            if size + -size % tarfile.RECORDSIZE > room:
                break
            tar.addfile(member, io.BytesIO(packed.data))
            ratios.append(packed.psnr)
    mean = round(sum(ratios) / max(len(ratios), 1), 2)
    return {"file": str(path), "photographs": len(ratios), "bytes": path.stat().st_size, "psnr": mean}


def pack(options: argparse.Namespace) -> None:
    """Draw distinct photographs at random until train.tar and val.tar reach the limit; print counts and sizes."""
    limit = room = int(options.mebibytes * MEBIBYTE)
    sources = find_images(options.photographs, skip_bad=True).sources
    random.Random(options.seed).shuffle(sources)
    separate, sources = sources[: options.val_count], sources[options.val_count :]
    if options.val:
        separate, sources = find_images(options.val, skip_bad=True).sources, separate + sources
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.inverters:
        shutil.copytree(pretrained.resolve(name), options.folder / name, dirs_exist_ok=True)
        room -= sum(path.stat().st_size for path in (options.folder / name).iterdir())
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    for name, chosen, quality in ((VAL, separate, options.val_quality), (TRAIN, sources, options.quality)):
        written = write_tar(options.folder / name, distinct(chosen, quality, seen, left_out), room)
        if not written["photographs"]:
            raise SystemExit(f"no photograph for {name}: {room} bytes of {limit} are left for it")
        room -= written["bytes"]
        print(json.dumps(written))
    print(json.dumps({"bytes": limit - room, "limit": limit, "left_out": left_out}))


class Results(LineDisplay):
    """The folder of results: ``metrics.jsonl``, the inverters ``best`` and ``last``, and ``samples.png``.

    Every line is printed, too. The inverters are written after each validation, one after the other, so that a process
    killed at any time leaves at least one of them.

    Args:
        folder: Folder of results.
        run: Folder of the run, which contains the inverter of the last validation and its samples.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run = folder, run
        self.best, self._loss = float("inf"), float("nan")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)

    def line(self, event: str, **fields: Any) -> None:
        """Print a JSON object and append it to the file."""
        text = json.dumps({"event": event, **fields})
        print(text, flush=True)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def keep(self, folder: Path, error: float) -> bool:
        """Keep the inverter in a folder as the last one; return whether it is also the best."""
        inverter, is_best = Inverter.load(folder), error < self.best
        for name in ["best", "last"] if is_best else ["last"]:
            inverter.save(self.folder / name, dtype=compact_dtype(inverter))
        self.best = min(error, self.best)
        return is_best

    def update(self, progress: Progress, loss: float) -> None:
        super().update(progress, loss)
        self._loss = loss

    def validated(self, progress: Progress, report: ErrorReport) -> None:
        seen = progress.step * self._config.batch_size
        shutil.copyfile(max(self.run.glob("samples/*.png")), self.folder / "samples.png")
        self.line(
            "validation",
            step=progress.step,
            images_seen=seen,
            seconds=round(progress.seconds, 2),
            images_per_second=round(seen / max(progress.seconds, 1e-9), 1),
            waited=round(progress.waited, 2),
            loss=self._loss,
            error=report.error,
            best=self.keep(self.run, report.error),
        )


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


def train(options: argparse.Namespace) -> None:
    """Train an inverter, and keep the best and the last one after each validation."""
    began = time.monotonic()
    train_tar, val_tar = (options.data / name for name in (TRAIN, VAL))
    if missing := [str(path) for path in (train_tar, val_tar) if not path.exists()]:
        raise SystemExit(f"no {' and no '.join(missing)}: write them with `gpu_train.sh pack`, and take them along")
    init = find_init(options)
    settings: dict[str, Any] = {
        "preset": options.preset,
        "init": init,
        "device": options.device,
        "seed": options.seed,
        "val_images": str(val_tar),
        # Training time: kernels are compiled before its clock starts, when the step is captured as a CUDA graph.
        "max_hours": options.minutes / 60,
        **dict.fromkeys(("log_every", "eval_every"), f"{options.every}s"),
        "save_every": sys.maxsize,  # the folder of the run does not outlive the machine: `Results` keeps inverters
        **RECIPE,
        **RECIPES.get(options.representation, {}),
        **options.settings,
    }
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"gpu": gpu, "cpus": os.cpu_count(), "preimage": preimage.__version__, "torch": torch.__version__}
    with tempfile.TemporaryDirectory(prefix="preimage-train-") as temporary:
        run = Path(temporary, "run")
        results = Results(options.output, run)
        results.line("start", representation=options.representation, **settings, **machine)

        def score(inverter: str | Path) -> dict[str, Any]:
            """Return errors of an inverter as it is stored, on the CPU, where no kernels are compiled for it."""
            found = preimage.evaluate(
                inverter, val_tar, representation=options.representation, size=settings.get("size"), device="cpu"
            )
            return {"inverter": str(inverter), "error": found.error, "psnr": found.psnr, "ssim": found.ssim}

        if init is not None:
            errors = score(init)
            results.line("init", best=results.keep(pretrained.resolve(init), errors["error"]), **errors)
        preimage.train(options.representation, train_tar, run, display=results, **settings)
    results.line("done", **score(options.output / "best"), wall_seconds=round(time.monotonic() - began, 1))


def find_init(options: argparse.Namespace) -> str | None:
    """Return the inverter to start from: with ``auto`` the pretrained one of this preset, if it is here."""
    name = f"{options.representation}-{options.preset or 'compact'}"
    if options.init != "auto":
        return None if options.init == "none" else str(options.init)
    if (options.data / name / pretrained.CONFIG).exists():
        return str(options.data / name)
    return name if name in preimage.list_inverters() else None


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
    training.add_argument(
        "--preset", help="architecture, by default that of --init; its int8 weights must fit in 16 MiB"
    )
    training.add_argument("--minutes", type=float, default=8, help="training time, without start and validation")
    training.add_argument("--every", type=float, default=60, help="training time between validations in seconds")
    training.add_argument("--init", default="auto", help="inverter to start from: auto, none, a name or a folder")
    training.add_argument("--settings", type=json.loads, default={}, help="JSON object of settings of preimage.train")
    training.add_argument("--device", default="auto", help="auto, cpu or cuda")
    training.add_argument("--seed", type=int, default=0, help="seed of weights and crops")
    training.add_argument("--data", type=Path, default=FOLDER, help="folder of train.tar and val.tar")
    output = Path(os.environ.get("OUT") or BUILD / "gpu-train-results")
    training.add_argument("-o", "--output", type=Path, default=output, help="at most 6 files, each below 16 MiB")
    return parser.parse_args(given)


if __name__ == "__main__":
    options = arguments()
    options.run(options)
