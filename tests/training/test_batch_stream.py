"""Test transfers of batches: no copy overwrites memory that is still read, in any order of the queues."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest
import torch

from preimage.pipelines.device_queue import DirectQueue
from preimage.training.streaming import BatchStream


class SlowQueue:
    """Queue that runs its operations only when the test's device selects it."""

    def __init__(self, device: Device) -> None:
        self.work: deque[Callable[[], bool]] = deque()
        self._device = device
        device.queues.append(self)

    def do(self, work: Callable[[], None]) -> None:
        self.work.append(lambda: (work(), True)[1])

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        half = len(target) // 2  # in two parts, between which others may come
        self.do(lambda: target[:half].copy_(source[:half]))
        self.do(lambda: target[half:].copy_(source[half:]))

    def record(self) -> SlowMark:
        mark = SlowMark(self._device)
        self.do(mark.set)
        return mark

    def wait(self, mark: SlowMark) -> None:
        self.work.append(lambda: mark.passed)

    def run_one(self) -> None:
        if self.work and self.work[0]():
            self.work.popleft()


class SlowMark:
    def __init__(self, device: Device) -> None:
        self.passed = False
        self._device = device

    def set(self) -> None:
        self.passed = True

    def synchronize(self) -> None:
        for _ in range(10_000):
            if self.passed:
                return
            self._device.run_some(1)
        raise AssertionError("the host waits for ever")


class Device:
    """Device that interleaves its queues in an order determined by the seed."""

    def __init__(self, seed: int) -> None:
        self.queues: list[SlowQueue] = []
        self._random = random.Random(seed)
        self._bias = self._random.choice([0.05, 0.5, 0.95])

    def run_some(self, most: int) -> None:
        for _ in range(self._random.randrange(most + 1)):
            self.queues[self._random.random() < self._bias].run_one()


def batch_of(step: int) -> torch.Tensor:
    return torch.arange(120).add(step).byte().view(2, 4, 5, 3).permute(0, 3, 1, 2)


def features_of(step: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.full((2, *shape), step + 0.5).cumsum(1)


@pytest.mark.parametrize("shape", [None, (3,), (2, 3, 1)])
@pytest.mark.parametrize("seed", range(15))
def test_every_computation_sees_its_own_batch(seed: int, shape: tuple[int, ...] | None) -> None:
    device = Device(seed)
    main, side = SlowQueue(device), SlowQueue(device)
    stream = BatchStream(batch_of(0), torch.device("cpu"), main, side, shape)
    seen: list[bool] = []

    def look(step: int) -> None:
        right = torch.equal(stream.batch, batch_of(step))
        if shape is not None:
            assert stream.features is not None
            right = right and torch.equal(stream.features, features_of(step, shape))
        seen.append(right and stream.numbers[:2].tolist() == [step, -step])

    for step in range(20):
        stream.send(batch_of(step), [step, -step], None if shape is None else features_of(step, shape))
        for _ in range(3):  # a computation that lasts
            main.do(lambda step=step: look(step))
        device.run_some(12)
    while main.work or side.work:
        device.run_some(5)
    assert seen == [True] * 60


def test_the_next_copy_runs_beside_the_computation() -> None:
    """The copy from the host may start as soon as the computation on the previous batch has started."""
    device = Device(0)
    main, side = SlowQueue(device), SlowQueue(device)
    stream = BatchStream(batch_of(0), torch.device("cpu"), main, side)
    stream.send(batch_of(0), [])
    computed: list[int] = []
    while main.work or side.work:
        device.run_some(5)
    main.do(lambda: computed.append(0))
    stream.send(batch_of(1), [])
    before = len(main.work)
    while side.work:
        side.run_one()
    assert not computed
    assert len(main.work) == before


def test_nothing_moves() -> None:
    stream = BatchStream(batch_of(0), torch.device("cpu"), DirectQueue(), DirectQueue())
    addresses = stream.batch.data_ptr(), stream.numbers.data_ptr()
    batch = batch_of(3)
    stream.send(batch, [1.5])
    wanted = batch.clone()
    batch.zero_()
    assert torch.equal(stream.batch, wanted)
    assert stream.numbers[0] == 1.5
    assert stream.batch.is_contiguous(memory_format=torch.channels_last)
    stream.send(batch, [2.5, 3.5])
    assert (stream.batch.data_ptr(), stream.numbers.data_ptr()) == addresses
    assert not stream.batch.any()
