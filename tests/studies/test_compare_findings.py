"""Test the sentences about a comparison: that they say what the scores say, also where ours is not ahead."""

from __future__ import annotations

import re

from preimage.studies.bootstrap import Interval
from preimage.studies.compare_report import CompareStudy, ImageResult, MethodScore, Setting

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


def test_behind_every_method() -> None:
    found = findings(score("ours", 0.5), score("b", 0.2, (0.2, 0.4)), score("c", 0.4, (0.1, 0.3)))
    assert re.search(r"higher than that of every other .* the c, is 0\.20 \(95 % interval 0\.10 to 0\.30\)", found[1])
    found = findings(score("ours", 0.5), score("b", 0.2, (0.2, 0.4)))
    assert re.search(r"higher than that of the b; the difference is 0\.30 \(95 % interval 0\.20 to 0\.40\)", found[1])


def test_a_tiny_difference_is_not_ranked() -> None:
    found = findings(score("ours", 0.3), score("b", 0.301, (-0.0011, -0.0009)), score("c", 0.299, (0.0009, 0.0011)))
    assert re.search(r"the ours is not distinguishable from that of the b and the c\.", found[1])


def test_without_ours_the_first_method_is_the_reference() -> None:
    found = findings(score("b", 0.5), score("c", 0.4, (0.05, 0.15)), score("d", 0.7, (-0.3, -0.1)))
    assert re.search(r"error of the b is 0\.50", found[0])
    assert re.search(r"the b is lower than that of the d, higher than that of the c\.", found[1])


def test_times() -> None:
    found = findings(
        score("ours", 0.2, seconds=0.05),
        score("b", 0.5, (-0.4, -0.2), seconds=10.0),
        score("c", 0.5, (-0.4, -0.2), seconds=0.01),
    )
    assert "0.05 s with the ours, 10 s with the b (200 times as long) and 0.01 s with the c." in found[3]
    found = findings(score("ours", 0.2, seconds=2.0), score("c", 0.5, (-0.4, -0.2), seconds=2.02))
    assert "2 s with the ours and 2 s with the c." in found[3], "not 1 times as long"


def test_features_and_images_disagree() -> None:
    found = findings(score("ours", 0.2, feature_error=0.3), score("b", 0.5, (-0.4, -0.2), feature_error=0.04))
    assert re.search(r"the b .*closest.*0\.040.*the ours .*0\.300", found[-1])
    found = findings(score("ours", 0.2, feature_error=0.01), score("b", 0.5, (-0.4, -0.2), feature_error=0.04))
    assert not any("closest" in sentence for sentence in found)
    found = findings(score("ours", 0.2, feature_error=1.3), score("b", 0.5, (-0.4, -0.2), feature_error=1.1))
    assert not any("closest" in sentence for sentence in found), "no features at all would be closer"
    found = findings(score("ours", 0.2, feature_error=None), score("b", 0.5, (-0.4, -0.2), feature_error=None))
    assert not any("closest" in sentence for sentence in found)


def test_ties_are_no_disagreement() -> None:
    same_image = score("ours", 0.2, feature_error=0.3), score("b", 0.2, (-0.01, 0.01), feature_error=0.1)
    same_features = score("ours", 0.5, feature_error=0.3), score("b", 0.2, (0.2, 0.4), feature_error=0.3)
    for scores in (same_image, same_features):
        assert not any("closest" in sentence for sentence in findings(*scores))


def test_a_single_method() -> None:
    assert len(findings(score("ours", 0.2))) == 1
