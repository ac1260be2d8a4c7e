"""Test inverters: shapes, saving and loading, and rejected arguments."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import photographs
from own_files import change_config
from paths import MODELS, ROOT
from preimage.errors import FileFormatError
from preimage.inverters import (
    ArchitectureConfig,
    Inverter,
    SingleStreamConfig,
    TwoStreamConfig,
    UShapedConfig,
    find_inverter,
    list_inverters,
    preset,
)
from preimage.inverters.architectures import config_from_dict, config_to_dict
from preimage.inverters.layers import Layer, upconv_weights
from preimage.inverters.pretrained import pretrained_specs
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import create_representation, list_representations, representation_from_spec
from preimage.spec import Spec
from tolerances import NETWORK

SPEC = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8, "color": "luma"})
TINY = UShapedConfig(widths=(8, 12, 16), blocks_down=(1, 0, 1), blocks_up=(1, 1), head=(8, 4))


@pytest.fixture
def tiny() -> Inverter:
    torch.manual_seed(0)
    inverter = Inverter(SPEC, TINY, {"steps": 3}).eval().requires_grad_(False)
    for parameter in inverter.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return inverter


def test_features_with_a_margin_stand_where_they_were_computed() -> None:
    """Dense SIFT's first descriptor is centered 6 pixels inside the image: in the second block of 4."""
    spec = create_representation("dense-sift").spec
    network = UShapedConfig(
        widths=(8, 8), blocks_down=(0, 0), blocks_up=(0,), head=(4, 4), entry=("c3/2 8",), margin=(1, 2)
    )
    torch.manual_seed(0)
    inverter = Inverter(spec, network).eval().requires_grad_(False)
    features = torch.rand(1, 128, 61, 61)
    padded = torch.nn.functional.pad(features, (1, 2, 1, 2), mode="replicate")
    assert inverter.covered(61, 61) == (256, 256)
    torch.testing.assert_close(inverter.reconstruct(features), inverter.network(padded) + 0.5)
    images = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    expected = torch.linalg.vector_norm(inverter.reconstruct(features) - images / 255)
    torch.testing.assert_close(inverter.distances(features, images)[0], expected)


def test_an_inverter_from_before_entry_and_margin_still_loads(tiny: Inverter) -> None:
    fields = config_to_dict(TINY)
    del fields["entry"], fields["margin"]
    assert config_from_dict(fields) == TINY
    with pytest.raises(ValueError, match=">= 0"):
        UShapedConfig(margin=(-1, 0))


@pytest.mark.parametrize("config", [TINY, TwoStreamConfig(), UShapedConfig(), preset("sift", "paper")])
def test_config_survives_json(config: ArchitectureConfig) -> None:
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 7), (8, 3)])
def test_images_are_in_range_and_cover_the_features(tiny: Inverter, shape: tuple[int, int]) -> None:
    images = tiny(100 * torch.randn(2, 31, *shape))
    assert images.shape == (2, 3, 8 * shape[0], 8 * shape[1])
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


def test_one_image_inverts_alike_alone_and_in_a_batch(tiny: Inverter) -> None:
    features = torch.rand(3, 31, 8, 8)
    torch.testing.assert_close(tiny(features)[1], tiny(features[1]), atol=NETWORK, rtol=0)


@pytest.mark.parametrize("rows", [(0, 1, 2, 3, 4, 5, 4, 3), (0, 1, 0, 1), (0, 0, 0, 0)])
def test_odd_sides_are_continued_by_their_mirror_image(tiny: Inverter, rows: tuple[int, ...]) -> None:
    count = max(rows) + 1
    features = torch.rand(1, 31, count, 8)
    torch.testing.assert_close(tiny(features), tiny(features[:, :, rows])[:, :, : 8 * count])


@pytest.mark.parametrize("sides", [(61, 64), (64, 64)])
def test_distances_to_images_of_another_size_are_none(tiny: Inverter, sides: tuple[int, int]) -> None:
    """The network computes 64² pixels from 7 rows and a mirrored one, so only seven eighths belong to the features."""
    features = torch.rand(1, 31, 7, 8)
    assert tiny.distances(features, torch.zeros(1, 3, 56, 64, dtype=torch.uint8)).shape == (1,)
    with pytest.raises((ValueError, RuntimeError), match=r"size|shape"):
        tiny.distances(features, torch.zeros(1, 3, *sides, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"images.*uint8.*torch\.float32"):
        tiny.distances(features, torch.zeros(1, 3, 56, 64))


@pytest.mark.parametrize("size", [(64, 64), (61, 67), (57, 71)])
def test_image_size_crops_or_repeats_the_edge(tiny: Inverter, size: tuple[int, int]) -> None:
    features = torch.rand(1, 31, 8, 8)
    whole, fitted = tiny(features), tiny(features, size=size)
    assert fitted.shape[2:] == size
    height, width = min(size[0], 64), min(size[1], 64)
    torch.testing.assert_close(fitted[:, :, :height, :width], whole[:, :, :height, :width])
    torch.testing.assert_close(
        fitted[:, :, :height, width:], whole[:, :, :height, -1:].expand_as(fitted[:, :, :height, width:])
    )


def test_save_and_load(tiny: Inverter, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "a" / "b")
    again = Inverter.load(folder)
    features = torch.rand(2, 31, 8, 8)
    assert torch.equal(again(features), tiny(features))
    assert (again.spec, again.config, again.training_notes) == (tiny.spec, tiny.config, {"steps": 3})
    assert not again.training
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_an_inverter_of_the_first_version_is_turned(tmp_path: Path) -> None:
    """Layers are square with distinct taps, so that shapes do not reveal weights that were not transposed."""
    torch.manual_seed(0)
    layers = ("c3/2 512", "up 512", "c3/1 256", "up 256", "up 8", "up 3")
    inverter = Inverter(SPEC, SingleStreamConfig(layers)).eval().requires_grad_(False)
    features = torch.rand(1, 31, 2, 2)
    before = inverter(features)
    folder = inverter.save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert (config.pop("format_version"), len(config.pop("sha256"))) == (4, 64)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    names = upconv_weights(inverter)
    assert {tuple(tensors[name].shape[:2]) for name in names} >= {(512, 512), (256, 256)}
    old = {
        name: value.transpose(0, 1).flip(2, 3).contiguous() if name in names else value
        for name, value in tensors.items()
    }
    safetensors.torch.save_file(old, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 1, "weights_sha256": digest}))
    torch.testing.assert_close(Inverter.load(folder)(features), before, atol=1e-5, rtol=0)
    # Read as a file of this version, the file contains another network.
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 2, "weights_sha256": digest}))
    with pytest.raises(FileFormatError, match=r"weights.*network"):
        Inverter.load(folder)


def test_half_precision_on_disk(tiny: Inverter, tmp_path: Path) -> None:
    full, half = (tiny.save(tmp_path / str(dtype), dtype=dtype) for dtype in (torch.float32, torch.float16))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (full, half)]
    assert sizes[1] < 0.65 * sizes[0]
    features = torch.rand(1, 31, 8, 8)
    again = Inverter.load(half)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again(features), tiny(features), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((1, 30, 8, 8), torch.float32, ValueError, r"\(B, 31, h, w\).*\(1, 30, 8, 8\)"),
        ((31, 8), torch.float32, ValueError, r"\(31, 8\)"),
        ((1, 31, 0, 8), torch.float32, ValueError, r"\(1, 31, 0, 8\)"),
        ((1, 31, 8, 8), torch.int32, TypeError, r"torch.int32"),
    ],
)
def test_refuses_features(
    tiny: Inverter, shape: tuple[int, ...], dtype: torch.dtype, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny(torch.zeros(shape, dtype=dtype))


def test_takes_views_of_a_mapped_file(tiny: Inverter) -> None:
    """A `FeatureStore` returns read-only NumPy arrays, about which torch warns."""
    features = torch.rand(31, 8, 8)
    view = np.frombuffer(features.numpy().tobytes(), np.float32).reshape(31, 8, 8)
    assert torch.equal(tiny(view), tiny(features))


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8"])
def test_takes_mirrored_arrays_of_any_byte_order(tiny: Inverter, dtype: str) -> None:
    features = np.random.default_rng(0).random((31, 8, 8), np.float32)
    mirrored = features.astype(dtype)[:, ::-1, ::-1]
    assert torch.equal(tiny(mirrored), tiny(features[:, ::-1, ::-1].copy()))
    np.testing.assert_array_equal(Reconstructor("hog", tiny, "cpu").invert(mirrored), tiny(mirrored).numpy())


def test_refuses_a_size_that_the_features_do_not_cover(tiny: Inverter) -> None:
    with pytest.raises(ValueError, match=r"64×64.*64×80"):
        tiny(torch.rand(1, 31, 8, 8), size=(64, 80))


def test_refuses_a_network_of_another_stride() -> None:
    with pytest.raises(ValueError, match=r"8.*cell.*hog.*4 pixels"):
        Inverter(Spec("hog", "vlfeat-uoctti", 31, 4), TINY)


def test_every_flipped_byte_of_the_weights_is_noticed(tiny: Inverter, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for position in range(0, len(data), 997):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(FileFormatError, match=r"model\.safetensors.*damaged"):
            Inverter.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not the config"),
        ({"format_version": 9}, r"version 9.*1 to 4"),
        ({"network": {"architecture": "cube"}}, r"architecture.*'cube'"),
        ({"network": {"architecture": "u-shaped", "widths": [8]}}, "fields"),
        ({"spec": {"representation": "hog"}}, r"spec.*channels"),
        ({"network": {**config_to_dict(UShapedConfig())}}, r"weights.*network"),
    ],
)
def test_names_the_config_and_what_is_wrong(
    tiny: Inverter, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = change_config(tiny.save(tmp_path), change)
    with pytest.raises(FileFormatError, match=message) as caught:
        Inverter.load(tmp_path)
    assert caught.value.path == str(path)


def test_missing_pieces_are_named(tiny: Inverter, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"config\.json"):
        Inverter.load(tmp_path)
    folder = tiny.save(tmp_path / "whole")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        Inverter.load(folder)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="pretrained inverter"):
        Inverter.load(folder)


def test_finds_the_pretrained_inverter_by_spec() -> None:
    assert find_inverter(SPEC) == "hog-compact"
    assert "hog-compact" in list_inverters()
    with pytest.raises(LookupError, match=r"hog-compact.*parameters\.cell_size: 8 != 4"):
        find_inverter(Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 4, "color": "luma"}))


@pytest.mark.parametrize("text", ["c4/1 8", "c3/3 8", "c3 8", "up", "up 0", "up 3x", ""])
def test_layer_notation_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="layer"):
        Layer.parse(text)


_SIZES = {
    "hog-compact": [100, 128, 200, 256, 300, 350, 400, 440, 700],
    "models/hog-any-size-compact": [100, 128, 200, 256, 300, 350, 400, 440, 700],
    "hog-dalal-triggs-compact": [100, 256, 700],
    "dense-sift-compact": [100, 200, 256, 350, 700],
    "sift-color-compact": [100, 256, 700],
    "sift-compact": [100, 200, 256, 350, 700],
    "lbp-compact": [100, 200, 256, 350, 700],
}


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize(("inverter", "short_side"), [(name, side) for name in _SIZES for side in _SIZES[name]])
def test_pretrained_inverters_work_at_any_size(inverter: str, name: str, short_side: int) -> None:
    """A network trained without full neighborhoods at its coarsest size has errors of 0.44 and more on large images."""
    photograph = photographs()[name]
    scale = short_side / min(photograph.shape[:2])
    image = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    original = torch.from_numpy(image).permute(2, 0, 1)[None]
    if inverter.startswith("models/") and not MODELS.exists():
        pytest.skip("the sources are not here")
    network = Inverter.load(ROOT / inverter if inverter.startswith("models/") else inverter)
    features = representation_from_spec(network.spec)(original)
    returned = network(features, size=image.shape[:2])
    # LBP does not determine brightness, and gradients without directions not even which side of an edge is brighter.
    limit = {"lbp-compact": 0.35, "hog-dalal-triggs-compact": 0.5}.get(inverter, 0.3)
    assert (returned - original.float() / 255).square().mean().sqrt() < limit


def test_a_pretrained_inverter_for_every_descriptor() -> None:
    """Inverters of network layers, whose weights are not part of the package, are in a separate folder."""
    networks = ("alexnet-", "efficientnet-")
    descriptors = [name for name in list_representations() if not name.startswith(networks)]
    specs = pretrained_specs()
    with_colors = {name for name, spec in specs.items() if spec.parameters.get("color") is True}
    variants = {find_inverter(create_representation("hog", variant="dalal-triggs").spec)}
    found = {find_inverter(create_representation(name).spec) for name in descriptors}
    assert found | with_colors | variants == set(list_inverters()) and not found & (with_colors | variants)
    assert all("weights" not in spec.parameters for spec in specs.values())


@pytest.mark.parametrize(  # the sources may not be here
    "name", sorted(folder.name for folder in MODELS.glob("*") if folder.name != "hog-any-size-compact")
)
def test_inverters_of_networks_return_their_output_region(name: str) -> None:
    inverter = Inverter.load(MODELS / name)
    assert "weights" in inverter.spec.parameters
    assert inverter.output_region is not None
    shape = inverter.training_notes["feature_shape"]
    assert shape[0] == inverter.spec.channels
    mean = inverter.feature_mean.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    if inverter.network.log_floor:
        mean = mean.exp()
    picture = inverter(mean)
    assert picture.shape == (3, inverter.output_region.size, inverter.output_region.size)
    assert (picture.mean(dim=(1, 2)) - inverter.image_mean).abs().max() < 0.2  # average features, average colors
