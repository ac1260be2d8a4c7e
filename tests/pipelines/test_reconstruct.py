"""Test `Reconstructor`: containers, leading dimensions, output regions, sizes, wrong inverters, and devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import preimage
from conftest import photographs
from layer_networks import SIDE, VIEWS, ToyLayer, ToyNetwork, tiny_inverter
from preimage.inverters import Inverter, extraction_device, resolve_device
from preimage.io import list_images
from preimage.pipelines import image_loading
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import create_representation
from toys import ToyMaps

HOG = create_representation("hog")


@pytest.fixture
def images() -> torch.Tensor:
    """Return images (2, 3, 48, 64) uint8."""
    pictures = [torch.from_numpy(pixels[100:148, 150:214]) for pixels in list(photographs().values())[:2]]
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def hog(tiny: Path) -> Reconstructor:
    return Reconstructor("hog", tiny, device="cpu")


def test_reconstruction_is_extraction_then_inversion(hog: Reconstructor, tiny: Path, images: torch.Tensor) -> None:
    features = HOG(images)
    assert torch.equal(hog.features(images), features)
    made = Inverter.load(tiny)(features, size=(48, 64))
    assert torch.equal(hog.invert(features, (48, 64)), made)
    assert torch.equal(hog(images), made)
    torch.testing.assert_close(hog(images.float() / 255), made, atol=1e-4, rtol=0)
    assert torch.equal(hog.target(images), images.float() / 255)
    assert torch.equal(hog.target(images.float() / 255), images.float() / 255)
    assert (hog.name, hog.representation, hog.device) == (str(tiny), HOG, torch.device("cpu"))


def test_samples_in_parts_are_those_of_the_inverter(
    tiny_sampler: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hog, network = Reconstructor("hog", tiny_sampler, device="cpu"), Inverter.load(tiny_sampler)
    features = HOG(images)
    expected = network.sample(features, 3, 5, 0.5, (48, 64), positions=[7, 2])
    monkeypatch.setattr(image_loading, "BATCH_BYTES", 1)  # one image at a time
    drawn = hog.sample(features, 3, 5, 0.5, (48, 64), positions=[7, 2])
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=0)
    several = hog.sample(features[None].numpy(), 2, 5)
    assert isinstance(several, np.ndarray)
    assert several.shape == (1, 2, 2, 3, 48, 64)
    assert hog.sample(features[0]).shape == (4, 3, 48, 64)
    with pytest.raises(ValueError, match=r"2 sets.*3"):
        hog.sample(features, positions=[0, 1, 2])


def test_inverter_without_sampler_is_named(hog: Reconstructor, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"cannot sample.*--sampler"):
        hog.sample(HOG(images))


@pytest.mark.parametrize("leading", [(), (2,), (1, 2), (2, 1, 1)])
def test_leading_dimensions_and_containers_are_kept(
    hog: Reconstructor, images: torch.Tensor, leading: tuple[int, ...]
) -> None:
    given = (images if leading else images[0]).reshape(*leading, 3, 48, 64)
    for method, shape in ((hog, (3, 48, 64)), (hog.features, (31, 6, 8)), (hog.target, (3, 48, 64))):
        tensor, array = method(given), method(given.numpy())
        assert isinstance(array, np.ndarray)
        assert tensor.shape == array.shape == (*leading, *shape)
        assert tensor.dtype == torch.float32
        assert np.array_equal(array, tensor.numpy())
    features = hog.features(given)
    assert hog.invert(features).shape == hog.invert(features.numpy()).shape == (*leading, 3, 48, 64)


def test_arrays_may_be_read_only_and_strided(hog: Reconstructor, images: torch.Tensor) -> None:
    array = images.numpy()[:, :, ::-1].copy()
    turned = array[:, :, ::-1]
    turned.flags.writeable = False
    assert np.array_equal(hog(turned), hog(images).numpy())


@pytest.mark.parametrize("layer", ["maps", "vector"])
def test_output_region_is_part_of_the_image(layer: str) -> None:
    known = ToyNetwork().representation(layer)
    made = Reconstructor(known, tiny_inverter(known.spec, VIEWS[layer]), device="cpu")
    images = torch.randint(0, 256, (2, 2, 3, SIDE, SIDE), dtype=torch.uint8)
    size = VIEWS[layer].size
    assert made(images).shape == made.target(images).shape == (2, 2, 3, size, size)
    assert torch.equal(made.target(images)[1], VIEWS[layer].of(images[1]).float() / 255)
    features, target, reconstruction = made.compare(images[0])
    assert torch.equal(features, known(images[0]))
    assert torch.equal(target, made.target(images[0]))
    assert torch.equal(reconstruction, made(images[0]))
    assert torch.equal(made.compare(images[0], features).reconstruction, reconstruction)
    assert made.invert(features[0]).shape == (3, size, size)
    assert made.side() == made.side(SIDE) == made.side(default=300) == SIDE
    with pytest.raises(ValueError, match=r"32×32.*64"):
        made.side(64)


def test_size_of_images(hog: Reconstructor) -> None:
    assert (hog.side(), hog.side(64), hog.side(default=96)) == (256, 64, 96)
    with pytest.raises(ValueError, match="3×3"):
        hog.side(3)


def test_other_specs_name_the_fields(tiny: Path, tiny_lbp: Path, use_as_pretrained: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match=r"tiny.*hog.*parameters\.cell_size: 8 != 4"):
        Reconstructor(create_representation("hog", cell_size=4), tiny)
    with pytest.raises(ValueError, match=r"lbp.*hog"):
        Reconstructor("hog", tiny_lbp)
    with pytest.raises(ValueError, match="neither"):
        Reconstructor()
    with pytest.raises(ValueError, match="'cuba'"):
        Reconstructor("hog", tiny, device="cuba")
    use_as_pretrained(tiny_lbp)
    assert Reconstructor("lbp").name == "tiny-lbp"
    with pytest.raises(LookupError, match=r"inverter.*hog"):
        Reconstructor("hog")


def test_without_a_representation_features_alone_are_inverted() -> None:
    spec = ToyNetwork().representation("maps").spec
    made = Reconstructor(None, tiny_inverter(spec, VIEWS["maps"]))
    assert made.invert(torch.zeros(3, 8, 8)).shape == (3, 24, 24)
    with pytest.raises(ValueError, match=r"'maps'.*toys\.net:make"):
        made.features(torch.zeros(3, SIDE, SIDE))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (torch.zeros(48, 64, 3, dtype=torch.uint8), ValueError, r"\(\.\.\., 3, H, W\).*\(48, 64, 3\)"),
        (np.zeros((3, 0, 8), np.uint8), ValueError, r"\(3, 0, 8\)"),
        (np.zeros((48, 64), np.uint8), ValueError, r"\(48, 64\)"),
        (torch.zeros(3, 48, 64, dtype=torch.int64), TypeError, r"torch\.int64"),
        ([[1]], TypeError, "list"),
    ],
)
def test_bad_images_are_rejected(hog: Reconstructor, given: torch.Tensor, error: type[Exception], words: str) -> None:
    for method in (hog, hog.features, hog.target):
        with pytest.raises(error, match=words):
            method(given)


def test_bad_features_are_rejected(hog: Reconstructor) -> None:
    with pytest.raises(ValueError, match=r"features.*\(B, 31, h, w\).*\(2, 30, 4, 4\)"):
        hog.invert(torch.zeros(2, 30, 4, 4))
    with pytest.raises(ValueError, match=r"features.*\(B, 31, h, w\)"):
        hog.invert(torch.zeros(31, 4))
    with pytest.raises(TypeError, match=r"torch\.int32"):
        hog.invert(np.zeros((31, 4, 4), np.int32))


def test_large_batches_are_computed_in_parts(
    hog: Reconstructor, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = hog(images.repeat(4, 1, 1, 1)), []
    forward = Inverter.forward

    def noted(self: Inverter, features: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.append(len(features))
        return forward(self, features, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Inverter, "forward", noted)
    monkeypatch.setattr(image_loading, "BATCH_BYTES", 3 * image_loading.inverting_bytes(48, 64))
    torch.testing.assert_close(hog(images.repeat(4, 1, 1, 1)), whole)
    assert sizes == [3, 3, 2]


def test_images_keep_their_order_and_bad_ones_are_listed(hog: Reconstructor, mixed: Path, tmp_path: Path) -> None:
    (mixed / "broken.png").write_bytes(b"no image")
    sources, skipped = list_images(mixed), []
    batches = list(hog.compare_all(sources, 64, 2, skipped=skipped))
    assert [len(keys) for keys, _ in batches] == [2, 2, 1]
    assert [key for keys, _ in batches for key in keys] == [one.key for one in sources if one.key != "broken"]
    assert [Path(name).name for name, _ in skipped] == ["broken.png"]
    assert all(made.target.shape == made.reconstruction.shape == (len(keys), 3, 64, 64) for keys, made in batches)
    with pytest.raises(ValueError, match=r"broken\.png"):
        list(hog.compare_all(sources, 64, 2))


def test_auto_is_cuda_if_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device() == resolve_device("auto") == torch.device("cuda")


def test_features_are_computed_on_the_cpu_if_the_device_cannot() -> None:
    meta = torch.device("meta")  # stands for a GPU: no data, but the operations of torch
    assert extraction_device(ToyMaps(), (SIDE, SIDE), meta) == meta
    assert extraction_device(HOG, (64, 64), meta) == torch.device("cpu"), "HOG has no kernel there"
    assert extraction_device(create_representation("sift"), (64, 64), meta) == torch.device("cpu")
    assert extraction_device(ToyMaps(), (SIDE, SIDE), torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda"])
def test_network_is_computed_on_the_gpu(device: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    known: ToyLayer = ToyNetwork().representation("maps")
    inverter = tiny_inverter(known.spec, VIEWS["maps"])
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    there = Reconstructor(known, inverter, device=device).compare(images)
    assert (there.features.device.type, there.target.device.type, there.reconstruction.device.type) == (
        device,
        "cpu",
        "cpu",
    )
    here = Reconstructor(known, inverter, device="cpu").compare(images)
    torch.testing.assert_close(there.reconstruction, here.reconstruction, atol=1e-3, rtol=0)


def test_reconstructor_is_public(tiny: Path) -> None:
    assert preimage.Reconstructor is Reconstructor
