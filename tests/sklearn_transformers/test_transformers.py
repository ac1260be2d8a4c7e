"""HOG, LBP and dense SIFT as transformers: their features, names, pictures and errors, alone and in pipelines."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.sparse import csr_array
from skimage.feature import hog as skimage_hog
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

import preimage as pi
from conftest import photographs
from preimage.inverters import Inverter
from preimage.sklearn import HOG, LBP, DenseSIFT

KINDS = {HOG: pi.hog, LBP: pi.lbp, DenseSIFT: pi.dense_sift}
Kind = type[HOG] | type[LBP] | type[DenseSIFT]
each_kind = pytest.mark.parametrize("kind", KINDS)


def images(side: int = 64) -> np.ndarray:
    """Return (4, side, side + 6, 3) uint8."""
    color = [image for name, image in photographs().items() if name != "camera"]
    return np.stack([image[40 : 40 + side, 150 : 156 + side] for image in color])


@each_kind
def test_rows_are_the_features_of_the_function_flattened(kind: Kind) -> None:
    color = images()
    gray = color[..., 1].astype(np.float64) / 255
    for given, planes in (
        (color, color.transpose(0, 3, 1, 2)),
        (gray, gray[:, None]),
        (gray[..., None], gray[:, None]),
    ):
        made = kind()
        rows = made.fit_transform(given)
        assert rows.dtype == np.float32
        expected: Any = KINDS[kind](planes)
        np.testing.assert_array_equal(rows.reshape(4, *made.feature_shape_), expected)
        assert made.n_features_in_ == planes[0].size
        assert made.image_shape_ == given.shape[1:3] + (3,) * (planes.shape[1] == 3)


@pytest.mark.parametrize(
    ("transformer", "expected"),
    [
        (HOG(cell_size=5, color="strongest"), lambda planes: pi.hog(planes, cell_size=5, color="strongest")),
        (LBP(cell_size=9), lambda planes: pi.lbp(planes, cell_size=9)),
        (
            DenseSIFT(step=7, bin_size=3, window="flat", window_size=1.5),
            lambda planes: pi.dense_sift(planes, step=7, bin_size=3, window="flat", window_size=1.5),
        ),
    ],
    ids=["hog", "lbp", "dense-sift"],
)
def test_parameters_are_those_of_the_function(transformer: Any, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    color = images()
    rows = clone(transformer).fit_transform(color)
    np.testing.assert_array_equal(rows, expected(color.transpose(0, 3, 1, 2)).reshape(4, -1))


@pytest.mark.parametrize("color", [False, True])
def test_the_variant_of_scikit_image_has_its_features(color: bool) -> None:
    given = images() if color else images()[..., 1]
    parameters = {"orientations": 8, "block_norm": "L1-sqrt", "transform_sqrt": True}
    made = HOG(variant="dalal-triggs", cell_size=9, color="strongest", block_size=2, **parameters)
    rows = made.fit_transform(given)
    assert made.feature_shape_ == (32, 6, 6)
    cells, axis = {"pixels_per_cell": (9, 9), "cells_per_block": (2, 2)}, -1 if color else None
    for row, image in zip(rows, given, strict=True):
        expected = skimage_hog(image, feature_vector=False, channel_axis=axis, **cells, **parameters)
        channels_last = row.reshape(made.feature_shape_).transpose(1, 2, 0)
        np.testing.assert_allclose(channels_last.reshape(expected.shape), expected, atol=1e-6)
    names = made.get_feature_names_out()
    assert names[7 * 36 + 8] == "hog_y1_x2_cell_0_0_gradient_168_75deg"
    assert len(set(names)) == 32 * 36


@each_kind
def test_every_form_of_the_same_images_has_the_same_features(kind: Kind) -> None:
    color = images()
    expected = kind().fit_transform(color)
    flat = kind(image_shape=color.shape[1:])
    for given in (list(color), tuple(color.tolist()), color.astype(np.int64), np.asfortranarray(color)):
        np.testing.assert_array_equal(kind().fit_transform(given), expected)
    np.testing.assert_array_equal(flat.fit_transform(color.reshape(4, -1)), expected)
    np.testing.assert_array_equal(flat.transform(color), expected)  # images of image_shape are accepted as well
    black_and_white = color[..., 0] > 100
    np.testing.assert_array_equal(
        kind().fit_transform(black_and_white), kind().fit_transform(black_and_white.astype(np.float32))
    )


def test_names_say_cell_and_channel() -> None:
    color = images()
    hog = HOG().fit(color)
    names = hog.get_feature_names_out()
    assert len(set(names)) == len(names) == 31 * 8 * 9
    at = dict(zip(names, hog.transform(color)[0], strict=True))
    features = pi.hog(color[0].transpose(2, 0, 1))
    assert at["hog_y2_x5_gradient_40deg"] == features[2, 2, 5]
    assert at["hog_y7_x0_undirected_gradient_0deg"] == features[18, 7, 0]
    assert at["hog_y0_x8_texture_lower_right_cells"] == features[30, 0, 8]
    assert LBP().fit(color).get_feature_names_out()[-1] == "lbp_y3_x3_several_runs"
    assert DenseSIFT().fit(color).get_feature_names_out()[0] == "dense_sift_y0_x0_row_0_column_0_0deg"
    for kind in KINDS:
        assert all(name.isascii() and name.isidentifier() for name in kind().fit(color).get_feature_names_out())


def test_data_frames_have_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    digits = load_digits(as_frame=True)
    hog = HOG(cell_size=4, image_shape=(8, 8)).set_output(transform="pandas")
    frame = hog.fit_transform(digits.data[:10])
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == list(hog.get_feature_names_out())
    assert list(hog.feature_names_in_) == list(digits.data.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        hog.transform(digits.data[:10].rename(columns={"pixel_0_0": "other"}))


@each_kind
def test_copies_transform_alike(kind: Kind, tmp_path: Path) -> None:
    color = images()
    made = kind().fit(color)
    expected = made.transform(color)
    joblib.dump(made, tmp_path / "made.joblib")
    for copy in (pickle.loads(pickle.dumps(made)), joblib.load(tmp_path / "made.joblib")):
        np.testing.assert_array_equal(copy.transform(color), expected)
    blank = clone(made)
    assert blank.get_params() == made.get_params()
    with pytest.raises(NotFittedError):
        blank.transform(color)
    made.set_params(image_shape=None)  # parameters count from the next fit on
    np.testing.assert_array_equal(made.transform(color), expected)


def test_digits_are_classified_with_the_best_cell_size() -> None:
    pixels, labels = load_digits(return_X_y=True)  # rows of 64 floats
    pipeline = make_pipeline(HOG(image_shape=(8, 8)), LinearSVC(random_state=0))
    grid = {"hog__cell_size": np.array([2, 8])}  # NumPy's integers
    search = GridSearchCV(pipeline, grid, cv=2).fit(pixels[:900], labels[:900])
    assert search.best_params_ == {"hog__cell_size": 2}
    assert search.score(pixels[900:], labels[900:]) > 0.9


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("kind", "name"), [(HOG, "hog"), (LBP, "lbp"), (DenseSIFT, "dense-sift")])
def test_pictures_are_those_of_the_reconstructor(kind: Kind, name: str) -> None:
    color = images(70)  # no multiple of a cell
    made = kind().fit(color)
    features = made.transform(color)
    pictures = made.inverse_transform(features)
    assert (pictures.dtype, pictures.shape) == (np.float32, color.shape)
    expected = pi.Reconstructor(name, device="cpu")(color.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(pictures, expected, atol=1e-5)
    assert np.abs(pictures - color / 255).mean() < 0.2


@pytest.mark.usefixtures("one_thread")
def test_a_pipeline_shows_what_a_projection_keeps() -> None:
    color = images()
    pipeline = make_pipeline(HOG(), PCA(3)).fit(color)
    pictures = pipeline.inverse_transform(pipeline.transform(color).astype(np.float64))
    np.testing.assert_allclose(pictures, HOG().fit(color).inverse_transform(HOG().fit_transform(color)), atol=0.02)


@pytest.mark.usefixtures("one_thread")
def test_an_inverter_is_chosen_by_name_folder_or_as_an_object(tiny: Path) -> None:
    color = images()
    features = HOG().fit_transform(color)
    expected = Inverter.load(tiny)(features.reshape(4, 31, 8, 9), size=color.shape[1:3]).detach().numpy()
    for inverter in (tiny, str(tiny), Inverter.load(tiny)):
        made = clone(HOG(inverter=inverter)).fit(color)
        np.testing.assert_allclose(made.inverse_transform(features).transpose(0, 3, 1, 2), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"lbp-compact.*lbp.*hog"):
        HOG(inverter="lbp-compact").fit(color).inverse_transform(features)
    with pytest.raises(ValueError, match=r"2231 features.*2232 features.*\(64, 70, 3\)"):
        HOG().fit(color).inverse_transform(features[:, 1:])
    with pytest.raises(LookupError, match="cell_size: 8 != 32"):
        coarse = HOG(cell_size=32)
        coarse.inverse_transform(coarse.fit_transform(color))


COLOR = np.zeros((2, 32, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("transformer", "given", "message"),
    [
        (HOG(), COLOR[0, :, :, 0], r"\(32, 40\).*image_shape.*X\[None\]"),
        (HOG(), COLOR.transpose(0, 3, 1, 2), r"40 in shape \(3, 32, 40\).*moveaxis"),
        (HOG(), COLOR[..., [0, 0, 0, 0]], r"1 or 3 channels, got 4"),
        (HOG(), COLOR[None], r"got shape \(1, 2, 32, 40, 3\)"),
        (HOG(), [COLOR[0], COLOR[0, 1:]], r"\(31, 40, 3\), \(32, 40, 3\)"),
        (HOG(), COLOR[:0], r"0 sample"),
        (HOG(), np.full((1, 32, 32), np.nan), "NaN"),
        (HOG(), COLOR.astype(np.int16) - 1, r"0 to 255, got -1 to -1 \(int16\)"),
        (HOG(), COLOR.astype(np.uint16) + 256, r"0 to 255, got 256"),
        (HOG(image_shape=(32, 41, 3)), COLOR, r"\(32, 41, 3\) as in image_shape, got \(32, 40, 3\)"),
        (HOG(image_shape=(8, 8)), np.zeros((2, 65)), r"64 pixels for image_shape=\(8, 8\), got 65"),
        (HOG(image_shape=64), np.zeros((2, 64)), r"\(H, W\) or \(H, W, C\).*64"),
        (HOG(image_shape=(8, 0)), np.zeros((2, 64)), r"at least 1, got \(8, 0\)"),
        (HOG(cell_size=0), COLOR, r"cell_size.*0"),
        (HOG(cell_size=4.5), COLOR, r"cell_size.*4\.5"),
        (HOG(cell_size=None), COLOR, r"cell_size.*None"),  # type: ignore[arg-type]
        (HOG(cell_size=np.array([8, 8])), COLOR, r"cell_size.*8, 8"),  # type: ignore[arg-type]
        (HOG(variant="other"), COLOR, r"variant.*'other'"),
        (HOG(orientations=8), COLOR, r'orientations must be 9 unless variant is "dalal-triggs", got 8'),
        (HOG(block_norm="L3", variant="dalal-triggs"), COLOR, r"block_norm.*'L3'"),
        (HOG(block_size=5, variant="dalal-triggs"), COLOR, r"32×40.*at least 40"),
        (HOG(color="rgb"), COLOR, r"color.*'rgb'"),
        (HOG(cell_size=80), COLOR, r"32×40.*at least 40"),
        (LBP(cell_size=33), COLOR, r"32×40.*at least 33"),
        (DenseSIFT(window="round"), COLOR, r"window.*'round'"),
        (DenseSIFT(bin_size=11), COLOR, r"32×40.*bin_size 11"),
    ],
)
def test_wrong_images_and_parameters_are_refused(transformer: Any, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer.fit(given)


def test_other_images_than_in_fit_are_refused() -> None:
    made = HOG().fit(COLOR)
    with pytest.raises(ValueError, match=r"\(32, 40, 3\) as in fit, got \(40, 32, 3\)"):
        made.transform(COLOR.transpose(0, 2, 1, 3))
    rows = HOG(image_shape=(8, 8)).fit(np.zeros((2, 64)))
    with pytest.raises(ValueError, match="65 features, but HOG is expecting 64"):
        rows.transform(np.zeros((2, 65)))
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        rows.transform(csr_array(np.zeros((2, 64))))
    for method in (HOG().transform, HOG().inverse_transform):
        with pytest.raises(NotFittedError):
            method(np.zeros((2, 64)))
    with pytest.raises(NotFittedError):
        HOG().get_feature_names_out()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("sys.modules['sklearn'] = None", "pip install 'preimage[sklearn]'"),
        ("import sklearn.utils.validation as v; del v.validate_data; v.sklearn = None", "scikit-learn 1.6 or later"),
    ],
)
def test_a_missing_or_old_scikit_learn_is_named_with_the_command(prepare: str, message: str) -> None:
    script = (
        f"import sys\n{prepare}\ntry:\n    import preimage.sklearn\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert message in done.stdout


def test_features_need_no_torch() -> None:
    script = (
        "import sys, numpy\nfrom preimage.sklearn import HOG\n"
        "HOG().fit_transform(numpy.zeros((2, 16, 16)))\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
