"""Test what the package offers to data sets in the workers of `torch.utils.data.DataLoader`."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest
import torch

import preimage
from native_functions import FUNCTIONS, photographs
from preimage import nn
from preimage.io import FeatureRecord
from preimage.store import FeatureStore, write_features

ITEMS = 4
MODULES = {"HOG": nn.HOG(), "LBP": nn.LBP(), "DenseSIFT": nn.DenseSIFT()}
REPRESENTATIONS = {name: preimage.create_representation(name) for name in ("hog", "lbp", "dense-sift")}


class EverySource(torch.utils.data.Dataset[torch.Tensor]):
    """An image file, its features by all native functions, modules and representations, a store, a reconstruction."""

    def __init__(self, folder: Path, inverter: Path) -> None:
        self.paths = []
        for index in range(ITEMS):
            self.paths.append(folder / f"{index}.png")
            cv2.imwrite(str(self.paths[-1]), photographs(32, 40, seed=index)[0].permute(1, 2, 0).numpy())
        hog = REPRESENTATIONS["hog"]
        features = [hog(preimage.read_image(path)[None])[0].numpy() for path in self.paths]
        records = [FeatureRecord(str(index), one, (32, 40), (32, 40)) for index, one in enumerate(features)]
        write_features(folder / "store", hog.spec, records)
        self.store = FeatureStore(folder / "store")
        self.reconstructor = preimage.Reconstructor("hog", inverter, "cpu")

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> torch.Tensor:
        image = preimage.read_image(self.paths[index])[None]
        parts = [part for function in FUNCTIONS.values() for part in function(image)]
        parts += [module(image) for module in MODULES.values()]
        parts += [representation(image) for representation in REPRESENTATIONS.values()]
        parts += [torch.from_numpy(self.store[str(index)].copy()), self.reconstructor(image)]
        return torch.cat([part.flatten().double() for part in parts])


@pytest.mark.usefixtures("one_thread")  # restores the number of threads
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # that this works is tested
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_workers(tmp_path: Path, tiny: Path, context: str) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {context}")
    dataset = EverySource(tmp_path, tiny)
    torch.set_num_threads(2)
    large = photographs(300, 300)
    with ThreadPoolExecutor(2) as pool:  # the parent has used threads, of its own and of the native module
        list(pool.map(lambda name: FUNCTIONS[name](large), FUNCTIONS))
    torch.set_num_threads(1)  # as in the workers
    expected = [dataset[index] for index in range(ITEMS)]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=context,
        timeout=600,  # seconds, instead of waiting for a worker that hangs
    )
    found = list(loader)
    assert len(found) == ITEMS
    for index, one in enumerate(found):
        assert torch.equal(one, expected[index]), index
