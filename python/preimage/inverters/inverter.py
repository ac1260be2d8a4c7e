"""Inverters: networks from features to images, with the spec of the features."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from preimage.inverters import pretrained
from preimage.inverters.architectures import ArchitectureConfig, build, config_from_dict, config_to_dict
from preimage.inverters.device import resolve_device
from preimage.inverters.layers import upconv_weights
from preimage.inverters.output_region import OutputRegion, placed, resized
from preimage.inverters.quantization import dequantized, quantized
from preimage.inverters.sampler import Noise, Sampler, SamplerConfig, check_noise
from preimage.old_names import TRAINING_NOTES, renamed
from preimage.spec import Spec

_WEIGHTS = ("network.", "sampler.")  # prefixes of the weights that may be stored in less than float32


class Inverter(nn.Module):
    """Estimate an image from its features in one forward pass.

    Args:
        spec: Spec of the features.
        config: Architecture of the network, for example from `preimage.inverters.preset`.
        training_notes: Plain JSON values about the training, stored in ``config.json``.
        output_region: Part of an image that is reconstructed, for features of images of one size only; ``None`` if
            features of images of any size are inverted to whole images.
        sampler: Amount of noise of the network that draws samples; ``None`` for an inverter that cannot sample.

    Raises:
        ValueError: A network for maps with a spec of vectors or the reverse; a stride that is not the spec's; an output
            region of another size than the network's; or vectors without an output region.
    """

    feature_mean: torch.Tensor  # [C]
    feature_deviation: torch.Tensor  # [C]
    image_mean: torch.Tensor  # [3]

    def __init__(
        self,
        spec: Spec,
        config: ArchitectureConfig,
        training_notes: dict[str, Any] | None = None,
        output_region: OutputRegion | None = None,
        sampler: SamplerConfig | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.output_region = output_region
        self.training_notes = dict(training_notes or {})
        self.network = build(spec.channels, config)
        if (self.network.side is None) != (spec.stride is not None):
            kinds = ("maps", "vectors") if self.network.side is None else ("vectors", "maps")
            raise ValueError(f"the network takes {kinds[0]}, but {spec.representation} features are {kinds[1]}")
        if output_region is None and spec.stride is None:
            raise ValueError(f"an inverter of vectors ({spec.representation}) takes an output_region, got None")
        if output_region is None and self.network.stride != spec.stride:
            raise ValueError(
                f"the network enlarges features {self.network.stride} times, but a feature cell of "
                f"{spec.representation} stands for {spec.stride} pixels"
            )
        if self.network.side is not None and output_region is not None and self.network.side != output_region.size:
            raise ValueError(
                f"the network returns images of {self.network.side} pixels, but output_region.size is "
                f"{output_region.size}"
            )
        self.sampler = None if sampler is None else Sampler(self.network, sampler)
        self.register_buffer("feature_mean", torch.zeros(spec.channels))
        self.register_buffer("feature_deviation", torch.ones(spec.channels))
        self.register_buffer("image_mean", torch.full((3,), 0.5))

    def forward(
        self,
        features: torch.Tensor | npt.NDArray[Any],  # [B, C, h, w] or [C, h, w]; [B, C] or [C]
        size: Sequence[int] | None = None,
    ) -> torch.Tensor:  # [B, 3, H, W] or [3, H, W]
        """Return images in [0, 1] from features.

        Features whose sides are not multiples of the network's are padded by reflection at the bottom and the right,
        and the image is cropped.

        Args:
            features: (B, C, h, w), or (C, h, w) of one image; for a spec of vectors (B, C) or (C,). Floating-point,
                described by `spec`. Features of an image that are not finite, or too large for float32 in the network,
                give NaN; only the pipelines check for that.
            size: (H, W) of the images, by default that of `covered`. A HOG grid may end up to half a cell before
                the edge of the image (the last row and column are then repeated) or after it (the rest is cropped).
                With an `output_region`, this is the size of the whole image, and the region is resized in proportion.

        Returns:
            (B, 3, H, W), or (3, H, W) of one image: float32 RGB on the device of the inverter.

        Raises:
            TypeError: Features that are not floating-point.
            ValueError: Features of another rank or number of channels; a size below 1 or, without an output region, one
                that differs by a cell or more from the size that the features cover.
        """
        batch, is_single = self._checked(features)
        images = self.reconstruct(batch).clamp(0, 1)
        if size is not None:
            images = self._resized(images, size)
        return images[0] if is_single else images

    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        """Return the images of `forward` before clamping, for checked features (B, C, h, w) or (B, C)."""
        return self._cropped(self.network(self._arranged(features)), features)

    @property
    def can_sample(self) -> bool:
        """Return whether `sample` and `moments` are available."""
        return self.sampler is not None

    def check_can_sample(self) -> None:
        """Raise ``ValueError`` unless `sample` and `moments` are available."""
        if self.sampler is None:
            able = ", ".join(pretrained.pretrained_samplers()) or "none"
            raise ValueError(
                f"this inverter of {self.spec.representation} ({self.spec.variant}) cannot sample "
                f"(pretrained inverters that can: {able}); "
                "preimage train --sampler --init INVERTER trains the part that does"
            )

    def sample(
        self,
        features: torch.Tensor | npt.NDArray[Any],  # [..., C, h, w] or [..., C]
        n: int = 4,
        seed: int = 0,
        spread: float = 1.0,
        size: Sequence[int] | None = None,
        *,
        positions: Sequence[int] | None = None,
    ) -> torch.Tensor:  # [..., n, 3, H, W]
        """Draw images that the features allow: what they determine is alike in all of them, the rest differs.

        Args:
            features: Floating-point features (..., C, h, w), or vectors (..., C).
            n: Number of images for each set of features.
            seed: Seed of the noise. A draw depends on the seed, its number and the position of the features, but not on
                the batch or the device (up to rounding).
            spread: Factor of the noise: 1 for images that differ as much as the photographs with such features do,
                less for more typical and more similar ones.
            size: (H, W) of the images, see `forward`.
            positions: Position of each set of features in a larger set, which its noise is keyed by; by default 0, 1,
                ..., over all leading dimensions.

        Returns:
            (..., n, 3, H, W) float32 RGB in [0, 1], on the device of the inverter.

        Raises:
            TypeError: Features that are not floating-point; n, a seed or positions that are not integers.
            ValueError: An inverter that cannot sample; n below 1; a seed or position outside of 0 to 2^32 - 1; a spread
                outside of 0 to 10; another number of positions than sets of features; or any of `forward`.
        """
        leading, batch = self._flattened(features)
        draws = list(self.draws(batch, n, seed, spread, size, positions=positions))
        return torch.stack(draws, dim=1).unflatten(0, leading) if leading else torch.stack(draws, dim=1)[0]

    def moments(
        self,
        features: torch.Tensor | npt.NDArray[Any],  # [..., C, h, w] or [..., C]
        n: int = 16,
        seed: int = 0,
        size: Sequence[int] | None = None,
        *,
        positions: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # [..., 3, H, W], [..., 3, H, W]
        """Return the mean of n samples, and their standard deviation: small where the features determine the image.

        Args:
            features: Floating-point features (..., C, h, w), or vectors (..., C).
            n: Number of samples, at least 2.
            seed: Seed of the noise, see `sample`.
            size: (H, W) of the images, see `forward`.
            positions: See `sample`.

        Returns:
            Mean and deviation (with n - 1 degrees of freedom) of each value, both (..., 3, H, W) float32.

        Raises:
            TypeError: Features that are not floating-point.
            ValueError: n below 2, or any of `sample`.
        """
        if n < 2:
            raise ValueError(f"n must be at least 2 for a deviation, got {n}")
        leading, batch = self._flattened(features)
        mean, squares = torch.zeros(()), torch.zeros(())
        for count, images in enumerate(self.draws(batch, n, seed, 1.0, size, positions=positions), 1):
            difference = images - mean.to(images)  # Welford's sums
            mean = mean.to(images) + difference / count
            squares = squares.to(images) + difference * (images - mean)
        deviation = (squares / (n - 1)).sqrt()
        if not leading:
            return mean[0], deviation[0]
        return mean.unflatten(0, leading), deviation.unflatten(0, leading)

    def draws(
        self,
        features: torch.Tensor | npt.NDArray[Any],  # [B, C, h, w] or [B, C]
        n: int = 4,
        seed: int = 0,
        spread: float = 1.0,
        size: Sequence[int] | None = None,
        *,
        positions: Sequence[int] | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the n samples of a batch, (B, 3, H, W) each, of which one is in memory at a time.

        The arguments, and the errors at the first sample, are those of `sample`.
        """
        self.check_can_sample()
        batch, _ = self._checked(features)
        positions = list(range(len(batch)) if positions is None else positions)
        if not all(hasattr(number, "__index__") for number in (n, *positions)):
            raise TypeError(f"n and positions must be integers, got {n!r} and {positions[:4]}")
        positions = list(map(operator.index, positions))
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        check_noise(seed, spread)
        if positions and not 0 <= min(positions) <= max(positions) < 2**32:
            raise ValueError(f"positions must be from 0 to 2^32 - 1, got {min(positions)} to {max(positions)}")
        if len(positions) != len(batch):
            raise ValueError(f"{len(batch)} sets of features need as many positions, got {len(positions)}")
        encoded = self.encode(batch)
        for index in range(n):
            images = self.draw(batch, encoded, seed=seed, positions=positions, draw=index, spread=spread).clamp(0, 1)
            yield images if size is None else self._resized(images, size)

    def encode(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Return the output of the network's encoder for checked features (B, C, h, w) or (B, C)."""
        return self.network.encode(self._arranged(features))

    def draw(
        self,
        features: torch.Tensor,  # [B, C, h, w] or [B, C]
        encoded: Sequence[torch.Tensor],
        *,
        seed: int,
        positions: Sequence[int],
        draw: int,
        spread: float = 1.0,
    ) -> torch.Tensor:  # [B, 3, H, W]
        """Return one sample for each set of features before clamping, see `sample`.

        Args:
            features: Checked features.
            encoded: `encode` of them.
            seed: Seed of the noise.
            positions: Position of each set of features.
            draw: Number of the sample.
            spread: Factor of the noise.
        """
        assert self.sampler is not None
        sizes = self.sampler.sizes(encoded)
        noise = Noise.draw(self.sampler.config, sizes, seed=seed, positions=positions, draw=draw, spread=spread)
        return self._cropped(self.sampler(encoded, noise.to(self.image_mean)), features)

    def _cropped(self, image: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return the part of the network's output that the features cover, plus the mean color."""
        height, width = self.covered(*features.shape[2:])
        top, left = self._first_pixels(features)
        return image[:, :, top : top + height, left : left + width].float() + self.image_mean[:, None, None]

    def distances(
        self,
        features: torch.Tensor,  # [B, C, h, w] or [B, C]
        images: torch.Tensor,  # [B, 3, H, W] uint8
    ) -> torch.Tensor:  # [B]
        """Return ‖`reconstruct`(features) - `target`(images) / 255‖₂ for every image, which training minimizes.

        Args:
            features: Checked features, (B, C, h, w) or (B, C).
            images: (B, 3, H, W) uint8, on the device of the features, of the size that the features cover, or
                with an `output_region` of its ``image_size``.

        Returns:
            (B,) float32. Where the output of the network is not cropped, the gradient of the images is computed inside
            the backward pass of the last layer.

        Raises:
            TypeError: Images that are not uint8.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {images.dtype}")
        target = self.target(images)
        arranged = self._arranged(features)
        made = tuple(cells * self.network.stride for cells in arranged.shape[2:])
        if self.network.side is not None or made == self.covered(*features.shape[2:]):
            return self.network.distance(arranged, target, self.image_mean)
        return torch.linalg.vector_norm(self.reconstruct(features) - target.float() / 255, dim=(1, 2, 3))

    def target(self, images: torch.Tensor) -> torch.Tensor:
        """Return the part of images (B, 3, H, W) that is reconstructed: whole images, or the `output_region`."""
        return images if self.output_region is None else self.output_region.of(images)

    def covered(self, *cells: int) -> tuple[int, int]:
        """Return the size (H, W) of the images from features of (h, w) cells, the network's margin included."""
        if self.output_region is not None:
            return self.output_region.size, self.output_region.size
        margin, stride = sum(self.network.margin), self.network.stride
        height, width = cells
        return (height + margin) * stride, (width + margin) * stride

    def measured(self, features: torch.Tensor) -> torch.Tensor:
        """Return features in the space in which they are standardized: logarithms if `log_floor` is above 0."""
        floor = self.network.log_floor
        return features.clamp_min(floor).log() if floor > 0 else features

    def standardized(self, features: torch.Tensor) -> torch.Tensor:
        """Return features (B, C, h, w) or (B, C) as `measured`, minus their mean, in units of their deviation."""
        shape = (-1, 1, 1)[: features.dim() - 1]
        return (self.measured(features) - self.feature_mean.view(shape)) / self.feature_deviation.view(shape)

    def _arranged(self, features: torch.Tensor) -> torch.Tensor:
        """Return the input of the network: standardized features, padded to a size that it supports."""
        standard = self.standardized(features)
        if self.network.side is not None:
            return standard
        if self.output_region is not None:
            rows, columns = self._placed(features)
            standard = F.pad(standard, (*columns[:2], *rows[:2]))
        else:
            if any(self.network.margin):
                standard = F.pad(standard, self.network.margin * 2, mode="replicate")
            for axis in (2, 3):
                standard = _mirrored_to(standard, axis, self.network.multiple)
        # Convolutions on a CPU are up to twice as fast in channels_last memory format.
        return standard.contiguous(memory_format=torch.channels_last)

    def _first_pixels(self, features: torch.Tensor) -> tuple[int, int]:
        if self.output_region is None or self.network.side is not None:
            return 0, 0
        rows, columns = self._placed(features)
        return rows[2], columns[2]

    def _placed(self, features: torch.Tensor) -> list[tuple[int, int, int]]:
        assert self.output_region is not None
        network, size = self.network, self.output_region.size
        return [placed(cells, network.multiple, network.stride, size) for cells in features.shape[2:]]

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Path:
        """Write ``config.json`` and ``model.safetensors``, and return the folder.

        Args:
            folder: Created if it does not exist; an inverter in it is replaced.
            dtype: Dtype of the weights on disk: ``torch.float32``, ``torch.float16`` or ``torch.bfloat16``;
                ``torch.int8`` with a float32 scale for each output channel takes a quarter of float32's space.

        Raises:
            TypeError: Another dtype.
        """
        if dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
            raise TypeError(f"dtype must be float32, float16, bfloat16 or int8, got {dtype}")
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        weights = {name: value for name, value in state.items() if name.startswith(_WEIGHTS)}
        if dtype == torch.int8:
            state |= quantized(weights, upconv_weights(self))
        else:
            state |= {name: value.to(dtype) for name, value in weights.items()}
        fields = {
            "spec": self.spec.to_dict(),
            "network": config_to_dict(self.config),
            "output_region": None if self.output_region is None else dataclasses.asdict(self.output_region),
            "sampler": None if self.sampler is None else dataclasses.asdict(self.sampler.config),
            "training": self.training_notes,
        }
        return pretrained.write(Path(folder), fields, state)

    @classmethod
    def load(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Inverter:
        """Load a pretrained inverter by name, one from a folder that `save` or the trainer wrote, or one from the Hub.

        The inverter is in evaluation mode, float32, on the CPU, and its weights have no gradients
        (``inverter.requires_grad_()`` turns them on).

        Args:
            name_or_folder: As in `load_inverter`.
            revision: Branch, tag or commit of a repository on the Hub.
            cache_dir: Folder of the Hub's cache.

        Raises:
            ValueError: Neither a folder, the name of a pretrained inverter (the message lists them) nor a repository.
            FileFormatError: A file in the folder is missing, damaged or of another version.
            ImportError: The name of a repository, but huggingface_hub is not installed.
        """
        folder = pretrained.resolve(name_or_folder, revision=revision, cache_dir=cache_dir)
        fields, tensors = pretrained.read(folder)
        with pretrained.naming(folder):
            tensors = _checked_weights(fields, tensors)
            inverter = _from_fields(fields)
            inverter.load_state_dict({name: value.float() for name, value in tensors.items()})
        return inverter.eval().requires_grad_(False)

    def extra_repr(self) -> str:
        return f"spec={json.dumps(self.spec.to_dict())}"

    def _checked(self, features: torch.Tensor | npt.NDArray[Any]) -> tuple[torch.Tensor, bool]:
        """Return features as a batch on the inverter's device, and whether they were those of a single image."""
        features = as_tensor(features)
        if not features.is_floating_point():
            raise TypeError(f"features must be floating point, got {features.dtype}")
        rank = 2 if self.network.side is not None else 4
        given = tuple(features.shape)
        is_single = features.dim() == rank - 1
        if is_single:
            features = features[None]
        if features.dim() != rank or features.shape[1] != self.spec.channels or 0 in features.shape[2:]:
            wanted = ", ".join(("B", str(self.spec.channels), "h", "w")[:rank])
            raise ValueError(
                f"features of {self.spec.representation} must be ({wanted}), or without the first axis, "
                f"got shape {given}"
            )
        return features.to(self.image_mean), is_single

    def _flattened(self, features: torch.Tensor | npt.NDArray[Any]) -> tuple[tuple[int, ...], torch.Tensor]:
        """Return the leading dimensions of features, empty for those of one image, and the features as a batch."""
        features = as_tensor(features)
        leading = tuple(features.shape[: (-1 if self.network.side is not None else -3)])
        return leading, self._checked(features.flatten(0, len(leading) - 1) if leading else features)[0]

    def _resized(self, images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Crop or repeat up to a cell at the lower and right edge; resize an output region."""
        if isinstance(size, int) or any(isinstance(side, (float, str)) for side in size):
            raise TypeError(f"size must be (height, width) in whole pixels, got {size!r}")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width) in pixels, both at least 1, got {tuple(size)}")
        if self.output_region is not None:
            fraction = self.output_region.crop / self.output_region.image_size
            return resized(images, *(max(1, round(side * fraction)) for side in size))
        missing = [wanted - have for wanted, have in zip(size, images.shape[2:], strict=True)]
        if any(abs(pixels) >= self.network.stride for pixels in missing):
            covered = "×".join(map(str, images.shape[2:]))
            raise ValueError(
                f"size must differ from the {covered} pixels that the features cover by less than "
                f"{self.network.stride}, got {'×'.join(map(str, size))}"
            )
        below, right = (max(pixels, 0) for pixels in missing)
        if below or right:
            images = F.pad(images, (0, right, 0, below), mode="replicate")
        return images[:, :, : size[0], : size[1]]


def load_inverter(
    name_or_folder: str | os.PathLike[str],
    device: str | torch.device = "auto",
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Inverter:
    """Load a pretrained inverter by name, one from a folder, or one from the Hugging Face Hub.

    Args:
        name_or_folder: One of `list_inverters`; the folder of an inverter or of a training run; or ``"user/name"`` or
            ``"user/name@revision"`` for a repository of the Hub, which needs huggingface_hub
            (``pip install 'preimage[hub]'``). A folder of that path comes first, and names in a folder that exists are
            paths. Only ``config.json``, ``model.safetensors`` and the model card are downloaded, no code.
        device: ``"auto"`` (CUDA where available), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        revision: Branch, tag or commit of the repository; ``None`` for the main branch.
        cache_dir: Folder of the Hub's cache; ``None`` for that of ``HF_HUB_CACHE`` or ``HF_HOME``.

    Raises:
        ValueError: Neither a folder nor the name of a pretrained inverter (the names are listed), no such repository or
            revision, or no such device.
        FileFormatError: A file in the folder or repository is missing, damaged or of another version.
        ImportError: The name of a repository, but huggingface_hub is not installed.

    Example:
        >>> inverter = preimage.load_inverter("hog-compact")
        >>> inverter(preimage.hog(image), size=image.shape[-2:])  # [3, H, W] in [0, 1]
    """
    wanted = resolve_device(device)
    return Inverter.load(name_or_folder, revision=revision, cache_dir=cache_dir).to(wanted)


def as_tensor(features: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
    """Return a tensor, or an array of any strides and byte order as one."""
    if isinstance(features, np.ndarray):
        # torch supports only native byte order and positive strides, and warns about read-only arrays.
        features = np.require(features, features.dtype.newbyteorder("="), ("C", "W"))
    return torch.as_tensor(features)


def _from_fields(fields: dict[str, Any]) -> Inverter:
    region, sampler = fields.get("output_region"), fields.get("sampler")  # not in the first configs
    return Inverter(
        Spec.from_dict(fields["spec"]),
        config_from_dict(fields["network"]),
        renamed(fields["training"], TRAINING_NOTES),
        None if region is None else OutputRegion.from_dict(region),
        None if sampler is None else SamplerConfig.from_dict(sampler),
    )


def _checked_weights(fields: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return floating-point weights in the current orientation, for the network that the fields describe.

    The network is not allocated here, because a damaged config may describe one that is larger than the memory.

    Raises:
        ValueError: Weights of another network.
    """
    try:
        with torch.device("meta"):
            described = _from_fields(fields)
    except (RuntimeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"its network cannot be built: {reason}") from error
    tensors = dequantized(tensors)
    if fields["format_version"] == pretrained.CONV2D_VERSION:
        names = upconv_weights(described)
        tensors = {name: _from_conv2d(value) if name in names else value for name, value in tensors.items()}
    wanted = {name: value.shape for name, value in described.state_dict().items()}
    given = {name: value.shape for name, value in tensors.items()}
    if wanted != given:
        wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise ValueError(f"the weights do not fit the network: {', '.join(wrong[:4])}")
    return tensors


def _from_conv2d(weight: torch.Tensor) -> torch.Tensor:
    """Return an up-convolution's weight from (Co, Ci, 5, 5) in the orientation of ``conv2d``."""
    return weight.flip(2, 3).transpose(0, 1) if weight.dim() == 4 else weight


def _mirrored_to(maps: torch.Tensor, axis: int, multiple: int) -> torch.Tensor:
    """Pad an axis by reflection up to the next multiple.

    Repeating the last row or column instead would give long stripes, which photographs do not have and which disturb
    the whole reconstruction of some images.
    """
    size = maps.shape[axis]
    missing = -size % multiple
    if not missing:
        return maps
    period = max(2 * (size - 1), 1)
    positions = torch.arange(size + missing, device=maps.device) % period
    return maps.index_select(axis, torch.minimum(positions, period - positions).clamp_max(size - 1))
