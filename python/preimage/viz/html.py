"""Write reports as a single HTML file, without external files or network access.

A content security policy in the page forbids everything but embedded images and the page's own style sheet and script,
which are named by their hashes. The script is in pages with a `Comparison` only; all that it adds is its slider.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from preimage.opencv import quiet_opencv
from preimage.viz.html_style import SCRIPT, STYLE
from preimage.viz.markdown import markdown_html
from preimage.viz.sheets import as_rgb

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """An image that is embedded as it is, such as an animation.

    Attributes:
        data: Contents of the file.
        media_type: For example ``"image/webp"``.
        width: Width in pixels.
        height: Height in pixels.
    """

    data: bytes
    media_type: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Figure:
    """An image with its caption.

    Attributes:
        image: (H, W, 3) or (H, W), uint8 or float in [0, 1]; or an encoded image.
        caption: Text below the image; none if empty.
        alt: Alternative text for screen readers.
        on_white: Whether it is a plot on white, whose lightness is inverted on a dark page.
    """

    image: Array | EncodedImage
    caption: str
    alt: str
    on_white: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two images side by side, with a slider over both where scripts run.

    Attributes:
        before: The first image, such as a photograph.
        after: The last image, such as its reconstruction, of the size of `before`.
        between: Images between them, such as a drawing of the features.
        title: Text above the images, such as the key.
        note: Text behind the title, such as the error.
        slider: Whether there is a slider; without any, two comparisons are side by side in a wide window.
    """

    before: Figure
    after: Figure
    between: Sequence[Figure] = ()
    title: str = ""
    note: str = ""
    slider: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain text; the first column has the names of the rows, the others are aligned right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with text, tables and images, in the order of the attributes.

    Attributes:
        title: Heading.
        figures: Images in order.
        note: Text below the images; none if empty.
        span: Width of an image: a third of the page ("third"), that of the text ("text"), the page ("page") or the
            window ("window"); the last two scroll in a narrow window, the others can be enlarged.
        columns: More images, in columns side by side; in a narrow window each column becomes a row.
        kind: Level of the heading: an ordinary section, the beginning of a new part of the page, a section in that
            part, or a group in that section.
        text: Paragraphs below the heading.
        numbers: (value, meaning) of a few numbers, in large type.
        terms: Terms and their meaning.
        points: List of sentences.
        tables: Tables.
        details: (title, Markdown) of texts that are collapsed at first.
        comparisons: Comparisons, each in a row.
    """

    title: str
    figures: Sequence[Figure] = ()
    note: str = ""
    span: Literal["third", "text", "page", "window"] = "third"
    columns: Sequence[Sequence[Figure]] = ()
    kind: Literal["section", "part", "subsection", "group"] = "section"
    text: Sequence[str] = ()
    numbers: Sequence[tuple[str, str]] = ()
    terms: Sequence[tuple[str, str]] = ()
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    details: Sequence[tuple[str, str]] = ()
    comparisons: Sequence[Comparison] = ()


def html_page(
    *,
    title: str,
    lead: str,
    points: Iterable[str] = (),
    sections: Iterable[Section],
    terms: Iterable[tuple[str, str]] = (),
    tables: Iterable[Table] = (),
    command: str = "",
    footer: str = "",
    quality: int = 85,
    contents: bool = False,
) -> str:
    """Return the page as HTML. All text is escaped; images that are not encoded are embedded as JPEG.

    Args:
        title: Heading and window title.
        lead: Paragraph below the heading.
        points: List of sentences below the lead.
        sections: Groups of images, in order.
        terms: Terms and their meaning, below the lead.
        tables: Tables below the images.
        command: Command line that created the page; omitted if empty.
        footer: Small print at the end.
        quality: Quality of the JPEGs, 1 to 100.
        contents: Whether the parts, or else the sections, are listed below the lead with links to them.

    Raises:
        ValueError: A table row of another length than its header.
    """
    chapters = list(sections)
    body = [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_text(lead)}</p>']
    body += [_list(points), _terms(terms)]
    linked = [(number, one) for number, one in enumerate(chapters) if one.kind in _LINKED and one.title]
    if contents and len(linked) > 1:
        parts = [(number, one) for number, one in linked if one.kind == "part"] or linked
        links = "\n".join(f'<li><a href="#section-{number}">{_text(one.title)}</a></li>' for number, one in parts)
        body.append(f'<nav aria-label="Contents"><ul class="contents">\n{links}\n</ul></nav>')
    body += [_section(section, number, quality) for number, section in enumerate(chapters)]
    body += [_table(table) for table in tables]
    if command:
        body.append(f"<h2>The command that created this page</h2>\n<pre><code>{_text(command)}</code></pre>")
    if footer:
        body.append(f"<footer>{_text(footer)}</footer>")
    script = SCRIPT if any(section.comparisons for section in chapters) else ""
    return _PAGE.format(
        policy=_policy(script),
        title=_text(title),
        style=STYLE,
        body="\n".join(filter(None, body)),
        script=f"\n<script>{script}</script>" if script else "",
    )


def _policy(script: str) -> str:
    """Return the content security policy, which overrides nothing if the page is served with a stricter one."""
    sources = ["default-src 'none'", "img-src data:", f"style-src {_hash(STYLE)}"]
    sources += [f"script-src {_hash(script)}"] * bool(script)
    return "; ".join([*sources, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


_ROOMS = {"third": "row", "text": "narrow", "page": "page", "window": "window"}


_SHORT = 24  # letters of terms and meanings that are set in two columns
_LINKED = ("part", "section")  # kinds of sections in the list of contents
_HEADINGS = {"section": "h2", "part": "h2", "subsection": "h3", "group": "h4"}


def _section(section: Section, number: int, quality: int) -> str:
    heading = _HEADINGS[section.kind]
    parts = [f"<{heading}>{_text(section.title)}</{heading}>"] if section.title else []
    parts += [f'<p class="text">{_text(paragraph)}</p>' for paragraph in section.text]
    if section.numbers:
        items = "\n".join(
            f"<li><strong>{_text(value)}</strong> <span>{_text(meaning)}</span></li>"
            for value, meaning in section.numbers
        )
        parts.append(f'<ul class="numbers">\n{items}\n</ul>')
    parts += [_terms(section.terms), _list(section.points)]
    parts += [_table(table) for table in section.tables]
    for title, text in section.details:
        content = f'<div class="prose">\n{markdown_html(text)}\n</div>'
        parts.append(f'<details class="more"><summary>{_text(title)}</summary>\n{content}\n</details>')
    if section.comparisons:
        pairs = " pairs" if not any(comparison.slider for comparison in section.comparisons) else ""
        parts.append(f'<div class="comparisons{pairs}">')
        parts += [*(_comparison(comparison, quality) for comparison in section.comparisons), "</div>"]
    if section.figures:
        small = section.span in ("third", "text")
        parts += [
            f'<div class="{_ROOMS[section.span]}">',
            *(_figure(figure, quality, enlarge=small) for figure in section.figures),
            "</div>",
        ]
    if section.columns:
        parts.append('<div class="row columns">')
        for column in section.columns:
            parts += ['<div class="column">', *(_figure(figure, quality, enlarge=True) for figure in column), "</div>"]
        parts.append("</div>")
    if section.note:
        parts.append(f'<p class="note">{_text(section.note)}</p>')
    place = f' id="section-{number}"' if section.kind in _LINKED else ""
    opening = f'<section class="part"{place}>' if section.kind == "part" else f"<section{place}>"
    return "\n".join([opening, *filter(None, parts), "</section>"])


def _list(points: Iterable[str]) -> str:
    lines = "\n".join(f"<li>{_text(point)}</li>" for point in points)
    return f'<ul class="points">\n{lines}\n</ul>' if lines else ""


def _terms(terms: Iterable[tuple[str, str]]) -> str:
    pairs = list(terms)
    lines = "\n".join(f"<dt>{_text(term)}</dt><dd>{_text(meaning)}</dd>" for term, meaning in pairs)
    short = all(len(term) <= _SHORT and len(meaning) <= _SHORT for term, meaning in pairs)
    return f"<dl{' class={0}short{0}'.format(chr(34)) if short else ''}>\n{lines}\n</dl>" if lines else ""


def _comparison(comparison: Comparison, quality: int) -> str:
    between = [("between", figure) for figure in comparison.between]
    figures = "\n".join(
        _figure(figure, quality, enlarge=True, place=place)
        for place, figure in (("before", comparison.before), *between, ("after", comparison.after))
    )
    note = f" {_text(comparison.note)}" if comparison.note else ""
    above = f"<p><strong>{_text(comparison.title)}</strong>{note}</p>\n" if comparison.title or note else ""
    label = f"{comparison.before.alt} / {comparison.after.alt}"
    slider = f' data-slider="{_text(label)}"' if comparison.slider else ""
    return (
        f'<div class="comparison of-{2 + len(between)}"{slider}>\n{above}<div class="images">\n{figures}\n</div></div>'
    )


def _figure(figure: Figure, quality: int, *, enlarge: bool = False, place: str = "") -> str:
    image = figure.image if isinstance(figure.image, EncodedImage) else _as_jpeg(figure.image, quality)
    source = f"data:{_text(image.media_type)};base64,{base64.b64encode(image.data).decode('ascii')}"
    kind = ' class="on-white"' if figure.on_white else ""
    shown = f'<img{kind} src="{source}" alt="{_text(figure.alt)}" width="{image.width}" height="{image.height}">'
    if enlarge:
        caption = figure.caption or figure.alt
        shown = f'<details class="enlarge"><summary data-caption="{_text(caption)}">{shown}</summary></details>'
    return (
        f"<figure{f' class={chr(34)}{place}{chr(34)}' if place else ''}>{shown}"
        f"{f'<figcaption>{_text(figure.caption)}</figcaption>' if figure.caption else ''}</figure>"
    )


def _table(table: Table) -> str:
    if any(len(row) != len(table.header) for row in table.rows):
        raise ValueError(f"table {table.caption!r} has {len(table.header)} columns, but a row of another length")
    caption = f"<caption>{_text(table.caption)}</caption>\n" if table.caption else ""
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.header)
    rows = "\n".join(
        f'<tr><th scope="row">{_text(row[0])}</th>' + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table>\n{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )


@quiet_opencv
def _as_jpeg(image: Array, quality: int) -> EncodedImage:
    pixels = np.ascontiguousarray(as_rgb(image)[:, :, ::-1])  # OpenCV encodes BGR
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {pixels.shape} as JPEG")
    return EncodedImage(data.tobytes(), "image/jpeg", pixels.shape[1], pixels.shape[0])


def _text(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}{script}
</body>
</html>
"""
