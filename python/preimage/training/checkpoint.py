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

FORMAT = "preimage-checkpoint"


@dataclasses.dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        seconds: training time so far, over all resumptions.
        waited: of that, seconds in which the next batch was not ready yet.
        loss_sum, loss_count: of the steps since the last logged line.
        error: last normalised error on the held-out images.
        mean_image_error: the same of those images' mean image.
    """

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    error: float | None = None
    mean_image_error: float | None = None


def save(
    path: Path,
    config_json: str,
    progress: Progress,
    model: Inverter,
    average: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
) -> None:
    """Writes the checkpoint in place of the last one, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for which, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{which}.{index}.{name}": value for name, value in state.items()}
    metadata = {
        "format": FORMAT,
        "config": config_json,
        "spec": model.spec.to_json(),
        "progress": json.dumps(dataclasses.asdict(progress)),
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = safetensors.torch.save(plain, metadata)
    with atomic_write(path) as file:
        file.write(data)


def read_spec(path: Path) -> Spec | None:
    """Of the features that a checkpoint's run inverts; ``None`` in those of the first version."""
    with safetensors.safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("spec")
    return None if text is None else Spec.from_json(text)


def read_header(path: Path) -> tuple[str, Progress]:
    """The config's JSON and the progress of a checkpoint."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise FileFormatError(path, "is not a checkpoint of preimage")
        return metadata["config"], Progress(**json.loads(metadata["progress"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(path, f"is not a checkpoint of preimage: {error}") from error


def restore(path: Path, model: nn.Module, average: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """Puts the weights, their average and the optimisers' moments back."""
    tensors = safetensors.torch.load_file(path)
    for module, prefix in ((model, "model."), (average, "average.")):
        module.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    for which, optimiser in enumerate(optimisers):
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimiser.{which}."):
                index, moment = name.split(".")[2:]
                states.setdefault(int(index), {})[moment] = value
        optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
