"""Test the comparison of real methods: training runs, and methods that learn from photographs."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import preimage
import training_runs
from networks import SIDE, Cnn
from preimage import training
from preimage.baselines.autoencoder import Autoencoder
from preimage.baselines.dictionary import PairedDictionary
from preimage.baselines.patches import PatchDatabase
from preimage.inverters import Inverter
from preimage.io import decode_file, resize_and_center_crop
from preimage.representations import Representation, create_representation
from preimage.studies.compare import CompareSummary, compare

HOG = create_representation("hog")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    """Return ten photographs of 96² pixels that differ."""
    return sorted(photo_folder.iterdir())[::2]


def _read(photos: list[Path], side: int) -> torch.Tensor:
    fitted = np.stack([resize_and_center_crop(decode_file(photo), side) for photo in photos])
    return torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()


def _check_errors(found: CompareSummary, made: list[torch.Tensor], images: torch.Tensor) -> None:
    """Compare the errors, up to their common divisor, with those of images made by hand."""
    targets = images.float() / 255
    distances = torch.stack([(targets - one).flatten(1).norm(dim=1) for one in made])
    errors = torch.tensor([[one.error for one in score.each] for score in found.scores])
    torch.testing.assert_close(errors / errors[0, 0], distances / distances[0, 0], rtol=1e-3, atol=0)


def test_a_training_run_of_the_papers_network(photo_folder: Path, photos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    training.run(training_runs.small_config(photo_folder, folder, steps=2, eval_every=2))
    found = compare(photos[:3], tmp_path / "out", methods=["ours", f"paper={folder}"], size=64, batch_size=2)
    assert [score.title for score in found.scores] == ["ours", "the paper's network"]
    images = _read(photos[:3], 64)
    features = HOG(images)
    inverters = [Inverter.load("hog-compact"), Inverter.load(folder)]
    _check_errors(found, [inverter(features, size=(64, 64)).detach() for inverter in inverters], images)
    with pytest.raises(ValueError, match=r"method paper inverts other features.*'hog' != 'lbp'"):
        compare(photos[:3], tmp_path / "out", representation="lbp", methods=[f"paper={folder}"])


def _layer(name: str) -> Representation:
    torch.manual_seed(0)
    pixels = preimage.Preprocessing(SIDE, "bgr", 255.0, (120.0,) * 3, (60.0,) * 3)
    return preimage.Network(Cnn(), pixels, name="toy").representation(name)


def test_an_autoencoder_gets_the_features_of_its_own_network(
    photo_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    representation, folder = _layer("again"), tmp_path / "run"
    config = training.TrainConfig(
        representation="network",
        images=(str(photo_folder),),
        output=str(folder),
        preset="auto",
        budget=30_000,
        val_count=2,
        steps=2,
        batch_size=4,
        precision="float32",
        device="cpu",
        finetune=True,
    )
    training.run(config, representation=representation)
    methods = [f"autoencoder={folder}"]
    found = compare(photos[:3], tmp_path / "out", representation=representation, methods=methods, device="cpu")
    autoencoder = Autoencoder.load(folder, representation, device="cpu")
    images = _read(photos[:3], SIDE)
    own = autoencoder.representation
    assert not torch.equal(own(images), representation(images))
    region = autoencoder.inverter.output_region
    made = autoencoder.invert(own(images), own.spec)
    _check_errors(found, [made], images if region is None else region.of(images))
    assert any(re.search("autoencoder.*its own network", note) for note in found.notes)
    with pytest.raises(ValueError, match=r"method autoencoder: .*features\.3.*again"):
        compare(photos[:3], tmp_path / "out", representation=_layer("features.3"), methods=methods)


def test_a_dictionary_is_learned_and_used_again(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairedDictionary, "learn", functools.partial(PairedDictionary.learn, atoms=16, patches=100))
    reports: list[tuple[int, int]] = []
    first = compare(
        photos[:2],
        tmp_path / "first",
        methods=["dictionary", "nearest"],
        database=photos[5:],
        size=64,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert reports == sorted(reports)
    assert reports[-1] == (14, 14), "two methods, for each two images and five photographs learned from"
    assert first.learned == (tmp_path / "first" / "dictionary.safetensors",)
    again = compare(photos[:2], tmp_path / "again", methods=[f"dictionary={first.learned[0]}"], size=64)
    assert again.scores[0].error.mean == pytest.approx(first.scores[0].error.mean, rel=1e-5)
    images = _read(photos[:2], 64)
    made = PairedDictionary.load(first.learned[0]).invert(HOG(images), HOG.spec, size=(64, 64))
    _check_errors(again, [made], images)


def test_patches_are_learned_from_each_half(photos: list[Path], tmp_path: Path) -> None:
    sift = create_representation("sift")
    found = compare(photos[:4], tmp_path, representation="sift", methods=["patches", "nearest"], size=96)
    images = _read(photos[:4], 96)
    features = sift(images)
    halves = [PatchDatabase.build(photos[start:4:2], size=96) for start in (1, 0)]
    made = [halves[index % 2].invert(features[index : index + 1], sift.spec, size=(96, 96)) for index in range(4)]
    assert found.learned == ()
    patches = found.scores[0]
    distances = torch.cat([(images[i : i + 1].float() / 255 - made[i]).flatten(1).norm(dim=1) for i in range(4)])
    ratios = torch.tensor([one.error for one in patches.each]) / distances
    assert ratios.tolist() == pytest.approx([ratios[0].item()] * 4, rel=1e-3)
    assert patches.learning_seconds is not None
    assert patches.learning_seconds > 0
