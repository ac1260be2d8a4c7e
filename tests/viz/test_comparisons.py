"""Test comparisons, enlarging, contents and the content security policy of pages."""

from __future__ import annotations

import base64
import hashlib
import html
import html.parser
import re

import numpy as np
import pytest

from preimage.viz.html import Comparison, Figure, Section, Table, html_page

HOSTILE = ('<img src=x onerror="alert(1)">', "</script><script>alert(1)</script>", "' onload='alert(1)", '"><b>&amp;')


def _figure(text: str) -> Figure:
    return Figure(np.zeros((8, 12, 3), np.uint8), text, text)


def _page(text: str = "cat", *, slider: bool = True) -> str:
    comparison = Comparison(_figure(text), _figure(text), [_figure(text)], text, text, slider=slider)
    section = Section(
        text,
        [_figure(text)],
        text,
        text=[text],
        numbers=[(text, text)],
        terms=[(text, text)],
        points=[text],
        tables=[Table(text, [text], [[text]])],
        details=[(text, text)],
        comparisons=[comparison],
    )
    return html_page(title=text, lead=text, sections=[section, section], command=text, footer=text, contents=True)


class _Tags(html.parser.HTMLParser):
    """The tags of a page, each with the names of its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}",))


def _policy(page: str) -> dict[str, str]:
    [content] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    return dict(html.unescape(part).strip().partition(" ")[::2] for part in content.split(";"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_embedded_images_alone() -> None:
    page = _page()
    policy = _policy(page)
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert not re.search(r"""<[^>]+\s(?:style|on\w+)\s*=""", page), "inline styles and handlers would be blocked"


def test_pages_without_a_slider_have_no_script() -> None:
    page = html_page(title="t", lead="l", sections=[Section("s", [_figure("f")])])
    assert "<script" not in page
    assert "script-src" not in _policy(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_is_escaped(text: str) -> None:
    page = _page(text)
    assert _Tags(page).found == _Tags(_page("x" * len(text))).found, "no text becomes a tag or an attribute"
    assert page.count(html.escape(text, quote=True)) >= 20


def test_nothing_is_loaded() -> None:
    page = _page()
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|<base", page)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page))
    assert all(link.startswith("#section-") for link in re.findall(r'href="([^"]*)"', page))


def test_a_page_is_the_same_every_time() -> None:
    assert _page() == _page()


def test_contents_link_to_parts_or_else_to_sections() -> None:
    parts = [Section("a", kind="part"), Section("below", kind="subsection"), Section("b", kind="part")]
    page = html_page(title="t", lead="l", sections=parts, contents=True)
    assert re.findall(r'<a href="#section-(\d+)">(\w+)</a>', page) == [("0", "a"), ("2", "b")]
    assert '<section class="part" id="section-2">\n<h2>b</h2>' in page
    assert "<h3>below</h3>" in page
    sections = [Section("a"), Section("g", kind="group"), Section("b")]
    page = html_page(title="t", lead="l", sections=sections, contents=True)
    assert re.findall(r'<a href="#section-(\d+)">(\w+)</a>', page) == [("0", "a"), ("2", "b")]
    assert "<h4>g</h4>" in page
    assert "<nav" not in html_page(title="t", lead="l", sections=sections)


def test_images_of_a_third_can_be_enlarged_and_wide_ones_scroll() -> None:
    for span, count in (("third", 1), ("text", 1), ("page", 0), ("window", 0)):
        page = html_page(title="t", lead="l", sections=[Section("s", [_figure("f")], span=span)])  # type: ignore[arg-type]
        assert page.count('<details class="enlarge"><summary data-caption="f"><img ') == count
    plot = Figure(np.zeros((8, 8)), "", "a plot", on_white=True)
    assert '<img class="on-white" ' in html_page(title="t", lead="l", sections=[Section("s", [plot])])


def test_comparisons_without_a_slider_are_two_in_a_row() -> None:
    assert 'class="comparisons pairs"' in _page(slider=False)
    assert "data-slider" not in _page(slider=False).partition("<script>")[0]
    assert 'class="comparisons">\n<div class="comparison of-3" data-slider="cat / cat">' in _page()
