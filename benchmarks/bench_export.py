"""ONNX files of inverters in onnxruntime: size, largest difference from torch's images, milliseconds per image.

Appended to export-cpu.csv. `bytes` is the size of the file, of the folder's weights for torch. `error` is the largest
difference over eight photographs of 256×256 pixels, or for inverters of networks, whose weights are not here, over
eight sets of normally distributed features with the mean and deviation of the training. `ratio` is how many times
torch's time a contender takes for one image, in the same rounds; `cpu` is its time on processors, which other programs
on the machine affect less.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import skimage.data
import torch

from _harness import PHOTOGRAPHS, Run, Runner, parser
from preimage import export
from preimage.inverters import Inverter, list_inverters, load_inverter
from preimage.inverters.onnx_graph import WEIGHTS
from preimage.inverters.pretrained import WEIGHTS as TENSORS
from preimage.inverters.pretrained import resolve
from preimage.representations import list_representations, representation_from_spec

COLUMNS = ("inverter", "features", "contender", "bytes", "error", "threads", "median", "ratio", "spread", "cpu")
TORCH = "torch"


def photographs() -> torch.Tensor:
    """Return two squares of each of scikit-image's photographs, (8, 3, 256, 256) uint8."""
    squares = []
    for name in PHOTOGRAPHS:
        photograph = getattr(skimage.data, name)()
        side = min(photograph.shape[:2])
        for square in (photograph[:side, :side], photograph[-side:, -side:]):
            squares.append(cv2.resize(square, (256, 256), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()


def features_of(inverter: Inverter) -> tuple[str, torch.Tensor]:
    """Return where features come from, and those of eight images."""
    if inverter.output_region is None and inverter.spec.representation in list_representations():
        return "photographs", representation_from_spec(inverter.spec)(photographs())
    cells = inverter.training_notes["feature_shape"][1:]
    shape = (-1, *(1 for _ in cells))
    values = torch.randn(8, inverter.spec.channels, *cells, generator=torch.Generator().manual_seed(0))
    return "normal", values * inverter.feature_deviation.view(shape) + inverter.feature_mean.view(shape)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as OMP_WAIT_POLICY=PASSIVE
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def processor_times(contenders: Mapping[str, Runner], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of processor time of each contender's calls, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            begin = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - begin))
    return {name: statistics.median(spent) for name, spent in times.items()}


def main(arguments: list[str] | None = None) -> int:
    made = parser(__doc__, "python benchmarks/bench_export.py --inverter hog-compact")
    dense = [name for name in list_inverters() if not name.startswith("sift")]
    made.add_argument("--inverter", action="append", help=f"name or folder, repeatable; by default {', '.join(dense)}")
    made.add_argument("--threads", default="1,2", help="numbers of threads")
    options = made.parse_args(arguments)
    run = Run(options)
    table = run.table("export", COLUMNS)
    for name in options.inverter or dense:
        inverter = load_inverter(name, device="cpu")
        source, features = features_of(inverter)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            files = {weights: Path(folder) / f"{weights}.onnx" for weights in WEIGHTS}
            sizes = {weights: export(name, file, weights=weights).bytes for weights, file in files.items()}
            sizes = {TORCH: (resolve(name) / TENSORS).stat().st_size, **sizes}
            errors = {}
            for weights, file in files.items():
                (images,) = session(file, 1).run(None, {"features": features.numpy()})
                errors[weights] = float(np.abs(images - inverter(features).numpy()).max())
            one = features[:1]
            for threads in map(int, options.threads.split(",")):
                contenders: dict[str, Runner] = {TORCH: functools.partial(inverter, one)}
                for weights, file in files.items():
                    given = {"features": one.numpy()}
                    contenders[weights] = functools.partial(session(file, threads).run, None, given)
                times = run.time(contenders, 5, threads=threads)
                torch.set_num_threads(threads)
                spent = processor_times(contenders, 1 if run.quick else 20)
                for contender, measured in times.items():
                    table.add(
                        inverter=Path(name).name,
                        features=source,
                        contender=contender if contender == TORCH else f"onnxruntime {contender}",
                        bytes=sizes[contender],
                        error=errors.get(contender),
                        threads=threads,
                        median=measured.median,
                        ratio=measured.ratio(times[TORCH]),
                        spread=measured.spread,
                        cpu=spent[contender],
                    )
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
