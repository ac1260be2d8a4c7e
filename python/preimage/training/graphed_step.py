"""The whole optimizer step as one CUDA graph: features, network, gradients, optimizers and average in one launch.

A graph replays the same kernels on the same addresses. So everything that changes from step to step is a tensor that
stays in place (`FlatState`, `BatchStream`), and nothing in the step may ask the device for a value.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from preimage.ops.adam import adam_step
from preimage.training.flat import FlatState
from preimage.training.muon import muon_step
from preimage.training.step import TrainState, average_decay, batch_loss, schedule
from preimage.training.streaming import BatchStream, CudaQueue, DirectQueue, Queue

_WARM_UP = 3

# Takes work and a device, may run the work any number of times, and returns what runs it once more.
Capture = Callable[[Callable[[], None], torch.device], Callable[[], None]]


class GraphedStep:
    """`EagerStep` in fixed memory, captured once and replayed: equal to it up to rounding.

    Features are computed on the device, unless they come with the batches (`TrainState.feature_shape`). The network
    computes with a copy of the weights in its own precision, which the optimizer keeps up to date; gradients are in
    that precision.

    Making it leaves the state as it is, down to the bit, if it raises; else the state's tensors are from then on
    views of flat memory, with the same values.

    Args:
        state: the run.
        step: steps taken so far.
        capture: `cuda_graph`, or another way to repeat work.

    Raises:
        RuntimeError: the representation has no kernel on the device, or the step cannot be captured.
    """

    def __init__(self, state: TrainState, step: int, capture: Capture) -> None:
        self._state = state
        config, device = state.config, state.device
        self._flat = FlatState(state.model, state.average, state.optimizers, state.dtype)
        shape = (config.batch_size, 3, config.side, config.side)
        self._stream = BatchStream(shape, device, *_queues(device), state.feature_shape)
        self._loss_sum = torch.zeros_like(state.loss_sum)
        # The trial runs before the capture see noise, not the first batch: their results are thrown away.
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        given = state.feature_shape
        features = None if given is None else torch.randn(shape[0], *given, generator=generator)
        self._stream.send(noise, self._numbers(step), features)
        self._flat.load()
        self._replay = capture(self._work, device)
        self._flat.load()
        self._flat.adopt()
        state.loss_sum = self._loss_sum.copy_(state.loss_sum)

    def __call__(self, batch: torch.Tensor, step: int, features: torch.Tensor | None = None) -> None:
        self._stream.send(batch, self._numbers(step), features)
        self._state.whole = False
        self._replay()
        self._state.whole = True

    def _numbers(self, step: int) -> tuple[float, ...]:
        """Return what changes from step to step: `adam_step`'s four, and Muon's learning rate."""
        state, share = self._state, schedule(step, self._state.config)
        adam, *muon = state.optimizers
        first, second = adam.defaults["betas"]
        corrections = 1 - first ** (step + 1), 1 - second ** (step + 1)
        rates = [share * optimizer.defaults["lr"] for optimizer in (adam, *muon)]
        return rates[0], *corrections, 1 - average_decay(step, state.config), *rates[1:]

    def _work(self) -> None:
        """Do the step on what lies in the static memory; no synchronization, no address that changes."""
        state, flat = self._state, self._flat
        features = self._stream.features
        if features is None:
            assert state.representation is not None
            with torch.no_grad():
                features = state.representation(self._stream.images)
        loss = batch_loss(state, flat.network, features, self._stream.images)
        gradients = torch.autograd.grad(loss, flat.leaves)
        with torch.no_grad():
            torch._foreach_copy_(flat.gradients, list(gradients))
            norm = torch.linalg.vector_norm(flat.gradient, dtype=torch.float32)
            clip = (state.config.grad_clip / (norm + 1e-6)).clamp(max=1)
            self._move(clip)
            self._loss_sum.add_(loss)

    def _move(self, clip: torch.Tensor) -> None:
        """Move the weights, their average, and the copy that the network computes with."""
        flat, numbers = self._flat, self._stream.numbers
        end, rounded = flat.adam_end, flat.rounded
        adam = self._state.optimizers[0].defaults
        adam_step(
            flat.weights[:end],
            flat.gradient[:end],
            flat.mean[:end],
            flat.square,
            flat.average[:end],
            None if rounded is None else rounded[:end],
            clip,
            numbers,
            adam["betas"],
            adam["eps"],
        )
        flat.steps.add_(1)
        if not flat.stacks:
            return
        for stack in flat.stacks:
            gradient = stack.view(flat.gradient).float() * clip
            muon_step(stack.view(flat.weights), stack.view(flat.mean), gradient, numbers[4])
        flat.average[end:].lerp_(flat.weights[end:], numbers[3])
        if rounded is not None:
            rounded[end:].copy_(flat.weights[end:])


def cuda_graph(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Capture work as a CUDA graph, after some trial runs, and returns its replay.

    The trial runs are when lazily made handles come to be, kernels compile, and cuDNN measures and chooses its own.
    They and the capture share a stream other than the default one, so that what is made for each stream (cuBLAS's
    workspaces) is there before the capture.

    Raises:
        RuntimeError: the work waits for the device, or does something else that a graph cannot hold.
    """
    stream, before = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    measured, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        # The outer stream context brings the stream back even where the end of a failed capture raises.
        with torch.cuda.device(device), torch.cuda.stream(stream):
            stream.wait_stream(before)
            with torch.random.fork_rng([device], device_type="cuda"):
                for _ in range(_WARM_UP):
                    work()
                with _synchronization_raises():
                    work()
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may go on using the device meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
    finally:
        torch.backends.cudnn.benchmark = measured
        before.wait_stream(stream)  # also after a failure: the memory that the trial runs wrote to is given back

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


@contextmanager
def _synchronization_raises() -> Iterator[None]:
    """Find what waits for the device before a capture is spoilt by it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _queues(device: torch.device) -> tuple[Queue, Queue]:
    """Return what computes and what copies."""
    if device.type != "cuda":
        return DirectQueue(), DirectQueue()
    return CudaQueue(torch.cuda.current_stream(device)), CudaQueue(torch.cuda.Stream(device))
