"""Drive the explorer's page in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from browser import open_browser
from conftest import photographs
from preimage.app import Explorer
from preimage.app.server import listening, serving, url_of
from preimage.io import write_png

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_WAIT = 300_000  # milliseconds; only to end a test that hangs, because other programs may use the same cores


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(browser: Browser) -> Iterator[str]:
    explorer = Explorer(size=64, device="cpu")
    with listening("127.0.0.1", 0) as sock, serving(explorer, sock, "127.0.0.1"):
        yield url_of("127.0.0.1", sock)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("astronaut", "coffee"):
        write_png(folder / f"{name}.png", photographs()[name])
    (folder / "broken <b>.jpg").write_bytes(b"<svg><script>document.title = 'hacked'</script></svg>")
    return folder


class Driver:
    """A page of the explorer, and what it requests and reports."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(_WAIT)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.goto(address)
        self.page.wait_for_selector("#board .pi-tiles")
        self.page.wait_for_selector("#dropout input[type=number]")

    def upload(self, file: Path, where: str = "#board") -> None:
        self.page.set_input_files(f"{where} input[type=file]", file)

    def picture(self, name: str = "reconstruction") -> str:
        return self.page.get_attribute(f".pi-{name} img", "src") or ""

    def changed(self, act: Callable[[], object], name: str = "reconstruction") -> str:
        """Do something, and return the picture once it has changed."""
        before = self.picture(name)
        act()
        self.page.wait_for_function(
            "([name, before]) => document.querySelector(`.pi-${name} img`).src.startsWith('data:image')"
            " && document.querySelector(`.pi-${name} img`).getAttribute('src') !== before",
            arg=[name, before],
        )
        return self.picture(name)

    def until(self, act: Callable[[], object], picture: str, name: str = "reconstruction") -> None:
        """Do something, and wait for a picture that was shown before; others may be shown until then."""
        act()
        self.page.wait_for_function(
            "([name, picture]) => document.querySelector(`.pi-${name} img`).getAttribute('src') === picture",
            arg=[name, picture],
        )

    def slide(self, name: str, value: int) -> None:
        self.page.fill(f"#{name} input[type=number]", str(value))
        self.page.press(f"#{name} input[type=number]", "Enter")

    def choose(self, inverter: str) -> None:
        self.page.click("#inverter input")
        self.page.get_by_role("option", name=inverter, exact=True).click()

    def drag(self, name: str) -> None:
        box = self.page.locator(f".pi-{name} canvas").bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"], steps=3)
        self.page.mouse.up()


def test_a_session(browser: Browser, address: str, files: Path) -> None:
    driver = Driver(browser, address)
    page = driver.page
    whole = driver.changed(lambda: driver.upload(files / "astronaut.png"))
    assert "PSNR" in page.inner_text(".pi-reconstruction .pi-caption")
    assert "31 × 8 × 8" in page.inner_text(".pi-features .pi-caption")

    driver.changed(lambda: driver.slide("dropout", 60))
    driver.until(lambda: driver.slide("dropout", 0), whole)

    features = driver.picture("features")
    driver.changed(lambda: driver.drag("photograph"))
    assert driver.picture("features") != features
    driver.until(lambda: page.click(".pi-clear"), whole)

    page.fill(".pi-brush", "24")  # a cell is erased if at least half of it is

    def erase_with_keys() -> None:
        page.focus(".pi-features canvas")
        for key in ("ArrowUp", "ArrowLeft", "Space"):
            page.keyboard.press(key)

    driver.changed(erase_with_keys)
    driver.until(lambda: page.click(".pi-clear"), whole)

    page.click("text=Samples")
    page.click("#draw")
    page.wait_for_selector(".pi-samples figure:nth-child(5) img")
    page.click("text=Between two photographs")
    driver.upload(files / "coffee.png", "#other")
    page.wait_for_selector("#other .pi-filled, #other.pi-filled, .pi-filled .pi-other")
    driver.changed(lambda: driver.slide("position", 50))
    assert "PSNR" not in page.inner_text(".pi-reconstruction .pi-caption")
    driver.until(lambda: driver.slide("position", 0), whole)

    driver.changed(lambda: driver.choose("sift-compact"))
    page.wait_for_selector("#kept input[type=number]")
    assert not page.is_visible("#dropout")
    driver.changed(lambda: driver.slide("kept", 30))
    assert page.is_hidden("#board .pi-message")

    outside = [url for url in driver.requests if not url.startswith((address, "data:", "blob:"))]
    assert (outside, driver.problems) == ([], [])
    page.close()


def test_a_broken_file_has_a_sentence(browser: Browser, address: str, files: Path) -> None:
    driver = Driver(browser, address)
    driver.upload(files / "broken <b>.jpg")
    driver.page.wait_for_selector("#board .pi-message:not([hidden])")
    assert "broken <b>.jpg" in driver.page.inner_text("#board .pi-message")
    assert driver.page.locator("#board .pi-message *").count() == 0, "names are text"
    assert driver.page.title() == "preimage explore"
    driver.changed(lambda: driver.upload(files / "astronaut.png"))
    assert driver.page.is_hidden("#board .pi-message")
    assert [text for text in driver.problems if "400" not in text] == []
    driver.page.close()


def test_two_pages_do_not_affect_each_other(browser: Browser, address: str, files: Path) -> None:
    first, second = Driver(browser, address), Driver(browser, address)
    ours = first.changed(lambda: first.upload(files / "astronaut.png"))
    theirs = second.changed(lambda: second.upload(files / "coffee.png"))
    assert ours != theirs
    second.changed(lambda: second.slide("dropout", 50))
    assert first.picture() == ours
    for driver in (first, second):
        driver.page.close()


def test_the_page_fits_a_phone(browser: Browser, address: str) -> None:
    driver = Driver(browser, address)
    driver.page.set_viewport_size({"width": 390, "height": 844})
    assert driver.page.evaluate("document.documentElement.scrollWidth") <= 390
    sides = [driver.page.locator(f".pi-{name} .pi-frame").bounding_box() for name in ("photograph", "reconstruction")]
    assert sides[0] is not None and sides[1] is not None
    assert np.isclose(sides[0]["y"], sides[1]["y"]), "photograph and reconstruction are side by side"
    driver.page.close()
