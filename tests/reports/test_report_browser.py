"""Test a report in a browser: on a desktop and a phone, with and without scripts, and printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from browser import open_browser
from preimage.io import decode_file
from preimage.viz.html import Comparison, Figure, Section, Table, html_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = (390, 1280)
LONG = "a-name-without-any-space-that-is-much-longer-than-a-phone-is-wide-" * 2


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a page with everything that reports contain: a black and a white image to compare."""
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    plot = Figure(np.full((400, 1400, 3), 255, np.uint8), "", "a plot", on_white=True)
    comparison = Comparison(
        Figure(black, "Photograph", "black"), Figure(white, "Reconstruction", "white"), [Figure(black, "f", "f")], LONG
    )
    sections = [
        Section(LONG, numbers=[("0.123", LONG)] * 4, kind="part"),
        Section("a", comparisons=[comparison, comparison], kind="subsection"),
        Section("b", terms=[(LONG, LONG)], tables=[Table(LONG, ["a"] * 9, [["a long cell"] * 9])], kind="subsection"),
        Section("c", [plot], span="page", columns=[[Figure(black, LONG, "x")]] * 6, kind="subsection"),
        Section("d", [plot], span="text", details=[("card", f"# {LONG}\n\n| a | b |\n|---|---|\n| {LONG} | b |\n")]),
        Section("e", kind="part", comparisons=[Comparison(*[Figure(white, "c", "d")] * 2, slider=False)] * 2),
        Section("f", [Figure(white, LONG, "x")] * 3, text=[LONG], points=[LONG]),
    ]
    page = html_page(title=LONG, lead=LONG, sections=sections, command=LONG, footer=LONG, contents=True)
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_bytes(page.encode())
    return path.as_uri()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1280, **options: Any) -> Iterator[Page]:
    """Yield the page, which must neither log an error nor load anything."""
    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("data:", url)) else problems.append(request.url))
    page.goto(url)
    yield page
    context.close()
    assert problems == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scripts", [True, False])
def test_nothing_is_wider_than_the_window(browser: Browser, url: str, width: int, scripts: bool) -> None:
    with opened(browser, url, width, java_script_enabled=scripts) as page:
        assert page.locator(".slider").count() == (2 if scripts else 0)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(_OUTSIDE, width) == []


# Elements that reach beyond the window, apart from those in a box that scrolls.
_OUTSIDE = """width => [...document.querySelectorAll("body *")].filter(
    element => element.getBoundingClientRect().right > width + 1 && !element.closest(".page, .scroll, pre")
).map(element => element.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("width", WIDTHS)
def test_the_slider_is_moved_by_mouse_and_keyboard(browser: Browser, url: str, width: int, tmp_path: Path) -> None:
    with opened(browser, url, width) as page:
        frame = page.locator(".frame").first
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        assert box is not None

        def shown() -> float:
            """Return the share of white, the second image, at the height of a quarter of the frame."""
            frame.screenshot(path=tmp_path / "frame.png")
            image = np.asarray(decode_file(tmp_path / "frame.png"))
            return float((image[image.shape[0] // 4] > 128).all(axis=-1).mean())

        assert shown() == pytest.approx(0.5, abs=0.03)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 4, steps=4)
        page.mouse.up()
        assert shown() == pytest.approx(0.2, abs=0.04)
        slider = page.get_by_role("slider", name="black / white").first
        assert slider.evaluate("element => element === document.activeElement")
        slider.press("Home")
        assert shown() == pytest.approx(1.0, abs=0.03)
        slider.press("ArrowRight")
        assert slider.input_value() == "1"
        assert page.locator(".frame").nth(1).locator("input").input_value() == "50", "the other one has not moved"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scripts", [True, False])
def test_an_image_fills_the_window_and_goes_back(browser: Browser, url: str, width: int, scripts: bool) -> None:
    with opened(browser, url, width, java_script_enabled=scripts) as page:
        image = page.get_by_alt_text("black").first
        image.scroll_into_view_if_needed()
        small = image.bounding_box()
        image.click()
        large = page.locator(".enlarge[open] summary").bounding_box()
        assert small is not None and large is not None
        assert (large["x"], large["width"]) == (0, width)
        assert large["height"] == 800
        assert small["width"] < 400
        page.locator(".enlarge[open] summary").click(position={"x": 5, "y": 5})
        assert page.locator(".enlarge[open]").count() == 0
        assert image.bounding_box() == small
        image.locator("xpath=ancestor::summary").press("Enter")
        assert page.locator(".enlarge[open]").count() == 1
        if scripts:
            page.keyboard.press("Escape")
            assert page.locator(".enlarge[open]").count() == 0


def test_the_slider_fills_the_window_and_goes_back(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.get_by_role("button", name="enlarge").first.click()
        frame = page.locator(".slider.large .frame").bounding_box()
        assert frame is not None
        assert 600 < frame["width"] < 800
        assert frame["width"] == pytest.approx(frame["height"], abs=1)
        page.get_by_role("button", name="close").press("Escape")
        assert page.locator(".slider.large").count() == 0


def test_in_print_both_images_are_side_by_side(browser: Browser, url: str) -> None:
    with opened(browser, url, 800) as page:
        page.emulate_media(media="print")
        boxes = [page.locator(f".comparison .{place}").first.bounding_box() for place in ("before", "between", "after")]
        assert None not in boxes
        assert [box["y"] for box in boxes if box] == [boxes[0]["y"]] * 3  # type: ignore[index]
        assert page.locator(".slider").first.is_hidden()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details.more[open]").count() == 1
        assert page.pdf()[:4] == b"%PDF"


def test_the_page_is_dark_where_the_system_is(browser: Browser, url: str) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        with opened(browser, url, color_scheme=scheme) as page:
            color = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, color[4:-1].split(","))) < 200) == dark
            assert ("invert" in page.evaluate("getComputedStyle(document.querySelector('.on-white')).filter")) == dark
