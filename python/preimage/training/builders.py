"""Build the network, optimizers and step of a training run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch

from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.inverters.layers import upconv_weights
from preimage.inverters.plan import Plan, plan
from preimage.inverters.precision import choose_dtype
from preimage.inverters.sampler import Sampler, SamplerConfig
from preimage.inverters.widening import widened
from preimage.representations.registry import class_of
from preimage.training import checkpoint
from preimage.training.config import TrainConfig
from preimage.training.dataset import Dataset, are_probabilities
from preimage.training.distributed import SINGLE_PROCESS, Processes
from preimage.training.energy_score import SMALLEST
from preimage.training.finetuning import Encoder
from preimage.training.graphed_step import GraphedStep, cuda_graph
from preimage.training.image_sizes import other_sides
from preimage.training.muon import Muon
from preimage.training.split import ImageList, image_digest
from preimage.training.statistics import set_further_statistics, set_statistics
from preimage.training.step import EagerStep, Step, TrainState


def build_state(
    config: TrainConfig, dataset: Dataset, device: torch.device, processes: Processes = SINGLE_PROCESS
) -> TrainState:
    """Return the state with which a run starts: equal settings give equal weights.

    Args:
        config: The run's settings with their size resolved.
        dataset: The run's dataset.
        device: Device of this process.
        processes: The processes of the run; all of them get the weights of the main one.

    Raises:
        ValueError: Any of `build_inverter` and `Encoder`.
    """
    extraction_device = dataset.extract_on(device)
    torch.manual_seed(config.seed)
    model = build_inverter(config, dataset)
    if config.init is None and processes.is_main:  # else the weights are for the statistics that they came with
        set_statistics(model, dataset)
    model = model.to(device)
    if config.min_size is not None:
        dataset.other_sides = _other_sides(config, dataset, model)
    encoder = None
    if config.finetune:
        assert dataset.representation is not None  # the settings refuse precomputed features
        encoder = Encoder(dataset.representation, device)
    state = TrainState(
        config,
        dataset.representation,
        model,
        average=copy.deepcopy(model).eval().requires_grad_(False),
        optimizers=build_optimizers(model, config, encoder),
        dtype=choose_dtype(config.precision, device),
        loss_sum=torch.zeros((), dtype=torch.float64, device=device),
        extraction_device=extraction_device,
        encoder=encoder,
        processes=processes,
    )
    processes.synchronize(state.modules.values())
    return state


def build_inverter(config: TrainConfig, dataset: Dataset) -> Inverter:
    """Return the network of the run's preset for the dataset's features, or the inverter that the run starts from.

    Raises:
        ValueError: There is no such preset; the network does not reconstruct all of an image of this size; the inverter
            ``config.init`` inverts other features or images of another size, or differs from the preset; or its
            reconstructions are too small for a sampler.
    """
    spec, cells, size = dataset.spec, dataset.cells, config.side
    planned = None if config.preset is None else _planned(config, dataset)
    if config.init is None:
        assert planned is not None  # only with an inverter to start from, no preset is the default
        model = Inverter(spec, planned.config, output_region=planned.output_region)
    else:
        model = _initial(config, dataset).train().requires_grad_()
        if planned not in (None, Plan(model.config, model.output_region)):
            raise ValueError(
                f"{config.init} has another network or output region than preset {config.preset!r}: leave out preset, "
                "output_size and budget to continue with its network"
            )
        if config.sampler:
            model.requires_grad_(False)
            if model.sampler is None:
                model.sampler = Sampler(model.network, SamplerConfig())
            model.sampler.requires_grad_()
        else:
            model.sampler = None  # it would not fit the encoder any more
        if (region := model.output_region) is not None and region.image_size != size:
            raise ValueError(
                f"{config.init} inverts features of images of {region.image_size}² pixels, got size {size}"
            )
        if config.sampler and (side := size if region is None else region.size) < SMALLEST:
            raise ValueError(f"a sampler is trained on reconstructions of at least {SMALLEST}² pixels, got {side}²")
    if model.output_region is None and cells is not None and (covered := model.covered(*cells)) != (size, size):
        raise ValueError(
            f"{spec.representation} features of {size}×{size} pixels are inverted to {'×'.join(map(str, covered))}: "
            f"size must be one that is reconstructed completely, such as 256, got {size}"
        )
    return model


def _other_sides(config: TrainConfig, dataset: Dataset, model: Inverter) -> tuple[int, ...]:
    """Return the sides in pixels of the images of half of the batches; raise ``ValueError`` if there are none."""
    assert config.min_size is not None and dataset.representation is not None  # see TrainConfig
    if config.sampler and config.side <= SMALLEST:
        raise ValueError(f"with min_size, the size must be above {SMALLEST} for a sampler, got {config.side}")
    smallest = max(config.min_size, SMALLEST) if config.sampler else config.min_size
    return other_sides(model, dataset.representation.feature_size, smallest, config.side)


def _initial(config: TrainConfig, dataset: Dataset) -> Inverter:
    """Return the inverter `config.init`, widened if it is one of the first channels of the dataset's features."""
    assert config.init is not None
    model, spec = Inverter.load(config.init), dataset.spec
    differences = spec.differences(model.spec)
    if not differences:
        return model
    if model.spec != class_of(spec.representation).first_channels(spec):
        raise ValueError(f"{config.init} inverts other features (requested != its own): {'; '.join(differences)}")
    if config.sampler:
        raise ValueError(
            f"{config.init} inverts the first {model.spec.channels} of {spec.channels} channels: train an inverter of "
            "all of them before its sampler"
        )
    wide = widened(model, spec)
    set_further_statistics(wide, dataset, model.spec.channels)
    return wide


def _planned(config: TrainConfig, dataset: Dataset) -> Plan:
    assert config.preset is not None
    return plan(
        dataset.spec,
        config.preset,
        cells=dataset.cells,
        image_size=config.side,
        output_size=config.output_size,
        budget=config.budget,
        probabilities=_contains_probabilities(dataset),
    )


def _contains_probabilities(dataset: Dataset) -> bool:
    """Return whether the features are vectors that are never negative and sum to one."""
    if dataset.cells is not None:
        return False
    features = next(iter(dataset.examples(with_features=True))).features
    return features is not None and are_probabilities(features)


def init_warning(init: str, images: ImageList) -> str | None:
    """Return a warning if the inverter to start from was trained on validation images, or if that is unknown."""
    path = Path(init) / checkpoint.CHECKPOINT  # does not exist if `init` is the name of an inverter
    try:
        earlier = checkpoint.read_images(path) if path.exists() else None
    except FileFormatError:
        earlier = None  # the folder contains no checkpoint of this format
    if earlier is None:
        return (
            f"the training images of {init}, which the run starts from, are unknown: if some of the images held out "
            "now are among them, the error measured on these is too low"
        )
    seen = {image_digest(digest) for digest in earlier.train.values()}
    both = [key for key, digest in images.val.items() if image_digest(digest) in seen]
    if not both:
        return None
    return (
        f"{init}, which the run starts from, was trained on {len(both)} of the {len(images.val)} images held out "
        f"now, first {both[0]!r}: the error measured on them says little about unseen images"
    )


def build_optimizers(
    model: Inverter, config: TrainConfig, encoder: Encoder | None = None
) -> list[torch.optim.Optimizer]:
    """Return Adam for all weights, or with ``muon`` Adam and Muon, and Adam for the weights of the encoder if any.

    Muon updates the kernels between the features and the image, and the matrix that reads vectors, where most of the
    capacity for vectors is. Trained weights of an encoder change little, so that its optimizer has a lower learning
    rate, and is Adam in either case.
    """
    transposed = upconv_weights(model)
    muon: tuple[list[torch.nn.Parameter], ...] = ([], [])  # by the axis of their output channels
    adam: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        rows = int(name in transposed)
        reads_map = weight.dim() > 2 and weight.shape[1 - rows] == model.spec.channels
        inner = weight.dim() > 1 and not reads_map and weight.shape[rows] != 3 and not name.startswith("sampler.noise.")
        (muon[rows] if inner and config.optimizer == "muon" else adam).append(weight)
    fused = True if adam[0].is_cuda else None
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(adam, config.lr, fused=fused)]
    groups = [{"params": weights, "rows": rows} for rows, weights in enumerate(muon) if weights]
    if groups:
        optimizers.append(Muon(groups, config.muon_lr))
    if encoder is not None:
        optimizers.append(torch.optim.Adam(encoder.parameters, config.finetune_lr, fused=fused))
    return optimizers


def choose_step(state: TrainState, step: int, note: Callable[[str], None]) -> Step:
    """Return the step as one CUDA graph if the device supports that, else `EagerStep`; `note` gets the reason."""
    if state.device.type == "cuda" and state.encoder is not None:
        note("the steps run operation by operation, because the network of the representation is fine-tuned")
    elif state.device.type == "cuda" and state.config.sampler:
        note("the steps run operation by operation, because the noise of samples is drawn on the CPU")
    elif state.device.type == "cuda" and state.config.min_size is not None:
        note("the steps run operation by operation, because the size of the images varies")
    elif state.device.type == "cuda" and state.processes.size > 1:
        note("the steps run operation by operation, because several processes train")
    elif state.device.type == "cuda":
        try:
            return GraphedStep(state, step, cuda_graph)
        except Exception as error:  # the state is unchanged, and training without a graph works after any error
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            note(f"the steps run operation by operation, more slowly, because no CUDA graph could be made: {reason}")
    return EagerStep(state)
