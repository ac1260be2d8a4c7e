"""The record of a look, ``look.json``: its settings, its finished runs, and their scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError, parse_json
from preimage.io.atomic import atomic_write
from preimage.studies.look_layers import folder_name
from preimage.studies.look_training import LookLayer, TrainedLayer

RECORD = "look.json"


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of an earlier look; empty without one.

    Raises:
        ValueError: The folder contains other files.
        FileFormatError: The record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} contains other files: the output must be a new folder, or that of an earlier look"
            )
        return {}
    try:
        record = parse_json(path.read_bytes())
        if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
            raise ValueError("it has no settings")
        read_runs(record, folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileFormatError(path, f"not the record of a look ({error}): remove the folder") from error
    return record


def check_settings(folder: Path, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if an earlier look in the folder had other settings."""
    earlier = record.get("settings", settings)
    now = json.loads(json.dumps(settings))
    if differing := [name for name in now if earlier.get(name) != now[name]]:
        values = [
            name if isinstance(now[name], dict) else f"{name} {earlier.get(name)} != {now[name]}" for name in differing
        ]
        raise ValueError(
            f"{folder} contains a look with other settings (stored != requested): {'; '.join(values)}. Choose another "
            "folder, or remove it"
        )


def read_runs(record: Mapping[str, Any], output: Path) -> dict[str, TrainedLayer]:
    """Return the finished runs that a record lists and whose inverters exist, by label."""
    runs = [TrainedLayer.from_fields(fields) for fields in record.get("runs", ())]
    return {run.label: run for run in runs if (output / folder_name(run.label) / "config.json").is_file()}


def _text(settings: Mapping[str, Any], runs: Sequence[TrainedLayer], scores: Sequence[LookLayer] = ()) -> str:
    """Return the contents of ``look.json``: settings, finished runs, and scores once they are measured."""
    measured = [
        {
            **{name: value for name, value in dataclasses.asdict(layer).items() if name not in ("run", "scores")},
            "folder": layer.folder.name,
            "scores": [
                {"key": one.key, "error": one.error, "psnr": one.psnr, "ssim": one.ssim} for one in layer.scores
            ],
        }
        for layer in scores
    ]
    record = {"settings": dict(settings), "runs": [dataclasses.asdict(run) for run in runs], "layers": measured}
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def write_record(
    folder: Path, settings: Mapping[str, Any], runs: Iterable[TrainedLayer], scores: Sequence[LookLayer] = ()
) -> None:
    """Write the record, atomically; scores are added when they are measured."""
    with atomic_write(folder / RECORD) as file:
        file.write(_text(settings, list(runs), scores).encode())
