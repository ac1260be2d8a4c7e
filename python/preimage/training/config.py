"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Literal

from preimage.errors import parse_json
from preimage.io.urls import masked
from preimage.old_names import SPEC_PARAMETERS, TRAIN_SETTINGS, renamed
from preimage.ops._images import cpu_threads
from preimage.spec import Scalar
from preimage.training.interval import NAMES as INTERVALS
from preimage.training.interval import Interval, parse_interval

SAMPLES = "samples"  # folder of the sample sheets in a run's folder
SETTINGS = "train.json"  # file of the settings in a run's folder
DEFAULT_SIZE = 256  # side of the images in pixels if neither the user nor the representation determines it

_STEPS = 20_000  # number of steps of a run that is limited neither by steps nor by time
MIN_VAL_IMAGES = 2  # the normalized error divides by the distance between two images

# Settings that may change when a run is resumed, because the loss curve does not depend on them (on the device, up to
# rounding). Images may move: their keys and contents are compared.
_CHANGEABLE = (
    *("images", "val_images", "output", "device", "workers", *INTERVALS),
    *("cache_folder", "skip_bad"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run, see `preimage.train` and `preimage.training.run`.

    Attributes:
        representation: Name of the representation to invert; ``None`` with ``features``.
        parameters: Parameters of the representation that differ from its defaults.
        images: Folders, image files or tar shards to train on.
        output: Folder of the run.
        features: File of user-provided features of the images, instead of a representation, see
            `preimage.training.precomputed_dataset`. Its images are resized and center-cropped, never cropped at random
            or mirrored, because the features are of the images as they are.
        features_name: Name of user-provided features whose file does not name them; ``None`` is ``"embedding"``.
        allow_missing: Whether images without features and features without an image are left out, instead of raising an
            error.
        skip_bad: Whether damaged images are left out, and with ``features`` also images whose features are missing, NaN
            or of an unusual shape, instead of raising an error.
        val_images: Validation images. If empty, ``val_count`` of ``images`` are held out. With ``features``, their
            features are in the same file, and no image of ``images`` has the same key.
        val_count: Number of held-out validation images.
        preset: Name of the network, see `preimage.inverters.plan`. ``None`` is ``"compact"``, or with ``init`` the
            network of that inverter, unless ``output_size`` or ``budget`` are given.
        init: Name or folder of an inverter of the same features, or of their first channels, whose network, weights and
            statistics to start from. Weights that read further channels start at zero, see
            `preimage.inverters.widening`. If ``preset`` is given, it must be the same network.
        sampler: Whether to train the part of the inverter ``init`` that draws samples, instead of the inverter, which
            stays as it is; see `preimage.inverters.sampler` and `preimage.training.energy_score`.
        size: Side of the square training images in pixels. ``None`` takes the only size that the representation
            supports, or the size of the images that ``features`` were computed from, or 256.
        min_size: Smallest side of the training images, if their size varies, see `preimage.training.image_sizes`; only
            for features from which whole images of any size are reconstructed, and without a cache of features.
            ``None`` is ``size``.
        output_size: Side of the reconstructions in pixels, where the preset leaves it open.
        budget: Approximate number of parameters of the network, where the preset leaves it open.
        min_crop: Minimum area of a random crop, as a fraction of the largest square in the image.
        steps: Number of optimizer steps. ``None`` is 20,000, or no limit if ``max_hours`` is given.
        max_hours: Training time in hours, summed over resumptions; validation is not counted. The learning rate then
            follows the time used. If ``steps`` is given too, the run ends at whichever limit it reaches first.
        batch_size: Batch size.
        optimizer: ``adam``, as in the paper, or ``muon`` (see `preimage.training.muon`) for all weights but the biases,
            the convolutions that read the features and the one that writes the image, which keep Adam.
        lr: Peak learning rate of Adam.
        muon_lr: Peak learning rate of Muon.
        finetune: Whether the network of the representation is trained along with the inverter, up to the layer that is
            inverted, see `preimage.training.finetuning`: the paper's autoencoder.
        finetune_lr: Peak learning rate of Adam for that network.
        warmup_steps: Number of steps over which the learning rate rises linearly from zero; a cosine decays it to zero.
        grad_clip: Maximum gradient norm.
        ema_decay: Decay of the exponential moving average of the weights, which is validated and saved.
        precision: Precision of the network's arithmetic; ``auto`` is bfloat16 where the device supports it natively.
        device: ``cpu``, ``cuda`` or ``auto``.
        seed: Seed of the initial weights, the order of the images and their crops.
        workers: Number of threads that prepare batches, which do not depend on it; ``None`` is one, or if a GPU trains
            on images or features in the host's memory, ``OMP_NUM_THREADS`` or the number of CPUs.
        cache: Whether to compute the features of some crops of every image once and keep them on disk; ``auto`` decides
            by the time that this saves, see `preimage.training.cache_decision`.
        cache_crops: Number of cached crops of every image: half as many random crops, each with its mirror image.
        cache_folder: Folder of the cache, which several runs may share; ``None`` is ``<output>/cache``.
        log_every: Number of steps between log lines, or seconds of training such as ``"60s"``. ``None`` is 20 steps, on
            a GPU 2 seconds.
        eval_every: The same between validations, each of which saves the inverter; the run also ends with one. ``None``
            is 1000 steps, on a GPU 60 seconds.
        save_every: The same between checkpoints; the run also ends with one. ``None`` is 250 steps, on a GPU 120
            seconds.
    """

    representation: str | None = None
    images: tuple[str, ...]
    output: str
    features: str | None = None
    features_name: str | None = None
    allow_missing: bool = False
    skip_bad: bool = False
    parameters: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    val_images: tuple[str, ...] = ()
    val_count: int = 200
    preset: str | None = None
    init: str | None = None
    sampler: bool = False
    size: int | None = None
    min_size: int | None = None
    output_size: int | None = None
    budget: int | None = None
    min_crop: float = 0.5
    steps: int | None = None
    max_hours: float | None = None
    batch_size: int = 32
    optimizer: Literal["adam", "muon"] = "adam"
    lr: float = 1e-3
    muon_lr: float = 0.02
    finetune: bool = False
    finetune_lr: float = 1e-4
    warmup_steps: int = 500
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    seed: int = 0
    workers: int | None = None
    cache: Literal["auto", "on", "off"] = "auto"
    cache_crops: int = 8
    cache_folder: str | None = None
    log_every: int | str | None = None
    eval_every: int | str | None = None
    save_every: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("images", "val_images"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise TypeError(f"{name} must be a sequence of paths, got the string {value!r}")
            object.__setattr__(self, name, tuple(map(str, value)))
        if self.steps is None and self.max_hours is None:
            object.__setattr__(self, "steps", _STEPS)
        if self.preset is None and (self.init is None or self.output_size is not None or self.budget is not None):
            object.__setattr__(self, "preset", "compact")
        for valid, problem in (*self._source_checks(), *self._value_checks()):
            if not valid:
                raise ValueError(problem)
        for name in INTERVALS:
            if (steps := self.interval(name).steps) is not None and getattr(self, name) is not None:
                object.__setattr__(self, name, steps)  # a number, where the command line gave text

    def _source_checks(self) -> list[tuple[bool, str]]:
        """Return (valid, message) for the settings that determine the source of the features."""
        precomputed = self.features is not None
        return [
            (
                precomputed or self.representation is not None,
                "representation or features must be given: there is nothing to invert",
            ),
            (
                not precomputed or self.representation is None,
                "representation and features exclude each other: give one or the other",
            ),
            (not precomputed or not self.parameters, "parameters do not apply to user-provided features"),
            (
                precomputed or (self.features_name is None and not self.allow_missing),
                "features_name and allow_missing apply to user-provided features only: features must be given",
            ),
            (
                not precomputed or self.cache != "on",
                "cache must be 'auto' or 'off' with user-provided features, got 'on': there is nothing to compute",
            ),
            (
                not precomputed or not self.finetune,
                "finetune does not apply to user-provided features: there is no network to train",
            ),
            (
                not self.finetune or self.cache != "on",
                "cache must be 'auto' or 'off' with finetune, got 'on': the features change in every step",
            ),
            (
                self.min_size is None or not (precomputed or self.finetune or self.cache == "on"),
                "min_size does not apply to user-provided features, finetune or cache='on': their images have one size",
            ),
            (not self.sampler or self.init is not None, "sampler needs init: the inverter that is to draw samples"),
            (not self.sampler or not self.finetune, "sampler and finetune exclude each other: run one after the other"),
            (bool(self.images), "images must not be empty: there is nothing to train on"),
        ]

    def _value_checks(self) -> list[tuple[bool, str]]:
        """Return (valid, message) for the values of single settings."""
        optional = ("size", "min_size", "output_size", "budget", "steps", "workers")
        counts = ["batch_size", *(name for name in optional if getattr(self, name) is not None)]
        positive = ["lr", "muon_lr", "finetune_lr", "grad_clip"] + ["max_hours"] * (self.max_hours is not None)
        choices = {
            "optimizer": ("adam", "muon"),
            "precision": ("auto", "float32", "bfloat16"),
            "cache": ("auto", "on", "off"),
        }
        return [
            (
                self.val_count >= MIN_VAL_IMAGES,
                f"val_count must be at least {MIN_VAL_IMAGES}, got {self.val_count}",
            ),
            (0 < self.min_crop <= 1, f"min_crop must be a fraction of the area in (0, 1], got {self.min_crop}"),
            (0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}"),
            (self.warmup_steps >= 0, f"warmup_steps must be at least 0, got {self.warmup_steps}"),
            (
                isinstance(self.cache_crops, int) and self.cache_crops >= 2 and self.cache_crops % 2 == 0,
                f"cache_crops must be an even integer of at least 2, got {self.cache_crops!r}",
            ),
            *(
                (
                    getattr(self, name) in values,
                    f"{name} must be one of {', '.join(map(repr, values))}, got {getattr(self, name)!r}",
                )
                for name, values in choices.items()
            ),
            *(
                (
                    isinstance(getattr(self, name), int) and getattr(self, name) >= 1,
                    f"{name} must be an integer of at least 1, got {getattr(self, name)!r}",
                )
                for name in counts
            ),
            *((getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}") for name in positive),
        ]

    @property
    def side(self) -> int:
        """``size`` of a config whose size has been resolved by `preimage.training.dataset_factory.open_dataset`."""
        assert self.size is not None
        return self.size

    @property
    def max_seconds(self) -> float | None:
        """``max_hours`` in seconds."""
        return None if self.max_hours is None else 3600 * self.max_hours

    def interval(self, name: str, *, gpu: bool = False) -> Interval:
        """Return ``log_every``, ``eval_every`` or ``save_every``, or its default on a CPU or a GPU."""
        return parse_interval(name, getattr(self, name), gpu=gpu)

    def worker_count(self, *, gpu: bool) -> int:
        """Return the number of threads that prepare batches for a CPU, or for a GPU from the host's memory."""
        return self.workers or (cpu_threads() if gpu else 1)

    def is_done(self, step: int, seconds: float) -> bool:
        """Return whether a run has reached its limit of steps or of training time."""
        return step == self.steps or (self.max_seconds is not None and seconds >= self.max_seconds)

    def to_json(self) -> str:
        """Return a JSON object with the fields in order, without the credentials of URLs."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        listed = {name: [masked(path) for path in fields[name]] for name in ("images", "val_images")}
        return json.dumps(fields | listed | {"parameters": dict(self.parameters)})

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Return the config written by `to_json`, or contained in a ``train.json``, also of version 0.1.

        Raises:
            ValueError: The text is not a JSON object, a field is unknown, or a value is invalid.
        """
        given = parse_json(text)
        if not isinstance(given, dict) or not isinstance(given.get("parameters", {}), dict):
            raise ValueError(f"training settings and their parameters must be JSON objects, got {text[:40]!r}")
        fields = renamed(given, TRAIN_SETTINGS)
        fields["parameters"] = renamed(fields.get("parameters", {}), SPEC_PARAMETERS)
        fields.pop("skipped", None)  # train.json also lists the images that were left out
        if unknown := sorted(set(fields) - {field.name for field in dataclasses.fields(cls)}):
            raise ValueError(f"unknown training settings: {', '.join(unknown)} (of a newer version of preimage?)")
        try:
            return cls(**fields)
        except TypeError as error:  # a setting is missing, or of another type
            raise ValueError(str(error)) from error

    def changes(self, other: TrainConfig) -> list[str]:
        """Return the settings that differ from another config's and change the loss curve, one phrase each."""
        ours, theirs = json.loads(self.to_json()), json.loads(other.to_json())
        if None in (self.preset, other.preset):  # the network of the inverter `init`, which every preset must equal
            ours["preset"] = theirs["preset"]
        return [
            f"{name}: {ours[name]!r} != {theirs[name]!r}"
            for name in ours
            if name not in _CHANGEABLE and ours[name] != theirs[name]
        ]
