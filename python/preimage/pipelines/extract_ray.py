"""Extract features on a Ray cluster: workers write the shards of a store, which the driver lists in its index."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preimage.io.shards import ShardWriter
from preimage.pipelines.extract_batches import Extraction, device_for_extraction
from preimage.pipelines.extract_shards import Progress, ShardImages, missing_shards, write_shards
from preimage.pipelines.ray_workers import Cluster
from preimage.pipelines.shared_folder import check_running, check_shared, folder_token
from preimage.representations import Representation
from preimage.store import Index, ShardEntry, StoreWriter

if TYPE_CHECKING:
    import torch

    from preimage.io import ImageSource


def device_on_cluster(
    cluster: Cluster, representation: Representation, device: str, size: int | None
) -> torch.device | None:
    """Return the device on which the workers compute features; ``None`` for NumPy arrays, which need no torch.

    Args:
        cluster: Cluster of the workers.
        representation: Representation to compute.
        device: ``"auto"`` (GPUs for networks if the cluster has any), ``"cpu"`` or ``"cuda"``.
        size: Side in pixels of the images; ``None`` for any.

    Raises:
        ValueError: Another device, or one that the cluster does not have.
    """
    gives_gpus = cluster.gives_gpus(device) and not representation.in_workers
    if not gives_gpus or (device == "auto" and representation.computes_arrays):
        return device_for_extraction(representation, "cpu", size)
    (found,) = cluster.map(_DeviceJob(representation, size), [device], gpu=True)
    return found


@dataclasses.dataclass(frozen=True)
class _DeviceJob:
    """Choose the device on a worker, because the driver need not have a GPU."""

    representation: Representation
    size: int | None

    def start(self) -> Callable[[str], torch.device | None]:
        return lambda device: device_for_extraction(self.representation, device, self.size)


def fill_on_cluster(
    cluster: Cluster,
    store: StoreWriter,
    sources: Sequence[ImageSource],
    extraction: Extraction,
    decoder: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Compute and write the missing shards on the workers of a cluster.

    Args:
        cluster: Cluster of the workers.
        store: Store to complete, in a folder that all workers share.
        sources: All listed images, which all workers can read.
        extraction: Settings of the extraction, without a decoder.
        decoder: ``"cpu"`` or ``"gpu"``.
        progress: Called with (images done, total number of images) after each shard.

    Raises:
        ValueError: An image cannot be used, without `skip_bad`; or a worker does not find the folder of the store.
        OSError: The disk is full, or the store cannot be written.
        RuntimeError: Workers died repeatedly with the same shard.
    """
    missing = missing_shards(store.index, sources)
    count = Progress(store.index, progress)
    with folder_token(store.folder) as token:
        job = _ShardJob(token, dataclasses.replace(store.index, shards=()), extraction, decoder)
        on_gpu = extraction.device_type == "cuda"
        with contextlib.closing(cluster.map(job, missing, gpu=on_gpu)) as entries:
            for entry in entries:
                store.add(entry)
                count.advance(len(store.index.positions(entry.number)))
    store.delete_temporary_files()  # of workers that were killed


@dataclasses.dataclass(frozen=True)
class _ShardJob:
    """Compute and write shards of a store.

    Attributes:
        token: File in the folder of the store, which exists as long as the run.
        index: Index of the store, without shards.
        extraction: Settings of the extraction, without a decoder.
        decoder: ``"cpu"`` or ``"gpu"``.
    """

    token: Path
    index: Index
    extraction: Extraction
    decoder: str

    def start(self) -> Callable[[ShardImages], ShardEntry]:
        check_shared(self.token)
        extraction = self.extraction
        if self.decoder == "gpu":
            from preimage.pipelines.gpu_decoding import JpegDecoder

            assert extraction.device is not None
            extraction = dataclasses.replace(extraction, decoder=JpegDecoder(extraction.device))

        def write(shard: ShardImages) -> ShardEntry:
            store = _WorkerStore(self.token, self.index)
            write_shards(store, [shard], extraction, lambda images: None)
            (entry,) = store.index.shards
            return entry

        return write


class _WorkerStore(StoreWriter):
    """Writer of single shards of a store, which leaves its index to the driver."""

    def __init__(self, token: Path, index: Index) -> None:
        super().__init__(token.parent, index)
        self._token = token

    @contextlib.contextmanager
    def shard(self, number: int, source: str = "") -> Iterator[ShardWriter]:
        with super().shard(number, source) as writer:
            yield writer
            check_running(self._token)

    def add(self, entry: ShardEntry) -> None:
        self.index = dataclasses.replace(self.index, shards=(entry,))
