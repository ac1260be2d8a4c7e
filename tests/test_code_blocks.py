"""The runner of the documentation's code blocks, and the marks of the blocks that it does not run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from preimage.cli import app
from run_code_blocks import BlockError, blocks_of, main, run_file

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BEGIN = "# Title\n\n```python\nx = 1\n```\n\n```bash\ntest -f photos/astronaut.png && echo 2 > two\n```\n\n"


def page(tmp_path: Path, text: str) -> Path:
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "work").mkdir()
    return tmp_path / "page.md"


def test_blocks_share_a_folder_and_a_namespace(tmp_path: Path) -> None:
    text = BEGIN + "```python\nfrom pathlib import Path\nassert int(Path('two').read_text()) == 2 * x\n```\n"
    assert run_file(page(tmp_path, text), tmp_path / "work") == 3


@pytest.mark.parametrize(
    "block",
    ["```python\ny = x\nassert y == 2\n```\n", "```bash\ntrue\nfalse\n```\n", "```python\ny = x\ny = = 2\n```\n"],
    ids=["python", "bash", "syntax"],
)
def test_a_failure_names_file_and_line(tmp_path: Path, block: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = page(tmp_path, BEGIN + block)
    assert main([str(file)]) == 1
    assert f"{file}:13: " in capfd.readouterr().err


def test_several_files_run_although_one_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, code in (("good", "echo done"), ("bad", "false"), ("other", "echo done")):
        (tmp_path / f"{name}.md").write_text(f"```bash\n{code}\n```\n")
    assert main([str(tmp_path / f"{name}.md") for name in ("good", "bad", "other")]) == 1
    printed = capfd.readouterr().out
    assert f"{tmp_path / 'bad.md'}:2: " in printed
    assert f"{tmp_path / 'good.md'}: 1 blocks run" in printed and "2 files passed, 1 failed" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- not run: -->\n```bash\nfalse\n```\n", r":1: .*reason"),
        ("<!-- not run: long -->\n\n```bash\nfalse\n```\n", ":1: no bash or python block"),
        ("\n```bash\nfalse\n", ":2: .*no end"),
    ],
)
def test_marks_without_reason_or_block_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BlockError, match=message):
        list(blocks_of(page(tmp_path, text)))


def test_marked_blocks_are_not_run(tmp_path: Path) -> None:
    text = "<!-- not run: fails -->\n```bash\nfalse\n```\n```toml\n[x]\n```\n"
    assert run_file(page(tmp_path, text), tmp_path / "work") == 0


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_python_blocks_of_the_documentation_compile(file: Path) -> None:
    for block in blocks_of(file):
        if block.language == "python":
            compile("\n" * (block.line - 1) + block.code, str(file), "exec")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_commands_of_the_documentation_have_known_options(file: Path) -> None:
    for block in blocks_of(file):
        if block.language != "bash":
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["preimage"]:
                check_command(words[1:])


def check_command(words: list[str]) -> None:
    """Parse a command line without running it; unknown options and missing arguments raise a usage error."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    if "--help" not in words:
        command.make_context(command.name, words)


def test_an_unknown_option_in_the_documentation_is_found() -> None:
    check_command(["extract", "hog", "photos/", "-o", "photos.hog"])
    for words in (["extract", "hog", "photos/", "-o", "x", "--cell-size", "4"], ["extract", "hog", "photos/"]):
        with pytest.raises(Exception, match=r"cell-size|output"):
            check_command(words)
