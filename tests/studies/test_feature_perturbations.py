"""Test perturbations of features against their definitions, and their names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from preimage.studies.feature_perturbations import (
    Perturbation,
    add_noise,
    binarize,
    drop_largest,
    drop_smallest,
    dropout,
    keep_largest,
    parse_perturbation,
    parse_perturbations,
    quantize,
    scale,
)

SHAPES = [(3, 20), (3, 5, 4, 3)]
FUNCTIONS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    binarize,
    dropout,
    drop_smallest,
    keep_largest,
    drop_largest,
    parse_perturbation("drop-least"),
]


def features(shape: tuple[int, ...]) -> torch.Tensor:
    """Return features of both signs, about half of them zero."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(shape, generator=generator)
    return values * (torch.rand(shape, generator=generator) < 0.5)


def norms(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).double().norm(dim=1)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


@pytest.mark.parametrize("shape", SHAPES)
def test_binarized_features_keep_signs_and_norm_at_one_magnitude(shape: tuple[int, ...]) -> None:
    given = features(shape)
    made = binarize(given)
    assert torch.equal(made.sign(), given.sign())
    torch.testing.assert_close(norms(made), norms(given))
    for image in made.abs():
        assert len(image[image != 0].unique()) == 1
    assert binarize(row(3.0, 0.0, -4.0)).tolist() == [pytest.approx([12.5**0.5, 0, -(12.5**0.5)])]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("percentage", "dropped"), [(50, 0.5), (30, 0.3)])
def test_dropout_drops_a_share_of_all_entries_and_keeps_the_norm(
    shape: tuple[int, ...], percentage: float, dropped: float
) -> None:
    given = features(shape) + 10.0  # without zeros
    made = dropout(given, percentage)
    size = given[0].numel()
    assert (made.flatten(1) == 0).sum(dim=1).tolist() == [math.floor(size * dropped + 0.5)] * 3
    torch.testing.assert_close(norms(made), norms(given))
    ratio = (made / given).flatten(1)
    for image in ratio:
        kept = image[image != 0]
        torch.testing.assert_close(kept, kept[:1].expand_as(kept))


def test_dropout_depends_on_the_seed_and_the_index_of_the_image_alone() -> None:
    given = torch.ones(5, 200)
    whole = dropout(given, seed=3)
    parts = torch.cat([dropout(given[:2], seed=3), dropout(given[2:], seed=3, first=2)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, dropout(given, seed=4))
    assert bool(((dropout(given, 20, seed=3) == 0) <= (whole == 0)).all()), "nested"


def test_the_smallest_of_the_non_zero_entries_are_dropped() -> None:
    assert drop_smallest(row(0.0, -4.0, 1.0, 3.0, -2.0)).tolist() == [[0, -4, 0, 3, 0]]
    assert drop_smallest(row(5.0, -1.0, 3.0)).tolist() == [[5, 0, 3]], "rounded down"
    assert drop_smallest(row(2.0, -2.0, 2.0, 2.0, 0.0), 75).tolist() == [[2, 0, 0, 0, 0]], "ties: the first stays"
    assert drop_smallest(row(4.0, 3.0, 2.0, 1.0), 25).tolist() == [[4, 3, 2, 0]]
    for shape in SHAPES:
        given = features(shape) + 10.0
        made = drop_smallest(given)
        assert (made != 0).flatten(1).sum(dim=1).tolist() == [given[0].numel() // 2] * 3, "a layer without zeros"
        assert torch.equal(made[made != 0], given[made != 0])


def test_the_largest_entries_are_those_with_the_largest_values() -> None:
    given = row(1.0, -9.0, 4.0, 0.0, 3.0)
    assert keep_largest(given, 2).tolist() == [[0, 0, 4, 0, 3]]
    assert drop_largest(given, 2).tolist() == [[1, -9, 0, 0, 0]]
    assert keep_largest(row(2.0, 2.0, 2.0), 2).tolist() == [[2, 2, 0]], "ties: the first ones"
    assert torch.equal(keep_largest(given, 9), given), "fewer entries than are kept"
    assert not drop_largest(given, 9).any()
    for shape in SHAPES:
        given = features(shape)
        assert torch.equal(keep_largest(given) + drop_largest(given), given)


def test_of_a_one_hot_vector_the_top_5_keep_the_one() -> None:
    given = torch.eye(12)[[3, 11]]
    assert torch.equal(keep_largest(given), given)
    assert not drop_largest(given).any()
    assert torch.equal(binarize(given), given)
    assert torch.equal(parse_perturbation("drop-least")(given), given), "half of one entry is none"
    dropped = dropout(given.repeat(10, 1))
    one = dropped.sum(dim=1)
    assert set(one.tolist()) == {0.0, 1.0}, "either gone, or as before; never NaN"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_features_stay_zero(function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
    given = features(shape)
    given[1] = 0
    made = function(given)
    assert made.shape == given.shape
    assert not made[1].any()
    assert made.isfinite().all()
    assert made[0].any()
    for index in (0, 2):
        if function is not dropout:
            assert torch.equal(function(given[index : index + 1])[0], made[index]), "each image on its own"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_dtype_is_kept(function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
    assert function(features((3, 20)).to(dtype)).dtype == dtype


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_features_are_refused(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for bad in (math.nan, math.inf):
        given = torch.ones(3, 4)
        given[2, 1] = bad
        with pytest.raises(ValueError, match=r"finite.*image 2"):
            function(given)
    with pytest.raises(ValueError, match=r"\(B, C\).*\(3, 4, 5\)"):
        function(torch.ones(3, 4, 5))
    with pytest.raises(TypeError, match=r"int64"):
        function(torch.ones(3, 4, dtype=torch.int64))


def test_numbers_out_of_range_are_refused() -> None:
    given = torch.ones(2, 4)
    for percentage in (0.0, 100.0, math.nan):
        for function in (dropout, drop_smallest):
            with pytest.raises(ValueError, match=f"percentage.*{percentage:g}"):
                function(given, percentage)
    for call in (lambda: dropout(given, seed=-1), lambda: dropout(given, first=-1)):
        with pytest.raises(ValueError, match="-1"):
            call()
    for function in (keep_largest, drop_largest):
        with pytest.raises(ValueError, match=r"count.*0"):
            function(given, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("binarize", binarize),
        ("dropout", lambda given: dropout(given, seed=5, first=7)),
        ("dropout-30", lambda given: dropout(given, 30, seed=5, first=7)),
        ("dropout-12.5", lambda given: dropout(given, 12.5, seed=5, first=7)),
        ("drop-smallest", drop_smallest),
        ("drop-smallest-20", lambda given: drop_smallest(given, 20)),
        ("drop-least", lambda given: binarize(drop_smallest(given))),
        ("drop-least-20", lambda given: binarize(drop_smallest(given, 20))),
        ("drop-smallest-20+binarize", lambda given: binarize(drop_smallest(given, 20))),
        ("top-5", keep_largest),
        ("not-top-3", lambda given: drop_largest(given, 3)),
        ("top-9+binarize+dropout-10", lambda given: dropout(binarize(keep_largest(given, 9)), 10, seed=5, first=7)),
    ],
)
def test_names_are_perturbations(name: str, expected: Callable[[torch.Tensor], torch.Tensor]) -> None:
    perturbation = parse_perturbation(name)
    given = features((3, 20))
    assert torch.equal(perturbation(given, seed=5, first=7), expected(given))
    assert perturbation.name == name
    assert perturbation.vectors_only == ("top" in name)


def test_names_are_normalized() -> None:
    names = ["dropout-50", " drop-least-50.0", "top", "not-top-5", "binarize + drop-smallest-50"]
    expected = ["dropout", "drop-least", "top-5", "not-top-5", "binarize+drop-smallest"]
    assert [one.name for one in parse_perturbations(names)] == expected


@pytest.mark.parametrize(
    "name", ["", "binarise", "binarize-3", "dropout-", "dropout-x", "dropout--3", "top-5-5", "binarize+", "top-least"]
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"binarize.*not-top.*'{re.escape(name.rpartition('+')[2])}'"):
        parse_perturbation(name)


def test_bad_numbers_in_names_are_refused() -> None:
    for name, words in [("dropout-100", "below 100.*100"), ("top-0", "1.*0"), ("not-top-2.5", r"whole.*2\.5")]:
        with pytest.raises(ValueError, match=words):
            parse_perturbation(name)
    with pytest.raises(ValueError, match=r"dropout twice"):
        parse_perturbations(["dropout", "binarize", "dropout-50"])


def test_own_perturbations_are_combined() -> None:
    negated = Perturbation("negated", lambda given, seed, first: -given)
    both = parse_perturbation("top-2") + negated
    assert (both.name, both.vectors_only) == ("top-2+negated", True)
    assert both(row(1.0, 3.0, 2.0)).tolist() == [[0, -3, -2]]
    assert parse_perturbations([negated, "binarize"])[0] is negated
    assert [one.name for one in parse_perturbations("binarize")] == ["binarize"]


@pytest.mark.parametrize("shape", [(3, 40), (3, 5, 6, 4)])
def test_noise_has_the_deviation_asked_for_and_does_not_depend_on_the_batch(shape: tuple[int, ...]) -> None:
    features = torch.from_numpy(np.random.default_rng(1).gamma(1.0, 2.0, (3, 5000)).astype(np.float32))
    noise = add_noise(features, 40, seed=3) - features
    assert (noise.std(dim=1) / features.std(dim=1)).tolist() == pytest.approx([0.4] * 3, rel=0.05)
    torch.testing.assert_close(add_noise(features, 80, seed=3) - features, 2 * noise, rtol=1e-3, atol=1e-4)
    small = features[:, : int(np.prod(shape[1:]))].reshape(shape)
    whole = add_noise(small, seed=2)
    assert torch.equal(add_noise(small[1:2], seed=2, first=1), whole[1:2])
    assert not torch.equal(add_noise(small, seed=3), whole)
    assert not add_noise(torch.zeros(1, 7)).any()


def test_quantized_entries_are_the_nearest_of_evenly_spaced_values() -> None:
    features = torch.tensor([[0.0, 0.4, 1.1, 1.6, 3.0], [-1.0, 2.0, 2.0, 2.0, 2.0]])
    assert quantize(features, 2).tolist() == [[0, 0, 1, 2, 3], [-1, 2, 2, 2, 2]]
    assert quantize(features, 1).tolist() == [[0, 0, 0, 3, 3], [-1, 2, 2, 2, 2]]
    torch.testing.assert_close(quantize(features, 16), features, rtol=0, atol=3e-5)
    assert quantize(torch.full((1, 3), 5.0), 1).tolist() == [[5, 5, 5]]
    assert scale(features, 200).tolist() == (2 * features).tolist()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("noise-20", lambda features: add_noise(features, 20, seed=4)),
        ("noise", lambda features: add_noise(features, 50, seed=4)),
        ("quantize", lambda features: quantize(features, 4)),
        ("scale-150+quantize-3", lambda features: quantize(scale(features, 150), 3)),
    ],
)
def test_noise_bits_and_scales_by_name(name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    features = torch.from_numpy(np.random.default_rng(5).random((2, 9), np.float32))
    assert torch.equal(parse_perturbation(name)(features, seed=4), function(features))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: parse_perturbation("noise-0"), r"percentage.*0"),
        (lambda: parse_perturbation("scale-0"), r"percentage.*0"),
        (lambda: parse_perturbation("quantize-17"), r"bits.*16.*17"),
        (lambda: parse_perturbation("quantize-2.5"), r"whole.*2\.5"),
        (lambda: quantize(torch.ones(1, 2), 0), r"bits.*0"),
        (lambda: add_noise(torch.ones(1, 2), float("inf")), r"percentage.*inf"),
        (lambda: scale(torch.full((1, 2), float("nan"))), "finite"),
    ],
)
def test_wrong_noise_bits_and_scales_have_a_sentence(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
