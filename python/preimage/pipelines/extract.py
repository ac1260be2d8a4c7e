"""Extract features to a feature store. Killing the process loses at most one shard of work."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from preimage.io.arrays import (
    NUMPY_SUFFIXES,
    SUFFIXES,
    check_writable,
    is_array_file,
    move_array_file,
    read_array_file,
)
from preimage.io.arrays.keys import keys_file
from preimage.io.atomic import move_into_place
from preimage.pipelines.convert import suffix_problem, write_as
from preimage.pipelines.extract_batches import Extraction, device_for_extraction
from preimage.pipelines.extract_shards import (
    Progress,
    digest,
    first_difference,
    forget_stale,
    missing_shards,
    write_shards,
)
from preimage.pipelines.image_loading import Images, as_listing, none_usable, resolved_size
from preimage.pipelines.ray_workers import Cluster, connect
from preimage.representations import Representation, create_representation
from preimage.store import FeatureStore, is_single_file, open_writer, remove_store

if TYPE_CHECKING:
    import torch

    from preimage.io import FeatureFile
    from preimage.pipelines.gpu_decoding import BatchDecoder
    from preimage.spec import Spec

_DTYPES = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class ExtractSummary:
    """Summary of an extraction.

    Attributes:
        output: Folder of the store, or the file written.
        bytes: Size of the output.
        spec: Spec of the features.
        images: Number of images in the output.
        skipped: (name, problem) of the skipped images.
        nonfinite_values: Number of NaN or infinite feature values.
        nonfinite_images: Names of the images that have such values.
        resumed: Number of images kept from an earlier, interrupted run.
        seconds: Wall time of this run.
        notes: Sentences about inputs that were not read: links to folders, files of other formats.
    """

    output: Path
    bytes: int
    spec: Spec
    images: int
    skipped: tuple[tuple[str, str], ...]
    nonfinite_values: int
    nonfinite_images: tuple[str, ...]
    resumed: int
    seconds: float
    notes: tuple[str, ...] = ()


def extract(
    representation: Representation | str,
    images: Images,
    output: str | PathLike[str],
    *,
    size: int | None = None,
    dtype: str = "float32",
    convention: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    decoder: str = "cpu",
    skip_bad: bool = False,
    allow_nonfinite: bool = False,
    resume: bool = True,
    shard: tuple[int, int] = (0, 1),
    engine: str = "local",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureFile:
    """Compute the features of images, write them to a feature store and open it.

    After an interruption (kill, Ctrl-C or an error) the same call resumes with the first incomplete shard. The
    resulting store is byte-identical to that of an uninterrupted run.

    Args:
        representation: Representation to compute, or its name.
        images: Path or paths (folders, image files, tar shards), or image sources.
        output: Folder for a `preimage.FeatureStore`; or a file, which replaces an earlier one: with suffix
            ``.safetensors`` a single-file store, ``.npy`` and ``.npz`` plain arrays (the keys of ``F.npy`` are
            written to ``F.keys.txt``), ``.mat`` for MATLAB (v5), ``.h5`` and ``.hdf5`` for HDF5 with the groups of
            hloc. A file is written at the end from a store ``OUTPUT.partial``.
        size: Side in pixels to which images are resized (short side) and center-cropped. ``None`` keeps their sizes,
            unless the representation takes images of one size only.
        dtype: Data type of the stored features, ``"float32"`` or ``"float16"``; MATLAB files take only the first.
        convention: Axis convention of plain arrays, see `preimage.io.arrays.conventions`; ``None`` is ``"matlab"`` for
            ``.mat`` and ``"preimage"`` for the others.
        batch_size: Maximum number of images that are computed at once by a network or on a CUDA device. Batches have
            fewer images if a network would need over a gigabyte for them, or if those of another representation have
            over 48 MiB of pixels and features. ``None`` is 16 for networks and 1024 for other representations.
        device: Device that computes the features: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``, which is CUDA for
            networks if available. Sparse SIFT is always computed on the CPU.
        decoder: ``"cpu"``, or ``"gpu"`` for nvImageCodec, which decodes JPEGs on the CUDA device that computes the
            features. Their pixels differ slightly, so the store records it. Rotated, CMYK and damaged JPEGs and other
            formats are decoded on the CPU.
        skip_bad: Skip and list images that cannot be listed or read or are too small, instead of stopping.
        allow_nonfinite: Keep NaN and infinite features instead of stopping.
        resume: Keep the complete shards of an earlier run; ``False`` starts again.
        shard: (i, n) computes every n-th shard only, starting with number i, for `preimage.store.merge`.
        engine: ``"local"``, or ``"ray"`` for the workers of a Ray cluster. They write to the same store, whose bytes
            are equal (those of a network with equally many threads). The images and the output must be on a file
            system that all nodes share.
        workers: Number of workers on Ray. ``None`` is one for each GPU for features that are computed on GPUs, else one
            for each node. The CPUs are distributed over them.
        progress: Called with (images done, total number of images).

    Returns:
        A `preimage.FeatureStore`, or the features in the file of arrays.

    Raises:
        ValueError: No images, an image that cannot be used (named), non-finite features (counted), options out of
            range, an existing store with other settings, or vectors of images of any size in a NumPy file. Complete
            shards are kept.
        OSError: The disk is full, or the output cannot be written.
        ImportError: `decoder` is ``"gpu"`` without nvImageCodec, or `engine` is ``"ray"`` without Ray.
        RuntimeError: Workers of a Ray cluster died repeatedly.
    """
    if isinstance(representation, str):
        representation = create_representation(representation)
    side = resolved_size(representation, size)
    if side is None and representation.spec.stride is None and Path(output).suffix.lower() in NUMPY_SUFFIXES:
        raise ValueError(
            f"{output}: size is needed, because vectors in NumPy files do not imply the size of their images"
        )
    summary = extract_with_summary(
        representation,
        images,
        output,
        size=size,
        dtype=dtype,
        convention=convention,
        batch_size=batch_size,
        device=device,
        decoder=decoder,
        skip_bad=skip_bad,
        allow_nonfinite=allow_nonfinite,
        resume=resume,
        shard=shard,
        engine=engine,
        workers=workers,
        progress=progress,
    )
    if not is_array_file(output):
        return FeatureStore(output)
    return read_array_file(output, summary.spec, convention, image_size=None if side is None else (side, side))


def extract_with_summary(
    representation: Representation | str,
    images: Images,
    output: str | PathLike[str],
    *,
    size: int | None = None,
    dtype: str = "float32",
    convention: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    decoder: str = "cpu",
    skip_bad: bool = False,
    allow_nonfinite: bool = False,
    resume: bool = True,
    shard: tuple[int, int] = (0, 1),
    engine: str = "local",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExtractSummary:
    """Compute and write features as `extract` does, and return a summary instead of the features."""
    start = time.perf_counter()
    if isinstance(representation, str):
        representation = create_representation(representation)
    path = Path(output)
    _check(path, size, dtype, batch_size, decoder, shard)
    format_note = _check_format(path, representation.spec, dtype, convention)
    listing, side = as_listing(images, skip_bad=skip_bad), resolved_size(representation, size)
    sources = listing.sources
    folder = _store_folder(path)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(connect(engine, workers))
        extraction = _extraction(representation, side, dtype, batch_size, device, skip_bad, decoder, cluster)
        source = {"size": side, "device": extraction.device_type, "images": digest(image.key for image in sources)}
        if decoder != "cpu":
            source["decoder"] = decoder
        store = stack.enter_context(
            open_writer(
                folder,
                representation.spec,
                dtype,
                count=len(sources),
                length=lambda: extraction.shard_length(sources),
                source=source,
                part=shard,
                resume=resume,
                hint=lambda earlier: first_difference(folder, earlier, sources),
            )
        )
        notes = (*format_note, *_device_note(representation, device), *forget_stale(store, sources, skip_bad))
        resumed = sum(entry.images for entry in store.index.shards)
        if cluster is None:
            count = Progress(store.index, progress)
            write_shards(store, missing_shards(store.index, sources), extraction, count.advance)
        else:
            from preimage.pipelines.extract_ray import fill_on_cluster

            fill_on_cluster(cluster, store, sources, extraction, decoder, progress)
        entries = store.index.shards
        skipped = (*listing.skipped, *(one for entry in entries for one in entry.skipped))
        nonfinite = [one for entry in entries for one in entry.nonfinite]
        total = sum(entry.images for entry in entries)
        if not total and store.index.wanted:
            remove_store(folder)
            raise none_usable(skipped)
        _refuse_nonfinite(nonfinite, folder, allow_nonfinite)
        store.finish()
        written = store.bytes
        if folder != path:
            # Written in the store's folder first, so that a kill leaves no stray file elsewhere.
            joined = folder / f".preimage-joined{path.suffix.lower()}"
            try:
                write_as(FeatureStore(folder), joined, dtype=dtype, convention=convention)
                (move_array_file if is_array_file(path) else move_into_place)(joined, path)
            finally:
                for left in (joined, keys_file(joined)):
                    with contextlib.suppress(OSError):  # the first error is the one to report
                        left.unlink(missing_ok=True)
            remove_store(folder)
    return ExtractSummary(
        output=path,
        bytes=written if folder == path else path.stat().st_size,
        spec=representation.spec,
        images=total,
        skipped=skipped,
        nonfinite_values=sum(count for _, count in nonfinite),
        nonfinite_images=tuple(name for name, _ in nonfinite),
        resumed=resumed,
        seconds=time.perf_counter() - start,
        notes=(*notes, *listing.notes),
    )


def _check(
    output: Path, size: int | None, dtype: str, batch_size: int | None, decoder: str, shard: tuple[int, int]
) -> None:
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be {' or '.join(_DTYPES)}, got {dtype!r}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if decoder not in ("cpu", "gpu"):
        raise ValueError(f"decoder must be cpu or gpu, got {decoder!r}")
    if shard != (0, 1) and _store_folder(output) != output:
        raise ValueError(f"{output}: with shard={shard} the output must be a folder, to be merged later")
    if output.exists() and _store_folder(output) == output and not output.is_dir():
        raise ValueError(f"{output} is a file, and a feature store is a folder: choose another name")
    if output.exists() and _store_folder(output) != output and not output.is_file():
        raise ValueError(f"{output} is not a plain file and cannot be written to")


def _store_folder(output: Path) -> Path:
    """Return the folder of the store from which the output is made; the output itself if it is a folder."""
    if not is_array_file(output) and not is_single_file(output):
        return output
    target = Path(os.path.realpath(output))  # on the disk of the output, for an atomic rename
    return target.with_name(target.name + ".partial")


def _check_format(output: Path, spec: Spec, dtype: str, convention: str | None) -> tuple[str, ...]:
    """Check that the output can be written in its format; return a note if its suffix suggests another format."""
    if is_array_file(output):
        check_writable(output, spec, dtype, convention)
        return ()
    if convention is not None:
        raise ValueError(f"{output}: convention applies to {', '.join(SUFFIXES)} only, not to a feature store")
    problem = suffix_problem(output)
    return () if problem is None else (f"{problem}, so this is a folder with a feature store",)


def _extraction(
    representation: Representation,
    size: int | None,
    dtype: str,
    batch_size: int | None,
    device: str,
    skip_bad: bool,
    decoder: str,
    cluster: Cluster | None,
) -> Extraction:
    """Return the settings of the extraction; on a cluster without the decoder, which each worker creates."""
    if cluster is None:
        resolved = device_for_extraction(representation, device, size)
    else:
        from preimage.pipelines.extract_ray import device_on_cluster

        resolved = device_on_cluster(cluster, representation, device, size)
    gpu_decoder = None
    if decoder == "gpu" and cluster is None:
        gpu_decoder = _gpu_decoder(resolved)
    elif decoder == "gpu":
        _check_cuda(resolved)
    return Extraction(representation, size, dtype, batch_size, resolved, skip_bad, gpu_decoder)


def _gpu_decoder(device: torch.device | None) -> BatchDecoder:
    from preimage.pipelines.gpu_decoding import JpegDecoder

    return JpegDecoder(_check_cuda(device))


def _check_cuda(device: torch.device | None) -> torch.device:
    if device is None or device.type != "cuda":
        raise ValueError(
            "decoder 'gpu' needs a representation that is computed on a CUDA device (device='cuda'), got the CPU"
        )
    return device


def _device_note(representation: Representation, device: str) -> tuple[str, ...]:
    """Return a note if the features are computed on the CPU although another device was requested."""
    if device in ("auto", "cpu") or not representation.in_workers:
        return ()
    return (
        f"{representation.name} is computed on the CPU, not on {device}: it has no implementation for other devices",
    )


def _refuse_nonfinite(nonfinite: Sequence[tuple[str, int]], folder: Path, allowed: bool) -> None:
    if nonfinite and not allowed:
        names = ", ".join(name for name, _ in nonfinite[:3]) + (", ..." if len(nonfinite) > 3 else "")
        raise ValueError(
            f"{sum(count for _, count in nonfinite)} feature values of {len(nonfinite)} images are NaN or infinite "
            f"({names}). The shards are kept in {folder}: --allow-nonfinite accepts them"
        )
