"""Every setting of a training run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Literal

from preimage.old_names import TRAIN_SETTINGS, renamed
from preimage.spec import Scalar

SAMPLES = "samples"  # the folder of sample sheets in a run's own

# What may differ between a run and its resumption, because the loss curve does not depend on it (on the device, up to
# rounding).
_FREE_TO_CHANGE = (
    *("output", "device", "workers", "log_every", "eval_every", "save_every"),
    *("cache_folder", "skip_bad"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of `preimage.training.train`.

    Attributes:
        representation: name of the representation to invert; ``None`` with ``features``.
        parameters: its parameters where they are not the defaults.
        images: folders, image files or tar shards to train on.
        output: the run's folder.
        features: a file with features of the images, instead of a representation, see `preimage.training.dataset`. The
            images are then fitted whole, never cropped at random or mirrored: the features are of them as they are.
        features_name: what to call features whose file does not tell what they are; ``None`` is ``"embedding"``.
        allow_missing: leave out images without features and features without an image.
        skip_bad: leave out images that are damaged, and with ``features`` those whose features are missing, NaN, or of
            another shape than most; instead of refusing.
        val_images: held-out images. None given: ``val_count`` are held out of ``images``.
        val_count: how many images judge the inverter.
        preset: the network, see `preimage.inverters.plan`.
        init: an inverter (name or folder) of the same network to start from.
        size: side of the square training images, pixels; ``None`` takes the only one that the representation
            knows, that of the images which the file ``features`` is of, or else 256.
        output_size: side of what comes back, pixels, and
        budget: parameters of the network, about, both where the preset leaves them open.
        min_crop: smallest area of a random crop, as a share of the image's largest square.
        steps: optimizer steps in all.
        batch_size: images a step.
        optimizer: ``adam``, the paper's, or ``muon`` (see `preimage.training.muon`) for all but the biases, the
            convolutions that read the features and the one that writes the image, which keep Adam.
        lr: Adam's, at its height.
        muon_lr: Muon's, at its height.
        warmup_steps: linear rise of the learning rate from zero; a cosine takes it back to zero at the end.
        grad_clip: longest gradient; what is longer is shortened to it.
        ema_decay: of the exponential moving average of the weights, the one that is validated and saved.
        precision: of the network's arithmetic; ``auto`` is bfloat16 where the machine computes in it.
        device: ``auto`` is CUDA where there is one.
        seed: of the initial weights, the order of the images and their crops.
        workers: threads that prepare batches.
        cache: whether the features of some views of every image are computed once and kept on disk; ``auto`` where
            that pays, see `preimage.training.cache_decision`.
        cache_crops: views of every image in the cache: half as many random crops, each with its mirror image.
        cache_folder: where it lies, for any number of runs; ``None`` is ``<output>/cache``.
        log_every, eval_every, save_every: in steps. Validation and a checkpoint come at the end too.
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
    preset: str = "compact"
    init: str | None = None
    size: int | None = None
    output_size: int | None = None
    budget: int | None = None
    min_crop: float = 0.5
    steps: int = 20_000
    batch_size: int = 32
    optimizer: Literal["adam", "muon"] = "adam"
    lr: float = 1e-3
    muon_lr: float = 0.02
    warmup_steps: int = 500
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    seed: int = 0
    workers: int = 1
    cache: Literal["auto", "on", "off"] = "auto"
    cache_crops: int = 8
    cache_folder: str | None = None
    log_every: int = 20
    eval_every: int = 1000
    save_every: int = 250

    def __post_init__(self) -> None:
        for name in ("images", "val_images"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise TypeError(f"{name} is a sequence of paths, got the single string {value!r}")
            object.__setattr__(self, name, tuple(map(str, value)))
        whole = ("steps", "batch_size", "workers", "log_every", "eval_every", "save_every")
        open_ = tuple(name for name in ("size", "output_size", "budget") if getattr(self, name) is not None)
        checks = [
            *self._source_checks(),
            (bool(self.images), "there are no images to train on"),
            (self.val_count >= 2, f"validation takes at least 2 images, got {self.val_count}"),
            (0 < self.min_crop <= 1, f"min_crop is a share of the area in (0, 1], got {self.min_crop}"),
            (0 <= self.ema_decay < 1, f"ema_decay is in [0, 1), got {self.ema_decay}"),
            (self.warmup_steps >= 0, f"warmup_steps is >= 0, got {self.warmup_steps}"),
            (self.optimizer in {"adam", "muon"}, f"optimizer is 'adam' or 'muon', got {self.optimizer!r}"),
            (
                self.precision in {"auto", "float32", "bfloat16"},
                f"precision is 'auto', 'float32' or 'bfloat16', got {self.precision!r}",
            ),
            *(
                (
                    isinstance(getattr(self, name), int) and getattr(self, name) >= 1,
                    f"{name} is a whole number >= 1, got {getattr(self, name)!r}",
                )
                for name in (*open_, *whole)
            ),
            *(
                (getattr(self, name) > 0, f"{name} is > 0, got {getattr(self, name)}")
                for name in ("lr", "muon_lr", "grad_clip")
            ),
        ]
        for good, problem in checks:
            if not good:
                raise ValueError(problem)

    def _source_checks(self) -> list[tuple[bool, str]]:
        """Of what the features come from."""
        own = self.features is not None
        return [
            (own or self.representation is not None, "there is no representation to invert, and no file of features"),
            (
                not own or self.representation is None,
                "features of your own have no representation: give one or the other",
            ),
            (not own or not self.parameters, "features of your own have no parameters"),
            (
                not own or not self.val_images,
                "of features of your own some images of the same file are held out: give val_count",
            ),
            (
                own or (self.features_name is None and not self.allow_missing),
                "there are no features of your own to name",
            ),
            (self.cache in {"auto", "on", "off"}, f"cache is 'auto', 'on' or 'off', got {self.cache!r}"),
            (not own or self.cache != "on", "features of your own are computed already: there is nothing to cache"),
            (
                isinstance(self.cache_crops, int) and self.cache_crops >= 2 and self.cache_crops % 2 == 0,
                f"cache_crops is an even number >= 2, crops and their mirror images, got {self.cache_crops!r}",
            ),
        ]

    @property
    def side(self) -> int:
        """``size``, once it is settled."""
        assert self.size is not None
        return self.size

    def to_json(self) -> str:
        """One object, the fields in order."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(fields | {"parameters": dict(self.parameters)})

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Return the settings in what `to_json` gave, or in a ``train.json``; ``ValueError`` if a field is unknown."""
        fields = renamed(json.loads(text), TRAIN_SETTINGS)
        fields.pop("skipped", None)  # train.json lists the images that were left out beside the settings
        if unknown := sorted(set(fields) - {field.name for field in dataclasses.fields(cls)}):
            raise ValueError(f"unknown training settings: {', '.join(unknown)} (of a newer version of preimage?)")
        return cls(**fields)

    def changes(self, other: TrainConfig) -> list[str]:
        """Settings that would change the loss curve and differ from another config's, one phrase each."""
        ours, theirs = json.loads(self.to_json()), json.loads(other.to_json())
        return [
            f"{name}: {ours[name]!r} != {theirs[name]!r}"
            for name in ours
            if name not in _FREE_TO_CHANGE and ours[name] != theirs[name]
        ]
