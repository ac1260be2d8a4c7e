"""Test the browser demo that `make web` builds: its HOG in Node, and the page in a real browser."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import preimage as pi
from browser import open_browser, serving
from conftest import photographs
from paths import ROOT, TESTS
from preimage.viz.glyphs import hog_glyphs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

SITE = ROOT / "build/web"
_WAIT = 120_000  # milliseconds; only to end a test that hangs, because other programs may use the same cores
_CAMERA = "--use-fake-device-for-media-stream"
_SIZES = ((4, 4), (7, 13), (33, 17), (100, 11), (255, 341), (64, 64))


def _digest_of_sources() -> str:
    spec = importlib.util.spec_from_file_location("web_build", ROOT / "web/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.sources_digest()


@pytest.fixture(scope="module")
def site() -> Path:
    unusable = pytest.fail if os.environ.get("WEB_REQUIRED") else pytest.skip  # .ci/run has built the demo
    if not (SITE / "build.json").exists():
        unusable("no demo in build/web; `make web` builds it")
    if json.loads((SITE / "build.json").read_text())["sources"] != _digest_of_sources():
        unusable("the demo in build/web is older than its sources; `make web` builds it again")
    return SITE


# ---- HOG and its drawing ----


def _with_alpha(image: np.ndarray) -> np.ndarray:
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node")
def test_hog_and_its_drawing_are_those_of_the_package(site: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {"cat": _with_alpha(photographs()["chelsea"])}
    for height, width in _SIZES:
        images[f"noise-{height}-{width}"] = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        images[f"ties-{height}-{width}"] = 255 * rng.integers(0, 2, (height, width, 4), dtype=np.uint8)
    for name, image in images.items():
        (tmp_path / f"{name}.rgba").write_bytes(image.tobytes())
    sizes = [{"name": name, "width": image.shape[1], "height": image.shape[0]} for name, image in images.items()]
    (tmp_path / "images.json").write_text(json.dumps(sizes))
    subprocess.run(["node", TESTS / "web/run_hog.mjs", site, tmp_path], check=True, timeout=300)
    for name, image in images.items():
        expected = pi.hog(np.ascontiguousarray(image[:, :, :3].transpose(2, 0, 1)))
        features = np.fromfile(tmp_path / f"{name}.features", np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(features, expected, err_msg=name)
        drawn = hog_glyphs(expected)
        glyphs = np.fromfile(tmp_path / f"{name}.glyphs", np.uint8).reshape(*drawn.shape[:2], 4)
        difference = np.abs(glyphs[:, :, :3].astype(int) - drawn)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3, name  # values halfway between two levels
        assert (glyphs[:, :, 3] == 255).all()
    refused = json.loads((tmp_path / "refused.json").read_text())
    assert "3 × 3" in refused[0] and "100" in refused[1]


# ---- The page ----


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Browser]:
    with open_browser(_CAMERA) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with serving(site) as (url, _):
        yield url


class Driver:
    """A page of the demo, and what it requests and reports."""

    def __init__(
        self, browser: Browser, address: str, size: tuple[int, int] = (1280, 900), permissions: Sequence[str] = ()
    ) -> None:
        self.address = address
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": size[0], "height": size[1]}, permissions=permissions)
        self.page.set_default_timeout(_WAIT)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))

    def open(self) -> Driver:
        self.page.goto(self.address)
        self.page.wait_for_selector('#pictures[aria-busy="false"]')
        return self

    def count_bitmaps(self) -> None:
        """Count in `bitmaps` those of the page that are open; call this before the page is opened."""
        self.page.add_init_script("""
          const create = createImageBitmap, close = ImageBitmap.prototype.close;
          window.bitmaps = 0;
          window.createImageBitmap = async (...values) => {
            const bitmap = await create(...values);
            bitmaps++;
            return bitmap;
          };
          ImageBitmap.prototype.close = function () { bitmaps--; close.call(this); };
        """)

    def pixels(self, name: str) -> np.ndarray:
        """Return the pixels (H, W, 3) uint8 of a canvas."""
        url = self.page.evaluate("(name) => document.getElementById(name).toDataURL()", name)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))

    def until_changed(self, before: np.ndarray, name: str = "reconstruction") -> np.ndarray:
        """Return a canvas's pixels once they differ from those before and nothing is being computed."""
        for _ in range(_WAIT // 100):
            after = self.pixels(name)
            if after.shape != before.shape or (after != before).any():
                self.page.locator("#status").filter(has_not_text="Computing").wait_for()
                return self.pixels(name)
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{name} did not change")

    def message(self) -> str:
        self.page.wait_for_selector("#message:not([hidden])")
        return self.page.inner_text("#message")


def _expected(photograph: np.ndarray) -> np.ndarray:
    """Return the reconstruction (H, W, 3) in [0, 1] of the package for a photograph (H, W, 3) uint8."""
    features = pi.hog(np.ascontiguousarray(photograph.transpose(2, 0, 1)))
    return pi.load_inverter("hog-compact", device="cpu")(features).permute(1, 2, 0).numpy()


def test_reconstructions_are_those_of_the_package(browser: Browser, address: str, tmp_path: Path) -> None:
    driver = Driver(browser, address).open()
    page = driver.page

    def check(shape: tuple[int, int]) -> np.ndarray:
        photograph, reconstruction = driver.pixels("photograph"), driver.pixels("reconstruction")
        assert photograph.shape == reconstruction.shape == (*shape, 3)
        difference = np.abs(_expected(photograph) - reconstruction / 255)
        assert difference.max() < 0.51 / 255  # the page rounds to 256 levels
        drawn = hog_glyphs(pi.hog(np.ascontiguousarray(photograph.transpose(2, 0, 1))))
        assert np.abs(drawn.astype(int) - driver.pixels("glyphs")).max() <= 1
        return reconstruction

    first = check((256, 256))
    assert "ms" in page.inner_text("#network-time") and "dB" in page.inner_text("#psnr")
    page.select_option("#example", "coffee")
    second = driver.until_changed(first)
    check((256, 384))

    Image.fromarray(photographs()["rocket"]).save(tmp_path / "rocket.png")
    page.set_input_files("#file", tmp_path / "rocket.png")
    third = driver.until_changed(second)
    page.fill("#size", "128")
    fourth = driver.until_changed(third)
    whole = check((128, 192))
    page.fill("#dropout", "50")
    without_half = driver.until_changed(fourth)
    assert page.inner_text("#dropout-value") == "50 %"
    page.fill("#dropout", "0")
    assert (driver.until_changed(without_half) == whole).all()

    assert [url for url in driver.requests if not url.startswith((address, "blob:"))] == []
    assert driver.problems == []
    page.close()


def test_other_files_have_a_sentence(browser: Browser, address: str, tmp_path: Path) -> None:
    driver = Driver(browser, address)
    driver.count_bitmaps()
    driver.open()
    before = driver.pixels("reconstruction")
    (tmp_path / "broken <b>.jpg").write_text("<svg><script>document.title = 'hacked'</script></svg>")
    driver.page.set_input_files("#file", tmp_path / "broken <b>.jpg")
    assert "broken <b>.jpg" in driver.message()
    assert driver.page.locator("#message *").count() == 0, "names are text"
    Image.new("RGB", (200, 3)).save(tmp_path / "line.png")
    driver.page.set_input_files("#file", tmp_path / "line.png")
    driver.page.locator("#message").filter(has_text="200 × 3").wait_for()
    assert (driver.pixels("reconstruction") == before).all()
    Image.new("RGB", (4800, 1600), "teal").save(tmp_path / "huge.png")  # scaled down, and cropped to 16:9
    driver.page.set_input_files("#file", tmp_path / "huge.png")
    before = driver.until_changed(before)
    assert before.shape == (256, 456, 3)
    assert driver.page.is_hidden("#message")
    turned = Image.Exif()
    turned[0x0112] = 6  # EXIF's orientation: a quarter to the right
    Image.fromarray(photographs()["rocket"][:256]).save(tmp_path / "turned.jpg", exif=turned)
    driver.page.set_input_files("#file", tmp_path / "turned.jpg")
    assert driver.until_changed(before).shape == (456, 256, 3)
    assert driver.page.evaluate("bitmaps") == 1, "only the image that is shown stays in memory"
    assert driver.problems == []
    driver.page.close()


def test_of_several_files_the_first_is_shown(browser: Browser, address: str) -> None:
    driver = Driver(browser, address).open()
    before = driver.pixels("reconstruction")
    driver.page.evaluate("""async () => {
      const content = await (await fetch("examples/coffee.jpg")).blob();
      const dataTransfer = new DataTransfer();
      for (const name of ["first.jpg", "second.jpg"]) dataTransfer.items.add(new File([content], name));
      document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    }""")
    assert driver.until_changed(before).shape == (256, 384, 3)
    assert "2 files" in driver.message() and "first.jpg" in driver.message()
    assert driver.problems == []
    driver.page.close()


def test_the_last_choice_is_shown(browser: Browser, address: str) -> None:
    """A slow file, or a webcam that is allowed late, does not replace what has been chosen since."""
    driver = Driver(browser, address, permissions=["camera"])
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    driver.page.route("**/cat.jpg", hold)
    driver.page.route("**/*.wasm", lambda route: route.fulfill(response=route.fetch(), content_type="text/plain"))
    driver.page.add_init_script("""
      const media = Object.getPrototypeOf(navigator.mediaDevices), ask = media.getUserMedia;
      media.getUserMedia = async function (...wanted) {
        window.stream = await ask.apply(this, wanted);
        await new Promise((allow) => { window.allow = allow; });
        return window.stream;
      };
    """)
    driver.count_bitmaps()
    driver.open()
    first = driver.pixels("reconstruction")
    driver.page.select_option("#example", "cat")
    driver.page.click("#camera")
    driver.page.wait_for_function("() => window.allow")
    driver.page.select_option("#example", "coffee")
    second = driver.until_changed(first)
    with driver.page.expect_response("**/cat.jpg"):
        waiting[0].continue_()
    driver.page.evaluate("allow()")
    driver.page.wait_for_function("() => stream.getTracks().every((track) => track.readyState === 'ended')")
    driver.page.wait_for_function("() => bitmaps === 1")
    assert driver.page.input_value("#example") == "coffee"
    assert "Use" in driver.page.inner_text("#camera")
    assert (driver.pixels("reconstruction") == second).all()

    driver.page.context.set_offline(True)
    driver.page.select_option("#example", "rocket")
    assert "rocket.jpg" in driver.message() and "reached" in driver.message()
    assert driver.page.input_value("#example") == "coffee", "what is shown"
    assert not any(url.endswith(".mjs") for url in driver.requests), "servers often send these with a wrong type"
    driver.page.close()


def test_the_webcam_runs_until_it_is_stopped(browser: Browser, address: str) -> None:
    driver = Driver(browser, address, permissions=["camera"])
    driver.page.add_init_script("""
      const media = Object.getPrototypeOf(navigator.mediaDevices), ask = media.getUserMedia;
      media.getUserMedia = async function (...wanted) { return window.stream = await ask.apply(this, wanted); };
    """)
    driver.open()
    before = driver.pixels("reconstruction")
    driver.page.press("#camera", "Enter")
    for _ in range(3):  # a picture that moves, by Chromium
        before = driver.until_changed(before)
    assert before.shape == (256, 344, 3)
    assert driver.page.evaluate("document.activeElement.id") == "camera", "the keyboard stays where it was"
    driver.page.get_by_role("button", name="Stop the webcam").click()
    driver.page.get_by_role("button", name="Use the webcam").wait_for()
    assert driver.page.evaluate("stream.active") is False
    driver.page.fill("#size", "160")  # the last frame stays
    driver.page.locator("#photograph-size").filter(has_text="216 × 160").wait_for()
    driver.page.locator("#status").filter(has_text="Ready.").wait_for()
    driver.page.click("#camera")
    driver.page.locator("#status").filter(has_text="Webcam is running.").wait_for()
    driver.page.evaluate("stream.getTracks()[0].dispatchEvent(new Event('ended'))")
    assert "disconnected" in driver.message()
    driver.page.locator("#status").filter(has_text="Ready.").wait_for()
    assert driver.page.evaluate("stream.active") is False
    assert driver.problems == []
    driver.page.close()


@pytest.mark.parametrize(
    ("script", "sentence"), [("", "not allowed"), ("delete Navigator.prototype.mediaDevices", "https")]
)
def test_no_webcam_has_a_sentence(browser: Browser, address: str, script: str, sentence: str) -> None:
    """Headless Chromium denies what has not been permitted; pages that are not loaded safely have no `mediaDevices`."""
    driver = Driver(browser, address)
    driver.page.add_init_script(script)
    driver.page.goto(address)
    driver.page.click("#camera")
    assert sentence in driver.message()
    assert "Use" in driver.page.inner_text("#camera")
    driver.page.close()


def test_page_and_worker_cannot_reach_another_host(browser: Browser, address: str, tmp_path: Path) -> None:
    send = "(url) => fetch(url, {mode: 'no-cors'}).then(() => 'sent', () => 'refused')"
    driver = Driver(browser, address)
    with driver.page.expect_worker():
        driver.page.goto(address)
    driver.page.locator("#progress-size").filter(has_text="MB").wait_for()  # the worker's policy is in force
    with serving(tmp_path) as (elsewhere, paths):
        assert driver.page.evaluate(send, elsewhere) == "refused"
        (worker,) = driver.page.workers
        assert worker.evaluate(send, elsewhere) == "refused"
        assert worker.evaluate(send, address + "build.json") == "sent"
        assert paths == []
        free = browser.new_page()
        assert free.evaluate(send, elsewhere) == "sent" and paths == ["/"], "the other host can be reached"
        free.close()
    driver.page.close()


def test_controls_have_names(browser: Browser, address: str) -> None:
    driver = Driver(browser, address)
    driver.page.goto(address)
    for role, name in (("combobox", "Photograph"), ("slider", "Size"), ("slider", "Features set to zero")):
        assert driver.page.get_by_role(role, name=name, exact=True).count() == 1, name
    driver.page.fill("#size", "160")
    assert driver.page.get_attribute("#size", "aria-valuetext") == driver.page.inner_text("#size-value") == "160 pixels"
    assert driver.page.locator("[role=status], output:not([aria-hidden])").count() == 1, "only one place speaks"
    driver.page.close()


def test_without_its_modules_the_page_has_a_sentence(browser: Browser, address: str, site: Path) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.locator("#message").filter(has_text="web server").wait_for()
    page.route("**/sources.js", lambda route: route.fulfill(status=404))
    page.goto(address)
    page.locator("#message").filter(has_text="script").wait_for()
    page.close()


def test_the_page_fits(browser: Browser, address: str) -> None:
    driver = Driver(browser, address).open()
    for width in (1280, 390, 320):
        driver.page.set_viewport_size({"width": width, "height": 844})
        assert driver.page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [driver.page.locator(f"#{name}").bounding_box() for name in ("photograph", "reconstruction")]
        assert boxes[0] is not None and boxes[1] is not None
        assert np.isclose(boxes[0]["y"], boxes[1]["y"]), "photograph and reconstruction are side by side"
    driver.page.close()


def test_loading_shows_progress_and_failures(browser: Browser, address: str) -> None:
    driver = Driver(browser, address)
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    driver.page.route("**/hog-compact.onnx", hold)
    driver.page.goto(address)
    driver.page.wait_for_selector("#progress")
    driver.page.locator("#progress-size").filter(has_text="14.3 of 18.7 MB").wait_for()  # the network is missing
    assert driver.page.get_attribute("#pictures", "aria-busy") == "true"
    assert 0.7 < float(driver.page.evaluate("() => document.getElementById('progress').value")) < 0.9
    waiting[0].fulfill(status=404)
    assert "hog-compact.onnx" in driver.message() and "404" in driver.message()
    assert driver.page.is_hidden("#progress")
    with driver.page.expect_response("**/cat.jpg"):
        driver.page.select_option("#example", "cat")
    assert "hog-compact.onnx" in driver.message(), "another source does not hide why nothing is computed"
    driver.page.close()


def test_an_old_browser_has_a_sentence(browser: Browser, address: str) -> None:
    driver = Driver(browser, address)
    driver.page.add_init_script("WebAssembly.validate = () => false;")
    driver.page.goto(address)
    assert "WebAssembly SIMD" in driver.message()
    assert not any(url.endswith(".onnx") for url in driver.requests)
    assert driver.problems == []
    driver.page.close()
