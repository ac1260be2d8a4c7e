"""Convert the Markdown of model cards to HTML; all text is escaped."""

from __future__ import annotations

import html
import re
from collections import deque
from collections.abc import Callable

# None of the patterns looks past the next mark of its own kind, so that the time is proportional to the length.
_INLINE = (
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])"), r"<em>\1</em>"),
)
# The text of a link or an image remains: a page must not load or open anything. Twice, for an image in a link.
_LINKS = (re.compile(r"!?\[([^\[\]]*)\]\((?:[^()]|\([^()]*\))*\)"),) * 2
_CODE = re.compile(r"`([^`]+)`")
_HELD = re.compile("\0([0-9]+)\0")  # the place of a code span, in which there is no bold or italic text
_RULE = re.compile(r"\|?[\s:|-]+\|?")
_ITEM = re.compile(r"\s*[-*] +")
_HEADING = re.compile(r"(#{1,6}) +(.*)")


def markdown_html(text: str) -> str:
    """Return Markdown as HTML: headings, paragraphs, lists of one level, tables, code, bold and italic text.

    Headings begin at ``<h4>``. Links and images become their text; other constructs, HTML included, are shown as they
    are written.
    """
    lines = deque(text.splitlines())
    blocks: list[str] = []
    while lines:
        if not lines[0].strip():
            lines.popleft()
            continue
        blocks.append(_block(lines))
    return "\n".join(blocks)


def _block(lines: deque[str]) -> str:
    """Remove the first block from the lines, and return it as HTML."""
    if lines[0].startswith("```"):
        lines.popleft()
        code = _taken(lines, lambda line: not line.startswith("```"))
        if lines:
            lines.popleft()
        return f"<pre><code>{html.escape(chr(10).join(code))}</code></pre>"
    if heading := _HEADING.fullmatch(lines[0]):
        lines.popleft()
        level = min(6, 3 + len(heading[1]))
        return f"<h{level}>{_inline(heading[2])}</h{level}>"
    if len(lines) > 1 and lines[0].startswith("|") and "-" in lines[1] and _RULE.fullmatch(lines[1]):
        return _table(_taken(lines, lambda line: line.startswith("|")))
    if _ITEM.match(lines[0]):
        return _list(_taken(lines, lambda line: bool(line.strip())))
    return f"<p>{_inline(' '.join([lines.popleft(), *_taken(lines, _is_text)]))}</p>"


def _taken(lines: deque[str], belongs: Callable[[str], bool]) -> list[str]:
    """Remove the first lines that belong to a block, and return them."""
    taken: list[str] = []
    while lines and belongs(lines[0]):
        taken.append(lines.popleft())
    return taken


def _is_text(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("```", "|")) and not _ITEM.match(line)


def _list(lines: list[str]) -> str:
    items: list[list[str]] = []
    for line in lines:
        if start := _ITEM.match(line):
            items.append([line[start.end() :]])
        else:
            items[-1].append(line.strip())
    return "<ul>\n" + "\n".join(f"<li>{_inline(' '.join(item))}</li>" for item in items) + "\n</ul>"


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
    for pattern in _LINKS:
        text = pattern.sub(r"\1", text)
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return _HELD.sub(lambda held: codes[int(held[1])], text)
