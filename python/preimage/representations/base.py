"""What can be inverted: named functions from images to features, and the register of them."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from preimage.representations import plugins
from preimage.spec import USER_VARIANT, Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

NETWORK = "network"  # the name of every layer of a network: there is no register of those


@dataclasses.dataclass(frozen=True)
class Representation(abc.ABC):
    """A named function images → features. Its dataclass fields are its parameters.

    Attributes:
        name: how it is called in specs, files and on the command line.
        in_workers: it takes so long that training computes it ahead, by `for_training`, in the threads that prepare
            batches.
        computes_arrays: it has `compute_into`, and computes NumPy arrays without torch.
    """

    name: ClassVar[str]
    in_workers: ClassVar[bool] = False
    computes_arrays: ClassVar[bool] = False

    @classmethod
    def from_parameters(cls, variant: str, values: Mapping[str, Any]) -> Representation:
        """The representation with a spec's variant and parameters; these are the fields, unless a kind differs."""
        return create(cls.name, **{**values, "variant": variant})

    @property
    @abc.abstractmethod
    def spec(self) -> Spec:
        """Everything that decides the numbers."""

    @abc.abstractmethod
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, C, h, w) or (B, C), float32, of images (B, 3, H, W) in [0, 1] or uint8, RGB.

        Where `computes_arrays` is set, images may also be a NumPy array, which gives an array, and have other leading
        dimensions or none, which the features keep.
        """

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        """Write the features of images in place, where `computes_arrays` is set.

        Several Python threads may call it at once. The features of uint8 images are finite, and within float16's range.

        Args:
            images: (B, H, W, 3), as decoders give them; any strides.
            features: (B, C, h, w), float32 or float16, C-contiguous.
            threads: how many work on the batch.

        Raises:
            ValueError: images without features, or `features` of another shape, dtype or layout.
            TypeError: images of another dtype, or a representation that does not compute arrays.
        """
        raise TypeError(f"{self.name} does not compute NumPy arrays: call it with tensors")

    def for_training(self, images: torch.Tensor, seed: tuple[int, ...]) -> torch.Tensor:
        """Features (B, C, h, w), float32, of a training batch (B, 3, H, W) uint8 on the CPU, where `in_workers` is set.

        A representation may vary them at random, in the same way for the same `seed` (numbers >= 0).
        """
        return self(images)

    @property
    def image_side(self) -> int | None:
        """Side in pixels of the square images that it takes, where it takes no others; else ``None``."""
        return None

    @abc.abstractmethod
    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        """(h, w) for images of that many pixels; ``None`` for vectors.

        Raises:
            ValueError: such an image is too small to have features.
        """

    @abc.abstractmethod
    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """The pixels (H, W) that features of (h, w) cells cover."""


def decoded(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a view (B, 3, H, W) of decoded images (B, H, W, 3); ``TypeError`` or ``ValueError`` for anything else."""
    if images.dtype != "uint8":
        raise TypeError(f"decoded images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"decoded images must be (B, H, W, 3), got shape {images.shape}")
    return images.transpose(0, 3, 1, 2)


# What comes with the package, by module, each imported when one of its names is asked for: some need torch.
_ALEXNET = (*(f"conv{k}" for k in range(1, 6)), "fc6", "fc7", "fc8", "prob")
_MODULES = {name: f"preimage.representations.{name.replace('-', '_')}" for name in ("dense-sift", "hog", "lbp", "sift")}
_MODULES["efficientnet-lite0"] = "preimage.representations.efficientnet_lite0"
_MODULES |= {f"alexnet-{layer}": "preimage.representations.alexnet" for layer in _ALEXNET}
_FAMILY_MODULES = {"torch": "preimage.representations.network_factory"}

_REGISTER: dict[str, type[Representation]] = {}

_FAMILIES: dict[str, Callable[..., Representation]] = {}

R = TypeVar("R", bound=type[Representation])
F = TypeVar("F", bound=Callable[..., Representation])


def register(kind: R) -> R:
    """Class decorator: makes a representation known under its ``name``."""
    if not issubclass(kind, Representation):
        raise TypeError(f"a representation is a subclass of preimage.representations.Representation, got {kind}")
    taken = _MODULES.get(kind.name, kind.__module__) != kind.__module__
    if taken or _REGISTER.get(kind.name, kind) is not kind:
        owner = _REGISTER.get(kind.name, _MODULES.get(kind.name))
        raise ValueError(f"a representation named {kind.name!r} is registered already: {owner}")
    _REGISTER[kind.name] = kind
    return kind


def register_family(prefix: str) -> Callable[[F], F]:
    """Decorator of a function (name, parameters by keyword) that makes what is called ``prefix:...``."""

    def keep(function: F) -> F:
        _FAMILIES[prefix] = function
        return function

    return keep


def names() -> list[str]:
    """The registered names, sorted, those of installed plug-ins included."""
    plugins.load(register)
    return sorted({*_MODULES, *_REGISTER})


def parameters(name: str) -> dict[str, Any]:
    """A representation's parameters with their defaults, by name."""
    if (family := _family(name)) is not None:
        taken = inspect.signature(family).parameters.values()
        return {one.name: one.default for one in taken if one.kind is inspect.Parameter.KEYWORD_ONLY}
    return {field.name: field.default for field in dataclasses.fields(_kind(name))}


def create(name: str, /, **values: Any) -> Representation:
    """The representation of that name, with the parameters given.

    ``torch:package.module:factory`` is a layer of the network that this function makes; the module is imported, from
    the current folder too.

    Raises:
        ValueError: no such name, no such parameter (the known ones are listed), or a value out of range.
    """
    known = parameters(name)
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    family = _family(name)
    return _kind(name)(**values) if family is None else family(name, **values)


def from_spec(spec: Spec) -> Representation:
    """The representation that makes features of exactly this spec.

    Never imports code that a spec names; a name that is not known has the plug-ins loaded that are installed.

    Raises:
        ValueError: there is none in this version of the package (says which field differs), or it is a network's layer,
            or features of somebody's own.
    """
    if spec.representation == NETWORK or _family(spec.representation) is not None:
        layer = spec.parameters.get("layer")
        raise ValueError(
            f"features of layer {layer!r} of the network {spec.variant}: no file makes us import a network, so name it "
            f"yourself (--representation torch:package.module:factory -p layer={layer}; in Python preimage.Network)"
        )
    if spec.variant == USER_VARIANT and spec.representation not in {*_MODULES, *_REGISTER}:
        raise ValueError(f"{spec.representation!r} are user-provided features, which cannot be recomputed from images")
    representation = _kind(spec.representation).from_parameters(spec.variant, spec.parameters)
    if differences := representation.spec.differences(spec):
        raise ValueError(f"this version's {spec.representation} is another one: {'; '.join(differences)}")
    return representation


def _family(name: str) -> Callable[..., Representation] | None:
    if ":" not in name:
        return None
    prefix = name.partition(":")[0]
    if prefix not in _FAMILIES and prefix in _FAMILY_MODULES:
        importlib.import_module(_FAMILY_MODULES[prefix])
    return _FAMILIES.get(prefix)


def _kind(name: str) -> type[Representation]:
    if name not in _REGISTER and name in _MODULES:
        importlib.import_module(_MODULES[name])
    if name not in _REGISTER:
        plugins.load(register)
    if name not in _REGISTER:
        failed = plugins.failures()
        reason = f" ({'; '.join(failed)})" if failed else ""
        raise ValueError(
            f"unknown representation {name!r}; known are {', '.join(names())}, and torch:package.module:factory{reason}"
        )
    return _REGISTER[name]
