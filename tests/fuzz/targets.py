"""All targets by name. Formats that are added to `file_formats` are fuzzed, too."""

from __future__ import annotations

from fuzz import files, images, native_calls, texts
from fuzz.target import Target

TARGETS: dict[str, Target] = images.TARGETS | texts.TARGETS | files.TARGETS | native_calls.TARGETS
