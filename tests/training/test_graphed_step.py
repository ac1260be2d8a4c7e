"""Compare the step in fixed memory with the eager one. Without a GPU, a replay calls the captured function again."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from preimage import training
from preimage.inverters import Inverter, UShapedConfig
from preimage.nn import UpConv2d
from preimage.representations import create_representation
from preimage.training import Display, TrainConfig, builders, checkpoint, graphed_step, muon, trainer
from preimage.training.builders import choose_step
from preimage.training.flat_buffers import FlatState
from preimage.training.graphed_step import GraphedStep, cuda_graph
from preimage.training.step import EagerStep, Step, TrainState
from tolerances import TRAINING_LOSS_GPU, trained_weights, training_loss
from training_runs import small_config

NETWORK = UShapedConfig(widths=(16, 24, 32), blocks_down=(1, 2, 1), blocks_up=(1, 1), head=(16, 8), repeat_edges=1)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def again(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Replace `cuda_graph` on a CPU: warm up, and return a function that repeats the work."""
    for _ in range(3):
        work()
    return work


def new_state(optimizer: str = "muon", precision: str = "float32", device: str = "cpu", size: int = 32) -> TrainState:
    config = TrainConfig(
        representation="hog",
        images=("none",),
        output="none",
        optimizer=optimizer,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        device=device,
        size=size,
        batch_size=4,
        steps=60,
        warmup_steps=4,
        grad_clip=0.05,  # short enough to be reached
    )
    representation = create_representation("hog")
    torch.manual_seed(0)
    model = Inverter(representation.spec, NETWORK).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.feature_deviation.fill_(0.1)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    optimizers = builders.build_optimizers(model, config)
    return TrainState(config, representation, model, average, optimizers, DTYPES[precision], loss_sum)


def batch_of(step: int, size: int = 32) -> torch.Tensor:
    coarse = torch.rand(4, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(step))
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return (smooth * 255).byte().contiguous(memory_format=torch.channels_last)


def losses(state: TrainState, step: Step, steps: range, size: int = 32) -> torch.Tensor:
    curve = []
    for number in steps:
        before = state.loss_sum.item()
        step(batch_of(number, size), number)
        curve.append(state.loss_sum.item() - before)
    return torch.tensor(curve)


def assert_same_losses(ours: torch.Tensor, theirs: torch.Tensor, precision: str) -> None:
    """Check that losses agree from the first step on, up to rounding."""
    ratio = (ours / theirs - 1).abs() / training_loss(DTYPES[precision], len(theirs))
    assert ratio.max() <= 1, f"after step {int(ratio.argmax())}: {ours.tolist()} instead of {theirs.tolist()}"


def everything(state: TrainState) -> dict[str, torch.Tensor]:
    """Return a copy of the complete state of a run, by name."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    for which, optimizer in enumerate(state.optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{index}.{name}": value for name, value in moments.items()}
    return {name: value.detach().cpu().clone() for name, value in (tensors | {"loss_sum": state.loss_sum}).items()}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    """Return the distance between the weights of two runs, relative to their change in training."""
    names = [name for name in start if name.startswith(("model.network", "average.network"))]
    apart = torch.cat([(a[name] - b[name]).flatten() for name in names]).norm()
    return float(apart / torch.cat([(a[name] - start[name]).flatten() for name in names]).norm())


@pytest.fixture
def exact_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use Newton–Schulz in float32, because rounding to bfloat16 hides all other differences."""
    monkeypatch.setattr(muon, "orthogonalized", functools.partial(muon.orthogonalized, dtype=torch.float32))


@pytest.mark.usefixtures("exact_muon")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_learns_as_the_eager_step(optimizer: str, precision: str) -> None:
    ours, theirs = new_state(optimizer, precision), new_state(optimizer, precision)
    start = everything(theirs)
    curves = [
        losses(ours, GraphedStep(ours, 0, again), range(20)),
        losses(theirs, EagerStep(theirs), range(20)),
    ]
    assert curves[1][-5:].mean() < 0.95 * curves[1][:5].mean()
    assert_same_losses(*curves, precision)
    assert everything(ours).keys() == everything(theirs).keys()
    limit = trained_weights(optimizer, DTYPES[precision], len(curves[0]))
    assert distance(everything(theirs), everything(ours), start) < limit


@pytest.mark.parametrize("first", [EagerStep, lambda state: GraphedStep(state, 0, again)])
def test_making_it_changes_no_bit(first: Callable[[TrainState], Step]) -> None:
    """Tests this before the first step, and after eager and graphed steps."""
    ours = new_state()
    before = everything(ours)
    GraphedStep(ours, 0, again)
    after = everything(ours)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(
        not value.any() for name, value in after.items() if name not in before
    )  # moments, which did not exist before

    ours = new_state()
    losses(ours, first(ours), range(3))
    before = everything(ours)
    GraphedStep(ours, 3, again)
    after = everything(ours)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.usefixtures("exact_muon")
def test_the_learning_rate_follows_the_time_used() -> None:
    ours, theirs, early = (new_state() for _ in range(3))
    for state in (ours, theirs, early):
        state.config = dataclasses.replace(state.config, steps=None, max_hours=1.0)
    start = everything(early)
    steps = GraphedStep(ours, 0, again), EagerStep(theirs), EagerStep(early)
    for step, seconds in zip(steps, (3300.0, 3300.0, 0.0), strict=True):
        step(batch_of(0), 0, seconds=seconds)
    ended = [everything(state) for state in (ours, theirs, early)]
    assert distance(ended[1], ended[0], start) < trained_weights("muon", torch.float32, 1)
    name = next(name for name in start if name.startswith("model.network"))
    late, full = ((end[name] - start[name]).norm() for end in ended[1:])
    assert late / full == pytest.approx(0.5 * (1 + math.cos(math.pi * 3300 / 3600)), rel=1e-3)


def test_making_it_draws_no_random_numbers() -> None:
    ours = new_state()
    before = torch.get_rng_state()
    GraphedStep(ours, 0, again)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("broken", ["trial", "capture"])
def test_failing_leaves_the_state_alone(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = new_state(), new_state()
    losses(ours, EagerStep(ours), range(2))
    losses(theirs, EagerStep(theirs), range(2))
    before, addresses = everything(ours), [weight.data_ptr() for weight in ours.model.parameters()]

    def fails(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        if broken == "trial":
            monkeypatch.setattr(type(ours.representation), "__call__", no_kernels)
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    def no_kernels(self: object, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("this build of preimage has no CUDA kernels")

    with pytest.raises(RuntimeError, match="not permitted" if broken == "capture" else "CUDA kernels"):
        GraphedStep(ours, 2, fails)
    monkeypatch.undo()
    after = everything(ours)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert addresses == [weight.data_ptr() for weight in ours.model.parameters()]
    torch.testing.assert_close(
        losses(ours, EagerStep(ours), range(2, 5)), losses(theirs, EagerStep(theirs), range(2, 5)), atol=0, rtol=0
    )


def test_falls_back_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    assert isinstance(choose_step(new_state(), 0, notes.append), EagerStep)
    assert notes == []  # on a CPU that is no loss

    class OnCuda(TrainState):
        device = torch.device("cuda")

    def refuses(*arguments: object) -> None:
        raise RuntimeError("operation not permitted\nCUDA kernel errors might be ...")

    monkeypatch.setattr(builders, "GraphedStep", refuses)
    ours = new_state()
    ours.__class__ = OnCuda
    assert isinstance(choose_step(ours, 0, notes.append), EagerStep)
    assert len(notes) == 1 and notes[0].endswith("could be made: operation not permitted")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_memory_is_flat(optimizer: str, dtype: torch.dtype) -> None:
    ours = new_state(optimizer)
    flat = FlatState(ours.model, ours.average, ours.optimizers, dtype)
    shapes = {name: tuple(value.shape) for name, value in ours.model.named_parameters()}
    flat.load()
    flat.adopt()
    upconvs = {f"{name}.weight" for name, module in ours.model.named_modules() if isinstance(module, UpConv2d)}
    assert len(upconvs) == 5
    end = 0
    for slot, leaf, gradient in zip(flat.slots, flat.leaves, flat.gradients, strict=True):
        weight = ours.model.get_parameter(slot.name)
        assert weight.shape == leaf.shape == gradient.shape == shapes[slot.name]
        assert end <= slot.offset and slot.offset % 64 == 0
        end = slot.offset + slot.size
        for view, buffer in ((weight, flat.weights), (gradient, flat.gradient), (leaf, flat.rounded)):
            if buffer is not None:
                assert view.data_ptr() == buffer.data_ptr() + slot.offset * buffer.element_size()
                assert view.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        if weight.dim() == 4:
            assert all(view.is_contiguous(memory_format=torch.channels_last) for view in (weight, leaf, gradient))
        assert torch.equal(leaf, weight.to(dtype))
    assert {leaf.dtype for leaf in flat.leaves} == {dtype}
    assert {name: tuple(value.shape) for name, value in ours.model.named_parameters()} == shapes
    assert sum(len(stack.slots) for stack in flat.stacks) == (0 if optimizer == "adam" else len(_muon(ours)))
    assert optimizer == "adam" or max(len(stack.slots) for stack in flat.stacks) >= 4  # batched where shapes agree
    for stack in flat.stacks:
        matrices = stack.view(flat.weights)
        for matrix, slot in zip(matrices, stack.slots, strict=True):
            kernel = ours.model.get_parameter(slot.name)
            assert matrix.data_ptr() == kernel.data_ptr()
            rows = kernel.movedim(1 if slot.name in upconvs else 0, 0).flatten(1)  # output channels
            assert matrix.shape == rows.shape
            assert torch.equal(matrix.sort(dim=1).values, rows.sort(dim=1).values)


def _muon(ours: TrainState) -> list[torch.nn.Parameter]:
    return [weight for group in ours.optimizers[1].param_groups for weight in group["params"]]


@pytest.mark.parametrize("precision", DTYPES)
def test_nothing_moves(precision: str) -> None:
    ours = new_state(precision=precision)
    step = GraphedStep(ours, 0, again)
    flat = step._flat

    def addresses() -> list[int]:
        tensors = [*ours.model.parameters(), *ours.average.parameters(), *flat.leaves, *flat.gradients, ours.loss_sum]
        for optimizer in ours.optimizers:
            tensors += [moment for moments in optimizer.state.values() for moment in moments.values()]
        return [tensor.data_ptr() for tensor in tensors]

    before = addresses()
    seen = []
    work = step._replay
    step._replay = lambda: (work(), seen.append((step._stream.batch.data_ptr(), addresses())))  # type: ignore[assignment, func-returns-value]
    losses(ours, step, range(4))
    assert seen == [(step._stream.batch.data_ptr(), before)] * 4
    counts = {float(moments["step"]) for moments in ours.optimizers[0].state.values()}
    assert counts == {4.0}
    covered = torch.zeros_like(flat.weights, dtype=torch.bool)
    for slot in flat.slots:
        slot.view(covered).fill_(True)
    for buffer in (flat.weights, flat.average, flat.exp_avg, flat.gradient):
        assert not buffer[~covered].any()


class _Graphed:
    """Stand-in for `choose_step` that chooses the graphed step also on a CPU."""

    def __call__(self, state: TrainState, step: int, note: Callable[[str], None]) -> Step:
        return GraphedStep(state, step, again)


class _GoesAway(Display):
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, progress: object, loss: float) -> None:
        if progress.step >= self.step:  # type: ignore[attr-defined]
            raise OSError("the machine went away")


@pytest.mark.usefixtures("exact_muon")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("graphed_first", [True, False])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_runs_resume_in_the_other_step(
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    graphed_first: bool,
    precision: str,
) -> None:
    settings = {"optimizer": optimizer, "precision": precision, "steps": 20, "save_every": 7}
    training.run(small_config(photo_folder, tmp_path / "full", **settings))
    cut = small_config(photo_folder, tmp_path / "cut", **settings)
    with monkeypatch.context() as patch:
        if graphed_first:
            patch.setattr(trainer, "choose_step", _Graphed())
        with pytest.raises(OSError, match="went away"):
            training.run(cut, display=_GoesAway(10))
    with monkeypatch.context() as patch:
        if not graphed_first:
            patch.setattr(trainer, "choose_step", _Graphed())
        training.run(cut, resume=True)
    curves = [_logged(folder, "loss") for folder in (tmp_path / "cut", tmp_path / "full")]
    assert len(curves[0]) == 20
    assert_same_losses(*curves, precision)
    errors = [_logged(folder, "error") for folder in (tmp_path / "cut", tmp_path / "full")]
    torch.testing.assert_close(*errors, atol=0, rtol=training_loss(DTYPES[precision], 20)[-1].item())
    full, ended = (Inverter.load(folder).state_dict() for folder in (tmp_path / "full", tmp_path / "cut"))
    assert list(full) == list(ended)
    assert {name: value.stride() for name, value in full.items()} == {n: v.stride() for n, v in ended.items()}


def _logged(folder: Path, what: str) -> torch.Tensor:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return torch.tensor([line[what] for line in lines if what in line])


def test_a_run_in_the_graphed_step_resumes_bit_for_bit(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "choose_step", _Graphed())
    full, cut = (
        small_config(photo_folder, tmp_path / name, optimizer="muon", precision="bfloat16") for name in ("full", "cut")
    )
    training.run(full)
    with pytest.raises(OSError, match="went away"):
        training.run(cut, display=_GoesAway(27))
    training.run(cut, resume=True)
    ends = [(tmp_path / name / checkpoint.CHECKPOINT).read_bytes() for name in ("full", "cut")]
    tensors = [checkpoint.safetensors.torch.load(end) for end in ends]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def test_a_run_may_go_on_on_another_device(tmp_path: Path) -> None:
    configs = [TrainConfig(representation="hog", images=("a",), output="b", device=name) for name in ("cpu", "cuda")]
    assert configs[0].changes(configs[1]) == []


@pytest.mark.gpu
def test_on_a_gpu_learns_as_the_eager_step() -> None:
    """One optimizer and precision, because each takes new kernels: those that use everything."""
    ours, theirs = (new_state("muon", "bfloat16", "cuda", 64) for _ in range(2))
    notes: list[str] = []
    step = choose_step(ours, 0, notes.append)
    assert isinstance(step, GraphedStep), notes
    curves = losses(ours, step, range(50), 64), losses(theirs, EagerStep(theirs), range(50), 64)
    torch.testing.assert_close(*curves, atol=0, rtol=TRAINING_LOSS_GPU)


@pytest.mark.gpu
def test_on_a_gpu_replays_allocate_nothing_and_never_wait() -> None:
    ours = new_state("muon", "bfloat16", "cuda", 64)
    step = GraphedStep(ours, 0, cuda_graph)
    batches = [batch_of(number, 64).pin_memory() for number in range(4)]
    for number in range(10):
        step(batches[number % 4], number)
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    with graphed_step._synchronization_raises():
        for number in range(200):
            step(batches[number % 4], number)
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == (allocated, reserved)
    assert ours.loss_sum.isfinite()


@pytest.mark.gpu
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_on_a_gpu_runs_resume_across_devices(photo_folder: Path, tmp_path: Path, devices: tuple[str, str]) -> None:
    settings = {"optimizer": "muon", "steps": 20, "save_every": 7, "precision": "bfloat16"}
    training.run(small_config(photo_folder, tmp_path / "full", device="cpu", **settings))
    with pytest.raises(OSError, match="went away"):
        training.run(
            small_config(photo_folder, tmp_path / "cut", device=devices[0], **settings),
            display=_GoesAway(10),
        )
    training.run(small_config(photo_folder, tmp_path / "cut", device=devices[1], **settings), resume=True)
    curves = [_logged(folder, "loss") for folder in (tmp_path / "full", tmp_path / "cut")]
    torch.testing.assert_close(*curves, atol=0, rtol=TRAINING_LOSS_GPU)
