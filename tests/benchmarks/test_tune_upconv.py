"""benchmarks/tune_upconv.py without a GPU: what it chooses among stand-ins for kernels, and its tables."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import preimage
from paths import ROOT
from preimage.ops.upconv import choice, plain
from preimage.ops.upconv.choice import DTYPES, Entry, read_table
from preimage.ops.upconv.configs import IMAGE_PASSES, PASSES, Config, candidates
from preimage.representations.hog import Hog
from preimage.representations.sift import Sift

BENCHMARKS = ROOT / "benchmarks"
SCRIPT = BENCHMARKS / "tune_upconv.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmarks are not here")
sys.path.insert(0, str(BENCHMARKS))

BATCH = 8


@pytest.fixture(autouse=True)
def shipped_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the small presets that helpers of other tests register on import."""
    for kind in (Hog, Sift):
        monkeypatch.setattr(kind, "presets", {name: fields for name, fields in kind.presets.items() if name != "tiny"})


Outputs = list[torch.Tensor]


def _scaled(outputs: Outputs) -> None:
    for output in outputs:
        output.mul_(1.02)


def _one_place(outputs: Outputs) -> None:
    output = outputs[0].view(-1)
    output[len(output) // 2] += 0.3 * output.float().square().mean().sqrt()


def _last_output(outputs: Outputs) -> None:
    outputs[-1] *= 0.9


def _nan(outputs: Outputs) -> None:
    outputs[-1].view(-1)[-1] = float("nan")


def _shape(outputs: Outputs) -> None:
    outputs[0] = outputs[0][..., :-1]


# How a stand-in spoils its outputs, and what is said of it.
SPOILED: dict[str, tuple[Callable[[Outputs], None], str]] = {
    "scaled": (_scaled, "has error 0.02"),
    "one place": (_one_place, "more than"),
    "last output": (_last_output, "has error 0.1"),
    "NaN": (_nan, "is not finite everywhere"),
    "shape": (_shape, "has shape"),
}
OTHERS = {
    "raises": "RuntimeError: out of resources: shared memory",
    "random": "two runs differ",
    "unwritten": "is not finite everywhere",
    "wrong when awkward": "has error",
    "wrong in full": "has error",
    "wrong in float16": "torch.float16: ",
    "not captured": "is not captured: because",
}


class StandIns:
    """Kernels that are right, or wrong in every way we know of, and take as long as they are told; torch takes 1 ms."""

    device = "cpu"

    def __init__(self, *milliseconds: tuple[str, float]) -> None:
        self.configs = [Config(kernel, (number,), 4, 3) for number, (kernel, _) in enumerate(milliseconds)]
        self.milliseconds = dict(zip(self.configs, [time for _, time in milliseconds], strict=True))
        self.clock = self
        self.now = 0.0
        self.runs = 0
        self.poison = False

    def candidates(self, problem: Any, dtype: torch.dtype) -> tuple[Config, ...]:
        return tuple(self.configs)

    def run(self, problem: Any, config: Config | None, inputs: Any) -> Any:
        """The exact result rounded to the dtype, the best that a kernel can do on any machine; then spoiled."""
        self.runs += 1
        self.now += self.milliseconds[config] if config else 1.0
        wide = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
        result = getattr(plain, problem.which)(*problem.arguments(wide))
        dtype = inputs[0].dtype
        outputs = [result] if isinstance(result, torch.Tensor) else list(result)
        outputs = [output.to(torch.float32 if output.dim() == 1 else dtype).contiguous() for output in outputs]
        if config is not None:
            self._spoil(config.kernel, len(inputs[0]), outputs)
        return outputs[0] if isinstance(result, torch.Tensor) else tuple(outputs)

    def _spoil(self, kernel: str, batch: int, outputs: Outputs) -> None:
        if kernel == "raises":
            raise RuntimeError("out of resources:\n shared memory")
        if kernel == "random":
            bits = outputs[0].view(-1).view({2: torch.int16, 4: torch.int32}[outputs[0].itemsize])
            bits[0] += self.runs % 2
        if kernel == "unwritten" and self.poison:
            outputs[0].view(-1)[0] = float("nan")
        if kernel in SPOILED:
            SPOILED[kernel][0](outputs)
        if kernel == {3: "wrong when awkward", BATCH: "wrong in full"}.get(batch):
            _scaled(outputs)
        if kernel == "wrong in float16" and outputs[0].dtype == torch.float16:
            _scaled(outputs)

    @contextlib.contextmanager
    def poisoned(self) -> Iterator[None]:
        self.poison = True
        yield
        self.poison = False

    def graph(self, run: Callable[[], object]) -> Callable[[], object] | str:
        assert not self.poison, "poisoning takes time of its own"
        config = run.args[1]  # type: ignore[attr-defined]
        return "because" if config and config.kernel == "not captured" else run

    def once(self, run: Callable[[], object]) -> float:
        before = self.now
        run()
        return self.now - before


def a_problem(which: str) -> Any:
    from _upconv_check import Problem  # noqa: PLC0415 - only where the benchmarks are

    return Problem(which, 4, 3 if which in IMAGE_PASSES else 6, 6, BATCH)


def tuned(kernels: Any, which: str = "forward", dtype: str = "16-bit") -> tuple[Entry, dict[Config, str]]:
    from tune_upconv import tune  # noqa: PLC0415

    found: tuple[Entry, dict[Config, str]] = tune(a_problem(which), dtype, kernels, seconds=0.0)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", PASSES)
def test_the_fastest_right_one_is_chosen_and_never_a_wrong_one(which: str, dtype: str) -> None:
    wrong = [*SPOILED, *OTHERS]
    if dtype == "tf32":
        wrong.remove("wrong in float16")
    kernels = StandIns(("right", 0.9), *((name, 0.1) for name in wrong), ("right", 0.5), ("right", 0.6))
    entry, faults = tuned(kernels, which, dtype)
    assert entry == Entry(*a_problem(which).shape, dtype, kernels.configs[-2], pytest.approx(0.5), 1.0)
    assert [config.kernel for config in faults] == wrong
    for config, fault in faults.items():
        expected = SPOILED[config.kernel][1] if config.kernel in SPOILED else OTHERS[config.kernel]
        assert expected in fault, config


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("which", PASSES)
def test_the_kernels_pass_the_check(which: str, dtype: torch.dtype) -> None:
    """In Triton's interpreter, or compiled, on a GPU: in the memory that they are given, with their parameters."""
    pytest.importorskip("triton")
    from _upconv_check import Check, Problem  # noqa: PLC0415 - only where the benchmarks are
    from tune_upconv import Kernels  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    problem = Problem(which, 8, 3 if which in IMAGE_PASSES else 6, 4, 2)
    config = candidates(*problem.shape, dtype, (9, 0), tf32=True)[0]
    check = Check(problem, dtype, device)
    assert check.fault(functools.partial(Kernels.run, None, problem, config)) is None


def test_one_wrong_element_among_many_is_noticed() -> None:
    from _upconv_check import Check, Problem  # noqa: PLC0415 - only where the benchmarks are

    kernels, problem = StandIns(("right", 0.5)), Problem("forward", 2, 6, 24, 8)
    check = Check(problem, torch.bfloat16, "cpu")

    def run(inputs: Any, amount: float) -> torch.Tensor:
        y: torch.Tensor = kernels.run(problem, None, inputs)
        if len(inputs[0]) == problem.batch:
            y.view(-1)[1000] += amount
        return y

    assert check.fault(functools.partial(run, amount=0.0)) is None
    assert "at one place" in (check.fault(functools.partial(run, amount=0.3)) or "")


@pytest.mark.parametrize(("milliseconds", "wins"), [(0.5, True), (0.97, True), (0.99, False), (2.0, False)])
def test_what_is_no_faster_than_torch_is_torchs(milliseconds: float, wins: bool) -> None:
    kernels = StandIns(("right", milliseconds))
    entry, faults = tuned(kernels)
    assert (entry.config, faults) == (kernels.configs[0] if wins else None, {})
    assert entry.torch_milliseconds == 1.0
    assert entry.milliseconds == pytest.approx(milliseconds if wins else 1.0)


@pytest.mark.parametrize("names", [(), ("NaN", "raises")])
def test_torch_runs_what_no_kernel_does_rightly(names: tuple[str, ...]) -> None:
    entry, faults = tuned(StandIns(*((name, 0.1) for name in names)))
    assert (entry.config, entry.milliseconds, len(faults)) == (None, 1.0, len(names))


@pytest.mark.parametrize(("bits", "right"), [(13, True), (16, False)])
def test_tf32_is_allowed_its_rounding_and_no_more(bits: int, right: bool) -> None:
    """Tensor cores cut 13 bits off both factors of a product."""

    class Rounding(StandIns):
        def run(self, problem: Any, config: Config | None, inputs: Any) -> Any:
            short = tuple((value.view(torch.int32) & -(1 << bits)).view(torch.float32) for value in inputs)
            return super().run(problem, config, short if config else inputs)

    _, faults = tuned(Rounding(("right", 0.5)), "wgrad", "tf32")
    assert (faults == {}) == right


def test_nothing_of_the_process_is_touched() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    tuned(StandIns(("right", 0.5)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


MACHINE = {"gpu": "GPU 1", "torch": "2", "triton": "3", "cudnn": "9", "date": "2026-01-02"}


def line(pixels: int, *times: float, dtype: str = "16-bit") -> Entry:
    return Entry("forward", 64, 32, pixels, dtype, Config("phase", (64, 32, 32), 4, 3), *times)


def test_every_entry_is_on_disk_at_once(tmp_path: Path) -> None:
    from tune_upconv import Table  # noqa: PLC0415

    table = Table(tmp_path / "sm_90.json", MACHINE)
    for pixels in (4096, 64):
        table.put([line(pixels, 0.5, 1.0)])
        assert line(pixels, 0.5, 1.0) in read_table(table.path)[1]
    assert read_table(table.path) == (MACHINE, [line(64, 0.5, 1.0), line(4096, 0.5, 1.0)])
    lines = table.path.read_text().splitlines()
    assert sum(text.startswith('  {"pass": "forward", "in_channels": 64') for text in lines) == 2


def test_measurements_replace_estimates_and_outlast_them(tmp_path: Path) -> None:
    from tune_upconv import Table  # noqa: PLC0415

    path = tmp_path / "sm_90.json"
    Table(path, None).put([line(64), line(4096), line(4096, dtype="tf32")])
    assert read_table(path)[0] is None
    Table(path, MACHINE).put([line(1024, 0.5, 1.0)])
    later = {**MACHINE, "date": "2026-02-03"}
    Table(path, later).put([line(8192, 0.25, 1.0)])
    kept = [line(1024, 0.5, 1.0), line(8192, 0.25, 1.0), line(4096, dtype="tf32")]
    assert read_table(path) == (later, kept)
    another = {**MACHINE, "gpu": "GPU 2"}
    Table(path, another).put([line(64, 0.125, 1.0, dtype="tf32")])
    assert read_table(path) == (another, [line(1024), line(8192), line(64, 0.125, 1.0, dtype="tf32")])


@pytest.mark.parametrize("path", choice.architectures().values(), ids=lambda path: path.stem)
def test_shipped_tables_have_every_layer_of_every_preset(path: Path) -> None:
    from _upconv_networks import networks, problems  # noqa: PLC0415

    known = {entry.key for entry in read_table(path)[1]}
    for name, layers in networks().items():
        for problem in problems(layers):
            for dtype in DTYPES:
                assert (*problem.shape[:3], dtype) in known, f"{name}: tune_upconv.py --estimates {path.stem[3:]}"


def test_layers_are_those_of_the_networks() -> None:
    from _upconv_networks import networks  # noqa: PLC0415

    found = {
        name: [(layer.in_channels, layer.out_channels, layer.side) for layer in layers]
        for name, layers in networks().items()
    }
    assert found["hog/paper"] == [
        *((1024, 512, 4), (512, 256, 8), (256, 128, 16)),
        *((128, 64, 32), (64, 32, 64), (32, 3, 128)),
    ]
    # The two coarsest maps of a U are padded by their edges.
    assert found["hog/compact"] == [
        *((176, 128, 4), (128, 96, 6), (96, 64, 8), (64, 48, 16)),
        *((48, 32, 32), (32, 16, 64), (16, 3, 128)),
    ]
    assert found["alexnet-fc6/paper"][0] == (256, 256, 4)
    assert found["sift/compact"] == found["hog/compact"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import tune_upconv  # noqa: PLC0415

    monkeypatch.setattr(sys, "argv", ["tune_upconv.py", "--nets", "H"])
    assert tune_upconv.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "needs a CUDA device" in err and len(err.splitlines()) == 1


def test_estimates_are_the_rules_and_leave_a_table_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So tables follow a change of the rule, of the candidates or of the presets."""
    import tune_upconv  # noqa: PLC0415

    paths = list(choice.architectures().values())
    for path in paths:
        shutil.copy(path, tmp_path)
    names = [path.stem.removeprefix("sm_") for path in paths]
    monkeypatch.setattr(sys, "argv", ["tune_upconv.py", "--output", str(tmp_path), "--estimates", *names])
    assert tune_upconv.main() == 0
    for path in paths:
        assert (tmp_path / path.name).read_text() == path.read_text()


COMPILED_AHEAD = """
import json, os, pathlib, sys
import torch, triton
from triton.backends.compiler import GPUTarget

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

triton.runtime.driver.set_active(Driver())
import tune_upconv
from _upconv_check import Problem
from preimage.ops.upconv import kernels
from preimage.ops.upconv.configs import Config
from preimage.ops.upconv.kernels import _launch
from preimage.ops.upconv.kernels.forward_row_pair import row_pair_kernel

def compiled():
    return len(list(pathlib.Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin")))

problem, config = Problem("forward", 16, 16, 4, 2), Config("row_pair", (64, 32, 16), 4, 2)
tune_upconv.compile_one((problem, torch.bfloat16, config))
counts = [compiled()]
row_pair_kernel.device_caches.clear()  # as in another process
_launch.launch = lambda kernel, grid, *given, **named: kernel.warmup(*given, grid=grid, **named)
kernels.forward(*problem.arguments(problem.inputs(torch.bfloat16, "cpu", awkward=True)), config)
json.dump([*counts, compiled()], sys.stdout)
"""


def test_what_is_compiled_ahead_is_what_a_launch_looks_for(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(Path(preimage.__file__).resolve().parents[1]), str(BENCHMARKS)])
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-c", COMPILED_AHEAD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1, 1]
