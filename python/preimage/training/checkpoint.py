"""Checkpoints: everything a run needs to go on bit for bit, in one file that is whole or absent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.io.atomic import atomic_write
from preimage.spec import Spec
from preimage.training.images import ImageList

FORMAT = "preimage-checkpoint"
_VERSION = 3
_IMAGES = "images"  # the tensor with the list of images, as UTF-8


@dataclasses.dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        seconds: training time so far, over all resumptions.
        waited: of that, seconds in which the next batch was not ready yet.
        loss_sum, loss_count: of the steps since the last logged line.
        settled: what was due after `step` (a logged line, a validation) has been done.
        error: last normalized error on the held-out images.
        mean_image_error: the same of those images' mean image.
    """

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    settled: bool = True
    error: float | None = None
    mean_image_error: float | None = None


def save(
    path: Path,
    config_json: str,
    progress: Progress,
    model: Inverter,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    images: ImageList,
) -> None:
    """Write the checkpoint in place of the last one, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for which, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{index}.{name}": value for name, value in state.items()}
    text = bytearray(images.to_json().encode())
    tensors[_IMAGES] = torch.frombuffer(text, dtype=torch.uint8)
    metadata = {
        "format": FORMAT,
        "format_version": str(_VERSION),
        "config": config_json,
        "spec": model.spec.to_json(),
        "progress": json.dumps(dataclasses.asdict(progress)),
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = safetensors.torch.save(plain, metadata)
    with atomic_write(path) as file:
        file.write(data)


def read_images(path: Path) -> ImageList:
    """Return the images of a checkpoint's run."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return ImageList.from_json(file.get_tensor(_IMAGES).numpy().tobytes())
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(path, f"its list of images is damaged: {error}") from error


def read_spec(path: Path) -> Spec:
    """Return the spec of the features that a checkpoint's run inverts."""
    with safetensors.safe_open(path, "pt") as file:
        return Spec.from_json(file.metadata()["spec"])


def read_header(path: Path) -> tuple[str, Progress]:
    """Return the config's JSON and the progress of a checkpoint; `FileFormatError` for another file or version."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise FileFormatError(path, "is not a checkpoint of preimage")
        if (version := int(metadata.get("format_version", "1"))) > _VERSION:
            raise FileFormatError(
                path, f"format version {version} is newer than {_VERSION}: update preimage to read it"
            )
        if version < _VERSION:
            raise FileFormatError(
                path,
                f"format version {version} has the up-convolutions in another orientation: start a new run from this "
                "one's inverter, with its folder as `init`",
            )
        return metadata["config"], Progress(**json.loads(metadata["progress"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(path, f"is not a checkpoint of preimage: {error}") from error


def restore(path: Path, model: nn.Module, average: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put the weights, their average and the optimizers' moments back."""
    tensors = safetensors.torch.load_file(path)
    for module, prefix in ((model, "model."), (average, "average.")):
        module.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    for which, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{which}."):
                index, moment = name.split(".")[2:]
                states.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
