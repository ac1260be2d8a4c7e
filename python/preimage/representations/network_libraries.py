"""Load networks of timm and of transformers by name, ``timm:NAME`` and ``hf:NAME``. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from preimage.errors import brief, is_out_of_memory
from preimage.optional import import_optional
from preimage.representations.network import Network
from preimage.representations.preprocessing import PREPROCESSINGS, Preprocessing, check_preprocessing, unit_rgb

RANDOM = "random"  # value of `weights`
RANDOM_MARK = ", random weights"  # at the end of the names of networks without trained weights
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # names in timm's repositories on the Hugging Face Hub


def is_library_name(name: str) -> bool:
    """Return whether a name is that of a network of timm or of transformers."""
    return name.partition(":")[0] in _LOADERS


def library_network(
    name: str, *, preprocessing: str | None = None, input_size: int | None = None, weights: str | None = None
) -> Network:
    """Return the network ``timm:NAME`` or ``hf:NAME``. Nothing is downloaded.

    Args:
        name: ``timm:NAME`` for a name that ``timm.create_model`` knows; ``hf:NAME`` for a folder with a model of
            transformers, or the name of one in the Hugging Face cache of this machine.
        preprocessing: ``"imagenet-rgb"``, ``"caffe-bgr"`` or ``"unit"``; by default that of the network.
        input_size: Side of the images in pixels; by default that of the network.
        weights: For timm the path of a file of weights; for both ``"random"``, initialized with the seed 0. By default
            the trained weights, if they are on this machine.

    Raises:
        ImportError: timm or transformers is not installed.
        ValueError: No such network, no weights on this machine, or no preprocessing; the message says what to give.
    """
    library, _, model = name.partition(":")
    if not model:
        raise ValueError(f"the name of a network must be {library}:NAME, got {name!r}")
    if preprocessing is not None:
        check_preprocessing(preprocessing)
    if input_size is not None and input_size < 1:
        raise ValueError(f"input_size must be at least 1, got {input_size}")
    return _LOADERS[library](model, preprocessing, input_size, weights)


def timm_preprocessing(module: nn.Module, input_size: int | None = None) -> Preprocessing:
    """Return the preprocessing of a network of timm, from its ``pretrained_cfg``.

    Args:
        module: The network.
        input_size: Side of the images in pixels; ``None`` for that of the configuration.

    Raises:
        ImportError: timm is not installed.
        ValueError: Images that are not square, or not RGB.
    """
    config: Mapping[str, Any] = import_optional("timm", "timm.data").resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    if channels != 3 or (input_size is None and height != width):
        raise ValueError(f"the network must take square RGB images, got (C, H, W) = {channels, height, width}")
    side = height if input_size is None else input_size
    return Preprocessing(side, mean=_three(config["mean"]), std=_three(config["std"]))


def has_timm_config(module: nn.Module) -> bool:
    """Return whether a module has the configuration of timm from which `timm_preprocessing` is taken."""
    return bool(getattr(module, "pretrained_cfg", None))


def _changed(preprocessing: Preprocessing, name: str | None) -> Preprocessing:
    """Return the preprocessing, or the named one for images of the same size."""
    return preprocessing if name is None else PREPROCESSINGS[name](preprocessing.image_size)


@contextlib.contextmanager
def _fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _timm(model: str, preprocessing: str | None, input_size: int | None, weights: str | None) -> Network:
    timm = import_optional("timm")
    if not timm.is_model(model.partition(".")[0]):
        similar = ", ".join(timm.list_models(f"*{model.partition('.')[0]}*")[:5])
        raise ValueError(f"timm has no network {model!r}{f'; similar names are {similar}' if similar else ''}")
    options: dict[str, Any] = {"pretrained": False}
    if weights != RANDOM:
        file = Path(weights) if weights is not None else _timm_file(timm, model)
        if not file.is_file():
            raise ValueError(f"weights must be a file or {RANDOM!r}, got {str(file)!r}, which is no file")
        # Files for a network's own loader, which the configuration may name, are NumPy's; all others are state_dicts.
        overlay = {"file": str(file), "hf_hub_id": None, "source": None, "custom_load": file.suffix == ".npz"}
        options = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    with _fixed_seed():
        module = _timm_module(timm, model, input_size, options)
    with_size = timm_preprocessing(module, input_size)
    mark = RANDOM_MARK if weights == RANDOM else ""
    return Network(module.eval(), _changed(with_size, preprocessing), name=f"timm:{model}{mark}")


def _timm_module(timm: Any, model: str, input_size: int | None, options: dict[str, Any]) -> nn.Module:
    """Create a network; transformers take the size of the images as an argument, which other networks do not have."""
    try:
        if input_size is not None:
            with contextlib.suppress(TypeError):
                return _module(timm.create_model(model, img_size=input_size, **options))
        return _module(timm.create_model(model, **options))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"timm:{model} failed: {brief(error)}") from error


def _module(made: Any) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, got {type(made).__name__}")
    return made


def _timm_file(timm: Any, model: str) -> Path:
    """Return the file of trained weights in the caches of the Hugging Face Hub or of torch.

    Raises:
        ValueError: There is none; the message names what was looked for.
    """
    found = timm.get_pretrained_cfg(model)
    config: dict[str, Any] = {} if found is None else found.to_dict()
    looked_for = []
    if repository := config.get("hf_hub_id"):
        hub = import_optional("timm", "huggingface_hub")
        looked_for.append(str(repository))
        for name in (config.get("hf_hub_filename"), *_WEIGHT_FILES):
            cached = None if name is None else hub.try_to_load_from_cache(repository, name)
            if isinstance(cached, str):
                return Path(cached)
    if url := config.get("url"):
        path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
        if path.is_file():
            return path
        looked_for.append(str(path))
    where = f" (looked for {' and '.join(looked_for)})" if looked_for else ""
    raise ValueError(
        f"the trained weights of timm:{model} are not on this machine{where}, and nothing is downloaded: give "
        f"weights=FILE, or weights={RANDOM} for random ones"
    )


class TransformersNetwork(Network):
    """A network of transformers. If a layer returns a tuple or a ``ModelOutput``, its features are the first tensor."""

    def _output(self, output: Any) -> Any:
        """Return the first tensor of a tuple, or of a ``ModelOutput`` (``last_hidden_state``)."""
        if isinstance(output, Mapping):
            output = tuple(output.values())
        if isinstance(output, tuple | list):
            return next((value for value in output if isinstance(value, torch.Tensor)), output)
        return output


def _hf(model: str, preprocessing: str | None, input_size: int | None, weights: str | None) -> Network:
    transformers = import_optional("transformers")
    if weights not in (None, RANDOM):
        raise ValueError(
            f"weights of hf:{model} must be {RANDOM!r} or omitted: its folder contains them, got {weights!r}"
        )
    called = f"hf:{Path(model).name if Path(model).is_dir() else model}"
    try:
        config = transformers.AutoConfig.from_pretrained(model, local_files_only=True)
        if weights == RANDOM:
            with _fixed_seed():
                module = transformers.AutoModel.from_config(config)
        else:
            module = transformers.AutoModel.from_pretrained(model, local_files_only=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"hf:{model} is neither a folder with a model of transformers nor in the cache of this machine, and "
            f"nothing is downloaded: {brief(error)}"
        ) from error
    tower = getattr(module, "vision_model", module)  # of CLIP and SigLIP
    own_size = _own_size(tower)
    if preprocessing is None:
        with_size = _hf_preprocessing(transformers, model, input_size)
    else:
        if (side := input_size or own_size) is None:
            raise ValueError(f"input_size must be given for {called}: its configuration has no image_size")
        with_size = PREPROCESSINGS[preprocessing](side)
    if own_size is not None and with_size.image_size != own_size:
        tower.register_forward_pre_hook(_interpolate_positions, with_kwargs=True)
    mark = RANDOM_MARK if weights == RANDOM else ""
    return TransformersNetwork(tower.eval(), with_size, name=f"{called}{mark}")


def _own_size(module: nn.Module) -> int | None:
    side = getattr(getattr(module, "config", None), "image_size", None)
    if isinstance(side, tuple | list):
        side = side[0] if len(set(side)) == 1 else None
    return side if isinstance(side, int) else None


def _interpolate_positions(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Let a network interpolate its position embeddings, for images of another size than it was trained on."""
    import inspect

    takes = "interpolate_pos_encoding" in inspect.signature(module.forward).parameters
    return args, kwargs | ({"interpolate_pos_encoding": True} if takes else {})


def _hf_preprocessing(transformers: Any, model: str, input_size: int | None) -> Preprocessing:
    """Return the preprocessing in ``preprocessor_config.json``.

    The file is read instead of creating an ``AutoImageProcessor``, which needs torchvision.
    """
    reader = import_optional("transformers", "transformers.image_processing_utils").BaseImageProcessor
    try:
        fields, _ = reader.get_image_processor_dict(model, local_files_only=True)
    except Exception as error:
        raise ValueError(
            f"hf:{model} has no preprocessor_config.json ({brief(error)}): give preprocessing="
            f"{', '.join(PREPROCESSINGS)}"
        ) from error
    side = input_size or _processed_side(fields)
    scale = 255 * float(fields.get("rescale_factor", 1 / 255)) if fields.get("do_rescale", True) else 255.0
    unnormalized = dataclasses.replace(unit_rgb(side), scale=round(scale, 9))
    if not fields.get("do_normalize", True):
        return unnormalized
    if not (fields.get("image_mean") and fields.get("image_std")):
        fields = fields | _defaults(transformers, model)
    mean, std = _three(fields["image_mean"]), _three(fields["image_std"])
    return dataclasses.replace(unnormalized, mean=mean, std=std)


def _three(values: Any) -> tuple[float, float, float]:
    """Return three numbers; one number is repeated."""
    numbers = [float(value) for value in values] if isinstance(values, Sequence) else [float(values)] * 3
    if len(numbers) != 3:
        raise ValueError(f"mean and std must be three numbers, got {values!r}")
    return numbers[0], numbers[1], numbers[2]


def _defaults(transformers: Any, model: str) -> dict[str, Any]:
    """Return mean and standard deviation from the processor's class, which needs its libraries."""
    processor = transformers.AutoImageProcessor.from_pretrained(model, local_files_only=True)
    return {name: getattr(processor, name) for name in ("image_mean", "image_std")}


def _processed_side(fields: Mapping[str, Any]) -> int:
    """Return the side of the images after resizing and cropping."""
    given = fields.get("crop_size") if fields.get("do_center_crop", "crop_size" in fields) else None
    given = given if given is not None else fields.get("size")
    if isinstance(given, Mapping):
        sides = {given[name] for name in ("height", "width", "shortest_edge") if given.get(name) is not None}
        given = sides.pop() if len(sides) == 1 else None
    if not isinstance(given, int):
        raise ValueError(
            "preprocessor_config.json must state one side of the images, got "
            f"{fields.get('crop_size') or fields.get('size')!r}: give input_size"
        )
    return given


_LOADERS: dict[str, Callable[[str, str | None, int | None, str | None], Network]] = {"timm": _timm, "hf": _hf}
