"""Convert the Markdown of model cards to HTML; all text is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_INLINE = (
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])"), r"<em>\1</em>"),
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # the text of a link: a page must not load or open anything
)
_CODE = re.compile(r"`([^`]+)`")
_HELD = re.compile("\0([0-9]+)\0")  # the place of a code span, in which there is no bold or italic text
_RULE = re.compile(r"\|?[\s:|-]+\|?")
_ITEM = re.compile(r"\s*[-*] +")
_HEADING = re.compile(r"(#{1,6}) +(.*)")


def markdown_html(text: str) -> str:
    """Return Markdown as HTML: headings, paragraphs, lists of one level, tables, code, bold and italic text.

    Headings begin at ``<h4>``. Links become their text; other constructs, HTML included, are shown as they are written.
    """
    lines = text.splitlines()
    blocks: list[str] = []
    while lines:
        if not lines[0].strip():
            lines.pop(0)
            continue
        blocks.append(_block(lines))
    return "\n".join(blocks)


def _block(lines: list[str]) -> str:
    """Remove the first block from the lines, and return it as HTML."""
    if lines[0].startswith("```"):
        lines.pop(0)
        code = _taken(lines, lambda line: not line.startswith("```"))
        del lines[:1]
        return f"<pre><code>{html.escape(chr(10).join(code))}</code></pre>"
    if heading := _HEADING.fullmatch(lines[0]):
        lines.pop(0)
        level = min(6, 3 + len(heading[1]))
        return f"<h{level}>{_inline(heading[2])}</h{level}>"
    if len(lines) > 1 and lines[0].startswith("|") and "-" in lines[1] and _RULE.fullmatch(lines[1]):
        return _table(_taken(lines, lambda line: line.startswith("|")))
    if _ITEM.match(lines[0]):
        return _list(_taken(lines, lambda line: bool(line.strip())))
    return f"<p>{_inline(' '.join([lines.pop(0), *_taken(lines, _is_text)]))}</p>"


def _taken(lines: list[str], belongs: Callable[[str], bool]) -> list[str]:
    """Remove the first lines that belong to a block, and return them."""
    count = next((index for index, line in enumerate(lines) if not belongs(line)), len(lines))
    taken = lines[:count]
    del lines[:count]
    return taken


def _is_text(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("```", "|")) and not _ITEM.match(line)


def _list(lines: list[str]) -> str:
    items: list[str] = []
    for line in lines:
        if start := _ITEM.match(line):
            items.append(line[start.end() :])
        else:
            items[-1] += f" {line.strip()}"
    return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in items) + "\n</ul>"


def _table(lines: list[str]) -> str:
    header, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    head = ""
    if any(header):
        head = "<thead><tr>" + "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in header) + "</tr></thead>\n"
    body = "\n".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n{head}<tbody>\n{body}\n</tbody></table></div>'


def _inline(text: str) -> str:
    codes: list[str] = []

    def hold(code: re.Match[str]) -> str:
        codes.append(f"<code>{code[1]}</code>")
        return f"\0{len(codes) - 1}\0"

    text = _CODE.sub(hold, html.escape(text.strip().replace("\0", "")))
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return _HELD.sub(lambda held: codes[int(held[1])], text)
