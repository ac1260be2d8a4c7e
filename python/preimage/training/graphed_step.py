"""The optimizer step as one CUDA graph: features, network, gradients, optimizers and moving average in one launch.

A graph replays the same kernels on the same addresses. Therefore everything that changes from step to step is a tensor
at a fixed address (`FlatState`, `BatchStream`), and nothing in the step may read a value back from the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from preimage.ops.adam import adam_step
from preimage.pipelines.device_queue import CudaQueue, DirectQueue, Queue
from preimage.training.flat_buffers import FlatState
from preimage.training.muon import muon_step
from preimage.training.step import TrainState, average_decay, batch_loss, schedule
from preimage.training.streaming import BatchStream

_WARM_UP = 3

# Captures a function on a device, possibly calling it several times, and returns a function that repeats it.
Capture = Callable[[Callable[[], None], torch.device], Callable[[], None]]


class GraphedStep:
    """Training step in fixed memory, captured once and replayed; equal to `EagerStep` up to rounding.

    Features are computed on the device, unless the batches contain them (`TrainState.feature_shape`). The network
    computes with a copy of the weights in its precision, which the optimizer keeps up to date; gradients have that
    precision too.

    Constructing it does not change the state's values. The state's tensors become views of flat memory, unless the
    construction raises an error.

    Args:
        state: State of the run.
        step: Number of steps done before.
        capture: `cuda_graph`, or another function that captures work.

    Raises:
        RuntimeError: The representation has no kernel for the device, or the step cannot be captured.
    """

    def __init__(self, state: TrainState, step: int, capture: Capture) -> None:
        self._state = state
        config, device, store = state.config, state.device, state.store
        self._flat = FlatState(state.model, state.average, state.optimizers, state.dtype)
        # The warm-up before the capture runs on noise or any crops; its results are discarded.
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(
            0, 256, (config.batch_size, config.side, config.side, 3), dtype=torch.uint8, generator=generator
        ).permute(0, 3, 1, 2)
        example = noise if store is None else store.example(config.batch_size)
        feature_shape = state.feature_shape
        features = (
            None if feature_shape is None else torch.randn(config.batch_size, *feature_shape, generator=generator)
        )
        self._stream = BatchStream(example, device, *_queues(device), feature_shape)
        self._loss_sum = torch.zeros_like(state.loss_sum)
        self._stream.send(example, self._numbers(step, 0.0), features)
        self._flat.load()
        self._replay = capture(self._work, device)
        self._flat.load()
        self._flat.adopt()
        state.loss_sum = self._loss_sum.copy_(state.loss_sum)

    def __call__(
        self, batch: torch.Tensor, step: int, features: torch.Tensor | None = None, *, seconds: float = 0.0
    ) -> None:
        self._stream.send(batch, self._numbers(step, seconds), features)
        self._state.consistent = False
        self._replay()
        self._state.consistent = True

    def _numbers(self, step: int, seconds: float) -> tuple[float, ...]:
        """Return the scalars that change from step to step: `adam_step`'s four, and Muon's learning rate."""
        state, scale = self._state, schedule(step, self._state.config, seconds)
        adam, *muon = state.optimizers
        first, second = adam.defaults["betas"]
        corrections = 1 - first ** (step + 1), 1 - second ** (step + 1)
        rates = [scale * optimizer.defaults["lr"] for optimizer in (adam, *muon)]
        return rates[0], *corrections, 1 - average_decay(step, state.config), *rates[1:]

    def _work(self) -> None:
        """Run the step on the batch in fixed memory, without synchronization."""
        state, flat = self._state, self._flat
        images, features = self._stream.batch, self._stream.features
        if state.store is not None:
            images = state.store.cut(images)
        if features is None:
            assert state.representation is not None
            with torch.no_grad():
                features = state.representation(images)
        loss = batch_loss(state, flat.network, features, images)
        gradients = torch.autograd.grad(loss, flat.leaves)
        with torch.no_grad():
            torch._foreach_copy_(flat.gradients, list(gradients))
            norm = torch.linalg.vector_norm(flat.gradient, dtype=torch.float32)
            clip = (state.config.grad_clip / (norm + 1e-6)).clamp(max=1)
            self._update(clip)
            self._loss_sum.add_(loss)

    def _update(self, clip: torch.Tensor) -> None:
        """Update the weights, their average, and the copy that the network computes with."""
        flat, numbers = self._flat, self._stream.numbers
        end, rounded = flat.adam_end, flat.rounded
        adam = self._state.optimizers[0].defaults
        adam_step(
            flat.weights[:end],
            flat.gradient[:end],
            flat.exp_avg[:end],
            flat.exp_avg_sq,
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
            muon_step(stack.view(flat.weights), stack.view(flat.exp_avg), gradient, numbers[4])
        flat.average[end:].lerp_(flat.weights[end:], numbers[3])
        if rounded is not None:
            rounded[end:].copy_(flat.weights[end:])


def cuda_graph(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Capture work as a CUDA graph, after a warm-up, and return its replay.

    During the warm-up handles are created, kernels are compiled, and cuDNN chooses its algorithms. Warm-up and capture
    share a stream other than the default one, so that resources of the stream (cuBLAS's workspaces) exist before the
    capture.

    Raises:
        RuntimeError: The work synchronizes with the device, or does something else that a graph does not support.
    """
    stream, before = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    try:
        # The outer stream context restores the stream even where the end of a failed capture raises.
        with torch.cuda.device(device), torch.cuda.stream(stream):
            stream.wait_stream(before)
            with torch.random.fork_rng([device], device_type="cuda"):
                for _ in range(_WARM_UP):
                    work()
                with _synchronization_raises():
                    work()
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may use the device during the capture.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
    finally:
        before.wait_stream(stream)  # also after a failure: the memory that the warm-up wrote to is freed

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


@contextmanager
def _synchronization_raises() -> Iterator[None]:
    """Raise an error where work synchronizes with the device, with a better message than a failed capture has."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _queues(device: torch.device) -> tuple[Queue, Queue]:
    """Return the queue that computes and the queue that copies."""
    if device.type != "cuda":
        return DirectQueue(), DirectQueue()
    return CudaQueue(torch.cuda.current_stream(device)), CudaQueue(torch.cuda.Stream(device))
