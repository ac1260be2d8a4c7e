"""Invert features and keypoints in files, and write the images to folders."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.inverters import resolve_device
from preimage.io import FeatureFile, is_keypoint_file, read_keypoints
from preimage.io.arrays import is_array_file
from preimage.io.shards import MAX_SPEC_CHARACTERS, parse_spec
from preimage.pipelines.image_writer import file_names, output_folder
from preimage.pipelines.invert_batches import Inversion, Size, index_ranges
from preimage.pipelines.invert_features import invert_features, open_features
from preimage.pipelines.invert_keypoints import KeypointOptions, invert_keypoints
from preimage.pipelines.inverter_choice import InverterChoice, fitting_inverter, named_inverter
from preimage.pipelines.ray_workers import connect
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sampling import Sampling
from preimage.spec import Spec


@dataclasses.dataclass(frozen=True)
class InvertSummary:
    """Summary of an inversion.

    Attributes:
        output: Folder of the images.
        inverter: Name or folder of the inverter.
        images: Number of images inverted, one for each key.
        seconds: Wall time.
        empty: Number of images without keypoints, whose reconstructions show nothing.
        skipped: (key, problem) of the skipped images.
        notes: Sentences about keypoints that were dropped or look wrong.
        samples: Number of samples written beside each image.
        colored: Number of keypoints whose color was used.
    """

    output: Path
    inverter: str
    images: int
    seconds: float
    empty: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    samples: int = 0
    colored: int = 0


def invert(
    features: str | PathLike[str],
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    spec: Spec | str | PathLike[str] | None = None,
    convention: str | None = None,
    variables: Sequence[str] | None = None,
    size: Size | None = None,
    normalization: str | None = None,
    keypoint_format: str | None = None,
    max_side: int | None = None,
    model: str | PathLike[str] | None = None,
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "float32",
    samples: int = 0,
    seed: int = 0,
    spread: float = 1.0,
    skip_bad: bool = False,
    shard: tuple[int, int] = (0, 1),
    engine: str = "local",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> InvertSummary:
    """Reconstruct each image of a feature store or keypoint file as ``OUTPUT/<key>.png``.

    With `samples`, further images that the features allow are written beside it, as ``<key>.sample-1.png``,
    ``<key>.sample-2.png``, ... From two samples on, ``<key>.deviation.png`` is their standard deviation in each pixel
    (the root mean square of the three channels), a gray image: black where they agree, because the features determine
    the image there, and white for 0.5 and more, where 1 is the range from black to white.

    Args:
        features: Feature store (folder or file); arrays in an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file;
            or SIFT keypoints in a format of `preimage.read_keypoints`.
        output: Folder for the images, created if needed; images of the same names are replaced.
        inverter: Inverter, its folder, or the name of a pretrained one; ``None`` is the pretrained inverter with the
            spec of the features, for keypoints one for sparse SIFT, with color if the keypoints have colors.
        spec: Spec of plain arrays, or a JSON file that contains it. ``None`` is the inverter's spec, if that is one of
            user-provided features or of a layer of a network. It must equal the spec in the file, if the file contains
            one.
        convention: Axis convention of plain arrays: ``"preimage"``, ``"matlab"``, ``"matlab-transposed"`` or
            ``"cyvlfeat"``, see `preimage.io.arrays.conventions`.
        variables: Variables to read of a MATLAB file of plain arrays; ``None`` reads all.
        size: Size (H, W) in pixels of the images of a keypoint file that does not contain it.
        normalization: Normalization of keypoint descriptors, see `preimage.read_keypoints`.
        keypoint_format: Format of a keypoint file, see `preimage.read_keypoints`; ``None`` recognizes it by the suffix
            and the first bytes.
        max_side: Maximum side in pixels of images of a keypoint file; larger ones are scaled down.
        model: Folder of the COLMAP model of a COLMAP database or a file of hloc, see `preimage.read_keypoints`: its
            points contain the colors of keypoints.
        batch_size: Number of images at once; fewer for images so large that a batch would need over a gigabyte.
        device: Device of the inverter: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        precision: Data type in which the inverter computes: ``"float32"``, ``"bfloat16"``, or ``"auto"`` for bfloat16
            where the device has instructions for it. With bfloat16 the images differ slightly.
        samples: Number of samples to draw for each image, see `Inverter.sample`; the inverter must have a sampler.
        seed: Seed of the samples. A sample depends on the seed, its number and the index of the image in the file, but
            (up to rounding) not on the batch size, the shards, the engine or the device.
        spread: Factor of the noise of the samples: 1 for images that differ as much as the photographs with such
            features do, less for more similar ones.
        skip_bad: Skip and list images whose features or keypoints cannot be read or inverted, instead of stopping.
        shard: (i, n) inverts only every n-th range of 8 · `batch_size` consecutive images, starting with range i, so
            that n processes together write what a single one would, to one folder. Not for keypoint files.
        engine: ``"local"``, or ``"ray"`` for the workers of a Ray cluster, which write the same images (with equally
            many threads). The features and the output must be on a file system that all nodes share. Not for keypoint
            files.
        workers: Number of workers on Ray. ``None`` is one for each GPU, or one for each node of a cluster without GPUs.
            The CPUs are distributed over them.
        progress: Called with (images done, total number of images).

    Raises:
        ValueError: Nothing to invert, keypoints outside their image, no spec for plain arrays, no size for
            keypoints, an inverter for other features (the message names the fields that differ), a key that would be
            written outside the folder, keypoint options for another file, an unknown device, more than 1000 samples, a
            negative seed, a negative or infinite spread, or samples of an inverter that cannot sample.
        LookupError: There is no pretrained inverter for these features.
        FileFormatError: The file is damaged or of another format.
        ImportError: `engine` is ``"ray"`` without Ray.
        RuntimeError: Workers of a Ray cluster died repeatedly.
    """
    start = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n, got {shard}")
    options = KeypointOptions(size, normalization, keypoint_format, max_side, model)
    sampling = Sampling(samples, seed, spread)
    inversion = Inversion(output_folder(output), skip_bad, batch_size, precision, progress, sampling)
    if isinstance(spec, str | PathLike):
        spec = read_spec(spec)
    keypoints = _is_keypoints(features, spec, convention, variables, options)
    if keypoints and (shard != (0, 1) or engine != "local" or workers is not None):
        raise ValueError(f"{os.fspath(features)} contains keypoints: shard, engine and workers apply to features only")
    if keypoints:
        name = invert_keypoints(features, options, inverter, resolve_device(device), inversion)
    else:
        chosen = named_inverter(inverter)[0] if inverter is not None and is_array_file(features) else None
        opening = functools.partial(open_features, os.fspath(features), spec, convention, chosen, variables)
        name = _invert_features(opening, inverter, device, shard, engine, workers, inversion)
    seconds = time.perf_counter() - start
    return InvertSummary(
        output=inversion.folder,
        inverter=name,
        images=inversion.images,
        seconds=seconds,
        empty=inversion.empty,
        skipped=tuple(inversion.skipped),
        notes=inversion.notes(),
        samples=samples,
        colored=inversion.colored,
    )


def read_spec(path: str | PathLike[str]) -> Spec:
    """Read a spec from a JSON file; `FileFormatError` for anything else."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return parse_spec(file.read(MAX_SPEC_CHARACTERS + 1))
    except ValueError as error:
        raise FileFormatError(path, f"is not a spec: {error}") from error


def _invert_features(
    opening: Callable[[], FeatureFile],
    inverter: InverterChoice,
    device: str,
    shard: tuple[int, int],
    engine: str,
    workers: int | None,
    inversion: Inversion,
) -> str:
    """Invert the features that a function opens; return the name of the inverter."""
    file = opening()
    if not len(file):
        raise ValueError(f"{file.path} contains no images: nothing to invert")
    network, name = fitting_inverter(inverter, file.spec, os.fspath(file.path))
    if inversion.sampling.count:
        network.check_can_sample()
    ranges = index_ranges(len(file), inversion.batch_size)[shard[0] :: shard[1]]
    if engine != "local" or shard != (0, 1):
        file_names(list(file), inversion.sampling)  # of all images, also of those that other processes write
    with connect(engine, workers) as cluster:
        if cluster is None:
            invert_features(file, ranges, Reconstructor(None, network, resolve_device(device)), inversion)
        else:
            from preimage.pipelines.invert_ray import invert_on_cluster

            invert_on_cluster(cluster, opening, ranges, network, device, inversion)
    inversion.remark_old_samples([file.key(index) for indices in ranges for index in indices])
    if not inversion.images and inversion.skipped:
        raise ValueError(
            f"none of the {inversion.total} images could be inverted; the first: {inversion.skipped[0][1]}"
        )
    return name


def _is_keypoints(
    path: str | PathLike[str],
    spec: Spec | None,
    convention: str | None,
    variables: Sequence[str] | None,
    options: KeypointOptions,
) -> bool:
    """Return whether a file contains keypoints; ``ValueError`` if the options are for another file."""
    for_keypoints = options != KeypointOptions()
    if spec is not None or convention is not None or variables is not None:
        if for_keypoints:
            raise ValueError(
                "spec, convention and variables are for plain arrays, the others for keypoints: not both at once"
            )
        if not is_array_file(path) and is_keypoint_file(path):
            raise ValueError(
                f"{os.fspath(path)} contains keypoints, not plain arrays: omit representation, spec and convention"
            )
        return False
    if options.format is not None or is_keypoint_file(path):
        return True
    if for_keypoints:
        try:
            read_keypoints(path)
        except ValueError as error:
            raise ValueError(
                f"{error}. size, normalization, max_side and model are for keypoint files: omit them, or pass the "
                "format of the keypoint file (--keypoint-format)"
            ) from error
    return for_keypoints
