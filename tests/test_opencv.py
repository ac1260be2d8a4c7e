"""All calls of OpenCV that it may divide among threads are made with its number of threads held at one."""

import ast
from pathlib import Path

import cv2
import numpy as np
import pytest

import preimage
from preimage.opencv import quiet_opencv, resize

PACKAGE = Path(preimage.__file__).parent
SCALAR = {"getRotationMatrix2D", "invertAffineTransform", "getNumThreads", "setNumThreads"}  # nothing to divide


def unguarded(source: str) -> list[str]:
    """Return the calls of functions of cv2 that are not inside of `quiet_opencv`, as ``line: name``."""
    found: list[str] = []

    def visit(node: ast.AST, guarded: bool) -> None:
        contexts: list[ast.expr] = []
        if isinstance(node, ast.FunctionDef):
            contexts, guarded = node.decorator_list, False  # it runs when it is called
        elif isinstance(node, ast.With):
            contexts = [item.context_expr for item in node.items]
        guarded |= any(ast.unparse(context) == "quiet_opencv" for context in contexts)
        if isinstance(node, ast.Call) and not guarded:
            module, _, name = ast.unparse(node.func).rpartition(".")
            if module in ("cv2", "_cv2") and name not in SCALAR:
                found.append(f"{node.lineno}: {name}")
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(ast.parse(source), False)
    return found


def test_all_calls_are_guarded() -> None:
    found = {str(file.relative_to(PACKAGE)): unguarded(file.read_text("utf-8")) for file in PACKAGE.rglob("*.py")}
    assert {file: calls for file, calls in found.items() if calls} == {}


def test_unguarded_calls_are_found() -> None:
    assert unguarded("def f():\n    with quiet_opencv:\n        cv2.resize(a)\n    cv2.blur(b)\n") == ["4: blur"]
    assert unguarded("@quiet_opencv\ndef f():\n    def g():\n        cv2.blur(b)\n    cv2.resize(a)\n") == ["4: blur"]


@pytest.mark.parametrize("threads", [1, 3])
def test_number_of_threads_is_restored(threads: int) -> None:
    before = cv2.getNumThreads()

    @quiet_opencv
    def inside() -> int:
        with quiet_opencv:
            pass
        return int(cv2.getNumThreads())

    try:
        cv2.setNumThreads(threads)
        assert inside() == 1
        assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)


def test_resize_averages_to_shrink_and_interpolates_to_enlarge() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    means = image.reshape(16, 2, 24, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize(image, 16, 24), means, atol=0.5)
    enlarged = resize(image, 64, 96)
    assert enlarged.shape == (64, 96, 3)
    np.testing.assert_array_equal(enlarged, cv2.resize(image, (96, 64), interpolation=cv2.INTER_CUBIC))
