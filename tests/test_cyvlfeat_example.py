"""Run the example that was written for cyvlfeat, with `preimage.compat.cyvlfeat` and with the real VLFeat."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

import vlfeat
from paths import EXAMPLES

SCRIPT = EXAMPLES / "bag_of_words.py"
IMPORT = "import preimage.compat.cyvlfeat as cyvlfeat  # noqa: PLR0402 - was: import cyvlfeat"
ARGUMENTS = ["--words", "12", "--train", "3"]


def load(path: Path) -> ModuleType:
    """Import a script from a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write six images of stripes and six of blobs."""
    folder = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for index in range(6):
        noise = generator.uniform(0, 60, (80, 96))
        stripes = noise + 150 * (np.arange(96) // (4 + index % 3) % 2)
        blobs = cv2.normalize(cv2.GaussianBlur(generator.uniform(0, 1, (80, 96)), (0, 0), 3), None, 0, 200, 32) + noise
        for name, image in (("stripes", stripes), ("blobs", blobs)):
            (folder / name).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name / f"{index}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return folder


def test_bag_of_words(classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(SCRIPT).main([str(classes), *ARGUMENTS]) == 1.0
    assert "2 classes, 6 training images: 100.0% of 6 correct" in capsys.readouterr().out


@pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")
def test_only_the_import_differs(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import real_cyvlfeat  # noqa: PLC0415 - needs SciPy

    original = tmp_path / "original.py"
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count(IMPORT) == 1
    original.write_text(text.replace(IMPORT, "import cyvlfeat"), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "cyvlfeat", SimpleNamespace(sift=real_cyvlfeat))  # type: ignore[arg-type]
    script, written_for_cyvlfeat = load(SCRIPT), load(original)
    image = script.read(classes / "blobs" / "0.png")
    for ours, theirs in zip(script.describe(image), written_for_cyvlfeat.describe(image), strict=True):
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1
    assert written_for_cyvlfeat.main([str(classes), *ARGUMENTS]) == 1.0
