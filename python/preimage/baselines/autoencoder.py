"""The autoencoder: an inverter whose representation was fine-tuned along with it."""

from __future__ import annotations

import os

import torch

from preimage.baselines.trained import TrainedInverter
from preimage.inverters import Inverter
from preimage.representations import Representation
from preimage.training.finetuning import load_finetuned


class Autoencoder(TrainedInverter):
    """An inverter and the network up to a layer, trained together, as in section 3 of the paper.

    It shows how much of an inverter's error is that of its network: an autoencoder has the same network, but its
    features were trained to keep the image. It inverts the features of its own `representation` only.
    ``preimage train --finetune`` trains one.

    Args:
        inverter: The inverter.
        representation: The fine-tuned representation.
        name: Name in tables.
        title: Name in prose and on sheets; ``None`` for `name`.
        device: Device of the inverter: ``"auto"`` (CUDA where available), ``"cpu"``, ``"cuda"``, ...

    Raises:
        ValueError: The inverter is for other features (the fields that differ are named), or no such device.

    Example:
        >>> autoencoder = Autoencoder.load("runs/conv5-autoencoder")
        >>> features = autoencoder.representation(images)
        >>> again = autoencoder.invert(features, autoencoder.representation.spec)
    """

    name = "autoencoder"
    title = "autoencoder"
    representation: Representation

    def __init__(
        self,
        inverter: Inverter,
        representation: Representation,
        *,
        name: str = "autoencoder",
        title: str | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        if differences := inverter.spec.differences(representation.spec):
            raise ValueError(
                f"the inverter is for other features (its own != the representation's): {'; '.join(differences)}"
            )
        super().__init__(inverter, name=name, title=title, device=device)
        self.representation = representation

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        representation: Representation | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> Autoencoder:
        """Load an autoencoder from the folder of a run with ``finetune``.

        Args:
            folder: Folder of the run, or one with a copy of its inverter and its ``encoder.safetensors``.
            representation: The layer with any weights, such as those before it was fine-tuned; required for a layer of
                `preimage.Network`, whose code is not in the folder.
            device: Device of the inverter.

        Raises:
            ValueError: The representation is required, or not that of the inverter; or no such folder or device.
            FileFormatError: A file is missing, damaged, or does not belong to the others.
        """
        inverter = Inverter.load(folder)
        return cls(inverter, load_finetuned(folder, inverter.spec, representation), device=device)
