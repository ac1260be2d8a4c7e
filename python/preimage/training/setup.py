"""What a run begins with: images, network, statistics, device and precision."""

from __future__ import annotations

import dataclasses

import torch

from preimage import representations
from preimage.inverters import Inverter, checked_device
from preimage.inverters.plan import plan
from preimage.io import list_images
from preimage.training.config import TrainConfig
from preimage.training.data import ImageSet, whole_images
from preimage.training.muon import Muon
from preimage.training.own import open_own
from preimage.training.supply import FreshCrops, Supply, are_probabilities, with_some_held_out

_IMAGE_SIZE = 256  # of images that nothing says a size of
_LEAST_DEVIATION = 1e-6
_LEAST_SHARE = 0.01  # of the mean deviation


def open_supply(
    config: TrainConfig, representation: representations.Representation | None = None
) -> tuple[TrainConfig, Supply]:
    """Where the run's batches come from, and its settings with the image size settled.

    Args:
        config: the run's settings.
        representation: what its ``representation`` names, where that is made already.

    Raises:
        ValueError: a representation of another name, an image size that the representation or the file of features
            does not have, a cache of features that vary at random, too few images, or images that are both trained on
            and held out.
    """
    if representation is not None and representation.name != config.representation:
        raise ValueError(
            f"the settings name {config.representation!r}, the representation given is {representation.name}"
        )
    if config.features is not None:
        return open_own(config, _IMAGE_SIZE)
    assert config.representation is not None  # or there are features
    if representation is None:
        representation = representations.create(config.representation, **config.parameters)
    if config.cache == "on" and representation.in_workers:
        raise ValueError(f"features of {representation.name} vary at random in training: they are not cached")
    side = representation.image_side
    if side is not None and config.image_size not in (None, side):
        raise ValueError(
            f"{representation.name} takes images of {side}×{side} pixels only, got image_size {config.image_size}"
        )
    config = dataclasses.replace(config, image_size=side or config.image_size or _IMAGE_SIZE)
    images, held_out = image_sets(config)
    return config, FreshCrops(config, representation, images, held_out)


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
        sources, held_out = with_some_held_out(sources, config.validation_count)
    return ImageSet(sources), whole_images(ImageSet(held_out), config.side)


def fresh_inverter(config: TrainConfig, supply: Supply) -> Inverter:
    """The network of the run's preset for the supply's features, with its first weights.

    Raises:
        ValueError: no such preset, or an image of which something would be left over; an inverter to start from that
            has another network, view or spec.
    """
    spec, cells, size = supply.spec, supply.cells, config.side
    planned = plan(
        spec,
        config.preset,
        cells=cells,
        image_size=size,
        output_size=config.output_size,
        budget=config.budget,
        probabilities=_gives_probabilities(supply),
    )
    model = Inverter(spec, planned.config, view=planned.view)
    if planned.view is None and cells is not None and (covered := model.covered(*cells)) != (size, size):
        raise ValueError(
            f"{spec.representation} features of {size}×{size} pixels come back as {'×'.join(map(str, covered))}: "
            f"training takes an image_size of which nothing is left over, such as 256 (got {size})"
        )
    if config.init is not None:
        start = Inverter.load(config.init)
        if start.config != planned.config or start.view != planned.view or start.spec != spec:
            raise ValueError(
                f"{config.init} is another network than preset {config.preset!r}, or for another spec or view"
            )
        model.load_state_dict(start.state_dict())
    return model


def _gives_probabilities(supply: Supply) -> bool:
    """Are the features vectors that are never negative and sum to one?"""
    if supply.cells is not None:
        return False
    some = next(iter(supply.examples(with_features=True))).features
    return some is not None and are_probabilities(some)


def measure_statistics(model: Inverter, supply: Supply) -> None:
    """Sets the mean and deviation of every feature channel, where the network wants them, and the mean colour.

    Measured on some training images. A channel that hardly varies among them (a unit that is dead on all, say) may
    among the others: where there is a view, it counts as varying by a hundredth of what the channels do on average.
    """
    colours, channels = _Moments(3), _Moments(supply.spec.channels)
    for images, features in supply.examples(with_features=model.network.standardised):
        colours.add(images)
        if features is not None:
            channels.add(model.measured(features))
    model.image_mean.copy_(colours.mean / 255)
    if not model.network.standardised:
        return
    deviation = channels.deviation()
    least = _LEAST_DEVIATION
    if model.view is not None:
        least = max(least, _LEAST_SHARE * deviation.mean().item())
    model.feature_mean.copy_(channels.mean)
    model.feature_deviation.copy_(deviation.clamp_min(least))


class _Moments:
    """Mean and deviation by channel of what comes batch by batch, in float64."""

    def __init__(self, channels: int) -> None:
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # of the distances from the mean
        self._count = 0

    def add(self, values: torch.Tensor) -> None:
        """(B, C, ...) of any type."""
        for value in values:
            columns = value.detach().cpu().reshape(len(self.mean), -1).double()
            count = columns.shape[1]
            mean, apart = columns.mean(dim=1), self._count * count / (self._count + count)
            squares = (columns - mean[:, None]).square().sum(dim=1)
            self._squares += squares + (mean - self.mean).square() * apart
            self._count += count
            self.mean += (mean - self.mean) * (count / self._count)

    def deviation(self) -> torch.Tensor:
        return (self._squares / max(self._count - 1, 1)).sqrt()


def optimisers(model: Inverter, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Adam for all weights; with ``muon``, Muon for the kernels between the features and the image.

    And for the matrix that reads a vector: that is where most of what there is to learn about vectors is learnt.
    """
    muon: list[torch.nn.Parameter] = []
    adam: list[torch.nn.Parameter] = []
    for weight in model.parameters():
        reads_map = weight.dim() > 2 and weight.shape[1] == model.spec.channels
        inner = weight.dim() > 1 and not reads_map and weight.shape[0] != 3
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
