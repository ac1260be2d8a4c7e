"""Provide photographs of scikit-image and the optional larger data set."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests run in several processes, which share the cores with their children. Torch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pytest
import skimage.data
import torch

# Without a GPU Triton's kernels run in its interpreter; it has to know before it is imported, which registering our ops
# does already.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from faults import faults
from paths import ROOT
from preimage import cli
from preimage.inverters import Inverter, UShapedConfig, pretrained
from preimage.representations import create_representation
from samplers import save_with_sampler
from toys import toys

__all__ = ["faults", "toys"]  # fixtures

if importlib.util.find_spec("hypothesis"):  # a machine with a GPU may have little more than PyTorch and pytest
    from hypothesis import settings

    for profile, examples in (("default", 30), ("nightly", 300)):
        settings.register_profile(profile, deadline=None, max_examples=examples)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

SHARED = ROOT.parent / "shared"

# An installed wheel is also tested with a copy of this folder alone, without what these files read.
collect_ignore = [
    "benchmarks",
    "native/test_cuda_build.py",
    "native/test_native_build.py",
    "ops/test_dense_sift_blocks.py",
    "ops/test_hog_blocks.py",
    "ops/test_lbp_blocks.py",
    "packaging/test_cross_compile.py",
    "packaging/test_wheel_settings.py",
    "representations/test_plugins.py",
    "test_cluster_examples.py",
    "test_code_blocks.py",
    "test_examples.py",
    "web",
] * (not (ROOT / "csrc").exists())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` without a CUDA device, and mark those with a parameter "cuda", for `pytest -m gpu`."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        if item.get_closest_marker("gpu") is not None:
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        elif parameters is not None and any(str(value).startswith("cuda") for value in parameters.params.values()):
            item.add_marker(pytest.mark.gpu)


def photographs() -> dict[str, np.ndarray]:
    """Return photographs (H, W, 3) uint8 RGB from scikit-image's wheel."""
    names = ("astronaut", "camera", "chelsea", "coffee", "rocket")
    images = {name: getattr(skimage.data, name)() for name in names}
    return {name: image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for name, image in images.items()}


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 20 small JPEGs cropped from photographs."""
    folder = tmp_path_factory.mktemp("photos")
    for name, image in photographs().items():
        height, width = image.shape[:2]
        for index, (top, left) in enumerate(((0, 0), (0, width - 256), (height - 256, 0), (height - 256, width - 256))):
            tile = cv2.resize(image[top : top + 256, left : left + 256], (96, 96), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / f"{name}-{index}.jpg"), tile[:, :, ::-1])
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, because several only wait for each other on small images."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the larger data set next to the project, or skip the test without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the larger data set is not beside the project")
    return SHARED / "data"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small, fast, untrained inverter for HOG."""
    torch.manual_seed(0)
    network = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))
    return Inverter(create_representation("hog").spec, network).save(tmp_path_factory.mktemp("inverter") / "tiny")


@pytest.fixture(scope="session")
def tiny_sampler(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of `tiny` with an untrained sampler."""
    return save_with_sampler(tiny, tmp_path_factory.mktemp("inverter") / "tiny-sampler")


@pytest.fixture(scope="session")
def tiny_lbp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small, fast, untrained inverter for LBP."""
    torch.manual_seed(0)
    network = UShapedConfig(entry=("c3/1 8", "up 8"), widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))
    return Inverter(create_representation("lbp").spec, network).save(tmp_path_factory.mktemp("inverter") / "tiny-lbp")


@pytest.fixture
def use_as_pretrained(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the given inverters' folders the only pretrained inverters, under their names."""

    def only(*folders: Path) -> None:
        weights = tmp_path_factory.mktemp("weights")
        for folder in folders:
            (weights / folder.name).symlink_to(folder)
        monkeypatch.setattr(pretrained, "_weights_folder", lambda: weights)

    return only


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a folder of five photographs of three sizes, one of them in a subfolder."""
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    for name, image in photographs().items():
        place = folder / ("sub" if name == "rocket" else ".") / f"{name}.png"
        small = image[:90, :120] if name == "coffee" else image[:64, :64] if name == "camera" else image[:64, :80]
        cv2.imwrite(str(place), np.ascontiguousarray(small[:, :, ::-1]))
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in this process and returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["preimage", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capfd.readouterr()

    return call
