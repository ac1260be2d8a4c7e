"""Test images from keypoint files: `preimage invert` and `preimage info`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlfeat
from colmap_models import write_model
from keypoint_files import GOLDEN, colmap_arrays, colmap_database, opencv_file, pictures, vlfeat_file
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, UShapedConfig
from preimage.io import decode_file, read_keypoints, write_keypoints
from preimage.io.atomic import file_problem
from preimage.pipelines import image_writer
from preimage.pipelines.invert import invert
from preimage.pipelines.invert_keypoints import scaled_down
from preimage.pipelines.inverter_choice import pretrained_representations
from preimage.representations import create_representation, representation_from_spec
from preimage.representations.sift import Sift
from preimage.store import write_features
from samplers import save_with_sampler

Run = Callable[..., tuple[int, str, str]]
Monkey = pytest.MonkeyPatch
FACE = pictures()["face.png"]
DATABASE = GOLDEN / "colmap_l1_root.db"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an untrained inverter for sparse SIFT."""
    torch.manual_seed(0)
    network = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8,))
    return Inverter(Sift().spec, network).save(tmp_path_factory.mktemp("inverter") / "small")


def test_every_image_of_a_database_is_reconstructed(tmp_path: Path, small: Path) -> None:
    seen: list[tuple[int, int]] = []
    summary = invert(DATABASE, tmp_path / "out", inverter=small, progress=lambda *done: seen.append(done))
    assert (summary.images, summary.inverter, seen) == (3, str(small), [(1, 3), (2, 3), (3, 3)])
    network, file = Inverter.load(small), read_keypoints(DATABASE)
    for key, size in zip(file, file.sizes, strict=True):
        assert size is not None
        features = Sift().grid(file[key], size)
        with torch.inference_mode():
            expected = network(features, size=size)[0].permute(1, 2, 0).numpy() * 255
        picture = decode_file(tmp_path / "out" / f"{key}.png")
        assert picture.shape == (*size, 3)
        assert np.abs(picture - expected).max() <= 0.51


def test_samples_are_keyed_by_the_position_in_the_file(tmp_path: Path, small: Path) -> None:
    sampler = save_with_sampler(small, tmp_path / "sampler")
    assert invert(DATABASE, tmp_path / "out", inverter=sampler, samples=2, seed=3).samples == 2
    network, file = Inverter.load(sampler), read_keypoints(DATABASE)
    for position, (key, size) in enumerate(zip(file, file.sizes, strict=True)):
        assert size is not None
        drawn = network.sample(Sift().grid(file[key], size), 2, 3, size=size, positions=[position])[0]
        for number, expected in enumerate(drawn, 1):
            picture = decode_file(tmp_path / "out" / f"{key}.sample-{number}.png")
            assert np.abs(picture - expected.permute(1, 2, 0).numpy() * 255).max() <= 0.51
    with pytest.raises(ValueError, match="cannot sample"):
        invert(DATABASE, tmp_path / "none", inverter=small, samples=2)
    notes = invert(DATABASE, tmp_path / "out", inverter=small).notes
    assert any("sample-2.png" in note and "earlier inversion" in note for note in notes)
    assert not (tmp_path / "none").exists()


def test_max_side_scales_large_images_down(tmp_path: Path, small: Path) -> None:
    invert(DATABASE, tmp_path, inverter=small, max_side=80)
    assert [decode_file(tmp_path / f"{key}.png").shape[:2] for key in ("face.png", "flat.png")] == [(64, 80), (64, 80)]
    keypoints = read_keypoints(DATABASE)[0]
    half, size = scaled_down(keypoints, (128, 160), 80)
    assert size == (64, 80)
    assert torch.allclose((half.x + 0.5) * 2 - 0.5, keypoints.x, atol=1e-4)
    assert torch.allclose(half.scale * 2, keypoints.scale)
    assert scaled_down(keypoints, (128, 160), 160) == (keypoints, (128, 160))
    assert scaled_down(keypoints, (1, 4000), 10)[1] == (1, 10)


def test_file_without_image_size_needs_size(tmp_path: Path, small: Path) -> None:
    path = opencv_file(tmp_path / "face.yml", FACE, nested=False)
    with pytest.raises(ValueError, match=r"size.*'face'.*--size"):
        invert(path, tmp_path / "out", inverter=small)
    assert not (tmp_path / "out").exists()
    summary = invert(path, tmp_path / "out", inverter=small, size=(128, 160))
    assert summary.images == 1
    assert decode_file(tmp_path / "out" / "face.png").shape == (128, 160, 3)


def test_choice_of_inverter(tmp_path: Path, small: Path, tiny: Path, use_as_pretrained: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match=r"inverter .*tiny.*hog.*sift"):
        invert(DATABASE, tmp_path, inverter=tiny)
    use_as_pretrained(tiny)
    with pytest.raises(LookupError, match=r"inverter.*sift.*--inverter"):
        invert(DATABASE, tmp_path)
    other = Inverter(Sift(variant="opencv").spec, Inverter.load(small).config).save(tmp_path / "other")
    use_as_pretrained(tiny, other, small)
    assert invert(DATABASE, tmp_path / "out").inverter == "small"
    path = opencv_file(tmp_path / "face.yml", FACE, nested=False)
    assert invert(path, tmp_path / "out", size=(128, 160)).inverter == "other"
    use_as_pretrained(other)
    assert invert(DATABASE, tmp_path / "out").inverter == "other", "of the other detector rather than none"


# ---- Colors ----


@pytest.fixture(scope="module")
def in_color(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an untrained inverter for sparse SIFT with color."""
    torch.manual_seed(0)
    network = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8,))
    return Inverter(Sift(color=True).spec, network).save(tmp_path_factory.mktemp("inverter") / "in-color")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the folder of a COLMAP model in which every second keypoint of one image is part of a point."""
    positions = colmap_arrays(DATABASE.name)[0][:, :2].astype(np.float64)
    ids = np.where(np.arange(len(positions)) % 2, 1, -1)
    return write_model(tmp_path / "sparse" / "0", {"face.png": (positions, ids)}, {1: (255, 128, 0)})


def test_colors_of_a_map(tmp_path: Path, model: Path, small: Path, in_color: Path) -> None:
    summary = invert(DATABASE, tmp_path / "out", inverter=in_color, model=model)
    assert (summary.images, summary.colored) == (3, 39)
    assert any("not part of the model" in note for note in summary.notes)
    network, file = Inverter.load(in_color), read_keypoints(DATABASE, model=model)
    features = Sift(color=True).grid(file["face.png"], (128, 160))
    with torch.inference_mode():
        expected = network(features)[0].permute(1, 2, 0).numpy() * 255
        gray = network(Sift(color=True).grid(read_keypoints(DATABASE)["face.png"], (128, 160)))[0]
    picture = decode_file(tmp_path / "out" / "face.png.png")
    assert np.abs(picture - expected).max() <= 0.51
    assert np.abs(gray.permute(1, 2, 0).numpy() * 255 - expected).max() > 1

    summary = invert(DATABASE, tmp_path / "plain", inverter=small, model=model)
    assert summary.colored == 0
    assert any("does not use the colors" in note for note in summary.notes)
    invert(DATABASE, tmp_path / "without", inverter=small)
    for key in file:
        pictures = [decode_file(tmp_path / folder / f"{key}.png") for folder in ("plain", "without")]
        assert np.array_equal(*pictures)


def test_the_inverter_with_color_is_for_keypoints_with_colors(
    tmp_path: Path, model: Path, small: Path, in_color: Path, use_as_pretrained: Callable[..., None]
) -> None:
    other = Inverter(Sift(variant="opencv").spec, Inverter.load(small).config).save(tmp_path / "other")
    use_as_pretrained(in_color, other, small)
    assert invert(DATABASE, tmp_path / "out").inverter == "small"
    assert invert(DATABASE, tmp_path / "out", model=model).inverter == "in-color"
    write_keypoints(tmp_path / "map.npz", read_keypoints(DATABASE, model=model).records())
    summary = invert(tmp_path / "map.npz", tmp_path / "out")
    assert (summary.inverter, summary.colored) == ("in-color", 39)
    assert pretrained_representations()["sift"] == Sift(variant="opencv").spec  # the first by name without color
    use_as_pretrained(other, small)
    assert invert(DATABASE, tmp_path / "out", model=model).inverter == "small"
    use_as_pretrained(in_color)
    summary = invert(DATABASE, tmp_path / "out")
    assert (summary.inverter, summary.colored) == ("in-color", 0)


def test_the_command_says_that_colors_are_used(tmp_path: Path, model: Path, in_color: Path, run: Run) -> None:
    arguments = ("invert", DATABASE, "--model", model, "--inverter", in_color, "-o", tmp_path / "out")
    code, out, _ = run(*arguments)
    assert code == 0 and "used the colors of 39 keypoints" in out
    code, out, _ = run(*arguments, "--json")
    assert (code, json.loads(out)["colored"]) == (0, 39)
    code, _, err = run("invert", DATABASE, "--model", model.parent, "-o", tmp_path / "out")
    assert code == 1 and "points3D.bin" in err
    code, _, err = run("invert", DATABASE, "--model", tmp_path / "missing", "-o", tmp_path / "out")
    assert code == 1 and "missing" in err


def test_a_damaged_image_of_a_model_can_be_skipped(tmp_path: Path, model: Path, in_color: Path) -> None:
    positions = colmap_arrays(DATABASE.name, "sub/coffee.png")[0][:, :2].astype(np.float64)
    images = {"face.png": (np.ones((3, 2)), np.ones(3)), "sub/coffee.png": (positions, np.ones(len(positions)))}
    write_model(model, {name: (xy, ids.astype(np.int64)) for name, (xy, ids) in images.items()}, {1: (9, 9, 9)})
    with pytest.raises(FileFormatError, match=r"images\.bin.*'face\.png'.*3 points2D"):
        invert(DATABASE, tmp_path / "out", inverter=in_color, model=model)
    summary = invert(DATABASE, tmp_path / "out", inverter=in_color, model=model, skip_bad=True)
    assert [key for key, _ in summary.skipped] == ["face.png"]
    assert summary.colored == len(positions)


def test_a_model_with_other_files(tmp_path: Path, model: Path, in_color: Path) -> None:
    (tmp_path / "features").write_bytes(b"")
    with pytest.raises(ValueError, match="model"):
        invert(tmp_path / "features", tmp_path / "out", inverter=in_color, model=model)
    path = opencv_file(tmp_path / "face.yml", FACE, nested=False)
    with pytest.raises(ValueError, match=r"opencv.*model"):
        invert(path, tmp_path / "out", inverter=in_color, size=(128, 160), model=model)


def test_keypoint_options_with_other_files_are_rejected(tmp_path: Path, small: Path) -> None:
    (tmp_path / "features").write_bytes(b"")
    with pytest.raises(ValueError, match=r"features: .*empty.*format"):
        invert(tmp_path / "features", tmp_path / "out", inverter=small, max_side=80)
    np.savez(tmp_path / "f.npz", hog=np.zeros((31, 4, 4), np.float32))
    with pytest.raises(ValueError, match=r"f\.npz: .*'hog'"):
        invert(tmp_path / "f.npz", tmp_path / "out", inverter=small, max_side=80)
    with pytest.raises(ValueError, match="both"):
        invert(DATABASE, tmp_path / "out", inverter=small, keypoint_format="colmap", convention="matlab")
    with pytest.raises(ValueError, match=r"\.db.*keypoints.*representation, spec"):
        invert(DATABASE, tmp_path / "out", inverter=small, spec=Sift().spec)
    with pytest.raises(ValueError, match=r"max_side.*1"):
        invert(DATABASE, tmp_path / "out", inverter=small, max_side=0)


def keypoint_arrays(count: int, width: int, height: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return arrays of random keypoints in an image, in the format of the package."""
    random = np.random.default_rng(seed)
    return {
        "keypoints": random.uniform([0, 0, 1, 0], [width - 1, height - 1, 3, 6], (count, 4)),
        "descriptors": random.exponential(1, (count, 128)) ** 1.4,
    }


def test_exchanged_width_and_height_are_reported(tmp_path: Path, small: Path, run: Run) -> None:
    np.savez(tmp_path / "a.npz", **keypoint_arrays(60, 80, 48))
    assert invert(tmp_path / "a.npz", tmp_path / "out", inverter=small, size=(48, 80)).notes == ()
    options = ("invert", tmp_path / "a.npz", "-o", tmp_path / "wrong", "--inverter", small, "--size")
    code, _, err = run(*options, "80x48")
    assert code == 1
    assert re.search(r"a\.npz: 'a': \d+ of 60 keypoints.*48×80.*exchanged", err)
    assert list((tmp_path / "wrong").glob("*")) == []
    arrays = keypoint_arrays(60, 80, 48)
    arrays["keypoints"][7, 0] = 81
    np.savez(tmp_path / "a.npz", **arrays)
    code, out, _ = run(*options, "48x80")
    assert code == 0
    assert re.search(r"'a': 1 of 60 keypoints.*80×48", out)


def test_bad_images_are_skipped(tmp_path: Path, small: Path, run: Run) -> None:
    good, bad, turned = keypoint_arrays(20, 40, 30), keypoint_arrays(20, 40, 30), keypoint_arrays(20, 30, 40)
    bad["descriptors"] -= 1
    images = {"a": good, "b": bad, "c": turned, "d": good}
    members = {f"{key}/{role}": array for key, arrays in images.items() for role, array in arrays.items()}
    np.savez(tmp_path / "f.npz", **members, **{f"{key}/image_size": np.array([30, 40]) for key in images})
    with pytest.raises(FileFormatError, match=r"'b': .*negative"):
        invert(tmp_path / "f.npz", tmp_path / "out", inverter=small)
    options = ("invert", tmp_path / "f.npz", "-o", tmp_path / "out", "--inverter", small, "--skip-bad")
    code, out, err = run(*options, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 2
    assert [key for key, _ in json.loads(out)["skipped"]] == ["b", "c"]
    assert re.search(r"skipped .*f\.npz: 'c': .*exchanged", err)
    np.savez(tmp_path / "f.npz", **bad, image_size=np.array([30, 40]))
    code, _, err = run(*options)
    assert code == 1
    assert "1 images" in err


def test_nothing_to_invert(tmp_path: Path, small: Path, run: Run) -> None:
    (tmp_path / "empty.sift").touch()
    colmap_database(tmp_path / "none.db", {})
    colmap_database(tmp_path / "bare.db", {"a.jpg": (None, None), "b.jpg": (None, None)})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.sift").touch()
    write_features(tmp_path / "none.features", create_representation("hog").spec, [])
    for name, options, words in [
        ("empty.sift", ("--size", "64x64"), "contains no keypoints"),
        ("none.db", (), "contains no images"),
        ("bare.db", (), "contains no keypoints for any of its 2 images"),
        ("folder", ("--size", "64x64"), "contains no keypoints"),
        ("none.features", (), "contains no images"),
    ]:
        code, _, err = run("invert", tmp_path / name, "-o", tmp_path / "out", "--inverter", small, *options)
        if name == "none.features":
            assert code == 1  # the inverter does not fit; with one that does:
            code, _, err = run("invert", tmp_path / name, "-o", tmp_path / "out")
        assert (code, words in err, name in err) == (1, True, True), err
    assert not list(tmp_path.glob("out/*"))


def test_images_without_keypoints_are_counted(tmp_path: Path, small: Path, run: Run) -> None:
    code, out, _ = run("invert", DATABASE, "-o", tmp_path / "out", "--inverter", small)
    assert code == 0
    assert "1 image " in out
    assert invert(DATABASE, tmp_path / "out", inverter=small).empty == 1
    code, out, _ = run("info", DATABASE, "--json")
    assert json.loads(out)["images_without_keypoints"] == 1


def test_too_large_image_is_rejected(tmp_path: Path, small: Path) -> None:
    np.savez(tmp_path / "f.npz", **keypoint_arrays(20, 4000, 3000), image_size=np.array([1 << 20, 1 << 20]))
    with pytest.raises(FileFormatError, match=r"1048576×1048576 pixels.*--max-side"):
        invert(tmp_path / "f.npz", tmp_path / "out", inverter=small)
    assert invert(tmp_path / "f.npz", tmp_path / "out", inverter=small, max_side=64).images == 1


def test_frames_of_matlab_are_inverted(tmp_path: Path, small: Path, run: Run) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    arrays = keypoint_arrays(60, 80, 48)
    from_one = arrays["keypoints"] + np.array([1, 1, 0, 0])
    scipy_io.savemat(tmp_path / "a.mat", {"F": from_one.T, "D": arrays["descriptors"].T})
    np.savez(tmp_path / "b.npz", **arrays)
    for name in ("a.mat", "b.npz"):
        invert(tmp_path / name, tmp_path / "out", inverter=small, size=(48, 80))
    difference = decode_file(tmp_path / "out" / "a.png").astype(int) - decode_file(tmp_path / "out" / "b.png")
    assert np.abs(difference).max() <= 1
    code, out, _ = run("info", tmp_path / "a.mat", "--json")
    assert (code, json.loads(out)["format"], json.loads(out)["keypoints"]) == (0, "mat", 60)


def test_keys_that_differ_only_in_case(tmp_path: Path, small: Path, monkeypatch: Monkey) -> None:
    arrays = {role: array.astype(np.float32) for role, array in keypoint_arrays(20, 40, 30).items()}
    pair = arrays["keypoints"], np.minimum(arrays["descriptors"] * 20, 255).astype(np.uint8)
    database = colmap_database(tmp_path / "a.db", {"A.jpg": pair, "a.jpg": pair})
    monkeypatch.setattr(image_writer, "file_problem", functools.partial(file_problem, folded=True))
    with pytest.raises(ValueError, match=r"'A\.jpg'.*'a\.jpg'"):
        invert(database, tmp_path / "out", inverter=small)
    monkeypatch.setattr(image_writer, "file_problem", functools.partial(file_problem, folded=False))
    assert invert(database, tmp_path / "out", inverter=small).images == 2


@pytest.mark.parametrize("options", [{"shard": (0, 2)}, {"engine": "ray"}, {"workers": 2}])
def test_shards_and_engines_are_for_features(tmp_path: Path, small: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"keypoints.*shard, engine and workers"):
        invert(DATABASE, tmp_path / "out", inverter=small, **options)
    assert list(tmp_path.iterdir()) == []


def test_images_stay_in_the_output_folder(tmp_path: Path, small: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"'sub/coffee\.png'"):
        invert(DATABASE, tmp_path / "out", inverter=small)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_invert_and_info_commands(tmp_path: Path, small: Path, run) -> None:  # type: ignore[no-untyped-def]
    path = opencv_file(tmp_path / "face.yml", FACE, nested=True)
    data = tmp_path / "face.dat"
    data.write_bytes(path.read_bytes())
    options = ("--inverter", small, "-o", tmp_path / "out", "--size", "128x160", "--json")
    code, out, _ = run("invert", data, *options, "--keypoint-format", "opencv", "--normalization", "l2")
    assert (code, json.loads(out)["images"]) == (0, 1)
    assert decode_file(tmp_path / "out" / "face.png").shape == (128, 160, 3)
    code, _, err = run("invert", path, "--inverter", small, "-o", tmp_path / "out", "--size", "128")
    assert (code, bool(re.search("--size.*'128'", err))) == (2, True)
    code, out, _ = run("info", DATABASE, "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["format"]) == (0, "keypoint file", "colmap")
    assert (facts["images"], facts["keypoints"], facts["max_per_image"]) == (3, 85, 78)
    assert facts["normalization"] == "l1_root"
    assert facts["sizes"] == {"128×160": 1, "64×80": 1, "96×112": 1}
    code, out, _ = run("info", tmp_path)
    assert code == 0
    assert "keypoint" in out
    code, out, _ = run("info", data, "--keypoint-format", "opencv", "--json")
    assert (code, json.loads(out)["format"]) == (0, "opencv")


def test_keypoint_grid_has_the_parameters_of_the_inverter(small: Path) -> None:
    assert representation_from_spec(Inverter.load(small).spec) == Sift()


def _likeness(picture: np.ndarray, original: np.ndarray) -> float:
    """Return the correlation of the luminance of a reconstruction (H, W, 3) with a gray photograph (H, W)."""
    return float(np.corrcoef(picture.mean(axis=2).ravel(), original.astype(float).ravel())[0, 1])


@pytest.mark.parametrize("program", ["opencv", "vlfeat", "colmap"])
def test_reconstruction_from_keypoints_of_another_program(tmp_path: Path, program: str) -> None:
    """The keypoints were written by the real program, and are inverted with the pretrained inverter."""
    face = FACE
    if program == "colmap":
        invert(DATABASE, tmp_path / "out")
        picture = decode_file(tmp_path / "out" / "face.png.png")
    else:
        if program == "opencv":
            path = opencv_file(tmp_path / "face.yml", face, nested=True)
        elif vlfeat.library() is None:
            pytest.skip("VLFeat is not installed")
        else:
            path = vlfeat_file(tmp_path / "face.sift", *vlfeat.sift(face.astype(np.float32)))
        invert(path, tmp_path / "out", size=(face.shape[0], face.shape[1]))
        picture = decode_file(tmp_path / "out" / "face.png")
    likeness = _likeness(picture, face)
    assert likeness > 0.75
    assert _likeness(picture[:, ::-1], face) < likeness - 0.3  # it resembles this photograph, in the right orientation
