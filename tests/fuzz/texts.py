"""Targets: text that users write, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import typer

from fuzz.target import Target
from mutations import SPEC
from preimage.cli._options import parse_numbers, parse_parameters, parse_shard, parse_size
from preimage.errors import parse_json
from preimage.inverters.architectures import UShapedConfig, config_from_dict, config_to_dict
from preimage.inverters.layers import Layer
from preimage.spec import Spec
from preimage.training.config import TrainConfig
from preimage.training.split import ImageList

USAGE = (typer.BadParameter,)
KINDS = {"cell_size": "int", "window_size": "float", "norms": "bool", "color": "str", "seed": "int | None"}


def text(read: Callable[[str], Any], seeds: Iterable[str], *errors: type[Exception]) -> Target:
    """Return a target that takes text."""
    return Target(lambda data: read(data.decode("utf-8", "replace")), lambda: [seed.encode() for seed in seeds], errors)


ARCHITECTURE = config_to_dict(UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4)))
TARGETS = {
    "cli-parameters": text(
        lambda lines: parse_parameters(lines.splitlines(), KINDS, "hog", "--param"),
        ["cell_size=4\ncolor=strongest", "window_size=1.5\nnorms=true", "seed=-1"],
        *USAGE,
    ),
    "cli-sizes": text(parse_size, ["480x640", "1X1", "12×34"], *USAGE),
    "cli-shards": text(parse_shard, ["0/2", "11/12"], *USAGE),
    "cli-numbers": text(lambda line: parse_numbers(line, "--levels"), ["5,20,100", "0.5", "1e-3,nan"], *USAGE),
    "layer-notation": text(Layer.parse, ["c5/2 256", "up 128", "res", "fc 4096", "grid 4 256"], ValueError),
    "spec": text(Spec.from_json, [SPEC.to_json(), Spec("network", "v", 8, None, {"a": None}).to_json()], ValueError),
    "architecture": text(lambda line: config_from_dict(parse_json(line)), [json.dumps(ARCHITECTURE)], ValueError),
    "training-config": text(
        TrainConfig.from_json,
        [TrainConfig(representation="hog", images=("photos",), output="run", steps=20).to_json()],
        ValueError,
    ),
    "image-list": text(
        ImageList.from_json,
        ['{"train": {"a": "0"}, "val": {"b": "1"}, "skipped": [["c", "damaged", false]]}'],
        ValueError,
    ),
}
