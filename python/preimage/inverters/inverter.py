"""The inverter: a network from features to images, with the spec that it was trained for."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from preimage.inverters import pretrained
from preimage.inverters.architectures import ArchitectureConfig, build, config_from_dict, config_to_dict
from preimage.inverters.layers import upconv_weights
from preimage.inverters.view import View, placed, resized
from preimage.old_names import TRAINING_NOTES, renamed
from preimage.spec import Spec


class Inverter(nn.Module):
    """Estimate an image from its features in one forward pass.

    Args:
        spec: what the features are.
        config: the network, for example from `preimage.inverters.preset`.
        training_notes: plain JSON values about the training, kept in ``config.json``.
        view: what of the images comes back, for features of images of one size only; ``None`` for features of any
            size, of which all comes back.

    Raises:
        ValueError: the network is for maps where the spec has vectors or the reverse, its stride is not the spec's, or
            its images are not of the view's size; vectors without a view.
    """

    feature_mean: torch.Tensor  # [C]
    feature_deviation: torch.Tensor  # [C]
    image_mean: torch.Tensor  # [3]

    def __init__(
        self,
        spec: Spec,
        config: ArchitectureConfig,
        training_notes: dict[str, Any] | None = None,
        view: View | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.view = view
        self.training_notes = dict(training_notes or {})
        self.network = build(spec.channels, config)
        if (self.network.side is None) != (spec.stride is not None):
            kinds = ("maps", "vectors") if self.network.side is None else ("vectors", "maps")
            raise ValueError(f"the network takes {kinds[0]}, but {spec.representation} features are {kinds[1]}")
        if view is None and spec.stride is None:
            raise ValueError(f"{spec.representation} features are vectors, so the inverter takes a view of the images")
        if view is None and self.network.stride != spec.stride:
            raise ValueError(
                f"the network enlarges features {self.network.stride} times, but a feature cell of "
                f"{spec.representation} stands for {spec.stride} pixels"
            )
        if self.network.side is not None and view is not None and self.network.side != view.size:
            raise ValueError(f"the network makes images of {self.network.side} pixels, the view has {view.size}")
        self.register_buffer("feature_mean", torch.zeros(spec.channels))
        self.register_buffer("feature_deviation", torch.ones(spec.channels))
        self.register_buffer("image_mean", torch.full((3,), 0.5))

    def forward(
        self,
        features: torch.Tensor,  # [B, C, h, w]
        image_size: tuple[int, int] | None = None,
    ) -> torch.Tensor:  # [B, 3, H, W]
        """Images in [0, 1] from features.

        Features whose sides are no multiple of the network's are continued below and at the right by their mirror
        image, and the image is cropped back.

        Args:
            features: (B, C, h, w), or (C, h, w) for one image; of a spec of vectors (B, C) or (C,). Floating (array
                or tensor), of `spec`.
            image_size: (H, W) of the images wanted. Default: all that is `covered`. A HOG grid may end up to half a
                cell before the image's edge (the edge is then repeated) or after it (the surplus is cut off). With a
                `view`, it is the size of the whole images, and what comes back of them is resized to its share.

        Returns:
            (B, 3, H, W) float32 RGB.

        Raises:
            TypeError: the features are not floating.
            ValueError: wrong rank, channels or size, or an ``image_size`` that is none or, without a view, a cell or
                more away.
        """
        features = self._checked(features)
        images = self.reconstruct(features).clamp(0, 1)
        return images if image_size is None else self._fit(images, image_size)

    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        """`forward` on checked features (B, C, h, w) or (B, C), without the clamp."""
        image = self.network(self._arranged(features)).float()
        height, width = self.covered(*features.shape[2:])
        top, left = self._first_pixels(features)
        return image[:, :, top : top + height, left : left + width] + self.image_mean[:, None, None]

    def distances(
        self,
        features: torch.Tensor,  # [B, C, h, w] or [B, C]
        images: torch.Tensor,  # [B, 3, H, W] uint8
    ) -> torch.Tensor:  # [B]
        """‖`reconstruct`(features) - `target`(images) / 255‖₂ of every image: what training minimises.

        Args:
            features: checked, (B, C, h, w) or (B, C).
            images: (B, 3, H, W) uint8, on the features' device, of the size that the features cover, or of the view's.

        Returns:
            (B,) float32. Where the network's image is not cropped, the gradient of the images is formed inside the
            backward of the last layer.

        Raises:
            TypeError: images that are not uint8.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images are uint8, got {images.dtype}")
        target = self.target(images)
        arranged = self._arranged(features)
        made = tuple(cells * self.network.stride for cells in arranged.shape[2:])
        if self.network.side is not None or made == self.covered(*features.shape[2:]):
            return self.network.distance(arranged, target.contiguous(), self.image_mean)
        return torch.linalg.vector_norm(self.reconstruct(features) - target.float() / 255, dim=(1, 2, 3))

    def target(self, images: torch.Tensor) -> torch.Tensor:
        """What of images (B, 3, H, W) comes back: all of it, or the `view`."""
        return images if self.view is None else self.view.of(images)

    def covered(self, *cells: int) -> tuple[int, int]:
        """The pixels (H, W) that come back from features of (h, w) cells, the network's margin included."""
        if self.view is not None:
            return self.view.size, self.view.size
        margin, stride = sum(self.network.margin), self.network.stride
        height, width = cells
        return (height + margin) * stride, (width + margin) * stride

    def measured(self, features: torch.Tensor) -> torch.Tensor:
        """What `feature_mean` and `feature_deviation` are of: the features, or their logarithms."""
        floor = self.network.logarithm_from
        return features.clamp_min(floor).log() if floor > 0 else features

    def _arranged(self, features: torch.Tensor) -> torch.Tensor:
        """Features as the network takes them: standardised, and maps as large as it wants."""
        features = self.measured(features)
        shape = (-1, 1, 1)[: features.dim() - 1]
        standard = (features - self.feature_mean.view(shape)) / self.feature_deviation.view(shape)
        if self.network.side is not None:
            return standard
        if self.view is not None:
            rows, columns = self._placed(features)
            standard = F.pad(standard, (*columns[:2], *rows[:2]))
        else:
            if any(self.network.margin):
                standard = F.pad(standard, self.network.margin * 2, mode="replicate")
            for axis in (2, 3):
                standard = _mirrored_to(standard, axis, self.network.multiple)
        # Convolutions on a CPU are up to twice as fast with the channels last.
        return standard.contiguous(memory_format=torch.channels_last)

    def _first_pixels(self, features: torch.Tensor) -> tuple[int, int]:
        if self.view is None or self.network.side is not None:
            return 0, 0
        rows, columns = self._placed(features)
        return rows[2], columns[2]

    def _placed(self, features: torch.Tensor) -> list[tuple[int, int, int]]:
        assert self.view is not None
        network, size = self.network, self.view.size
        return [placed(cells, network.multiple, network.stride, size) for cells in features.shape[2:]]

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Path:
        """Writes ``config.json`` and ``model.safetensors``; returns the folder.

        Args:
            folder: made if it is not there; an inverter in it is replaced.
            dtype: of the weights on disk; ``torch.float16`` halves the file.
        """
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(f"weights are stored as float32, float16 or bfloat16, got {dtype}")
        tensors = {
            name: (value.to(dtype) if name.startswith("network.") else value).detach().cpu().contiguous()
            for name, value in self.state_dict().items()
        }
        fields = {
            "spec": self.spec.to_dict(),
            "network": config_to_dict(self.config),
            "view": None if self.view is None else dataclasses.asdict(self.view),
            "training": self.training_notes,
        }
        return pretrained.write(Path(folder), fields, tensors)

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> Inverter:
        """A pretrained inverter by name, or one from a folder that `save` or the trainer wrote.

        It comes in evaluation mode, float32, on the CPU, and without gradients for its weights
        (``inverter.requires_grad_()`` brings them back).

        Raises:
            ValueError: there is neither such a folder nor such a pretrained inverter; the message lists them.
            FileFormatError: a file in the folder is missing, damaged or of another version.
        """
        folder = pretrained.resolve(name_or_path)
        fields, tensors = pretrained.read(folder)
        with pretrained.naming(folder):
            tensors = _checked_weights(fields, tensors)
            inverter = _from_fields(fields)
            inverter.load_state_dict({name: value.float() for name, value in tensors.items()})
        return inverter.eval().requires_grad_(False)

    def extra_repr(self) -> str:
        return f"spec={json.dumps(self.spec.to_dict())}"

    def _checked(self, features: torch.Tensor) -> torch.Tensor:
        if isinstance(features, np.ndarray):
            features = np.require(features, requirements="W")  # torch warns of views of a mapped file
        features = torch.as_tensor(features)
        if not features.is_floating_point():
            raise TypeError(f"features are floating-point, got {features.dtype}")
        rank = 2 if self.network.side is not None else 4
        if features.dim() == rank - 1:
            features = features[None]
        if features.dim() != rank or features.shape[1] != self.spec.channels or 0 in features.shape[2:]:
            wanted = ", ".join(("B", str(self.spec.channels), "h", "w")[:rank])
            raise ValueError(
                f"an inverter of {self.spec.representation} takes features ({wanted}), "
                f"got shape {tuple(features.shape)}"
            )
        return features.to(self.image_mean)

    def _fit(self, images: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """Cuts off or repeats up to a cell at the lower and right edge; resizes what a view gives."""
        if min(image_size) < 1:
            raise ValueError(f"image_size is (height, width) in pixels, both >= 1, got {image_size}")
        if self.view is not None:
            share = self.view.crop / self.view.image_size
            return resized(images, *(max(1, round(side * share)) for side in image_size))
        missing = [wanted - have for wanted, have in zip(image_size, images.shape[2:], strict=True)]
        if any(abs(pixels) >= self.network.stride for pixels in missing):
            covered = "×".join(map(str, images.shape[2:]))
            raise ValueError(f"the features cover {covered} pixels, not {'×'.join(map(str, image_size))}")
        below, right = (max(pixels, 0) for pixels in missing)
        if below or right:
            images = F.pad(images, (0, right, 0, below), mode="replicate")
        return images[:, :, : image_size[0], : image_size[1]]


def _from_fields(fields: dict[str, Any]) -> Inverter:
    view = fields.get("view")  # of a later version than the first inverters
    return Inverter(
        Spec.from_dict(fields["spec"]),
        config_from_dict(fields["network"]),
        renamed(fields["training"], TRAINING_NOTES),
        None if view is None else View.from_dict(view),
    )


def _checked_weights(fields: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the network that the fields describe, which is not built here, as this version has them.

    ``ValueError`` for those of another network.
    """
    try:
        with torch.device("meta"):  # a config can ask for more than there is memory, the weights beside it cannot
            described = _from_fields(fields)
    except (RuntimeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no such network: {reason}") from error
    if fields["format_version"] == pretrained.CONV2D_VERSION:
        names = upconv_weights(described)
        tensors = {name: _from_conv2d(value) if name in names else value for name, value in tensors.items()}
    wanted = {name: value.shape for name, value in described.state_dict().items()}
    given = {name: value.shape for name, value in tensors.items()}
    if wanted != given:
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise ValueError(f"the weights do not fit the network: {', '.join(odd[:4])}")
    return tensors


def _from_conv2d(weight: torch.Tensor) -> torch.Tensor:
    """Return an up-convolution's weight from (Co, Ci, 5, 5) in the orientation of ``conv2d``."""
    return weight.flip(2, 3).transpose(0, 1) if weight.dim() == 4 else weight


def _mirrored_to(maps: torch.Tensor, axis: int, multiple: int) -> torch.Tensor:
    """Continues an axis by its mirror image up to the next multiple.

    Repeating the last row or column instead makes long stripes, which no photograph has: on some images they upset
    the whole reconstruction.
    """
    size = maps.shape[axis]
    missing = -size % multiple
    if not missing:
        return maps
    period = max(2 * (size - 1), 1)
    positions = torch.arange(size + missing, device=maps.device) % period
    return maps.index_select(axis, torch.minimum(positions, period - positions).clamp_max(size - 1))
