"""Check whether Triton can be imported; it is not available on every system."""

from __future__ import annotations

import functools

from preimage.optional import import_optional


@functools.cache
def has_triton() -> bool:
    """Return whether Triton can be imported. The first call imports it."""
    try:
        import_optional("triton")
    except ImportError:
        return False
    return True
