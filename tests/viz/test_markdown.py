"""Test the conversion of model cards to HTML."""

from __future__ import annotations

import html.parser
import re

import pytest

from paths import ROOT
from preimage.viz.markdown import markdown_html

CARD = """# Card: `x`

A paragraph of *two*
lines with **bold** and a [link](https://example.org/x).

- one
- two
  and more

| a | b |
|---|--:|
| `1` | 2 < 3 |

```sh
preimage train <x> \\
    -o y
```
"""


def test_blocks() -> None:
    assert markdown_html(CARD).split("\n") == [
        "<h4>Card: <code>x</code></h4>",
        "<p>A paragraph of <em>two</em> lines with <strong>bold</strong> and a link.</p>",
        "<ul>",
        "<li>one</li>",
        "<li>two and more</li>",
        "</ul>",
        '<div class="scroll"><table>',
        '<thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>',
        "<tbody>",
        "<tr><td><code>1</code></td><td>2 &lt; 3</td></tr>",
        "</tbody></table></div>",
        "<pre><code>preimage train &lt;x&gt; \\",
        "    -o y</code></pre>",
    ]


class _Balanced(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert all(name in ("class", "scope") for name, _ in attrs)
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "text",
    [
        "",
        "```",
        "```\nnever closed <b>",
        "|\n|-|",
        "| a |\n|---|",
        "|---|\n|---|",
        "- ",
        "####### seven",
        "# **<b>**",
        "`<i>` **a `b** c` *",
        "[x](javascript:alert(1)) ![y](https://example.org/y.png)",
        "<script>alert(1)</script>\n\n| <img src=x onerror=alert(1)> |\n|---|\n| </table> |",
    ],
)
def test_odd_and_hostile_text_becomes_text(text: str) -> None:
    page = _Balanced(markdown_html(text))
    assert page.open == [] or set(page.open) <= {"strong", "code", "em"}
    assert page.tags <= {"h4", "h5", "h6", "p", "ul", "li", "pre", "code", "strong", "em", "div", "table"} | {
        *("thead", "tbody", "tr", "th", "td")
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[![badge](https://example.org/b.svg)](javascript:alert(1))", "badge"),
        ("![](http://example.org/x.png)a", "a"),
        ("a [link](https://example.org/X_(y)) and ![image](z.png)", "a link and image"),
        ("`[a](b)` [**c**](d)", "<code>[a](b)</code> <strong>c</strong>"),
        ("[a][b] (c)", "[a][b] (c)"),
    ],
)
def test_links_and_images_become_their_text(text: str, expected: str) -> None:
    assert markdown_html(text) == f"<p>{expected}</p>"


@pytest.mark.parametrize(
    ("piece", "tag"),
    [("[", "p"), ("[a](", "p"), ("*a ", "p"), ("\n", ""), ("a\n\n", "p"), ("b\n", "p"), ("- a\n", "li")],
)
def test_long_text_does_not_take_time_that_grows_with_its_square(piece: str, tag: str) -> None:
    count = (1 << 17) // len(piece)  # with the square, minutes
    page = markdown_html(piece * count)
    assert page.count(f"<{tag}>") == (0 if not tag else count if piece in ("a\n\n", "- a\n") else 1)


def test_the_model_cards_of_the_package_are_converted() -> None:
    cards = sorted((ROOT / "python/preimage/inverters/weights").glob("*/MODEL_CARD.md"))
    if not cards:
        pytest.skip("not in a copy of the source tree")
    for card in cards:
        page = markdown_html(card.read_text(encoding="utf-8"))
        assert _Balanced(page).open == []
        assert page.startswith("<h4>Model card")
        assert not re.search(r"\*\*|```|^\||^#", page, re.MULTILINE)
