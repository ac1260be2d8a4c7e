"""Test the entry points of `torch.hub`, from this checkout as a local repository."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from preimage.inverters import list_inverters

CHECKOUT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (CHECKOUT / "hubconf.py").is_file(), reason="no hubconf.py beside the tests")

ENTRIES = """
import sys, torch, preimage
checkout, inverter, folder = sys.argv[1:]
torch.hub.set_dir(folder)  # where a download of owner/preimage would be
names = torch.hub.list("owner/preimage:main", trust_repo=True, skip_validation=True)
print(*names)
for name in names:
    text = torch.hub.help("owner/preimage:main", name, trust_repo=True, skip_validation=True)
    assert text.partition(" ")[0] in ("Load", "Create"), (name, text)
load = lambda entry, **parameters: torch.hub.load(checkout, entry, source="local", **parameters)
image = torch.rand(2, 3, 64, 48)
for name in ("hog", "lbp", "dense_sift"):
    assert torch.equal(load(name)(image), getattr(preimage, name)(image))
assert load("hog", cell_size=4)(image).shape == (2, 31, 16, 12)
for made in (load("hog_compact", device="cpu"), load("inverter", name="hog-compact", device="cpu")):
    assert made(preimage.hog(image), size=(64, 48)).shape == image.shape and not made.training
assert load("inverter", name=inverter, device="cpu").spec.representation == "lbp"
"""


def test_entries(tiny_lbp: Path, tmp_path: Path) -> None:
    downloaded = tmp_path / "owner_preimage_main"
    downloaded.mkdir()
    shutil.copyfile(CHECKOUT / "hubconf.py", downloaded / "hubconf.py")
    command = [sys.executable, "-c", ENTRIES, str(CHECKOUT), str(tiny_lbp), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.split())
    assert {name.replace("-", "_") for name in list_inverters()} | {"inverter", "hog", "lbp", "dense_sift"} == names


def test_a_checkout_without_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "preimage.ops._native", None)
    with pytest.raises(ImportError, match=r"cannot load its compiled kernels.*pip install \."):
        torch.hub.load(str(CHECKOUT), "hog", source="local")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    missing = lambda name, *rest: None if name == "preimage" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(ImportError, match=r"installed package preimage.*missing: pip install preimage"):
        torch.hub.load(str(CHECKOUT), "hog", source="local")
