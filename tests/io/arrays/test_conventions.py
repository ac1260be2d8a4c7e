"""Compare conventions with the results of VLFeat's MATLAB toolbox and cyvlfeat for the same image."""

import numpy as np
import pytest

import toolboxes
import vlfeat
from paths import GOLDEN
from preimage.errors import FileFormatError
from preimage.io.arrays import conventions
from preimage.io.arrays.npy import read_numpy_features, write_numpy_features
from preimage.io.feature_file import FeatureRecord
from preimage.spec import Spec
from sizes import pairs
from tolerances import CONVENTIONS, CONVENTIONS_BACK, STORED_ARRAYS
from tolerances import HOG as HOG_TOLERANCE

HOG = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8, "color": "luma"})
LBP = Spec("lbp", "vlfeat-uniform", 58, 16, {"cell_size": 16})
SIFT = Spec("dense-sift", "vlfeat-dsift", 128, 16, {"bin_size": 4, "step": 16, "window_size": 2.0})
OTHER = Spec("gist", "v", 5, None)
RNG = np.random.default_rng(11)

SIFT_CASES = [
    ("matlab", ""),
    ("matlab-transposed", ""),
    ("cyvlfeat", ""),
    ("matlab", "_wide"),
    ("matlab-transposed", "_wide"),
]
LBP_CASES = [
    ("matlab", ""),
    ("matlab-transposed", ""),
    ("cyvlfeat", ""),
    ("matlab", "_wide"),
    ("matlab-transposed", "_wide"),
]


@pytest.fixture(scope="module", params=["stored", "live"])
def made(request):
    with np.load(GOLDEN / "toolboxes.npz") as file:
        stored = dict(file)
    image = stored.pop("image")
    if request.param == "stored":
        return stored
    if vlfeat.library() is None:
        pytest.skip("VLFeat is not installed")
    return toolboxes.all_of(image.astype(np.float32) / np.float32(255))


def test_hog_of_the_matlab_toolbox(made):
    array = made["matlab_hog"]
    assert array.shape == (6, 8, 31)
    assert conventions.planar_shape(HOG, "matlab", array.shape) == (31, 6, 8)
    planar = conventions.to_planar(HOG, "matlab", array)
    assert np.abs(planar - made["library_hog"]).max() <= HOG_TOLERANCE
    assert np.array_equal(conventions.to_planar(HOG, "cyvlfeat", array), planar)


def test_hog_of_a_transposed_image_is_rejected_with_the_reason():
    with pytest.raises(ValueError, match=r"90°.*20°"):
        conventions.check_convention(HOG, "matlab-transposed")


@pytest.mark.parametrize(("convention", "image"), LBP_CASES)
def test_lbp(made, convention, image):
    array = made[f"{convention}_lbp{image}"]
    assert conventions.planar_shape(LBP, convention, array.shape) == made[f"library_lbp{image}"].shape
    planar = conventions.to_planar(LBP, convention, array)
    assert np.array_equal(planar, made[f"library_lbp{image}"])
    assert np.array_equal(conventions.from_planar(LBP, convention, planar)["features"], array)


def test_cyvlfeats_lbp_of_an_image_that_is_not_square():
    with pytest.raises(ValueError, match=r"square.*3×4"):
        conventions.planar_shape(LBP, "cyvlfeat", (3, 4, 58))
    with pytest.raises(ValueError, match="square"):
        conventions.from_planar(LBP, "cyvlfeat", np.zeros((58, 3, 4), np.float32))


@pytest.mark.parametrize(("convention", "image"), SIFT_CASES)
def test_dense_sift(made, convention, image):
    descriptors, frames = (made[f"{convention}_dsift{image}_{name}"] for name in ("descriptors", "frames"))
    expected = np.minimum(made[f"library_dsift{image}"], 255 / 512)
    size = conventions.dense_sift_grid(SIFT, convention, descriptors.shape, frames)
    assert size == expected.shape[1:]
    planar = conventions.dense_sift_to_planar(convention, descriptors, size)
    assert planar.dtype == np.float32
    error = expected - planar
    rounding = CONVENTIONS["float32"]
    bound = CONVENTIONS["uint8"] if descriptors.dtype == np.uint8 else rounding
    assert -rounding <= error.min() <= error.max() <= bound + rounding
    back = conventions.from_planar(SIFT, convention, planar)
    assert np.array_equal(back["frames"], frames)
    assert np.abs(back["descriptors"] - descriptors).max() <= CONVENTIONS_BACK


PAIRS = [(spec, convention) for spec in (LBP, SIFT) for convention in conventions.CONVENTIONS]
PAIRS += [(HOG, convention) for convention in conventions.CONVENTIONS if convention != "matlab-transposed"]


@pytest.mark.parametrize(
    ("spec", "convention"), PAIRS, ids=[f"{spec.representation}-{convention}" for spec, convention in PAIRS]
)
def test_there_and_back_through_a_file(tmp_path, spec, convention):
    sides = [(4, 4), (2, 2)] if (spec, convention) == (LBP, "cyvlfeat") else [(3, 5), (4, 2)]
    records = []
    for number, side in enumerate(sides):
        features = RNG.uniform(0, 0.4, (spec.channels, *side)).astype(np.float32)
        size = conventions.covered(spec, *side)
        records.append(FeatureRecord(f"d/{number}", features, size, size))
    write_numpy_features(tmp_path / "f.npz", spec, records, convention=convention)
    file = read_numpy_features(tmp_path / "f.npz", spec, convention=convention)
    assert tuple(file) == ("d/0", "d/1")
    for ours, theirs in zip(records, file.records(), strict=True):
        assert np.abs(ours.features - theirs.features).max() <= STORED_ARRAYS
        assert theirs.processed_size == ours.processed_size
    if convention != "preimage":
        with pytest.raises(FileFormatError):
            read_numpy_features(tmp_path / "f.npz", spec)


def test_stacks_in_each_layout(tmp_path):
    stack = RNG.uniform(0, 0.4, (2, 31, 3, 4)).astype(np.float32)
    for convention, array in [
        ("preimage", stack),
        ("matlab", stack.transpose(2, 3, 1, 0)),
        ("cyvlfeat", stack.transpose(0, 2, 3, 1)),
    ]:
        np.save(tmp_path / "s.npy", array)
        file = read_numpy_features(tmp_path / "s.npy", HOG, convention=convention)
        assert tuple(file) == ("00000", "00001")
        assert np.array_equal(file.stack(), stack)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[:, :-1], "128×N descriptors"),
        (lambda f: f[:1], "128×N descriptors"),
        (lambda f: f + 1, "begins"),
        (lambda f: f * 2 - 7, r"step.*bin"),
        (lambda f: f[::-1], r"step 16.*bin_size 4"),
        (lambda f: f[:, ::-1], r"step 16.*bin_size 4"),
        (lambda f: np.full_like(f, np.nan), "grid"),
        (lambda f: np.where(np.arange(f.shape[1]) == 3, f + 1, f), "grid"),
    ],
)
def test_frames_that_are_no_grid(made, change, words):
    descriptors, frames = made["matlab_dsift_wide_descriptors"], made["matlab_dsift_wide_frames"]
    with pytest.raises(ValueError, match=words):
        conventions.dense_sift_grid(SIFT, "matlab", descriptors.shape, change(frames))


def test_norms_in_the_third_row_are_allowed(made):
    descriptors, frames = made["matlab_dsift_wide_descriptors"], made["matlab_dsift_wide_frames"]
    with_norm = np.concatenate([frames, np.ones((1, frames.shape[1]))])
    size = conventions.dense_sift_grid(SIFT, "matlab", descriptors.shape, with_norm)
    assert size == made["library_dsift_wide"].shape[1:]


@pytest.mark.parametrize(
    "shape", [(3780,), (7, 3780), (7, 7, 2, 2, 9), (16, 16, 9), (16, 16, 36), (16, 16, 81)], ids=str
)
@pytest.mark.parametrize("convention", ["preimage", "matlab", "cyvlfeat"])
def test_hog_of_scikit_image_is_rejected_with_the_reason(tmp_path, shape, convention):
    np.save(tmp_path / "f.npy", np.zeros(shape))
    with pytest.raises(FileFormatError, match=r"f\.npy: .*HOG of scikit-image.*preimage\.hog"):
        read_numpy_features(tmp_path / "f.npy", HOG, convention=convention)


def test_hog_of_scikit_image_is_read_with_its_variant(tmp_path):
    feature = pytest.importorskip("skimage.feature")
    parameters = {"block_norm": "L2-Hys", "block_size": 3, "cell_size": 8, "color": "luma", "orientations": 9}
    spec = Spec("hog", "dalal-triggs", 81, 8, parameters | {"transform_sqrt": False})
    blocks = feature.hog(RNG.random((64, 72)), feature_vector=False)
    np.save(tmp_path / "f.npy", blocks)
    with pytest.raises(FileFormatError, match=r"f\.npy: .*\(81, h, w\).*HOG of scikit-image.*reshape\(h, w, -1\)"):
        read_numpy_features(tmp_path / "f.npy", spec)
    np.save(tmp_path / "f.npy", blocks.reshape(6, 7, -1).transpose(2, 0, 1))
    features = read_numpy_features(tmp_path / "f.npy", spec)[0]
    assert np.abs(features[:, 2, 3] - blocks[2, 3].ravel()).max() < HOG_TOLERANCE
    assert conventions.covered(spec, 6, 7) == (64, 72)


def test_computed_hog_of_scikit_image_is_rejected(tmp_path):
    feature = pytest.importorskip("skimage.feature")
    for vector in (False, True):
        np.save(tmp_path / "f.npy", feature.hog(RNG.random((64, 64)), feature_vector=vector))
        with pytest.raises(FileFormatError, match=r"correlation.*0\.6"):
            read_numpy_features(tmp_path / "f.npy", HOG)


def test_bytes_are_read_only_where_the_layout_means_them(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((128, 3, 4), np.uint8))
    with pytest.raises(FileFormatError, match=r"float16.*uint8"):
        read_numpy_features(tmp_path / "f.npy", SIFT)
    frames = np.array([[7.0, 7, 23, 23], [7, 23, 7, 23]])
    descriptors = RNG.integers(0, 256, (128, 4)).astype(np.uint8)
    np.savez(tmp_path / "f.npz", D=descriptors, F=frames)
    file = read_numpy_features(tmp_path / "f.npz", SIFT, convention="matlab")
    assert (tuple(file), file.dtype, pairs(file.processed_sizes)) == (("f",), "uint8", ((29, 29),))
    assert np.array_equal(file[0][:, 1, 0], descriptors[:, 1] / np.float32(512))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a", "b"), r"descriptors.*frames"),
        (("a_D", "a_d"), r"two arrays.*descriptors"),
        (("a_D", "b_F"), r"'a'.*only descriptors"),
    ],
)
def test_arrays_that_are_no_pairs(tmp_path, names, words):
    np.savez(tmp_path / "f.npz", **{name: np.zeros((128, 4)) for name in names})
    with pytest.raises(FileFormatError, match=words):
        read_numpy_features(tmp_path / "f.npz", SIFT, convention="matlab")


def test_unknown_conventions_and_representations_without_one(tmp_path):
    with pytest.raises(ValueError, match="preimage, matlab"):
        conventions.check_convention(HOG, "fortran")
    with pytest.raises(ValueError, match=r"'preimage'.*'gist'.*5 channels.*'matlab'"):
        conventions.check_convention(OTHER, "matlab")
    with pytest.raises(ValueError, match=r"npy.*'matlab'"):
        write_numpy_features(tmp_path / "f.npy", HOG, [], convention="matlab")


def test_transpositions_are_their_own_inverse():
    for permutation in (conventions.transposed_lbp(), conventions.transposed_dense_sift()):
        assert np.array_equal(permutation[permutation], np.arange(len(permutation)))
