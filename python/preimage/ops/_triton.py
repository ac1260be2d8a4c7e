"""Whether Triton is installed; it is not on every system."""

from __future__ import annotations

import functools
import importlib.util


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
