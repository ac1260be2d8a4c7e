"""Test what the page makes of its controls and of results, without a server."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import photographs
from preimage.app import Explorer, Settings, explore
from preimage.app.page import FULL_BITS, SHOWN_SAMPLES, Page, data_url, describe, problem, samples_html, settings_from
from preimage.errors import FileFormatError
from preimage.io import decode_image, encode_png
from preimage.spec import Spec

_UNCHANGED = (0, False, 0, 0, 0, 0, FULL_BITS, 100, False, 100, "everything", 0)
_BOARD = json.dumps({"photograph": "abc", "erased": "00"})


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(size=64, device="cpu")


@pytest.mark.parametrize("inverter", ["hog-compact", "sift-compact"])
def test_controls_that_are_left_alone_change_nothing(explorer: Explorer, inverter: str) -> None:
    found = settings_from(explorer.facts(inverter), inverter, _BOARD, "", *_UNCHANGED)
    assert found == Settings(inverter, "abc", erased="00")
    for board in ("", "{}", json.dumps({"photograph": ""})):
        assert settings_from(explorer.facts(inverter), inverter, board, "", *_UNCHANGED) is None


def test_controls_become_settings(explorer: Explorer) -> None:
    values = (25, True, 10, 20, 30, 5, 3, 150, True, 40, "positions only", 7)
    of_maps = settings_from(explorer.facts("hog-compact"), "hog-compact", _BOARD, "def", *values)
    assert of_maps == Settings(
        "hog-compact",
        "abc",
        other="def",
        position=0.25,
        spherical=True,
        perturbation="noise-10+dropout-20+drop-smallest-30+quantize-3+scale-150+binarize",
        seed=7,
        erased="00",
    )
    of_keypoints = settings_from(explorer.facts("sift-compact"), "sift-compact", _BOARD, "def", *values)
    assert of_keypoints is not None
    assert (of_keypoints.perturbation, of_keypoints.kept, of_keypoints.parts) == ("", 40.0, "positions")
    vectors = dataclasses.replace(
        explorer.facts("hog-compact"), spec=Spec("user", "x", channels=9, stride=None), is_map=False
    )
    of_vectors = settings_from(vectors, "mine", _BOARD, "", *values)
    assert of_vectors is not None
    assert "+top-5+" in of_vectors.perturbation
    assert of_vectors.erased == ""


@pytest.fixture(scope="module")
def page(explorer: Explorer) -> Page:
    pytest.importorskip("gradio")

    async def make() -> Page:
        return Page(explorer)

    return asyncio.run(make())  # without a running event loop, gradio leaves loops of its own behind


def shown(page: Page, *values: Any) -> dict[str, Any]:
    board, _ = page._guarded(values, lambda settings: "")
    return json.loads(board["pictures"])


def test_pictures_of_a_change(explorer: Explorer, page: Page) -> None:
    key = explorer.add(bytes(encode_png(photographs()["coffee"])))
    board = json.dumps({"photograph": key, "erased": ""})
    found = shown(page, "hog-compact", board, "", *_UNCHANGED)
    view = explorer.show(Settings("hog-compact", key))
    encoded = base64.b64decode(found["reconstruction"].partition(",")[2])
    assert np.array_equal(decode_image(encoded, name=""), view.reconstruction)
    assert found["message"] == ""
    assert found["captions"]["reconstruction"] == f"PSNR {view.psnr:.1f} dB, SSIM {view.ssim:.2f}"
    assert found["captions"]["features"].startswith("31 × 8 × 8 numbers. Drawn: ")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, "../../etc/passwd", "inverter must be one of"),
        (0, ["hog-compact"], "inverter must be one of"),
        (1, "[1]", "photograph"),
        (1, "{", "Expecting"),
        (1, json.dumps({"photograph": "gone"}), "choose it again"),
        (1, json.dumps({"photograph": {"path": "/etc/passwd"}}), "photograph"),
        (2, {"path": "/etc/passwd"}, "photograph"),
        (3, 300, "position"),
        (3, None, "float"),
        (6, "50+binarize", "format code"),
        (14, "-1", "seed"),
        (14, float("inf"), "infinity"),
        (1, "[" * 100_000, "recursion"),
    ],
)
def test_values_that_no_control_has_get_a_sentence(page: Page, place: int, value: object, words: str) -> None:
    key = page._explorer.add(bytes(encode_png(photographs()["coffee"])))
    values: list[object] = ["hog-compact", json.dumps({"photograph": key}), "", *_UNCHANGED]
    values[place] = value
    if place == 14:
        values[6] = 30  # dropout, which has a seed
    found = shown(page, *values)
    assert set(found) == {"message"}
    assert words in found["message"]


def test_every_error_gets_a_sentence(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: Settings) -> None:
        raise RuntimeError("out of memory\n  in some kernel")

    monkeypatch.setattr(page._explorer, "show", fail)
    found = shown(page, "hog-compact", _BOARD, "", *_UNCHANGED)
    assert found == {"message": "RuntimeError: out of memory in some kernel"}


def test_changes_do_not_pile_up(page: Page) -> None:
    config = page.blocks.get_config_file()
    assert {one["trigger_mode"] for one in config["dependencies"]} == {"always_last"}
    functions = page.blocks.fns.values()
    assert {(one.concurrency_limit, one.concurrency_id) for one in functions} == {(1, "compute")}
    assert page.blocks._queue.max_size == 32


def test_texts_are_escaped(explorer: Explorer) -> None:
    facts = dataclasses.replace(explorer.facts("hog-compact"), explanation="<img src=x>.", error=None)
    assert "<img" not in describe(facts)
    assert problem(FileFormatError("a\n<b>.png", "is\tbad")) == "a <b>.png: is bad", "shown as text"
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert samples_html([pixels] * 8, pixels).count(data_url(pixels)) == SHOWN_SAMPLES + 1


def test_inverters_that_are_given_are_loaded_at_once(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    folder = tmp_path / "damaged"
    folder.mkdir()
    import preimage as pi  # noqa: PLC0415

    pi.load_inverter("lbp-compact", device="cpu").save(folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        explore(inverter=folder, port=0, open_browser=False)
