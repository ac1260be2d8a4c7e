"""Choose the methods of a comparison, and learn those that learn from photographs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from preimage import baselines
from preimage.baselines.base import Baseline, Progress
from preimage.baselines.dictionary import check_is_hog
from preimage.inverters.output_region import OutputRegion
from preimage.io import ImageSource
from preimage.optional import find_optional
from preimage.pipelines.extract import extract
from preimage.pipelines.inverter_choice import InverterChoice, pairings
from preimage.representations import Representation
from preimage.representations.sift import Sift
from preimage.store import FeatureStore

METHODS = ("ours", *baselines.list_baselines())
_ONLY_FOR = {"dictionary": "hog", "patches": "sift"}
_SOURCES = {"gradient": "a number of steps", "dictionary": "its file", "patches": "its file"}
_NEEDED_SOURCES = {"paper": "the folder of a training run", "autoencoder": "the folder of a training run"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photographs:
    """Photographs that methods learn from.

    Attributes:
        sources: The photographs.
        representation: Representation of the features.
        side: Side in pixels to which the photographs are resized and center-cropped.
        folder: Folder for the features, which the caller deletes.
        seed: Seed of what is random in learning.
        device: Device of the representation and of what is learned.
    """

    sources: Sequence[ImageSource]
    representation: Representation
    side: int
    folder: Path
    seed: int
    device: str


Learner = Callable[[Photographs, Progress], Baseline]


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes:
        name: Name in the table, unique among the methods.
        baseline: The method; ``None`` if it has to learn from photographs.
        learn: Function that returns the method learned from photographs; ``None`` if it is ready.
        saved: Name of the file in the output folder to which the learned method is saved; empty if it is not saved.
    """

    name: str
    baseline: Baseline | None
    learn: Learner | None = None
    saved: str = ""

    @property
    def region(self) -> OutputRegion | None:
        """Part of an image that is reconstructed; ``None`` for whole images."""
        return getattr(getattr(self.baseline, "inverter", None), "output_region", None)


def create_methods(
    methods: Sequence[str | Baseline],
    representation: Representation | str | None,
    inverter: InverterChoice,
    *,
    seed: int,
    device: str,
) -> tuple[Representation, list[Method]]:
    """Return the compared representation and the methods, in the order given; nothing is learned yet.

    Args:
        methods: Names, ``NAME=SOURCE``, or baselines, see `preimage.compare`.
        representation: Representation, or its name; ``None`` is that of `inverter`, or HOG.
        inverter: Inverter of the method ``ours``.
        seed: Seed of the methods.
        device: Device of the methods.

    Raises:
        ValueError: No methods, an unknown one, two of one name, one that does not invert these features or has a wrong
            source.
        LookupError: There is no pretrained inverter for the method ``ours``.
    """
    parsed = [one if isinstance(one, Baseline) else _parsed(one) for one in methods]
    names = [one.name if isinstance(one, Baseline) else one[0] for one in parsed]
    if not names:
        raise ValueError(f"methods must contain at least one of {', '.join(METHODS)}, got none")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"methods must have different names, got {repeated[0]} twice")
    if inverter is not None and "ours" not in names:
        raise ValueError(f"an inverter is given, but the method ours is not among the methods: {', '.join(names)}")
    (pair,) = pairings(inverter, representation)
    spec = pair.representation.spec
    found = []
    for name, one in zip(names, parsed, strict=True):
        if isinstance(one, Baseline):
            method = Method(name, one)
        elif name == "ours":
            if pair.inverter is None:
                raise LookupError(pair.missing)
            method = Method(name, baselines.TrainedInverter(pair.inverter, device=device))
        else:
            try:
                method = _method(name, one[1], pair.representation, seed, device)
            except (ValueError, TypeError) as error:
                raise ValueError(f"method {name}: {error}") from error
        trained = getattr(method.baseline, "inverter", None)
        own = getattr(method.baseline, "representation", None)
        wanted = spec if own is None else own.spec
        if trained is not None and (differences := trained.spec.differences(wanted)):
            raise ValueError(f"method {name} inverts other features (its own != compared): {'; '.join(differences)}")
        found.append(method)
    return pair.representation, found


def _parsed(text: str) -> tuple[str, str]:
    """Return the name and the source of a method; ``ValueError`` if they do not fit together."""
    name, separator, source = text.strip().partition("=")
    if bool(separator) != bool(source) or not name:
        raise ValueError(f"a method must be NAME or NAME=SOURCE, got {text!r}")
    if name in METHODS:
        if source and name not in _SOURCES and name not in _NEEDED_SOURCES:
            hint = " (--inverter states it)" if name == "ours" else ""
            raise ValueError(f"method {name} takes no source{hint}, got {text!r}")
        if not source and name in _NEEDED_SOURCES:
            raise ValueError(f"method {name} needs {_NEEDED_SOURCES[name]}: {name}=FOLDER")
    elif not source:
        raise ValueError(f"unknown method {name!r}: there are {', '.join(METHODS)}, and NAME=FOLDER of any inverter")
    return name, source


def _method(name: str, source: str, representation: Representation, seed: int, device: str) -> Method:
    """Return a method other than ``ours``; ``ValueError`` if it does not invert these features."""
    if name in _ONLY_FOR and representation.name != _ONLY_FOR[name]:
        raise ValueError(f"inverts {_ONLY_FOR[name]} only, not {representation.name}")
    if name == "dictionary":
        check_is_hog(representation.spec)
    if name in _LEARNERS and not source:
        if name == "dictionary":
            find_optional("scikit-learn")  # raises an error before any image is read
        return Method(name, None, *_LEARNERS[name])
    return Method(name, _ready(name, source, representation, seed, device))


def _ready(name: str, source: str, representation: Representation, seed: int, device: str) -> Baseline:
    """Return a method that does not learn here."""
    if name == "gradient":
        _check_differentiable(representation)
        steps = {"steps": _steps(source)} if source else {}
        return baselines.GradientDescent(representation, device=device, seed=seed, **steps)
    if name == "dictionary":
        dictionary = baselines.PairedDictionary.load(source, device=device)
        if differences := dictionary.spec.differences(representation.spec):
            raise ValueError(f"{source} is for other features (its own != compared): {'; '.join(differences)}")
        return dictionary
    if name == "patches":
        patches = baselines.PatchDatabase.load(source, device=device)
        if patches.spec.variant != representation.spec.variant:  # cells may have another size
            raise ValueError(
                f"{source} is for keypoints of {patches.spec.variant}, not of {representation.spec.variant}"
            )
        return patches
    if name == "autoencoder":
        return baselines.Autoencoder.load(source, representation, device=device)
    return baselines.TrainedInverter(
        source, name=name, title="the paper's network" if name == "paper" else name, device=device
    )


def _check_differentiable(representation: Representation) -> None:
    """Raise ``ValueError`` if the features have no gradient, before any image is read."""
    side = representation.image_side or 64
    with torch.inference_mode(False), torch.enable_grad():
        image = torch.full((1, 3, side, side), 0.5, requires_grad=True)
        try:
            differentiable = representation(image).requires_grad
        except ValueError:
            differentiable = False
    if not differentiable:
        raise ValueError(f"needs a gradient of the features, which {representation.name} does not have")


def _steps(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"gradient=STEPS takes a number of steps, got {text!r}")
    return int(text)


def _dictionary(given: Photographs, progress: Progress) -> Baseline:
    return baselines.PairedDictionary.learn(
        given.sources, given.representation, size=given.side, seed=given.seed, device=given.device, progress=progress
    )


def _patches(given: Photographs, progress: Progress) -> Baseline:
    assert isinstance(given.representation, Sift)
    return baselines.PatchDatabase.build(
        given.sources, given.representation, size=given.side, seed=given.seed, device=given.device, progress=progress
    )


def _nearest(given: Photographs, progress: Progress) -> Baseline:
    store = extract(
        given.representation,
        given.sources,
        given.folder,
        size=given.side,
        # The features of descriptors of 8-bit images are within the range of float16.
        dtype="float16" if given.representation.computes_arrays else "float32",
        device=given.device,
        progress=progress,
    )
    assert isinstance(store, FeatureStore)
    return baselines.Nearest(store, given.sources, device=given.device)


def _mean(given: Photographs, progress: Progress) -> Baseline:
    return baselines.Mean(given.sources, size=given.side, device=given.device, progress=progress)


# How a method is learned, and the file that it is saved to.
_LEARNERS: dict[str, tuple[Learner, str]] = {
    "dictionary": (_dictionary, "dictionary.safetensors"),
    "patches": (_patches, "patches.safetensors"),
    "nearest": (_nearest, ""),
    "mean": (_mean, ""),
}
