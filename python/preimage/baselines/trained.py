"""Trained inverters behind the interface of baselines, and the paper's network, trained as another one was."""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from preimage.baselines.base import Baseline, Progress, check_features
from preimage.inverters import Inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation
from preimage.spec import Spec
from preimage.training import Display, TrainSummary, checkpoint, run


class TrainedInverter(Baseline):
    """A trained inverter: one pass through its network.

    An inverter of a network's layer returns an output region, which may be a part of the image at another resolution.
    Methods are compared with it on that region, at its resolution: on `target`.

    Args:
        inverter: An inverter, its name or its folder.
        name: Name in tables, to tell several trained inverters apart.
        title: Name in prose and on sheets; ``None`` for `name`.
        device: ``"auto"`` (CUDA where available), ``"cpu"``, ``"cuda"``, ...

    Attributes:
        inverter: The inverter, on that device.

    Raises:
        ValueError: No such inverter or device.
        FileFormatError: A file in the folder is missing, damaged or of another version.

    Example:
        >>> paper = TrainedInverter("runs/hog-paper", name="paper")
        >>> images = paper.invert(features, spec)
    """

    name = "ours"
    title = "ours"
    reference = 'A. Dosovitskiy, T. Brox, "Inverting Visual Representations with Convolutional Networks", CVPR 2016'

    def __init__(
        self,
        inverter: Inverter | str | PathLike[str],
        *,
        name: str = "ours",
        title: str | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.name, self.title = name, name if title is None else title
        self._reconstructor = Reconstructor(None, inverter, device)
        self.inverter = self._reconstructor.inverter

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return images (B, 3, H, W), float32 in [0, 1], on the CPU; large batches are processed in parts.

        Args:
            features: (B, C, h, w) or (B, C), floating point, on any device.
            spec: Spec of the features.
            size: (H, W) of the images. ``None`` is the size that the features cover; for an inverter with an output
                region, the size of `target`. With an output region, (H, W) is the size of the whole image.
            progress: Function called with (images done, number of images).

        Raises:
            TypeError: Features that are not floating point.
            ValueError: Features of another spec (the fields that differ are named), of another shape, or with NaN or
                infinite values; or a `size` that they do not cover.
        """
        if differences := self.inverter.spec.differences(spec):
            raise ValueError(f"{self.name} inverts other features (its own != given): {'; '.join(differences)}")
        check_features(features, spec)
        images = self._reconstructor.invert(features, size).cpu()
        if progress is not None:
            progress(len(features), len(features))
        return images

    def target(self, images: torch.Tensor) -> torch.Tensor:
        """Return the part of images (B, 3, H, W) that `invert` returns without a size, at its resolution.

        That is the output region of the inverter, or whole images if it has none.

        Args:
            images: (B, 3, H, W), uint8 or floating in [0, 1], of the size that the inverter was trained with.

        Returns:
            (B, 3, H', W') float32 in [0, 1], on the device of the images.

        Raises:
            TypeError: Images that are neither uint8 nor floating point.
            ValueError: Images of another shape or size.
        """
        return self._reconstructor.target(images)


def train_paper(
    like: str | PathLike[str],
    output: str | PathLike[str],
    *,
    representation: Representation | None = None,
    resume: bool = False,
    display: Display | None = None,
    **settings: Any,
) -> TrainSummary:
    """Train the paper's network as another inverter was trained: for the same time, on the same images.

    All settings of the other run are used again, its seed and its validation images among them, but the network, and
    its limit: the run takes as many seconds of training as the other one took, over which the learning rate decays.
    Images seen, seconds and error of both are in the ``training_notes`` of their inverters.

    Args:
        like: Folder of a finished run.
        output: Folder of the new run.
        representation: The representation of that run, if it cannot be created from its name and parameters.
        resume: Resume from the checkpoint in `output`, if it has one.
        display: Shows progress; ``None`` shows nothing.
        settings: Settings that shall differ, such as ``device="cuda"``, see `preimage.training.TrainConfig`.

    Raises:
        ValueError: `like` is not the folder of a run, or the run has not ended, or started from another inverter, whose
            time would not be counted; there is no preset ``"paper"`` for the representation; or any of
            `preimage.training.run`, which raises other errors too.

    Example:
        >>> train_paper("runs/hog", "runs/hog-paper").error
    """
    path = Path(like) / checkpoint.CHECKPOINT
    if not path.is_file():
        raise ValueError(f"{like} must be the folder of a run, but has no {checkpoint.CHECKPOINT}")
    config, progress = checkpoint.read_header(path)
    if not config.is_done(progress.step, progress.seconds):
        raise ValueError(f"{like} must be a finished run, but has done {progress.step} steps only: resume it first")
    if config.init is not None:
        raise ValueError(f"{like} must be a run from its first step on, but started from {config.init}")
    fields: dict[str, Any] = {
        "output": str(output),
        "preset": "paper",
        "output_size": None,
        "budget": None,
        "steps": None,
        "max_hours": progress.seconds / 3600,
    }
    config = dataclasses.replace(config, **fields | settings)
    return run(config, representation=representation, resume=resume, display=display)
