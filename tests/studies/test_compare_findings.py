"""Test the sentences about a comparison: that they say what the scores say, also where ours is not ahead."""

from __future__ import annotations

import re

import pytest

from preimage.studies.bootstrap import Interval
from preimage.studies.compare_report import CompareStudy, ImageResult, MethodScore, Setting, seconds_text

SETTING = Setting("HOG", 64, 64, 64, 16, 0.7)


def score(
    name: str,
    error: float,
    difference: tuple[float, float] | None = None,
    *,
    gray: tuple[float, float] | None = None,
    feature_error: float | None = 0.5,
    seconds: float = 1.0,
) -> MethodScore:
    """Return the score of a method of which only these values matter."""

    def around(ends: tuple[float, float] | None) -> Interval | None:
        return None if ends is None else Interval(sum(ends) / 2, *ends)

    one = Interval(error, error - 0.01, error + 0.01)
    return MethodScore(
        name=name,
        title=f"the {name}",
        reference="",
        error=one,
        psnr=one,
        ssim=one,
        gray_error=one,
        feature_error=None if feature_error is None else Interval(feature_error, 0, 1),
        difference=around(difference),
        gray_difference=around(difference if gray is None else gray),
        seconds=seconds,
        learning_seconds=None,
        each=(ImageResult("a", error, 1, 1, 1, 1),),
    )


def findings(*scores: MethodScore) -> list[str]:
    """Return the sentences."""
    return list(CompareStudy(scores, SETTING).findings())


def test_ahead_of_every_method() -> None:
    found = findings(score("b", 0.5, (-0.4, -0.2)), score("ours", 0.2), score("c", 0.4, (-0.3, -0.1)))
    assert re.search(r"the ours is 0\.20 \(95 % interval 0\.19 to 0\.21\).* 0\.70\.$", found[0])
    assert re.search(r"lower than that of every other .* the c, is 0\.20 \(95 % interval 0\.10 to 0\.30\)", found[1])


def test_ahead_of_one_method() -> None:
    found = findings(score("ours", 0.2), score("c", 0.4, (-0.3, -0.1)))
    assert re.search(r"lower than that of the c; the difference is 0\.20", found[1])


def test_not_ahead() -> None:
    found = findings(
        score("ours", 0.3),
        score("b", 0.5, (-0.3, -0.1)),
        score("c", 0.2, (0.05, 0.15), gray=(-0.2, -0.1)),
        score("d", 0.31, (-0.02, 0.01)),
    )
    assert "every" not in found[1]
    parts = re.search(
        r"lower than that of (.*), higher than that of (.*), not distinguishable from .* of (.*)\.", found[1]
    )
    assert parts is not None
    assert parts.groups() == ("the b", "the c", "the d")
    assert "lower than that of the b and the c, not" in found[2], "of the luminance"


def test_an_interval_that_touches_zero_decides_nothing() -> None:
    for ends in ((-0.1, 0.0), (0.0, 0.1)):
        found = findings(score("ours", 0.3), score("b", 0.3, ends))
        assert re.search(r"the ours is not distinguishable from that of the b\.", found[1])


def test_times() -> None:
    found = findings(
        score("ours", 0.2, seconds=0.05),
        score("b", 0.5, (-0.4, -0.2), seconds=10.0),
        score("c", 0.5, (-0.4, -0.2), seconds=0.01),
    )
    (times,) = (sentence for sentence in found if " as long" in sentence)
    assert "0.05 s" in times
    assert "the b takes 200 times" in times
    assert "the c" not in times
    found = findings(score("ours", 0.2, seconds=2.0), score("c", 0.5, (-0.4, -0.2), seconds=0.01))
    assert not any(" as long" in sentence for sentence in found)


def test_features_and_images_disagree() -> None:
    found = findings(score("ours", 0.2, feature_error=0.3), score("b", 0.5, (-0.4, -0.2), feature_error=0.04))
    assert re.search(r"the b .*closest.*0\.040.*the ours .*0\.300", found[-1])
    found = findings(score("ours", 0.2, feature_error=0.01), score("b", 0.5, (-0.4, -0.2), feature_error=0.04))
    assert not any("closest" in sentence for sentence in found)
    found = findings(score("ours", 0.2, feature_error=1.3), score("b", 0.5, (-0.4, -0.2), feature_error=1.1))
    assert not any("closest" in sentence for sentence in found), "no features at all would be closer"
    found = findings(score("ours", 0.2, feature_error=None), score("b", 0.5, (-0.4, -0.2), feature_error=None))
    assert not any("closest" in sentence for sentence in found)


def test_a_single_method() -> None:
    assert len(findings(score("ours", 0.2))) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (123.4, "123"), (99.4, "99"), (2.04, "2"), (0.0851, "0.085"), (0.0000123, "0.000012")],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds_text(value) == text
