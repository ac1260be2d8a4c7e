"""What a run begins with: images, network, statistics, device and precision."""

from __future__ import annotations

import torch

from preimage import representations
from preimage.inverters import Inverter, checked_device, preset
from preimage.storage import list_images
from preimage.training.config import TrainConfig
from preimage.training.data import ImageSet, whole_images
from preimage.training.muon import Muon

_STATISTICS_IMAGES = 256  # images that the features' mean and deviation are measured on


def image_sets(config: TrainConfig) -> tuple[ImageSet, torch.Tensor]:
    """Training images, and the held-out ones (N, 3, H, W) uint8."""
    sources = list_images(config.images)
    if config.validation_images:
        held_out = list_images(config.validation_images)
        twice = {source.key for source in held_out} & {source.key for source in sources}
        if twice:
            raise ValueError(
                f"{len(twice)} images are both trained on and held out, for example {min(twice)!r}: "
                "an error measured on them would mean nothing"
            )
    else:
        if len(sources) < config.validation_count + 1:
            raise ValueError(
                f"{len(sources)} images are too few to hold {config.validation_count} out of them; "
                "give validation_images or a smaller validation_count"
            )
        # Evenly spread over the sorted list: the same images are held out whatever the seed.
        chosen = {i * len(sources) // config.validation_count for i in range(config.validation_count)}
        held_out = [source for index, source in enumerate(sources) if index in chosen]
        sources = [source for index, source in enumerate(sources) if index not in chosen]
    return ImageSet(sources), whole_images(ImageSet(held_out), config.image_size)


def fresh_inverter(config: TrainConfig, representation: representations.Representation) -> Inverter:
    network = preset(config.representation, config.preset)
    model = Inverter(representation.spec, network)
    size = config.image_size
    cells = representation.feature_size(size, size)
    if cells is not None and (covered := model.covered(*cells)) != (size, size):
        raise ValueError(
            f"{representation.name} features of {size}×{size} pixels come back as {'×'.join(map(str, covered))}: "
            f"training takes an image_size of which nothing is left over, such as 256 (got {size})"
        )
    if config.init is not None:
        start = Inverter.load(config.init)
        if start.config != network or start.spec != representation.spec:
            raise ValueError(f"{config.init} is another network than preset {config.preset!r}, or for another spec")
        model.load_state_dict(start.state_dict())
    return model


def measure_statistics(
    model: Inverter, images: ImageSet, representation: representations.Representation, size: int
) -> None:
    """Sets the mean and deviation of every feature channel, where the network wants them, and the mean colour.

    Measured on some training images.
    """
    count = min(len(images), _STATISTICS_IMAGES)
    indices = [i * len(images) // count for i in range(count)]
    some = whole_images(ImageSet([images.sources[index] for index in indices]), size)
    if model.network.standardised:
        features = representation(some)
        model.feature_mean.copy_(features.mean(dim=(0, 2, 3)))
        model.feature_deviation.copy_(features.std(dim=(0, 2, 3)).clamp_min(1e-6))
    model.image_mean.copy_(some.float().mean(dim=(0, 2, 3)) / 255)


def optimisers(model: Inverter, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Adam for all weights; with ``muon``, Muon for the kernels between the features and the image."""
    muon: list[torch.nn.Parameter] = []
    adam: list[torch.nn.Parameter] = []
    for weight in model.parameters():
        inner = weight.dim() > 1 and weight.shape[1] != model.spec.channels and weight.shape[0] != 3
        (muon if inner and config.optimiser == "muon" else adam).append(weight)
    fused = True if adam[0].is_cuda else None
    chosen: list[torch.optim.Optimizer] = [torch.optim.Adam(adam, config.learning_rate, fused=fused)]
    return [*chosen, Muon(muon, config.muon_rate)] if muon else chosen


def device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return checked_device(name)


def precision(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # Where the CPU has no bfloat16 instructions, emulating them is slower than float32.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if native() else torch.float32
