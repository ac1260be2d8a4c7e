"""The folder of an unfinished extraction: what is done, and with which settings.

Layout of ``OUTPUT.partial/``: ``manifest.json`` pins the settings, and ``images.json`` lists the images;
``part-00000.safetensors`` holds the features of one slice of the images, and ``part-00000.json``, written after it,
says that the slice is complete. Everything is written atomically, so a kill at any moment leaves complete slices and at
most a temporary file, swept up next time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError
from preimage.io import ImageSource, atomic, atomic_write, read_features
from preimage.spec import Spec

_FORMAT = "preimage-partial-extraction"
_FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_IMAGES = "images.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the bytes of the output.

    Attributes:
        spec: of the features.
        size: images are resized and cut to this many pixels; ``None`` leaves them.
        dtype: of the stored features.
        part_size: images in a slice.
        sources: digest of the keys and names of all images, in order.
        count: number of images.
        device: type of the device that computes: another one rounds otherwise.
    """

    spec: Spec
    size: int | None
    dtype: str
    part_size: int
    sources: str
    count: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"spec": self.spec.to_dict()}

    def differences(self, earlier: dict[str, Any], images: str = "") -> list[str]:
        """Where an earlier manifest disagrees, one phrase a setting (earlier first); `images`: how the lists differ."""
        phrases = [f"spec {phrase}" for phrase in Spec.from_dict(earlier["spec"]).differences(self.spec)]
        if earlier.get("sources") != self.sources:
            counts = f"{earlier.get('count')} images, now {self.count}"
            phrases.append(f"the list of images ({counts}{images and '; '}{images})")
        for name in ("size", "dtype", "part_size", "device"):
            if earlier.get(name) != getattr(self, name):
                phrases.append(f"{name}: {earlier.get(name)} != {getattr(self, name)}")
        return phrases


@dataclasses.dataclass(frozen=True)
class PartState:
    """What came of one slice of the images.

    Attributes:
        images: features stored.
        skipped: (name, problem) of the images left out.
        nonfinite_values: NaN or infinite numbers among the features, as stored.
        nonfinite_images: names of the images that have any.
    """

    images: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    nonfinite_values: int = 0
    nonfinite_images: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> PartState:
        return cls(
            images=int(fields["images"]),
            skipped=tuple((str(name), str(problem)) for name, problem in fields["skipped"]),
            nonfinite_values=int(fields["nonfinite_values"]),
            nonfinite_images=tuple(map(str, fields["nonfinite_images"])),
        )


class Partial:
    """The folder beside an output while it is being made.

    Args:
        output: the file that is wanted in the end.
        settings: what this run would do.
        sources: the images of this run.
        resume: go on with what is there; otherwise start anew. What holds no finished slice is started anew anyway.

    Raises:
        ValueError: an earlier run with other settings left its work there; says which differ.
        FileFormatError: the manifest beside finished slices is damaged.
        FileExistsError: a folder of that name is not ours.
    """

    def __init__(self, output: Path, settings: Settings, sources: Sequence[ImageSource], *, resume: bool) -> None:
        target = Path(os.path.realpath(output))  # beside the file itself, so that the last rename stays on its disk
        self.folder = target.with_name(target.name + ".partial")
        self._manifest = self.folder / _MANIFEST
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self._earlier()
        if earlier is not None and resume:
            if differences := settings.differences(earlier, self._first_difference(sources)):
                raise ValueError(
                    f"{self.folder} holds an unfinished extraction with other settings (then != now): "
                    f"{'; '.join(differences)}. Repeat those settings to finish it, or start anew with --no-resume"
                )
            self._sweep(temporary_only=True)
            return
        self._sweep(temporary_only=False)
        _write_json(self.folder / _IMAGES, [[source.key, source.name] for source in sources])
        fields = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **settings.to_dict()}
        _write_json(self._manifest, fields)

    def features_path(self, index: int) -> Path:
        """Where the features of a slice are, or will be."""
        return self.folder / f"part-{index:05d}.safetensors"

    def finished(self, index: int) -> PartState | None:
        """What came of a slice; ``None`` if it is not complete and undamaged."""
        try:
            state = PartState.from_dict(json.loads(self._state_path(index).read_bytes()))
            if state.images and len(read_features(self.features_path(index))) != state.images:
                return None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return state

    def finish(self, index: int, state: PartState) -> None:
        """Mark a slice complete; its features must be on disk already."""
        _write_json(self._state_path(index), dataclasses.asdict(state))

    def remove(self) -> None:
        """Take the folder away. The manifest goes first: without it the rest counts for nothing."""
        self._sweep(temporary_only=False)
        self.folder.rmdir()

    def _state_path(self, index: int) -> Path:
        return self.folder / f"part-{index:05d}.json"

    def _earlier(self) -> dict[str, Any] | None:
        """The settings of the run that left finished work there, if one did."""
        if self._manifest.exists() and any(_is_state(entry.name) for entry in self.folder.iterdir()):
            return read_manifest(self.folder)
        strangers = [entry.name for entry in self.folder.iterdir() if not _is_ours(entry.name)]
        if strangers:
            raise FileExistsError(
                f"{self.folder} is in the way: it holds {strangers[0]}, which no extraction put there"
            )
        return None

    def _first_difference(self, sources: Sequence[ImageSource]) -> str:
        """Where the earlier list of images differs from this one; empty if the earlier is not known."""
        try:
            earlier = json.loads((self.folder / _IMAGES).read_bytes())
            pairs = [(str(key), str(name)) for key, name in earlier]
        except (OSError, ValueError, TypeError):
            return ""
        now = [(source.key, source.name) for source in sources]
        for position, (then, here) in enumerate(itertools.zip_longest(pairs, now), 1):
            if then != here:
                # The key alone where it says enough.
                show = 0 if then is None or here is None or then[0] != here[0] else 1
                before, after = ("no more" if image is None else repr(image[show]) for image in (then, here))
                return f"the first that differs is image {position}: {before}, now {after}"
        return ""

    def _sweep(self, *, temporary_only: bool) -> None:
        """Delete our own files and nothing else."""
        if not temporary_only:
            self._manifest.unlink(missing_ok=True)
        for entry in self.folder.iterdir():
            permanent = entry.name in (_MANIFEST, _IMAGES) or _is_part(entry.name)
            if _is_ours(entry.name) and not (temporary_only and permanent):
                entry.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The settings of the unfinished extraction in a folder, as plain values.

    Raises:
        FileFormatError: it is damaged, or of another version.
    """
    path = folder / _MANIFEST
    fields = atomic.read_manifest(path, _FORMAT, _FORMAT_VERSION, "an extraction")
    if missing := sorted({field.name for field in dataclasses.fields(Settings)} - set(fields)):
        raise FileFormatError(path, f"lacks {', '.join(missing)}")
    return fields


def digest_of(sources: Sequence[ImageSource]) -> str:
    """SHA-256 over keys and names, in order."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(json.dumps([source.key, source.name]).encode())
    return digest.hexdigest()


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith((".safetensors", ".json"))


def _is_state(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".json")


def _is_ours(name: str) -> bool:
    return name in (_MANIFEST, _IMAGES) or name.startswith(("part-", "merged.", ".preimage-"))


def _write_json(path: Path, fields: dict[str, Any] | list[list[str]]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(fields, indent=1).encode())


def move_into_place(finished: Path, output: Path) -> None:
    """Rename within one file system, and make the rename last. A link at `output` is followed."""
    target = Path(os.path.realpath(output))
    os.replace(finished, target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
