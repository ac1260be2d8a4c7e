"""Test the findings of the study of disclosure, and its note if LPIPS is not available."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from preimage.metrics import perceptual_distance
from preimage.studies.disclosure import ConditionScore, DisclosureStudy


def test_why_there_is_no_lpips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    distance, reason = perceptual_distance()
    assert distance is None
    assert re.search(r"LPIPS is left out: .*torchvision, which is not installed: .*preimage\[lpips\]", reason)
    weights = types.SimpleNamespace(DEFAULT=types.SimpleNamespace(url="https://a.example/models/alexnet-x.pth"))
    models = types.ModuleType("torchvision.models")
    models.AlexNet_Weights = weights  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    distance, reason = perceptual_distance()
    assert distance is None
    assert reason == "LPIPS is left out: AlexNet's weights are not in torch's cache (checkpoints/alexnet-x.pth)."
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-x.pth").touch()
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image", None)
    distance, reason = perceptual_distance()
    assert distance is None
    assert "torchmetrics, which is not installed" in reason


def _score(condition: str, share: float | None, error: float) -> ConditionScore:
    return ConditionScore(condition, share, 9, None if share is None else 3 * share, error, 12.0, 1 - error, None)


def _scores(kept: dict[float, float], coordinates: float = 0.6, descriptors: float = 0.5) -> list[ConditionScore]:
    ablations = {"coordinates-only": coordinates, "positions-only": 0.65, "descriptors-only": descriptors}
    return [
        *(_score("kept", share, error) for share, error in kept.items()),
        *(_score(name, 100, error) for name, error in ablations.items()),
        _score("mean-image", None, 0.7),
    ]


def findings(scores: list[ConditionScore]) -> str:
    return " ".join(DisclosureStudy(scores).findings())


def test_findings_state_what_the_scores_show() -> None:
    text = findings(_scores({5: 0.6, 25: 0.4, 50: 0.32, 100: 0.3}))
    assert (
        "With 25 % of the keypoints (75 on an image's grid) the normalized error is 0.40, against 0.30 with all" in text
    )
    assert "0.70 for the mean image" in text
    assert "25 % is the smallest share that gets at least halfway" in text
    assert "SSIM is 0.40 at 5 % and 0.70 at 100 %; the mean image has 0.30." in text
    assert "recovers more from the descriptors than from the geometry" in text

    text = findings(_scores({5: 0.68, 60: 0.3}, coordinates=0.4))
    assert "against 0.30 with 60 %" in text
    assert "No smaller share gets halfway from the mean image's error to the error with 60 % of the keypoints" in text
    assert "recovers more from the geometry than from the descriptors" in text

    text = findings(_scores({20: 0.69, 100: 0.698}, coordinates=0.5))
    assert "With all of them the error, 0.698, is not at least 0.005 below the mean image's, 0.700" in text
    assert "recovers more" not in text
    text = findings(_scores({20: 0.5, 100: 0.4}, coordinates=0.9, descriptors=0.7))
    assert "recovers more" not in text, "where both are no better than the mean image there is nothing to rank"
    for error, words in (
        (0.3, "With 100 % of the keypoints (300 on an image's grid) the normalized error is 0.30"),
        (0.8, "noth"),
    ):
        assert words in findings(_scores({100: error}))
