"""Split a run's images into training and validation images; a resumed run keeps its split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from preimage.errors import parse_json
from preimage.io import ImageSource, Listing
from preimage.old_names import IMAGE_LIST, renamed
from preimage.training.config import MIN_VAL_IMAGES, TrainConfig
from preimage.training.images import BadImage, ImageSet, Note, inspect, refuse_bad

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The images that a run trains on and validates on, as kept in its checkpoint.

    Attributes:
        train: Digest of every training image's contents by key, in the order by which batches index the images.
        val: Digest of every validation image's contents by key.
        skipped: Images that are left out. Images found to be bad during training are in `train`, too; other images
            replace them in the batches.
    """

    train: Mapping[str, str]
    val: Mapping[str, str]
    skipped: tuple[BadImage, ...] = ()

    def to_json(self) -> str:
        """Return a JSON object."""
        return json.dumps(
            {"train": dict(self.train), "val": dict(self.val), "skipped": self.skipped}, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> ImageList:
        """Return the list written by `to_json`, also of version 0.1.

        Raises:
            ValueError: The text is not such a list.
        """
        try:
            fields: dict[str, Any] = renamed(parse_json(text), IMAGE_LIST)
            skipped = tuple(BadImage(*entry) for entry in fields["skipped"])
            return cls(dict(fields["train"]), dict(fields["val"]), skipped)
        except KeyError as error:
            raise ValueError(f"lacks {error.args[0]!r}") from error
        except (AttributeError, TypeError) as error:
            raise ValueError(f"not a list of images: {error}") from error

    def check(self, sources: Mapping[str, str], validation: Mapping[str, str] | None) -> None:
        """Raise an error if the images differ from those of this list.

        Args:
            sources: Digests of the present images by key.
            validation: Digests of separate validation images by key; ``None`` where some of `sources` are held out.

        Raises:
            ValueError: Images are missing, new or changed; the message counts them and names the first.
        """
        left_out = {bad.key for bad in self.skipped if not bad.validation}
        left_out_val = {bad.key for bad in self.skipped if bad.validation}
        if validation is None:
            differences = _differences(dict(self.train) | dict(self.val), sources, left_out)
            train_now = len(sources.keys() - self.val.keys() - (left_out - self.train.keys()))
            val_now = len(self.val.keys() & sources.keys())
        else:
            differences = _differences(self.train, sources, left_out)
            differences += [
                f"of the validation images {phrase}" for phrase in _differences(self.val, validation, left_out_val)
            ]
            train_now = len(sources.keys() - (left_out - self.train.keys()))
            val_now = len(validation.keys() - left_out_val)
        if differences:
            raise ValueError(
                f"the images differ: {len(self.train)} then, {train_now} now, and held out {len(self.val)} then, "
                f"{val_now} now; {'; '.join(differences)}. A run resumes with the images that it started with: restore "
                "them (--skip-bad leaves out damaged ones), or train into another folder"
            )


def _differences(then: Mapping[str, str], now: Mapping[str, str], left_out: set[str]) -> list[str]:
    missing = [key for key in then if key not in now]
    new = [key for key in now if key not in then and key not in left_out]
    differing = [key for key, digest in then.items() if key in now and now[key] != digest]
    changed = [key for key in differing if image_digest(then[key]) != image_digest(now[key])]
    other = [key for key in differing if key not in set(changed)]
    found = ((missing, "missing"), (new, "new"), (changed, "changed"), (other, "with other features"))
    return [f"{len(keys)} {what}, first {keys[0]!r}" for keys, what in found if keys]


def joint_digest(image: str, features: str) -> str:
    """Return the digest of an image with its features, from the digest of each."""
    return f"{image}/{features}"


def image_digest(digest: str) -> str:
    """Return the image's part of a digest with or without features."""
    return digest.partition("/")[0]


class Item(NamedTuple):
    """A usable image.

    Attributes:
        source: The encoded image.
        digest: Digest of its contents, and of its features where they come from a file.
        position: Position of its features in that file.
        shape: Height and width, possibly before rotation.
    """

    source: ImageSource
    digest: str
    position: int = -1
    shape: tuple[int, int] = (0, 0)


class Split(NamedTuple):
    """The images of a run.

    Attributes:
        train: Training images.
        val: Validation images.
        skipped: Images that are left out.
    """

    train: list[Item]
    val: list[Item]
    skipped: tuple[BadImage, ...]


def inspect_images(
    listing: Listing,
    config: TrainConfig,
    known: ImageList | None,
    note: Note,
    *,
    validation: bool = False,
) -> tuple[list[Item], list[BadImage]]:
    """Return the usable images and the bad ones that are left out.

    Args:
        listing: The images.
        config: The run's settings.
        known: The images that a resumed run started with.
        note: Called with progress.
        validation: Whether they are separate validation images.

    Raises:
        ValueError: There are bad images that must not be left out.
    """
    items: list[Item] = []
    bad = [BadImage(name, problem, validation) for name, problem in listing.skipped]
    for source, inspected in zip(listing.sources, inspect(listing.sources, note), strict=True):
        if inspected.problem:
            bad.append(BadImage(source.key, inspected.problem, validation))
        else:
            items.append(Item(source, inspected.digest, shape=inspected.shape))
    count = len(listing.sources) + len(listing.skipped)
    if known is None:
        refuse_bad(bad, count, skip_bad=config.skip_bad)
    else:
        before = {one.key for one in known.skipped if one.validation == validation}
        refuse_bad([one for one in bad if one.key not in before], count, skip_bad=False, resumed=True)
    return items, bad


def split_images(
    images: list[Item],
    separate: list[Item] | None,
    bad: list[BadImage],
    config: TrainConfig,
    known: ImageList | None,
    note: Note,
) -> Split:
    """Return the split of the images; a resumed run keeps its split.

    Args:
        images: Usable images.
        separate: Separate validation images; ``None`` holds some of `images` out.
        bad: Images that are left out.
        config: The run's settings with their size resolved.
        known: The images that a resumed run started with.
        note: Called with warnings.

    Raises:
        ValueError: There are too few images, images are in both sets, or a resumed run's images differ.
    """
    if known is not None:
        return _known_split(images, separate, known)
    train, val = hold_out(images, config.val_count) if separate is None else (images, separate)
    val, undecodable = _decodable(val, config, separate=separate is not None)
    seen = {image_digest(item.digest) for item in train}
    both = [item.source.key for item in val if image_digest(item.digest) in seen]
    if both and separate is not None:
        raise ValueError(
            f"{len(both)} images are both trained on and held out, for example {both[0]!r}: "
            "an error measured on them would mean nothing"
        )
    if both:
        note(
            f"{len(both)} of {len(val)} held-out images are among the training images too, under other names, "
            f"first {both[0]!r}: the error measured on them says little about unseen images"
        )
    return Split(train, val, (*bad, *undecodable))


def _known_split(images: list[Item], separate: list[Item] | None, known: ImageList) -> Split:
    by_key = {item.source.key: item for item in images}
    val_by_key = by_key if separate is None else {item.source.key: item for item in separate}
    known.check(
        {key: item.digest for key, item in by_key.items()},
        None if separate is None else {key: item.digest for key, item in val_by_key.items()},
    )
    return Split([by_key[key] for key in known.train], [val_by_key[key] for key in known.val], known.skipped)


def hold_out(items: Sequence[T], count: int) -> tuple[list[T], list[T]]:
    """Split items into training items and `count` evenly spaced validation items, the same for every seed.

    Raises:
        ValueError: There are too few items.
    """
    if len(items) < count + 1:
        raise ValueError(f"{len(items)} images are too few to hold {count} out; give val_images or a smaller val_count")
    chosen = {index * len(items) // count for index in range(count)}
    return (
        [item for index, item in enumerate(items) if index not in chosen],
        [item for index, item in enumerate(items) if index in chosen],
    )


def _decodable(val: list[Item], config: TrainConfig, *, separate: bool) -> tuple[list[Item], list[BadImage]]:
    """Return the validation images that can be decoded, and the others, which are left out."""
    images = ImageSet([item.source for item in val], config.side, skip_bad=config.skip_bad, max_bytes=0)
    for index in range(len(images)):
        images.usable(index)
    bad = [BadImage(val[index].source.key, problem, separate) for index, problem in images.bad.items()]
    refuse_bad(bad, len(val), skip_bad=config.skip_bad)
    if bad and len(val) - len(bad) < MIN_VAL_IMAGES:
        raise ValueError(f"validation needs at least {MIN_VAL_IMAGES} images, 1 can be used: {bad[0].problem}")
    return [item for index, item in enumerate(val) if index not in images.bad], bad
