"""Test sheets of images and the HTML page."""

from __future__ import annotations

import base64
import html.parser

import numpy as np
import pytest

from conftest import photographs
from preimage.viz.html import EncodedImage, Figure, Section, Table, html_page
from preimage.viz.sheets import as_rgb, draw_sheet


def test_a_sheet_shows_each_picture_where_it_belongs() -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    blue = np.zeros((32, 64, 3), np.float32)
    blue[..., 2] = 1.0
    page = draw_sheet([[red, blue], [blue]], ["one", "two"], ["a", "b"], tile=64, gap=10)
    assert page.dtype == np.uint8
    assert page.shape[1] == 20 + 64 + 10 + 64 + 20
    columns = np.flatnonzero((page == (255, 0, 0)).all(axis=2).any(axis=0))
    assert (columns.min(), columns.max()) == (20, 83)
    rows = np.flatnonzero((page[:, 94:] == (0, 0, 255)).all(axis=2).any(axis=1))
    assert rows.size == 32, "a wide picture keeps its proportions"
    assert (page[0] == 255).all()
    assert (page[:20] == 255).all() or page[:20].min() < 128


def test_titles_are_written_and_shortened() -> None:
    square = np.full((64, 64), 255, np.uint8)
    plain = draw_sheet([[square]], tile=64)
    assert plain.min() == 255
    titled = draw_sheet([[square, square]], ["t" * 100, ""], tile=64)
    ink = np.flatnonzero((titled < 128).any(axis=(0, 2)))
    assert ink.size
    assert ink.max() < 24 + 64 + 12, "a title stays over its own column"
    assert draw_sheet([[square]], ["Größe"], tile=64).min() < 128
    accented, plain = (draw_sheet([[square]], [title], tile=64) for title in ("café", "cafe"))
    assert np.array_equal(accented, plain), "the font has no accents"


def test_a_heading_may_have_more_lines() -> None:
    square = np.full((64, 64), 255, np.uint8)
    one, two = (draw_sheet([[square, square]], [title, "b"], tile=64) for title in ("a", "a\nerror 0.35"))
    assert two.shape[0] - one.shape[0] == round(3.6 * 12) - 2 * 12
    below = two[24 + 14 : 24 + 40]
    assert below[:, : 24 + 64].min() < 160
    assert below[:, 24 + 64 + 12 :].min() == 255, "only the first heading has a second line"


def test_a_sheet_refuses_what_it_cannot_lay_out() -> None:
    square = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match="at least one"):
        draw_sheet([])
    with pytest.raises(ValueError, match=r"1 column titles.*2"):
        draw_sheet([[square, square]], ["only one"])
    with pytest.raises(ValueError, match=r"2 row titles.*1"):
        draw_sheet([[square]], row_titles=["a", "b"])
    with pytest.raises(ValueError, match=r"\(4, 8, 8\)"):
        as_rgb(np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"uint8.*float.*int64"):
        as_rgb(np.zeros((8, 8), np.int64))


def test_words_stand_in_the_place_of_a_picture_and_captions_below_each() -> None:
    square = np.full((64, 64), 250, np.uint8)
    page = draw_sheet([["one\ntwo", square], [square, square]], (), [[""], ["", "below"]], tile=64, gap=8)
    ink = page.min(axis=2) < 160
    assert page.shape == (16 + 64 + 8 + 64 + 24 + 16, 16 + 64 + 8 + 64 + 16, 3), "no room below the first row"
    left, right = ink[:, :80], ink[:, 88:]
    assert left[:80].any()
    assert not left[88:].any()
    assert right[152:].any()
    assert not right[:152].any()


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page() -> str:
    picture = photographs()["chelsea"][:256, :256]
    figure = Figure(picture, 'a "caption" & <b>more</b>', '<img src=x onerror="alert(1)">')
    return html_page(
        title="<script>alert(1)</script>",
        lead="a lead",
        sections=[Section("S", [figure, figure], note="<i>n</i>")],
        tables=[Table("errors", ["image", "error"], [["<b>x</b>", "0.3"]])],
        command="preimage demo -o 'a<b'",
        footer="f",
    )


def test_the_page_is_self_contained_and_well_formed() -> None:
    page = _Page(_page())
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert "link" not in tags
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    for attributes in images:
        assert (attributes["src"] or "").startswith("data:image/jpeg;base64,")
        assert attributes["alt"] == '<img src=x onerror="alert(1)">'
    assert not any("href" in attributes for _, attributes in page.tags)
    assert "prefers-color-scheme: dark" in _page()
    assert "width=device-width" in _page()


def test_the_page_has_columns_of_pictures_and_terms() -> None:
    figures = [Figure(np.zeros((8, 8)), f"c{index}", f"a{index}") for index in range(3)]
    section = Section("S", columns=[figures[:1], figures[1:]])
    text = html_page(title="t", lead="l", terms=[("HOG", "a <b> & c")], sections=[section])
    page = _Page(text)
    assert page.open == []
    assert [attributes["class"] for tag, attributes in page.tags if tag == "div"] == [
        "row columns",
        "column",
        "column",
    ]
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == ["a0", "a1", "a2"]
    assert "<dt>HOG</dt><dd>a &lt;b&gt; &amp; c</dd>" in text


def test_encoded_images_are_embedded_as_they_are() -> None:
    image = EncodedImage(b"RIFF, not checked", "image/webp", 30, 20)
    page = _Page(html_page(title="t", lead="l", sections=[Section("S", [Figure(image, "", "moving")])]))
    [attributes] = [attributes for tag, attributes in page.tags if tag == "img"]
    assert attributes["src"] == "data:image/webp;base64," + base64.b64encode(image.data).decode()
    assert (attributes["width"], attributes["height"], attributes["alt"]) == ("30", "20", "moving")


def test_every_text_is_escaped() -> None:
    text = _page()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "a&lt;b" in text


def test_a_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'t'.*2 columns"):
        html_page(title="", lead="", sections=[], tables=[Table("t", ["a", "b"], [["only"]])])
