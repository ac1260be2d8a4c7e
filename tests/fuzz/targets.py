"""All targets by name. A format that is added to `test_mutations` is fuzzed, too."""

from __future__ import annotations

import importlib.util
import re

from fuzz import files, images, native_calls, texts
from fuzz.target import Target, in_file, written
from test_mutations import FORMATS

WITH_H5PY = importlib.util.find_spec("h5py") is not None
FILES = {
    "file-" + re.sub(r"\W+", "-", name).lower(): Target(
        in_file(form.read, form.suffix), written(form.writers, form.suffix)
    )
    for name, form in FORMATS.items()
    if form.suffix != ".h5" or WITH_H5PY
}
TARGETS: dict[str, Target] = images.TARGETS | texts.TARGETS | files.TARGETS | FILES | native_calls.TARGETS
