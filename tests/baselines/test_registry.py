"""The names of the package: they exist, and nothing is imported before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from preimage import baselines
from preimage.baselines import Baseline, list_baselines

CLASSES = [name for name in baselines.__all__ if name[0].isupper()]


@pytest.mark.parametrize("name", CLASSES)
def test_names_are_baselines(name: str) -> None:
    found = getattr(baselines, name)
    assert issubclass(found, Baseline) and found.__name__ == name
    assert name in dir(baselines)


def test_baselines_are_listed_with_a_summary() -> None:
    summaries = list_baselines()
    assert list(summaries) == ["gradient", "dictionary", "patches", "nearest", "mean", "paper", "autoencoder"]
    assert all(summary.endswith(".") and "\n" not in summary for summary in summaries.values())
    named = {getattr(baselines, name).name for name in CLASSES if name != "Baseline"}
    assert named - {"ours"} <= set(summaries)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchName"):
        baselines.NoSuchName  # noqa: B018


def test_listing_imports_neither_torch_nor_scikit_learn() -> None:
    script = """
import sys
from preimage import baselines
baselines.list_baselines()
assert "torch" not in sys.modules and not any(name.startswith("preimage.baselines.") for name in sys.modules)
baselines.PairedDictionary, baselines.Nearest, baselines.Mean
assert "sklearn" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
