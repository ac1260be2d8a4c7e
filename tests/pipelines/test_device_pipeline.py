"""Test the pipeline of a device with queues that are threads: order, overlap, errors."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from preimage.pipelines import device_pipeline
from preimage.pipelines.device_pipeline import DevicePipeline, HostMemory, Started, host_copy, host_tensor
from thread_queue import threaded_pipeline

BATCHES = [
    [[torch.full((3, 2), 10.0 * batch + row) for row in range(group + 1)] for group in range(2)] for batch in range(9)
]


def doubled(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * images, images.sum(dim=(1, 2))


@pytest.fixture(params=["direct", 0, 1, 2])
def pipeline(request: pytest.FixtureRequest) -> Iterator[DevicePipeline]:
    if request.param == "direct":
        yield DevicePipeline.of(torch.device("cpu"))
    else:
        with threaded_pipeline(request.param) as threaded:
            yield threaded


def test_results_are_those_of_their_batches_in_order(pipeline: DevicePipeline) -> None:
    seen = list(pipeline.results(BATCHES, lambda groups: pipeline.start(groups, doubled)))
    assert len(seen) == 9
    for groups, results in seen:
        for group, (twice, sums) in zip(groups, results, strict=True):
            assert torch.equal(twice, 2 * torch.stack(group))
            assert torch.equal(sums, torch.stack(group).sum(dim=(1, 2)))
    assert [groups is expected for (groups, _), expected in zip(seen, BATCHES, strict=True)] == [True] * 9


def test_batch_without_groups(pipeline: DevicePipeline) -> None:
    assert list(pipeline.results([[]], lambda groups: pipeline.start(groups, doubled))) == [([], [])]


@pytest.mark.parametrize("depth", [1, 3])
def test_number_of_batches_on_their_way_is_bounded(depth: int) -> None:
    begun: list[Started] = []
    with threaded_pipeline(depth=depth) as pipeline:

        def start(groups: list[list[torch.Tensor]]) -> Started:
            begun.append(pipeline.start(groups, doubled))
            return begun[-1]

        for number, _ in enumerate(pipeline.results(BATCHES, start), 1):
            assert len(begun) == min(9, number + depth - 1)


def test_batches_are_uploaded_while_earlier_ones_are_computed() -> None:
    gate = threading.Event()
    with threaded_pipeline() as pipeline:

        def gated(images: torch.Tensor) -> tuple[torch.Tensor]:
            assert gate.wait(60)
            return (images,)

        first, second = (pipeline.start(groups, gated) for groups in BATCHES[:2])
        pipeline.upload.record().synchronize()
        assert len(second.inputs) == 2, "the second batch is on the device"
        assert not first.outputs
        gate.set()
        second.done.synchronize()
    assert torch.equal(second.results[1][0], torch.stack(BATCHES[1][1]))


def test_images_are_kept_until_they_are_copied() -> None:
    """Torch cannot know that views of pinned memory made by NumPy are still read."""
    memory, gate = HostMemory(torch.device("cpu")), threading.Event()
    images = [torch.from_numpy(memory(np.full((4, 5, 3), value, np.uint8))) for value in (1, 2)]
    kept = [weakref.ref(image) for image in images]
    with threaded_pipeline() as pipeline:
        pipeline.upload.run(lambda: gate.wait(60))
        batch = pipeline.start([images], lambda stacked: (stacked + 1,))
        del images
        assert all(image() is not None for image in kept)
        gate.set()
        batch.done.synchronize()
    assert [int(row.float().mean()) for row in batch.results[0][0]] == [2, 3]
    del batch
    assert all(image() is None for image in kept)


@pytest.mark.parametrize("bad", [0, 4, 8])
def test_error_of_a_batch_is_raised_after_the_earlier_results(pipeline: DevicePipeline, bad: int) -> None:
    def failing(images: torch.Tensor) -> tuple[torch.Tensor]:
        if images[0, 0, 0] == 10 * bad:
            raise RuntimeError("out of memory")
        return (images,)

    count = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        for groups, results in pipeline.results(BATCHES, lambda groups: pipeline.start(groups, failing)):
            assert torch.equal(results[0][0], torch.stack(groups[0]))
            count += 1
    assert count == bad


def test_error_of_the_batches_is_raised_after_the_earlier_results(pipeline: DevicePipeline) -> None:
    def batches() -> Iterator[list[list[torch.Tensor]]]:
        yield from BATCHES[:4]
        raise ValueError("a damaged image")

    seen = []
    with pytest.raises(ValueError, match="a damaged image"):
        seen.extend(pipeline.results(batches(), lambda groups: pipeline.start(groups, doubled)))  # extends one by one
    assert len(seen) == 4


def test_leaving_early_waits_for_the_device() -> None:
    begun: list[Started] = []
    with threaded_pipeline() as pipeline:

        def start(groups: list[list[torch.Tensor]]) -> Started:
            begun.append(pipeline.start(groups, doubled))
            return begun[-1]

        results = pipeline.results(BATCHES, start)
        next(results)
        results.close()
        assert [len(batch.results) for batch in begun] == [2, 2, 2], "nothing is on its way any more"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(120, dtype=torch.uint8).view(2, 4, 5, 3).permute(0, 3, 1, 2),
        torch.arange(21.0).view(3, 7),
        torch.empty(0, 7),
    ],
)
def test_copies_in_the_memory_of_the_host_have_the_same_strides(tensor: torch.Tensor) -> None:
    copy = host_copy(tensor, torch.device("cpu"))
    assert torch.equal(copy, tensor)
    assert (copy.stride(), copy.dtype) == (tensor.stride(), tensor.dtype)
    assert not copy.numel() or copy.data_ptr() != tensor.data_ptr()


def test_images_in_the_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_pipeline, "_BLOCK_BYTES", 3000)
    memory, random = HostMemory(torch.device("cpu")), np.random.default_rng(0)
    images = [random.integers(0, 256, (side, side + 1, 3), np.uint8) for side in random.integers(1, 40, 60)]
    copies = [memory(image[:, ::-1]) for image in images]
    with ThreadPoolExecutor(4) as pool:
        copies += pool.map(memory, images)
    expected = [image[:, ::-1] for image in images] + images
    assert all(np.array_equal(copy, image) for copy, image in zip(copies, expected, strict=True))
    assert all(copy.flags.c_contiguous and copy.flags.writeable for copy in copies)


@pytest.mark.gpu
def test_cuda_streams() -> None:
    device = torch.device("cuda")
    assert host_tensor((3,), torch.uint8, device).is_pinned()
    batch = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    assert host_copy(batch, device).is_pinned()
    assert torch.equal(host_copy(batch, device).to(device, non_blocking=True).cpu(), batch)
    assert torch.from_numpy(HostMemory(device)(np.zeros((8, 8, 3), np.uint8))).is_pinned()
    pipeline = DevicePipeline.of(device)
    many = [[[torch.randn(256, 1024) for _ in range(8)]] for _ in range(20)]

    def slow(images: torch.Tensor) -> tuple[torch.Tensor]:
        for _ in range(20):
            images = images @ torch.eye(1024, device=device)
        return (images,)

    for groups, ((result,),) in pipeline.results(many, lambda groups: pipeline.start(groups, slow)):
        assert result.is_pinned()
        torch.testing.assert_close(result, torch.stack(groups[0]), rtol=1e-2, atol=1e-2)
