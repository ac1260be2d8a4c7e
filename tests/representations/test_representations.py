"""Test the registered representations: round trips of specs, sizes, and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Run, photographs
from paths import GOLDEN
from preimage.io import decode_file
from preimage.io.arrays import conventions
from preimage.pipelines.invert_features import open_features
from preimage.pipelines.sheet import sheet
from preimage.representations import (
    Representation,
    create_representation,
    list_representations,
    representation_from_spec,
)
from preimage.spec import Spec
from preimage.store import FeatureStore

CASES = [
    create_representation("hog"),
    create_representation("hog", cell_size=5, color="strongest"),
    create_representation("hog", variant="dalal-triggs"),
    create_representation("hog", variant="dalal-triggs", cell_size=6, orientations=7, block_size=2, block_norm="L1"),
    create_representation("hog", variant="dalal-triggs", cell_size=11, block_size=1, transform_sqrt=True),
    create_representation("lbp"),
    create_representation("lbp", cell_size=7),
    create_representation("dense-sift"),
    create_representation("dense-sift", step=5, bin_size=3, window_size=1.5, variant="vlfeat-dsift-flat"),
    create_representation("dense-sift", step=9, bin_size=2),
    create_representation("sift", variant="opencv"),
    create_representation("sift", variant="opencv", cell_size=5, descriptor_scale=2.0),
    create_representation("sift", variant="opencv", cell_size=3, color=True),
]


def _name(case: Representation) -> str:
    return f"{case.name}-{case.spec.stride}"


def test_the_registered_names() -> None:
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8", "prob")
    others = ("dense-sift", "efficientnet-lite0", "hog", "lbp", "sift")
    assert list_representations() == [*(f"alexnet-{layer}" for layer in layers), *others]


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_a_spec_says_everything(case: Representation) -> None:
    assert representation_from_spec(Spec.from_json(case.spec.to_json())) == case
    assert hash(case) == hash(representation_from_spec(case.spec))


def test_the_spec_of_cells_has_no_parameters_of_blocks() -> None:
    """Specs of stores and inverters from before there were blocks stay equal."""
    assert create_representation("hog").spec == Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8, "color": "luma"})
    blocks = create_representation("hog", variant="dalal-triggs", block_size=2, orientations=8).spec
    assert (blocks.channels, blocks.stride) == (32, 8)
    wrong = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8, "color": "luma", "orientations": 9})
    with pytest.raises(ValueError, match="orientations"):
        representation_from_spec(wrong)


@pytest.mark.parametrize("parameters", [{}, {"color": "strongest"}, {"variant": "dalal-triggs"}])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_hog_of_decoded_images(parameters: dict[str, str], dtype: str) -> None:
    case = create_representation("hog", **parameters)
    image = photographs()["astronaut"][None, :60, 7:90]
    features = np.full((1, case.spec.channels, *(case.feature_size(60, 83) or ())), np.nan, dtype)
    case.compute_into(image, features, threads=1)
    assert (features == case(image.transpose(0, 3, 1, 2)).astype(dtype)).all()
    with pytest.raises(ValueError, match="3"):
        case.compute_into(image[:, :3], features, threads=1)


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_every_channel_has_a_name(case: Representation) -> None:
    assert len(set(case.channel_names)) == case.spec.channels


@pytest.mark.parametrize(
    ("name", "strongest"),
    [
        ("hog", ["gradient 0°", "gradient 80°"]),
        ("hog dalal-triggs", ["gradient 10°", "gradient 90°"]),
        ("lbp", ["3 brighter neighbors from 315°", "3 brighter neighbors from 45°"]),
        ("dense-sift", ["0°", "90°"]),
    ],
)
def test_channel_names_agree_with_gradients(name: str, strongest: list[str]) -> None:
    """Brightness that rises to the right, and downwards; HOG has no direction of 90°."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8) * 3, (3, 64, 64))
    name, _, variant = name.partition(" ")
    case = create_representation(name, **({"variant": variant} if variant else {}))
    for image, direction in ((ramp, strongest[0]), (ramp.transpose(0, 2, 1), strongest[1])):
        features = case(torch.from_numpy(image.copy())[None])[0].mean(dim=(1, 2))
        assert direction in case.channel_names[int(features.argmax())]


@pytest.mark.parametrize("case", CASES, ids=_name)
@pytest.mark.parametrize("size", [(64, 64), (47, 61), (33, 80)])
def test_sizes_agree_with_what_is_computed(case: Representation, size: tuple[int, int]) -> None:
    image = torch.from_numpy(photographs()["astronaut"][: size[0], : size[1]]).permute(2, 0, 1)[None].contiguous()
    features = case(image)
    assert features.dtype == torch.float32
    assert features.shape == (1, case.spec.channels, *(case.feature_size(*size) or ()))
    covered = case.image_size(features.shape[2], features.shape[3])
    assert covered == conventions.covered(case.spec, features.shape[2], features.shape[3])
    assert case.feature_size(*covered) == tuple(features.shape[2:])
    stride = case.spec.stride
    assert stride is not None
    assert all(abs(ours - theirs) < stride for ours, theirs in zip(covered, size, strict=True))


@pytest.mark.parametrize(
    ("name", "parameters", "size", "words"),
    [
        ("hog", {"variant": "dalal-triggs"}, (40, 23), r"40×23 pixels.*3×3 HOG cells of 8.*24"),
        ("hog", {"variant": "dalal-triggs", "block_size": 2}, (15, 40), r"15×40 pixels.*2×2.*16"),
        ("lbp", {}, (15, 40), r"15×40 pixels.*LBP.*16.*16"),
        ("dense-sift", {}, (40, 12), r"sides.*13"),
        ("dense-sift", {"bin_size": 1}, (3, 40), r"sides.*4"),
    ],
)
def test_small_images_are_refused_with_the_least_size(
    name: str, parameters: dict[str, object], size: tuple[int, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        create_representation(name, **parameters).feature_size(*size)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("hog", {"orientations": 6}, r'orientations must be 9 unless variant is "dalal-triggs", got 6$'),
        ("hog", {"transform_sqrt": True}, r"transform_sqrt.*False.*True"),
        ("hog", {"variant": "dalal-triggs", "block_size": 0}, r"block_size.*at least 1.*0"),
        ("hog", {"variant": "dalal-triggs", "orientations": 9.0}, r"orientations must be an int.*9.0"),
        ("hog", {"variant": "dalal-triggs", "block_norm": "l2"}, r"L1, L1-sqrt, L2, L2-Hys.*'l2'"),
        ("hog", {"variant": "dalal-triggs", "transform_sqrt": 1}, r"transform_sqrt must be a bool.*1"),
        ("hog", {"variant": "dalal-triggs", "block_size": (2, 3)}, r"block_size must be an int.*2, 3"),
        ("hog", {"variant": "dalal-triggs", "orientations": 181}, r"at most 180.*181"),
        ("lbp", {"cell_size": 0}, r"cell_size.*at least 1.*0"),
        ("lbp", {"cell_size": True}, "True"),
        ("lbp", {"variant": "scikit-image"}, "vlfeat-uniform"),
        ("dense-sift", {"step": 0}, r"step.*at least 1.*0"),
        ("dense-sift", {"bin_size": 2.5}, r"bin_size.*integer.*2.5"),
        ("dense-sift", {"window_size": 0}, r"window_size.*0"),
        ("dense-sift", {"window_size": float("inf")}, r"0.*inf"),
        ("dense-sift", {"variant": "flat"}, "vlfeat-dsift, vlfeat-dsift-flat"),
        ("sift", {"cell_size": 0}, r"cell_size.*at least 1.*0"),
        ("sift", {"descriptor_scale": -1}, r"descriptor_scale.*0.*-1"),
        ("sift", {"variant": "colmap"}, "vlfeat, opencv"),
        ("sift", {"color": 1}, r"color.*True or False.*1"),
        ("dense-sift", {"cell_size": 8}, r"dense-sift.*cell_size.*step, bin_size"),
    ],
)
def test_parameters_out_of_range(name: str, parameters: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create_representation(name, **parameters)


def test_features_of_the_toolboxes_are_ours() -> None:
    """Features of VLFeat's MATLAB toolbox and cyvlfeat, converted to our convention, equal ours."""
    with np.load(GOLDEN / "toolboxes.npz") as file:
        stored = dict(file)
    image = torch.from_numpy(stored["image"])[None, None]
    lbp = create_representation("lbp")
    expected = lbp(image)[0].numpy()
    for layout in ("matlab", "matlab-transposed", "cyvlfeat"):
        planar = conventions.to_planar(lbp.spec, layout, stored[f"{layout}_lbp"])
        assert np.abs(planar - expected).max() <= 1e-6
    sift = create_representation("dense-sift", step=16)
    expected = np.minimum(sift(image)[0].numpy(), 255 / 512)
    for layout in ("matlab", "matlab-transposed", "cyvlfeat"):
        descriptors, frames = stored[f"{layout}_dsift_descriptors"], stored[f"{layout}_dsift_frames"]
        size = conventions.dense_sift_grid(sift.spec, layout, descriptors.shape, frames)
        error = expected - conventions.dense_sift_to_planar(layout, descriptors, size)
        assert -2e-5 <= error.min() <= error.max() <= 1 / 512 + 2e-5


@pytest.mark.parametrize(
    ("name", "options"), [("lbp", ["-p", "cell_size=8"]), ("dense-sift", ["-p", "step=6", "-p", "bin_size=3"])]
)
def test_extract_in_every_format(
    run: Run, photo_folder: Path, tmp_path: Path, name: str, options: list[object]
) -> None:
    some = sorted(photo_folder.iterdir())[:3]
    ours = tmp_path / "f.safetensors"
    assert run("extract", name, *some, "-o", ours, *options)[0] == 0
    expected = FeatureStore(ours)
    for suffix, layout in [(".npz", "matlab"), (".npy", None), (".mat", None), (".h5", None), (".hdf5", "cyvlfeat")]:
        path = tmp_path / f"f{suffix}"
        named = [] if layout is None else ["--convention", layout]
        code, _, err = run("extract", name, *some, "-o", path, *options, *named)
        assert (code, err) == (0, "")
        has_spec = suffix in (".mat", ".h5", ".hdf5")
        file = open_features(path, None if has_spec else expected.spec, layout)
        assert file.spec == expected.spec
        clipped = conventions.has_frames(file.spec, layout or ("matlab" if suffix == ".mat" else "preimage"))
        values = np.minimum(expected.stack(), 255 / 512) if clipped else expected.stack()
        assert np.abs(file.stack() - values).max() < 1e-6
        code, out, _ = run("info", path, "--json")
        assert (code, "spec" in json.loads(out)) == (0, has_spec)


def test_flat_windows_and_wrong_options(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    image = min(photo_folder.iterdir())
    path = tmp_path / "f"
    code, out, _ = run(
        "extract", "dense-sift", image, "-o", path, "-p", "variant=vlfeat-dsift-flat", "-p", "window_size=1.5"
    )
    assert (code, "dense-sift vlfeat-dsift-flat (bin_size 4, step 4, window_size 1.5), 128 channels" in out) == (
        0,
        True,
    )
    code, _, err = run("extract", "lbp", image, "-o", path, "-p", "step=4")
    assert (code, bool(re.search("lbp.*step.*cell_size, variant", err))) == (2, True)
    code, _, err = run("extract", "lbp", image, "-o", path, "--convention", "matlab")
    assert (code, "feature store" in err) == (1, True)
    code, _, err = run("extract", "hog", image, "-o", tmp_path / "f.mat", "--dtype", "float16")
    assert (code, "float32" in err) == (1, True)
    assert not (tmp_path / "f.mat.partial").exists(), "refused before anything is computed"


@pytest.mark.parametrize("name", ["lbp", "dense-sift", "sift"])
def test_a_sheet_without_an_inverter_has_two_columns(
    run: Run, mixed: Path, tiny: Path, use_as_pretrained: Callable[..., None], tmp_path: Path, name: str
) -> None:
    use_as_pretrained(tiny)
    representation = create_representation(name, **({"variant": "opencv"} if name == "sift" else {}))
    summary = sheet(mixed, tmp_path / "s.png", representation=representation, size=64, tile=96)
    page = decode_file(tmp_path / "s.png")
    assert page.shape == (summary.height, summary.width, 3)
    assert 2 * 96 < page.shape[1] < 3 * 96
    (column,) = summary.columns
    assert column.inverter is None
    assert re.search(f"inverter.*{name}", column.missing)
    variant = ["-p", "variant=opencv"] if name == "sift" else []
    code, out, _ = run(
        "sheet", mixed, "-o", tmp_path / "t.png", "--representation", name, *variant, "--size", 64, "--tile", 96
    )
    assert (code, re.search(f"5 images.*{re.escape(name)}.*{re.escape(column.missing)}", out) is not None) == (0, True)
    assert (decode_file(tmp_path / "t.png") == page).all()
    with pytest.raises(ValueError, match="neither"):
        sheet(mixed, tmp_path / "s.png", representation=representation, inverter="nobody")
