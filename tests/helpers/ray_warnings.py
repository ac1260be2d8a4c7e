"""Ignore warnings that Ray itself causes."""

from __future__ import annotations

import pytest

ignore_ray_warnings = pytest.mark.filterwarnings(
    # Ray Data warns of options of its own that it sets itself.
    r"ignore::DeprecationWarning:ray\..*",
    # Older versions of Ray do not wait for the services that they start, and leave their logs open.
    "ignore:subprocess .* is still running:ResourceWarning",
    "ignore:unclosed file .*session_.*logs:ResourceWarning",
)
