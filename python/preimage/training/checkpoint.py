"""Save and restore checkpoints: the complete state of a run in one file, from which it resumes bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import nn

from preimage.errors import FileFormatError, is_out_of_memory, parse_json, reader_errors
from preimage.io.atomic import atomic_write
from preimage.io.checksum import CHECKSUM, ZEROS, check_file, write_checksum
from preimage.old_names import CHECKPOINT_TENSORS, PROGRESS, renamed
from preimage.spec import Spec
from preimage.training.config import TrainConfig
from preimage.training.split import ImageList

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "preimage-checkpoint"

_VERSION = 5
_CHECKSUM_VERSION = 5  # first version with a checksum
_MIN_VERSION = 3  # oldest readable version, of preimage 0.1, with other names
_IMAGES = "images"  # name of the tensor that contains the list of images as UTF-8
_BROKEN = (safetensors.SafetensorError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step: Number of optimizer steps done.
        seconds: Training time, summed over resumptions.
        waited: Part of that time in which the next batch was not ready.
        loss_sum, loss_count: Sum and number of the losses since the last log line.
        step_finished: Whether the log line and validation that are due after `step` have been completed.
        error: Last normalized error on the validation images.
        mean_image_error: Normalized error of the validation images' mean image.
    """

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    step_finished: bool = True
    error: float | None = None
    mean_image_error: float | None = None


class Snapshot(NamedTuple):
    """Contents of a checkpoint in the host's memory, independent of the run."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


def snapshot(
    config_json: str,
    progress: Progress,
    spec: Spec,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    images: ImageList,
) -> Snapshot:
    """Return a copy of the complete state of a run; the names of the modules are the prefixes of their tensors."""
    tensors = {f"{prefix}.{name}": value for prefix, one in modules.items() for name, value in one.state_dict().items()}
    for which, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{index}.{name}": value for name, value in state.items()}
    text = bytearray(images.to_json().encode())
    tensors[_IMAGES] = torch.frombuffer(text, dtype=torch.uint8)
    metadata = {
        "format": FORMAT,
        "format_version": str(_VERSION),
        "config": config_json,
        "spec": spec.to_json(),
        "progress": json.dumps(dataclasses.asdict(progress)),
    }
    copies = {
        name: torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda) for name, value in tensors.items()
    }
    for name, value in tensors.items():
        copies[name].copy_(value.detach(), non_blocking=True)
    for device in {value.device for value in tensors.values() if value.is_cuda}:
        torch.cuda.synchronize(device)
    return Snapshot(copies, metadata)


def write(path: Path, contents: Snapshot) -> None:
    """Write a checkpoint atomically, replacing the last one."""
    data = safetensors.torch.save(contents.tensors, contents.metadata | {CHECKSUM: ZEROS})
    with atomic_write(path) as file:
        file.write(data)
        write_checksum(file)


class CheckpointWriter:
    """Write checkpoints in a thread, one at a time, while the run continues.

    Args:
        path: The file.
        step: Step of the checkpoint that it contains, if any.

    Attributes:
        step: Step of the last complete checkpoint.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.step = step
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def start(self, contents: Snapshot, step: int) -> None:
        """Start to write a checkpoint, after waiting for the previous one, whose error is raised."""
        self.wait()
        self._pending = self._pool.submit(self._write, contents, step)

    def _write(self, contents: Snapshot, step: int) -> None:
        write(self._path, contents)
        self.step = step

    def poll(self) -> None:
        """Raise the error of a checkpoint that could not be written, without waiting for one in progress."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all checkpoints are complete, or raise the error of one that could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait and end the thread."""
        self._pool.shutdown()
        self.wait()


def read_images(path: Path) -> ImageList:
    """Return the list of images in a checkpoint."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return ImageList.from_json(file.get_tensor(_IMAGES).numpy().tobytes())
    except _BROKEN as error:
        raise FileFormatError(path, f"its list of images is damaged: {error}") from error


def read_spec(path: Path) -> Spec:
    """Return the spec in a checkpoint."""
    with reader_errors(path, _BROKEN), safetensors.safe_open(path, "pt") as file:
        return Spec.from_json(file.metadata()["spec"])


def read_header(path: Path) -> tuple[TrainConfig, Progress]:
    """Compare a checkpoint with its checksum, if its version has one, and return the settings and progress.

    Raises:
        FileFormatError: The file is damaged, not a checkpoint, or of a version that cannot be read.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise FileFormatError(path, "is not a checkpoint of preimage")
        if (version := int(metadata.get("format_version", "1"))) > _VERSION:
            raise FileFormatError(
                path, f"format version {version} is newer than {_VERSION}: update preimage to read it"
            )
        if version < _MIN_VERSION:
            raise FileFormatError(
                path,
                f"format version {version} stores up-convolutions in another orientation: start a new run from the "
                "inverter in its folder, which `init` accepts",
            )
        check_file(path, required=version >= _CHECKSUM_VERSION)
        progress = Progress(**renamed(parse_json(metadata["progress"]), PROGRESS))
        config = metadata["config"]
    except _BROKEN as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(path, f"is not a checkpoint of preimage: {error}") from error
    try:
        return TrainConfig.from_json(config), progress
    except (AttributeError, TypeError, ValueError) as error:
        raise FileFormatError(path, f"contains settings that this version does not have: {error}") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in a checkpoint, by their present names.

    Raises:
        FileFormatError: The file is damaged.
    """
    with reader_errors(path, (safetensors.SafetensorError,)):
        return {_present_name(name): value for name, value in safetensors.torch.load_file(path).items()}


def restore(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Load the weights, their moving average and the optimizers' state from a checkpoint; modules as in `snapshot`.

    Args:
        path: The file.
        modules: Modules by the prefix of their tensors.
        optimizers: The optimizers.
        tensors: The result of `read_tensors`, where another process has read the file.

    Raises:
        FileFormatError: The file is damaged, or contains the state of another network.
    """
    try:
        _restore(read_tensors(path) if tensors is None else tensors, modules, optimizers)
    except _BROKEN as error:
        if isinstance(error, FileFormatError) or is_out_of_memory(error):
            raise
        raise FileFormatError(path, f"does not fit the run: {error}") from error


def _restore(
    tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    for which, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{which}."):
                index, moment = name.split(".")[2:]
                states.setdefault(int(index), {})[moment] = value
        _check_states(optimizer, states)
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_states(optimizer: torch.optim.Optimizer, states: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
    """Raise ``ValueError`` for states that do not fit the parameters: optimizers would fail in the next step."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if len({frozenset(state) for state in states.values()}) > 1:
        raise ValueError("the states of an optimizer have different tensors")
    for index, state in states.items():
        if not 0 <= index < len(weights):
            raise ValueError(f"the state of parameter {index} of {len(weights)}")
        for name, value in state.items():
            if value.dim() and value.shape != weights[index].shape:
                raise ValueError(f"{name} of parameter {index} has shape {tuple(value.shape)}")


def _present_name(name: str) -> str:
    """Return the present name of a tensor in a checkpoint, which version 0.1 may have written."""
    first, dot, rest = name.partition(".")
    return CHECKPOINT_TENSORS.get(first, first) + dot + rest
