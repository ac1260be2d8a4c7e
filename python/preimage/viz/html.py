"""Write reports as a single HTML file, without scripts, external style sheets or network access."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

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
    """

    image: Array | EncodedImage
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, images, and a note below them.

    Attributes:
        title: Heading.
        figures: Images in order.
        note: Text below the images; none if empty.
        span: Width of an image: a third of the page ("third"), the page ("page") or the window ("window"); the last two
            scroll in a narrow window.
        columns: More images, in columns side by side; in a narrow window each column becomes a row.
    """

    title: str
    figures: Sequence[Figure] = ()
    note: str = ""
    span: Literal["third", "page", "window"] = "third"
    columns: Sequence[Sequence[Figure]] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain text; the first column has the names of the rows, the others are aligned right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


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

    Raises:
        ValueError: A table row of another length than its header.
    """
    body = [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_text(lead)}</p>']
    if lines := "\n".join(f"<li>{_text(point)}</li>" for point in points):
        body.append(f'<ul class="points">\n{lines}\n</ul>')
    if explained := [f"<dt>{_text(term)}</dt><dd>{_text(meaning)}</dd>" for term, meaning in terms]:
        body.append("<dl>\n" + "\n".join(explained) + "\n</dl>")
    body += [_section(section, quality) for section in sections]
    body += [_table(table) for table in tables]
    if command:
        body.append(f"<h2>The command that created this page</h2>\n<pre><code>{_text(command)}</code></pre>")
    if footer:
        body.append(f"<footer>{_text(footer)}</footer>")
    return _PAGE.format(title=_text(title), style=_STYLE, body="\n".join(body))


_ROOMS = {"third": "row", "page": "page", "window": "window"}


def _section(section: Section, quality: int) -> str:
    parts = [f"<h2>{_text(section.title)}</h2>"]
    if section.figures:
        parts += [
            f'<div class="{_ROOMS[section.span]}">',
            *(_figure(figure, quality) for figure in section.figures),
            "</div>",
        ]
    if section.columns:
        parts.append(f'<div class="row columns" style="--columns: {len(section.columns)}">')
        for column in section.columns:
            parts += ['<div class="column">', *(_figure(figure, quality) for figure in column), "</div>"]
        parts.append("</div>")
    if section.note:
        parts.append(f'<p class="note">{_text(section.note)}</p>')
    return "\n".join(["<section>", *parts, "</section>"])


def _figure(figure: Figure, quality: int) -> str:
    image = figure.image if isinstance(figure.image, EncodedImage) else _as_jpeg(figure.image, quality)
    source = f"data:{_text(image.media_type)};base64,{base64.b64encode(image.data).decode('ascii')}"
    return (
        f'<figure><img src="{source}" alt="{_text(figure.alt)}" width="{image.width}" height="{image.height}">'
        f"{f'<figcaption>{_text(figure.caption)}</figcaption>' if figure.caption else ''}</figure>"
    )


def _table(table: Table) -> str:
    if any(len(row) != len(table.header) for row in table.rows):
        raise ValueError(f"table {table.caption!r} has {len(table.header)} columns, but a row of another length")
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.header)
    rows = "\n".join(
        f'<tr><th scope="row">{_text(row[0])}</th>' + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table>\n<caption>{_text(table.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _as_jpeg(image: Array, quality: int) -> EncodedImage:
    pixels = np.ascontiguousarray(as_rgb(image)[:, :, ::-1])  # OpenCV encodes BGR
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {pixels.shape} as JPEG")
    return EncodedImage(data.tobytes(), "image/jpeg", pixels.shape[1], pixels.shape[0])


def _text(text: str) -> str:
    return html.escape(text, quote=True)


_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #20242c; --quiet: #5f6672; --line: #dedbd5; --box: #f1efeb; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --ink: #e9e7e2; --quiet: #a0a6b1; --line: #31353d; --box: #1e2127; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 {
  font-size: 2rem; font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -0.02em;
  margin: 0 0 0.75rem;
}
h2 { font-size: 1.1rem; margin: 2.5rem 0 0.6rem; }
.lead { max-width: 44rem; font-size: 1.1rem; color: var(--quiet); margin: 0; }
dl {
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.4rem 1.25rem; max-width: 44rem;
  margin: 1.5rem 0 0;
}
dt { font-weight: 600; }
dd { margin: 0; color: var(--quiet); }
.row { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.75rem; }
.window { overflow-x: auto; width: 94vw; max-width: 110rem; margin-left: calc(50% - min(47vw, 55rem)); }
.window figure { min-width: 75rem; }
.page { overflow-x: auto; }
.page figure { min-width: 48rem; }
.points { max-width: 44rem; margin: 1.25rem 0 0; padding-left: 1.2rem; }
.points li { margin-bottom: 0.4rem; }
.columns { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.column { display: grid; grid-template-columns: minmax(0, 1fr); gap: inherit; align-content: start; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--box); }
figcaption, .note { font-size: 0.875rem; color: var(--quiet); margin-top: 0.35rem; }
.note { margin-bottom: 0; }
.scroll { overflow-x: auto; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 1.1rem; padding-bottom: 0.6rem; }
th, td { text-align: right; padding: 0.4rem 0 0.4rem 1.75rem; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--quiet); font-weight: 500; font-size: 0.875rem; }
tbody th { font-weight: 500; }
pre {
  background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: 0.8rem 1rem; margin: 0;
  overflow-x: auto; font: 0.9rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
footer {
  margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--quiet); font-size: 0.875rem;
}
@media (max-width: 34rem) {
  .row { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.5rem; }
  /* Of three, the outer two stay side by side for comparison; the drawing between them moves below. */
  .row > figure:nth-child(2):nth-last-child(2) { grid-column: 1 / -1; order: 1; }
  .columns { grid-template-columns: minmax(0, 1fr); }
  .column { grid-template-columns: none; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); }
  th, td { padding-left: 0.8rem; }
}
""".strip()

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""
