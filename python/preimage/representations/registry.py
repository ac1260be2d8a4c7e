"""Registry of representations: those of the package, of plug-ins, and families such as ``torch:...``.

A module of the package is imported when one of its representations is first used.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from preimage.representations import plugins
from preimage.representations.base import NETWORK, Parameter, Representation, check_names
from preimage.spec import USER_VARIANT, Spec

# Modules of this package that define the representation of the same name (with "-" instead of "_"), or several whose
# names begin with it.
_ONE = ("dense_sift", "efficientnet_lite0", "hog", "lbp", "sift")
_SEVERAL = ("alexnet",)
_FAMILY_MODULES = dict.fromkeys(("torch", "timm", "hf"), "network_factory")

_REGISTER: dict[str, type[Representation]] = {}
_FAMILIES: dict[str, Callable[..., Representation]] = {}

R = TypeVar("R", bound=type[Representation])
F = TypeVar("F", bound=Callable[..., Representation])


@dataclasses.dataclass(frozen=True)
class RepresentationInfo:
    """Description of a representation.

    Attributes:
        name: Identifier.
        title: Name in prose.
        summary: One sentence.
        channel_names: Names of the channels, in order; empty if they have no names.
        parameters: Parameters with types, defaults and meaning.
        presets: Names of the networks that are designed to invert it.
    """

    name: str
    title: str
    summary: str
    channel_names: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    presets: tuple[str, ...]


def register(kind: R) -> R:
    """Register a subclass of `Representation` under its ``name``; used as a class decorator.

    Raises:
        TypeError: Not a subclass of `Representation`.
        ValueError: The name is taken.
    """
    if not (isinstance(kind, type) and issubclass(kind, Representation)):
        raise TypeError(f"a representation must be a subclass of preimage.representations.Representation, got {kind}")
    module = _module_of(kind.name)
    if module is not None and kind.__module__ != _import_name(module):
        importlib.import_module(_import_name(module))  # registers the representation of the package with this name
    if _REGISTER.get(kind.name, kind) is not kind:
        raise ValueError(f"a representation named {kind.name!r} is registered already: {_REGISTER[kind.name]}")
    _REGISTER[kind.name] = kind
    return kind


def register_family(prefix: str) -> Callable[[F], F]:
    """Register a function that creates the representations named ``prefix:...``; used as a decorator.

    The arguments of the function are the name, and the parameters by keyword, annotated as ``Annotated[type, help]``.
    """

    def keep(function: F) -> F:
        _FAMILIES[prefix] = function
        return function

    return keep


def list_representations() -> list[str]:
    """Return the names of all representations, sorted, including those of installed plug-ins."""
    for module in _SEVERAL:
        importlib.import_module(_import_name(module))
    plugins.load(register)
    return sorted({*(module.replace("_", "-") for module in _ONE), *_REGISTER})


def describe_representation(name: str) -> RepresentationInfo:
    """Describe a representation: its title, summary, parameters and presets.

    Args:
        name: One of `list_representations`, or ``torch:package.module:factory``, ``timm:NAME`` or ``hf:NAME``.

    Raises:
        ValueError: No such name; the message lists the known ones.
    """
    if (family := _family(name)) is not None:
        summary = (inspect.getdoc(family) or "").partition("\n")[0]
        return RepresentationInfo(name, name, summary, (), _family_parameters(family), ())
    kind = representation_class(name)
    return RepresentationInfo(
        name, kind.title or name, kind.summary, kind.channel_names, kind.parameters(), tuple(kind.presets)
    )


def create_representation(name: str, /, **parameters: Any) -> Representation:
    """Create a representation by name.

    ``torch:package.module:factory`` is a layer of the network that the function ``factory`` creates; its module is
    imported from the current folder or from the installed packages. ``timm:NAME`` and ``hf:NAME`` are layers of
    networks of timm and transformers, whose weights must be on this machine.

    Args:
        name: One of `list_representations`, or ``torch:package.module:factory``, ``timm:NAME`` or ``hf:NAME``.
        parameters: Parameters that differ from the defaults, see `describe_representation`.

    Raises:
        ValueError: No such name or parameter (the known ones are listed), or a value out of range.

    Example:
        >>> hog = preimage.create_representation("hog", cell_size=4)
        >>> hog(image).shape  # [31, H/4, W/4]
    """
    if (family := _family(name)) is not None:
        check_names(name, parameters, [known.name for known in _family_parameters(family)])
        return family(name, **parameters)
    kind = representation_class(name)
    check_names(name, parameters, [known.name for known in kind.parameters()])
    return kind(**parameters)


def representation_from_spec(spec: Spec) -> Representation:
    """Return the representation that computes features of exactly this spec.

    Code named in a spec is never imported. Installed plug-ins are loaded if the name is unknown.

    Raises:
        ValueError: No representation of this version computes these features (the message names the fields that
            differ), or the spec is that of a network's layer or of user-provided features.
    """
    if spec.representation == NETWORK or _family(spec.representation) is not None:
        layer = spec.parameters.get("layer")
        raise ValueError(
            f"features of layer {layer!r} of the network {spec.variant}: opening a file imports no network, so name it "
            f"(--representation torch:package.module:factory -p layer={layer}; in Python preimage.Network)"
        )
    if spec.variant == USER_VARIANT and _known_class(spec.representation) is None:
        raise ValueError(f"{spec.representation!r} are user-provided features, which cannot be recomputed from images")
    representation = representation_class(spec.representation).from_parameters(spec.variant, spec.parameters)
    if differences := representation.spec.differences(spec):
        raise ValueError(f"this version computes {spec.representation} differently: {'; '.join(differences)}")
    return representation


def representation_class(name: str) -> type[Representation]:
    """Return the class of a representation.

    Raises:
        ValueError: No such name; the message lists the known ones, and plug-ins that failed to load.
    """
    if (known := _known_class(name)) is not None:
        return known
    plugins.load(register)
    if name not in _REGISTER:
        failed = plugins.failures()
        reason = f" ({'; '.join(failed)})" if failed else ""
        known_names = ", ".join(list_representations())
        raise ValueError(
            f"unknown representation {name!r}; known are {known_names}, and torch:package.module:factory, "
            f"timm:NAME and hf:NAME{reason}"
        )
    return _REGISTER[name]


def class_of(name: str) -> type[Representation]:
    """Return the class of a representation; for an unknown name `Representation`, which has the default attributes."""
    if (known := _known_class(name)) is not None:
        return known
    if name != NETWORK:
        plugins.load(register)
    return _REGISTER.get(name, Representation)


def _known_class(name: str) -> type[Representation] | None:
    """Return a class that is registered or part of the package, or ``None``."""
    if name not in _REGISTER and (module := _module_of(name)) is not None:
        importlib.import_module(_import_name(module))
    return _REGISTER.get(name)


def _module_of(name: str) -> str | None:
    """Return the module of the package that defines a representation of this name."""
    modules = {module.replace("_", "-"): module for module in _ONE}
    several = next((module for module in _SEVERAL if name.startswith(f"{module}-")), None)
    return modules.get(name, several)


def _import_name(module: str) -> str:
    return f"preimage.representations.{module}"


def _family(name: str) -> Callable[..., Representation] | None:
    if ":" not in name:
        return None
    prefix = name.partition(":")[0]
    if prefix not in _FAMILIES and prefix in _FAMILY_MODULES:
        importlib.import_module(_import_name(_FAMILY_MODULES[prefix]))
    return _FAMILIES.get(prefix)


def _family_parameters(family: Callable[..., Representation]) -> tuple[Parameter, ...]:
    written: Iterable[inspect.Parameter] = inspect.signature(family).parameters.values()
    # Not typing.get_type_hints, which in Python 3.10 puts Optional around what has a default of None.
    hints = inspect.get_annotations(family, eval_str=True)
    return tuple(
        Parameter(one.name, str(typing.get_args(hints[one.name])[0]), one.default, typing.get_args(hints[one.name])[1])
        for one in written
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    )
