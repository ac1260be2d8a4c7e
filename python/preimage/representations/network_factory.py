"""Create representations from the name of a network: ``torch:package.module:factory``, ``timm:NAME`` or ``hf:NAME``."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from torch import nn

from preimage.errors import brief, is_out_of_memory
from preimage.representations.base import Representation
from preimage.representations.network import Network
from preimage.representations.network_layers import describe_output, place_of
from preimage.representations.network_libraries import is_library_name, library_network
from preimage.representations.preprocessing import PREPROCESSINGS, check_preprocessing
from preimage.representations.registry import register_family

_NAME = re.compile(r"torch:([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


@register_family("hf")
@register_family("timm")
@register_family("torch")
def create(
    name: str,
    *,
    layer: Annotated[
        str | None, "Name of the layer, see `preimage layers`; empty for the output of the network."
    ] = None,
    output_layout: Annotated[
        str | None,
        "Layout: auto, nchw, nhwc, vector, tokens-middle, tokens-last, tokens-at-N, class-token, grid or mean.",
    ] = None,
    preprocessing: Annotated[
        str | None,
        "Preprocessing: imagenet-rgb (default of torch:), caffe-bgr or unit. Default: that of timm or transformers.",
    ] = None,
    input_size: Annotated[
        int | None, "Side of the images in pixels. Default: that of timm or transformers for the network, else 224."
    ] = None,
    weights: Annotated[
        str | None, "Path of the weights, passed to the factory or to timm; random for timm and transformers."
    ] = None,
) -> Representation:
    """Create a representation from a layer of any torch network: torch:package.module:factory, timm:NAME or hf:NAME.

    Args:
        name: ``torch:package.module:factory``, see `load_factory`; or as in `library_network`.
        layer: Name of the layer; ``""`` is the output of the network.
        output_layout: Axis order of the layer's output, ``"auto"`` by default; see `preimage.Network`.
        preprocessing: ``"imagenet-rgb"``, ``"caffe-bgr"``, or ``"unit"``: RGB in [0, 1]. By default that of timm or
            transformers for the network, else ``"imagenet-rgb"``.
        input_size: Side of the images in pixels; by default that of timm or transformers for the network, else 224.
        weights: Path of the weights, passed to the factory or to timm; ``"random"`` for timm and transformers.

    Raises:
        ValueError: As `load_factory` and `load_network`; no layer is given, or the network has no layer of that name.
    """
    network = load(name, weights=weights, preprocessing=preprocessing, input_size=input_size)
    if isinstance(network, Representation):
        _refuse(name, "makes a Representation", layer=layer, output_layout=output_layout)
        return network
    if layer is None:
        raise ValueError(
            f"layer must be given for {name} (-p layer=NAME); `preimage layers {name}` lists them, '' is the output"
        )
    return network.representation(layer, output_layout or "auto")


def load_network(
    name: str, *, preprocessing: str | None = None, input_size: int | None = None, weights: str | None = None
) -> Network:
    """Return the network of a name; arguments as in `create`.

    Raises:
        ImportError, ValueError: As `library_network`.
        ValueError: As `load_factory`; a factory that creates a representation without layers; an unknown preprocessing;
            or a preprocessing or `input_size`, if the factory creates a `preimage.Network`, which has both.
    """
    if is_library_name(name):
        return library_network(name, preprocessing=preprocessing, input_size=input_size, weights=weights)
    made = load_factory(name, weights)
    if isinstance(made, Representation):
        network = getattr(made, "network", None)
        if not isinstance(network, Network):
            raise ValueError(f"{name} returns a representation, {type(made).__name__}, which has no layers")
        made = network
    return as_network(name, made, preprocessing, input_size)


def load(
    name: str, *, weights: str | None = None, preprocessing: str | None = None, input_size: int | None = None
) -> Network | Representation:
    """Return the network of a name, or the representation that a function creates; arguments as in `create`.

    Raises:
        ImportError, ValueError: As `load_network`, or preprocessing options if the function creates a representation.
    """
    if is_library_name(name):
        return library_network(name, preprocessing=preprocessing, input_size=input_size, weights=weights)
    made = load_factory(name, weights)
    if isinstance(made, Representation):
        _refuse(name, "makes a Representation", preprocessing=preprocessing, input_size=input_size)
        return made
    return as_network(name, made, preprocessing, input_size)


def as_network(name: str, made: nn.Module | Network, preprocessing: str | None, input_size: int | None) -> Network:
    """Return the network that a factory created, with the preprocessing of the given name."""
    if isinstance(made, Network):
        _refuse(name, "makes a Network", preprocessing=preprocessing, input_size=input_size)
        return made
    preset = "imagenet-rgb" if preprocessing is None else preprocessing
    check_preprocessing(preset)
    return Network(made, PREPROCESSINGS[preset](224 if input_size is None else input_size), name=name)


def load_factory(name: str, weights: str | None = None) -> nn.Module | Network | Representation:
    """Import ``package.module``, from the current folder or the installed packages, and call ``factory``.

    Args:
        name: ``torch:package.module:factory``; the factory takes no arguments, or only `weights`.
        weights: Passed as the argument ``weights`` if the factory has one, or else as the first argument.

    Raises:
        ValueError: A name of another form; no such module or function; a function that fails or returns anything else.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"the name of a network must be torch:package.module:factory, timm:NAME or hf:NAME, got {name!r}"
        )
    with _current_folder_importable():
        factory = _attribute(name, *match.groups())
        if isinstance(factory, nn.Module | Network | Representation):
            _refuse(name, "is a ready network", weights=weights)
            return factory
        if not callable(factory):
            raise ValueError(f"{name} must be a function that creates a network, got {describe_output(factory)}")
        args, kwargs = _arguments(name, factory, weights)
        try:
            made = factory(*args, **kwargs)
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(f"{name} failed: {brief(error)}{place_of(error)}") from error
    if not isinstance(made, nn.Module | Network | Representation):
        raise ValueError(
            f"{name} must return a torch.nn.Module, preimage.Network or Representation, got {describe_output(made)}"
        )
    return made


def _attribute(name: str, module_name: str, path: str) -> Any:
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script may parse its arguments and exit
        raise ValueError(
            f"{name}: cannot import {module_name} from the current folder or the installed packages: "
            f"{brief(error)}{place_of(error)}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{name}: {module_name} has no {path}")
        found = getattr(found, part)
    return found


def _arguments(name: str, factory: Any, weights: str | None) -> tuple[tuple[str, ...], dict[str, str]]:
    if weights is None:
        return (), {}
    try:
        taken = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # functions written in C may have no signature
        return (weights,), {}
    if "weights" in taken:
        return (), {"weights": weights}
    if not any(one.kind is not inspect.Parameter.KEYWORD_ONLY for one in taken.values()):
        raise ValueError(f"{name} takes no weights: its function has no argument for them")
    return (weights,), {}


def _refuse(name: str, what: str, **given: object) -> None:
    if names := [parameter for parameter, value in given.items() if value is not None]:
        raise ValueError(f"{name} {what}, which has its own: omit {', '.join(names)}")


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder first on the import path, as ``python -m`` does, while a network is loaded."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):  # removed by the network's code
            sys.path.remove(folder)
