"""Test what the explorer computes, without a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layer_networks
import preimage as pi
from conftest import photographs
from image_attacks import png_bomb
from layer_networks import ToyLayer
from preimage.app import Explorer, Settings
from preimage.app.explorer import SAMPLES, draw_strength
from preimage.app.photographs import MAX_BYTES, Photographs
from preimage.app.settings import MASK_SIDE, erased_cells, pack_mask, unpack_mask
from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.io import encode_png
from preimage.io.images import resize_and_center_crop
from preimage.keypoints import Keypoints
from preimage.spec import Spec
from preimage.studies.feature_paths import feature_path
from preimage.studies.feature_perturbations import binarize, drop_smallest, dropout
from toys import NETWORKS, SIDE, ToyMaps, ToyVectors, introduce

_SIZE = 64


def encoded(name: str) -> bytes:
    return bytes(encode_png(photographs()[name]))


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(size=_SIZE, device="cpu")


@pytest.fixture(scope="module")
def pair(explorer: Explorer) -> tuple[str, str]:
    """Keys of two photographs."""
    return explorer.add(encoded("astronaut"), name="a.png"), explorer.add(encoded("chelsea"))


def image(name: str, size: int = _SIZE) -> torch.Tensor:
    return torch.from_numpy(resize_and_center_crop(photographs()[name], size)).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["hog-compact", "dense-sift-compact", "lbp-compact", "sift-compact"])
def test_features_and_reconstruction_are_those_of_the_library(
    explorer: Explorer, pair: tuple[str, str], name: str
) -> None:
    view = explorer.show(Settings(name, pair[0]))
    reconstructor = pi.Reconstructor(inverter=name, device="cpu")
    original = image("astronaut")
    torch.testing.assert_close(view.features, reconstructor.features(original))
    again = np.rint(reconstructor(original).numpy().transpose(1, 2, 0) * 255)
    assert np.abs(view.reconstruction.astype(int) - again).max() <= 1
    assert np.array_equal(view.photograph, original.permute(1, 2, 0).numpy())
    assert np.array_equal(view.target, view.photograph)
    difference = view.photograph / 255 - reconstructor(original).numpy().transpose(1, 2, 0)
    assert view.psnr == pytest.approx(-10 * np.log10(np.square(difference).mean()), abs=1e-3)
    assert view.ssim is not None and 0 < view.ssim < 1
    assert view.drawing is not None and view.drawing.dtype == np.uint8 and view.drawing.std() > 5
    facts = explorer.facts(name)
    assert (facts.side, facts.is_map, facts.spec) == (_SIZE, True, reconstructor.inverter.spec)
    assert facts.has_keypoints == (name == "sift-compact")
    assert facts.explanation.endswith(".")
    assert facts.error is not None and 0.2 < facts.error < 0.6


def test_perturbations_are_those_of_the_studies(explorer: Explorer, pair: tuple[str, str]) -> None:
    whole = explorer.show(Settings("hog-compact", pair[0])).features[None]
    for name, expected in (
        ("binarize", binarize(whole)),
        ("dropout-30", dropout(whole, 30, seed=5)),
        ("drop-smallest-80+binarize", binarize(drop_smallest(whole, 80))),
    ):
        view = explorer.show(Settings("hog-compact", pair[0], perturbation=name, seed=5))
        assert torch.equal(view.features[None], expected), name


def test_keypoints_are_kept_and_reduced_to_parts(explorer: Explorer, pair: tuple[str, str]) -> None:
    def keypoints(**changes: Any) -> Keypoints:
        view = explorer.show(Settings("sift-compact", pair[0], **changes))
        return Keypoints.from_grid(view.features[None], 4)

    found = keypoints()
    few = keypoints(kept=30.0)
    assert len(few.x) == int(0.3 * len(found.x) + 0.5) > 0
    assert set(few.x.tolist()) < set(found.x.tolist())
    assert not keypoints(parts="coordinates").descriptors.any()
    assert len(set(keypoints(parts="positions").scale.tolist())) == 1
    parts = keypoints(parts="descriptors")
    torch.testing.assert_close(parts.descriptors, found.descriptors)
    assert not parts.angle.any()


def test_a_path_between_two_photographs(explorer: Explorer, pair: tuple[str, str]) -> None:
    first, last = (explorer.show(Settings("hog-compact", key)) for key in pair)
    for spherical in (False, True):
        middle = explorer.show(Settings("hog-compact", pair[0], other=pair[1], position=0.25, spherical=spherical))
        spec = explorer.facts("hog-compact").spec
        path = feature_path(spec, first.features, last.features, torch.tensor([0.25]), spherical=spherical)
        torch.testing.assert_close(middle.features, path[0])
        assert (middle.psnr, middle.ssim) == (None, None)
    end = explorer.show(Settings("hog-compact", pair[0], other=pair[1], position=1.0))
    assert np.array_equal(end.reconstruction, last.reconstruction)
    assert end.psnr == last.psnr
    assert np.array_equal(end.photograph, first.photograph)
    keypoints = Settings("sift-compact", pair[0], other=pair[1], position=0.5)
    along_an_arc = dataclasses.replace(keypoints, spherical=True)  # keypoints have no arc
    assert torch.equal(explorer.show(keypoints).features, explorer.show(along_an_arc).features)


@pytest.mark.parametrize("name", ["hog-compact", "dense-sift-compact", "sift-compact"])
def test_erased_regions_have_no_features(explorer: Explorer, pair: tuple[str, str], name: str) -> None:
    mask = np.zeros((MASK_SIDE, MASK_SIDE), bool)
    mask[:, MASK_SIDE // 2 :] = True  # the right half
    whole = explorer.show(Settings(name, pair[0]))
    half = explorer.show(Settings(name, pair[0], erased=pack_mask(mask)))
    width = whole.features.shape[2]
    assert torch.equal(half.features[:, :, : width // 2], whole.features[:, :, : width // 2])
    assert not half.features[:, :, width // 2 + 1 :].any()
    difference = np.abs(half.reconstruction.astype(int) - whole.reconstruction.astype(int))
    assert difference[:, _SIZE // 2 :].mean() > 5
    assert half.drawing is not None and whole.drawing is not None
    assert not np.array_equal(half.drawing, whole.drawing)


def test_samples_differ_and_have_a_map(explorer: Explorer, pair: tuple[str, str]) -> None:
    settings = Settings("hog-compact", pair[0])
    samples, deviation = explorer.sample(settings, seed=3)
    assert len(samples) == SAMPLES
    assert deviation.shape == samples[0].shape == (_SIZE, _SIZE, 3)
    expected = pi.Reconstructor(inverter="hog-compact", device="cpu").sample(
        explorer.show(settings).features[None], SAMPLES, 3, size=(_SIZE, _SIZE)
    )
    assert np.abs(samples[1] / 255 - expected[0, 1].numpy().transpose(1, 2, 0)).max() < 0.003
    alike, dark = explorer.sample(settings, spread=0.0)
    assert all(np.array_equal(alike[0], one) for one in alike)
    assert dark.mean() < deviation.mean()
    with pytest.raises(ValueError, match=r"cannot sample.*hog-compact"):
        explorer.sample(Settings("hog-dalal-triggs-compact", pair[0]))


@pytest.fixture
def toy_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Inverters of toy maps and toy vectors."""
    introduce(monkeypatch)
    folders = []
    for representation, shape in ((ToyMaps(), (4, 4)), (ToyVectors(), None)):
        torch.manual_seed(0)
        config, region = NETWORKS[shape]
        inverter = Inverter(representation.spec, config, {}, region)
        folders.append(inverter.save(tmp_path / representation.name))
    return folders


def test_only_what_a_change_affects_is_computed(toy_folders: list[Path]) -> None:
    explorer = Explorer(toy_folders, size=_SIZE, device="cpu")
    assert explorer.names[:2] == list(map(str, toy_folders))
    first, second = explorer.add(encoded("rocket")), explorer.add(encoded("coffee"))
    settings = Settings(explorer.names[0], first)
    whole = explorer.show(settings)
    assert ToyMaps.calls == 1
    assert whole.photograph.shape == (SIDE, SIDE, 3), "the size that the representation takes"
    assert whole.target.shape == whole.reconstruction.shape == (12, 12, 3), "the part that the inverter returns"
    mask = np.zeros((MASK_SIDE, MASK_SIDE), bool)
    mask[:20] = True
    for change in ({"perturbation": "dropout-20"}, {"seed": 1}, {"erased": pack_mask(mask)}):
        explorer.show(dataclasses.replace(settings, **change))
    assert ToyMaps.calls == 1, "features are computed once for a photograph"
    explorer.show(dataclasses.replace(settings, other=second, position=0.5))
    explorer.show(dataclasses.replace(settings, other=second, position=0.6))
    assert ToyMaps.calls == 2
    assert explorer.show(settings) is whole, "nothing has changed"


@dataclasses.dataclass(frozen=True)
class _OneSize(ToyLayer):
    """Layer whose spec has the size of the images, as those of `preimage.Network`."""

    @property
    def spec(self) -> Spec:
        spec = super().spec
        return dataclasses.replace(spec, parameters={**spec.parameters, "image_size": layer_networks.SIDE})


def test_photographs_are_kept_in_the_size_of_a_network_without_output_region(tmp_path: Path) -> None:
    layer = _OneSize(layer_networks.ToyNetwork(), "maps")
    folder = layer_networks.tiny_inverter(layer.spec, None).save(tmp_path / "maps")
    explorer = Explorer(folder, network=layer, size=_SIZE, device="cpu")
    view = explorer.show(Settings(str(folder), explorer.add(encoded("rocket"))))
    assert view.photograph.shape == view.reconstruction.shape == (layer_networks.SIDE, layer_networks.SIDE, 3)


def test_fewer_results_of_large_photographs_are_kept() -> None:
    kept = {size: Explorer(size=size, device="cpu").show.cache_info().maxsize for size in (32, 256, 512, 1024)}
    assert kept == {32: 64, 256: 64, 512: 16, 1024: 4}


def test_a_photograph_without_keypoints_is_reconstructed(explorer: Explorer) -> None:
    key = explorer.add(bytes(encode_png(np.full((70, 50, 3), 90, np.uint8))))
    whole = explorer.show(Settings("sift-compact", key))
    assert not whole.features.any()
    for changes in (
        {"kept": 1.0},
        {"parts": "descriptors"},
        {"parts": "positions"},
        {"kept": 5.0, "parts": "coordinates"},
    ):
        view = explorer.show(Settings("sift-compact", key, **changes))
        assert np.array_equal(view.reconstruction, whole.reconstruction)


def test_odd_notes_of_an_inverter_are_not_its_error(tmp_path: Path) -> None:
    inverter = Inverter.load("lbp-compact")
    for index, error in enumerate((10**400, float("nan"), "low", -1)):
        inverter.training_notes = {"normalized_error": error}
        folder = inverter.save(tmp_path / str(index))
        assert Explorer(folder, device="cpu").facts(str(folder)).error is None


def test_vectors_have_neither_drawing_nor_regions(toy_folders: list[Path]) -> None:
    explorer = Explorer(toy_folders[1], device="cpu")
    key = explorer.add(encoded("rocket"))
    mask = np.ones((MASK_SIDE, MASK_SIDE), bool)
    view = explorer.show(Settings(explorer.names[0], key, erased=pack_mask(mask), perturbation="top-2"))
    assert (view.drawing, explorer.facts(explorer.names[0]).is_map) == (None, False)
    assert int((view.features != 0).sum()) == 2


def test_features_without_drawing_are_drawn_by_their_strength(toy_folders: list[Path]) -> None:
    explorer = Explorer(toy_folders[0], device="cpu", tile=64)
    view = explorer.show(Settings(explorer.names[0], explorer.add(encoded("rocket"))))
    norms = view.features.norm(dim=0).numpy()
    assert view.drawing is not None and view.drawing.shape == (64, 64, 3)
    assert np.unravel_index(view.drawing[::16, ::16, 0].argmax(), (4, 4)) == np.unravel_index(norms.argmax(), (4, 4))
    assert view.drawing.max() == 255
    assert not draw_strength(np.zeros((5, 2, 3), np.float32), 30).any()


def test_masks_are_packed_and_mapped_to_cells() -> None:
    mask = np.random.default_rng(0).random((MASK_SIDE, MASK_SIDE)) < 0.3
    assert np.array_equal(unpack_mask(pack_mask(mask)), mask)
    assert pack_mask(np.zeros_like(mask)) == ""
    mask[:] = False
    mask[0, 0], mask[62:, 62:] = True, True
    assert np.argwhere(erased_cells(mask, (32, 32))).tolist() == [[31, 31]], "a quarter of a cell is not enough"
    mask[:] = False
    mask[:8] = True
    rows = erased_cells(mask, (61, 61), (1, 2)).any(axis=1)
    assert rows.tolist() == [True] * 7 + [False] * 54, "the first of eight cells has no features"
    assert erased_cells(mask, (128, 128))[:16].all()
    with pytest.raises(ValueError, match=r"bool \(64, 64\).*\(2, 2\)"):
        pack_mask(np.zeros((2, 2), bool))
    for wrong in ("ff", "x" * 1024, "é" * 1024):
        with pytest.raises(ValueError, match="1024 hexadecimal"):
            unpack_mask(wrong)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position": 1.5}, "position.*1.5"),
        ({"kept": 0.0}, "kept.*0"),
        ({"parts": "half"}, "parts.*'half'"),
        ({"perturbation": "blur"}, "perturbation.*'blur'"),
        ({"perturbation": "top-5"}, "top-5 is for vectors.*hog"),
        ({"kept": 50.0}, "hog.*not keypoints"),
        ({"inverter": "sift-compact", "perturbation": "binarize"}, "SIFT.*'binarize'"),
        ({"inverter": "../etc"}, "hog-compact.*'../etc'"),
        ({"erased": "12"}, "hexadecimal.*'12'"),
    ],
)
def test_wrong_settings_have_a_sentence(
    explorer: Explorer, pair: tuple[str, str], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        explorer.show(Settings(**{"inverter": "hog-compact", "photograph": pair[0], **changes}))


def test_a_photograph_that_is_gone_has_a_sentence(explorer: Explorer) -> None:
    with pytest.raises(LookupError, match="choose it again"):
        explorer.show(Settings("hog-compact", "no-such-key"))
    few = Photographs(most=2)
    keys = [few.add(encoded("rocket"), [16], name="r") for _ in range(2)]
    few.get(keys[0], 16)
    few.add(encoded("rocket"), [16], name="r")
    assert len(few) == 2
    assert few.get(keys[0], 16).shape == (16, 16, 3)
    with pytest.raises(LookupError):
        few.get(keys[1], 16)
    with pytest.raises(LookupError):
        few.get(keys[0], 17)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "bad.jpg"),
        (b"<html><script>alert(1)</script></html>", "bad.jpg"),
        (png_bomb(20000), "20000 × 20000"),
        (encoded("rocket")[:9000], "truncated"),
        (bytes(MAX_BYTES + 1), "32 MB"),
    ],
    ids=["empty", "svg", "html", "bomb", "truncated", "long"],
)
def test_bad_files_have_a_sentence(explorer: Explorer, data: bytes, words: str) -> None:
    with pytest.raises(FileFormatError, match=words):
        explorer.add(data, name="bad.jpg")


def test_inverters_are_checked_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no-such.*hog-compact"):
        Explorer("no-such")
    with pytest.raises(FileFormatError, match=r"config\.json"):
        Explorer(tmp_path)
    with pytest.raises(ValueError, match=r"size.*2000"):
        Explorer(size=2000)
