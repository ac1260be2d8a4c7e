"""The base class of representations: named functions from images to features."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from preimage.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

NETWORK = "network"  # name in the specs of all layers of a `preimage.Network`
Presets = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a representation.

    Attributes:
        name: Keyword of the constructor and key of ``-p name=value``.
        type: Type as written in Python, for example ``"int"`` or ``"str | None"``.
        default: Value if none is given.
        help: Meaning in one sentence.
    """

    name: str
    type: str
    default: Any
    help: str


def parameter(default: Any, help: str) -> Any:
    """Return a dataclass field of a `Representation` with its default and its meaning in one sentence."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Representation(abc.ABC):
    """A named function from images to features. Its dataclass fields are its parameters, see `parameter`.

    Everything that is specific to one representation is an attribute or a method of its class.

    Attributes:
        name: Identifier in specs, files and on the command line.
        title: Name in prose and in the labels of sheets, for example ``"dense SIFT"``; `name` if empty.
        summary: One sentence for lists.
        channel_names: Names of the channels, in order; empty where they have no names.
        presets: Networks that invert the features, by preset name, in the form of ``"network"`` in an inverter's
            ``config.json``; fields that are left out have the architecture's defaults. See `presets_of`.
        drawing: Noun phrase that describes the result of `draw`; empty if the features cannot be drawn.
        keeps_color: Whether the colors of an image can be recovered from its features.
        in_workers: Whether training extracts features in the threads that prepare batches, see `for_training`, because
            extraction is slow.
        computes_arrays: Whether `compute_into` is implemented, so that NumPy arrays are processed without torch.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    channel_names: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Presets] = MappingProxyType({})
    drawing: ClassVar[str] = ""
    keeps_color: ClassVar[bool] = True
    in_workers: ClassVar[bool] = False
    computes_arrays: ClassVar[bool] = False

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """Return the parameters in the order of the constructor."""
        return tuple(
            Parameter(field.name, _type_name(field.type), field.default, field.metadata.get("help", ""))
            for field in dataclasses.fields(cls)
        )

    @classmethod
    def from_parameters(cls, variant: str, values: Mapping[str, Any]) -> Representation:
        """Return the representation with the variant and the parameters of a spec.

        By default the parameters of a spec are the fields of the class.

        Raises:
            ValueError: An unknown parameter, or a value out of range.
        """
        given = {**values, "variant": variant}
        check_names(cls.name, given, [known.name for known in cls.parameters()])
        return cls(**given)

    @classmethod
    def presets_of(cls, spec: Spec) -> Presets:
        """Return `presets` for the features of a spec, on which the networks may depend; by default they do not."""
        return cls.presets

    @classmethod
    def draw(
        cls, spec: Spec, features: npt.NDArray[Any], tile: int, image: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.uint8] | None:
        """Draw features as an RGB image, or return ``None`` if there is no drawing.

        Args:
            spec: Spec of the features.
            features: (C, h, w).
            tile: Longer side of the drawing in pixels, approximately.
            image: (H, W, 3) to draw in the background.

        Returns:
            (H', W', 3) uint8.
        """
        return None

    @classmethod
    def explain(cls, spec: Spec, shape: tuple[int, ...]) -> str:
        """Return a sentence, beginning in lower case, about the information in features of this shape."""
        return f"{' × '.join(map(str, shape))} numbers."

    @classmethod
    def first_channels(cls, spec: Spec) -> Spec | None:
        """Return the spec of other features that are the first channels of these, or ``None`` if there are none.

        Training can then start from an inverter of these other features, see `preimage.inverters.widening`.
        """
        return None

    @property
    @abc.abstractmethod
    def spec(self) -> Spec:
        """Spec of the features: everything that determines their values."""

    @abc.abstractmethod
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, C, h, w) or (B, C), float32, of images (B, 3, H, W) in [0, 1] or uint8, RGB.

        If `computes_arrays` is set, images may also be a NumPy array, for which the result is an array, and may have
        any number of leading dimensions, which the features keep.
        """

    def compute_into(self, images: npt.NDArray[np.uint8], features: npt.NDArray[Any], *, threads: int) -> None:
        """Compute the features of images into an array, if `computes_arrays` is set.

        Several Python threads may call this method at once. The features of uint8 images are finite and within the
        range of float16.

        Args:
            images: (B, H, W, 3), as decoders return them; any strides.
            features: (B, C, h, w), float32 or float16, C-contiguous.
            threads: Number of threads for the batch.

        Raises:
            ValueError: Images that are too small to have features, or `features` of another shape, dtype or memory
                order.
            TypeError: Images of another dtype, or a representation that does not compute arrays.
        """
        raise TypeError(f"{self.name} does not compute NumPy arrays: call it with tensors")

    def for_training(self, images: torch.Tensor, seed: tuple[int, ...]) -> torch.Tensor:
        """Return features (B, C, h, w), float32, of a training batch, if `in_workers` is set.

        A representation may augment them at random.

        Args:
            images: (B, 3, H, W) uint8, on the CPU.
            seed: Seed of the augmentation, non-negative integers; the same seed gives the same features.
        """
        return self(images)

    @property
    def image_side(self) -> int | None:
        """Side in pixels of the square images that are accepted; ``None`` if images may have any size."""
        return None

    @abc.abstractmethod
    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Return (h, w) of the features of an image of (height, width) pixels; ``None`` for vectors.

        Raises:
            ValueError: Such an image is too small to have features.
        """

    @abc.abstractmethod
    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (H, W) in pixels that features of (height, width) cells cover."""


def decoded(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Check decoded images (B, H, W, 3), and return a view (B, 3, H, W) of them."""
    if images.dtype != "uint8":
        raise TypeError(f"decoded images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"decoded images must be (B, H, W, 3), got shape {images.shape}")
    return images.transpose(0, 3, 1, 2)


def check_names(representation: str, given: Mapping[str, Any], known: list[str]) -> None:
    """Raise ``ValueError`` if a parameter is unknown; the message lists the known ones."""
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{representation} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
