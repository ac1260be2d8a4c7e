"""Invert feature stores on a Ray cluster: workers write the images of ranges of the features."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from preimage.inverters import Inverter, resolve_device
from preimage.io import FeatureFile
from preimage.io.folders import make_folders
from preimage.pipelines.image_loading import Skipped
from preimage.pipelines.invert_batches import Inversion
from preimage.pipelines.invert_features import invert_features
from preimage.pipelines.ray_workers import Cluster
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.shared_folder import check_shared, folder_token


def invert_on_cluster(
    cluster: Cluster,
    opening: Callable[[], FeatureFile],
    ranges: Sequence[range],
    inverter: Inverter,
    device: str,
    inversion: Inversion,
) -> None:
    """Invert features on the workers of a cluster.

    Args:
        cluster: Cluster of the workers.
        opening: Function that opens the features on a worker.
        ranges: Indices of the images, in ranges that are inverted independently, see `index_ranges`.
        inverter: Inverter.
        device: ``"auto"`` (GPUs if the cluster has any), ``"cpu"`` or ``"cuda"``.
        inversion: Settings; the numbers of images are added to its results.

    Raises:
        ValueError: Features cannot be inverted, without `skip_bad`; an unknown device or precision; or a worker does
            not find the folder of the images.
        RuntimeError: Workers died repeatedly at the same images.
    """
    gpu = cluster.gives_gpus(device)
    inversion.total = sum(map(len, ranges))
    make_folders(inversion.folder)
    skipped: dict[int, Skipped] = {}  # by the first index of the range
    with folder_token(inversion.folder) as token:
        job = _RangeJob(token, opening, inverter, "cuda" if gpu else "cpu", inversion.restarted())
        with contextlib.closing(cluster.map(job, ranges, gpu=gpu)) as results:
            for first, images, skipped[first] in results:
                inversion.add(images, skipped[first])
    inversion.skipped = [one for _, found in sorted(skipped.items()) for one in found]


@dataclasses.dataclass(frozen=True)
class _RangeJob:
    """Invert ranges of images.

    Attributes:
        token: File in the folder of the images.
        opening: Function that opens the features.
        inverter: Inverter.
        device: Device of the inverter.
        inversion: Settings.
    """

    token: Path
    opening: Callable[[], FeatureFile]
    inverter: Inverter
    device: str
    inversion: Inversion

    def start(self) -> Callable[[range], tuple[int, int, Skipped]]:
        check_shared(self.token)
        file = self.opening()
        reconstructor = Reconstructor(None, self.inverter, resolve_device(self.device))

        def invert(indices: range) -> tuple[int, int, Skipped]:
            inversion = self.inversion.restarted()
            invert_features(file, [indices], reconstructor, inversion)
            return indices.start, inversion.images, inversion.skipped

        return invert
