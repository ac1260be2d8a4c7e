"""Test inverters with a crafted ``config.json``: they are rejected before anything large is built."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from own_files import change_config
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, OutputRegion, SingleStreamConfig, TwoStreamConfig, UShapedConfig
from preimage.inverters.architectures import config_to_dict
from preimage.pipelines.demo import demo
from preimage.pipelines.evaluate import evaluate
from preimage.pipelines.sheet import sheet
from preimage.representations import create_representation, representation_from_spec
from preimage.spec import Spec

VECTORS = Spec("network", "v", 8, None)
MAPS = Spec("network", "v", 8, 4)
SMALL = SingleStreamConfig(layers=("fc 64", "grid 4 4", "res", "up 8", "up 3"))
U = UShapedConfig(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1,), head=(8,))
REGION = OutputRegion(16, 16, 16)


def problem_of(folder: Path, inverter: Inverter, **changes: Any) -> str:
    """Return the problem of an inverter with these fields of its config, which is found quickly."""
    path = change_config(inverter.save(folder), changes)
    start = time.process_time()
    with pytest.raises(FileFormatError) as caught:
        Inverter.load(folder)
    assert time.process_time() - start < 60
    assert caught.value.path == str(path)
    return caught.value.problem


@pytest.mark.parametrize(
    "region",
    [
        *([], [1], "x", "", 5, 0, False, {}),
        {"image_size": 16, "crop": 16},
        {"image_size": 16, "crop": 16, "size": 16, "more": 1},
        *({"image_size": 16, "crop": 16, "size": size} for size in ("16", 16.0, True, None, [16], -16, 32)),
        {"image_size": 10**30, "crop": 10**30, "size": 16},
        None,
    ],
    ids=str,
)
def test_output_regions(tmp_path: Path, region: object) -> None:
    assert "output" in problem_of(tmp_path, Inverter(VECTORS, SMALL, output_region=REGION), output_region=region)


def test_an_output_region_of_maps_that_would_fill_the_memory(tmp_path: Path) -> None:
    """For vectors the side of the network must agree; for maps, weights do not reveal the size."""
    region = {"image_size": 10**9, "crop": 10**9, "size": 10**9}
    assert "8192" in problem_of(tmp_path, Inverter(MAPS, U, output_region=REGION), output_region=region)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["fc 160000", "fc 160000", "fc 64", "grid 4 4", "up 8", "up 3"], "weights"),
        (["fc 64", "grid 4 4", "c99/1 99999", "c99/1 99999", "up 8", "up 3"], "weights"),
        (["fc 64", "grid 4 4", *["res"] * 100_000, "up 8", "up 3"], "100004 layers"),
        (["fc 64", "grid 4 5", "up 8", "up 3"], "4×4×5"),
        (["fc 64", "grid 4 4", "up 8", "c3/1 3"], "['c3/1 3']"),
        ([], "last layer"),
        ("up 3", "'u'"),
        ([5], "expected string"),
        (5, "not iterable"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_layers(tmp_path: Path, layers: object, words: str) -> None:
    network = {"architecture": "single-stream", "layers": layers}
    assert words in problem_of(tmp_path, Inverter(VECTORS, SMALL, output_region=REGION), network=network)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks_down": [10**9, 1]}, "100 blocks"),
        ({"blocks_up": [10**9]}, "100 blocks"),
        ({"widths": [10**12, 10**12]}, "network"),
        ({"widths": [10**30, 16]}, "verflow"),
        ({"head": [10**6]}, "'up 1000000'"),
    ],
    ids=str,
)
def test_sizes_of_a_u(tmp_path: Path, change: dict[str, object], words: str) -> None:
    assert words in problem_of(tmp_path, Inverter(MAPS, U), network=config_to_dict(U) | change)


def test_channels_and_empty_streams(tmp_path: Path) -> None:
    inverter = Inverter(MAPS, U)
    assert "weights" in problem_of(tmp_path, inverter, spec=MAPS.to_dict() | {"channels": 10**10})
    empty = config_to_dict(TwoStreamConfig(context=(), detail=(), joint=()))
    assert "last layer" in problem_of(tmp_path, inverter, network=empty)


@pytest.mark.parametrize(
    "config",
    [
        UShapedConfig(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1,), head=(8,), entry=("c3/1 12", "res")),
        TwoStreamConfig(context=("c3/2 8", "up 12", "res"), detail=("c3/1 8", "res"), joint=("c3/1 8", "up 8", "up 3")),
    ],
    ids=lambda config: config.architecture,
)
def test_a_part_may_end_with_a_residual_block(config: UShapedConfig | TwoStreamConfig) -> None:
    assert Inverter(MAPS, config)(torch.rand(1, 8, 4, 4)).shape == (1, 3, 16, 16)


def test_no_inverter_names_code_that_is_run(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's ``torch:package.module:factory`` is imported, but never one in the file of an inverter."""
    (tmp_path / "preimage_evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    spec = Spec("torch:preimage_evil:network", "v", 8, 4)
    evil = str(Inverter(spec, U).save(tmp_path / "inverter"))
    jobs: list[Callable[[], object]] = [
        lambda: sheet(photo_folder, tmp_path / "s.png", inverter=evil),
        lambda: sheet(photo_folder, tmp_path / "s.png", inverter=[evil]),
        lambda: demo(photo_folder, tmp_path / "demo", inverter=evil),
        lambda: evaluate(evil, photo_folder),
        lambda: representation_from_spec(spec),
    ]
    for job in jobs:
        with pytest.raises(ValueError, match="network"):
            job()
    assert "preimage_evil" not in sys.modules


@pytest.mark.parametrize("name", ["variant", "name", "self", "weights"])
def test_parameters_of_a_spec_are_no_arguments_of_ours(name: str) -> None:
    hog = create_representation("hog").spec
    with pytest.raises(ValueError, match=rf"{name}|parameters\.variant: 'absent' != 'dalal-triggs'"):
        representation_from_spec(dataclasses.replace(hog, parameters={**hog.parameters, name: "dalal-triggs"}))
