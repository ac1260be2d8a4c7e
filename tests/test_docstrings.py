"""Every module imports on its own, and everything public is documented."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import subprocess
import sys

import pytest

import preimage

MODULES = [
    "preimage",
    *(module.name for module in pkgutil.walk_packages(preimage.__path__, "preimage.")),
]
PUBLIC_CALLABLES = [name for name in preimage.__all__ if callable(getattr(preimage, name))]

# Imports each module in a fork of a process that has loaded other packages but nothing of this one, and prints what is
# wrong with it as JSON, one line per module.
CHECK = r"""
import importlib, inspect, json, os, re, sys
import cv2, numpy, safetensors.torch, torch, typer


def problems(name):
    module = importlib.import_module(name)
    if name.endswith("._native"):
        return []
    found = [] if module.__doc__ else ["no docstring"]
    exported = list(getattr(module, "__all__", []))
    found += [f"__all__ names {missing}" for missing in exported if not hasattr(module, missing)]
    found += [f"__all__ repeats {repeated}" for repeated in sorted(set(exported)) if exported.count(repeated) > 1]
    if any(part.startswith("_") for part in name.split(".")):
        return found
    for key, value in vars(module).items():
        # Kernels of Triton are objects around a function.
        function = getattr(value, "fn", value)
        if key.startswith("_") or not (inspect.isclass(function) or inspect.isfunction(function)):
            continue
        if function.__module__ != name:
            continue
        text = function.__doc__ or ""
        if inspect.isclass(function) and text.startswith(f"{key}("):  # made by dataclasses
            text = ""
        first = " ".join(text.split("\n\n")[0].split())
        if not text:
            found.append(f"{key}: no docstring")
        elif not text[0].isupper():
            found.append(f"{key}: does not start with a capital letter: {first[:60]}")
        elif not re.search(r"\.(?=\s|$)", first):
            found.append(f"{key}: the first sentence does not end with a period: {first[:60]}")
    return found


assert not any(name.split(".")[0] == "preimage" for name in sys.modules)
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            found = problems(name)
        except BaseException as error:
            found = [f"import fails: {type(error).__name__}: {error}"]
        sys.stdout.write(json.dumps([name, found]) + "\n")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_modules_import_alone_and_document_what_is_public() -> None:
    modules = [name for name in MODULES if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHECK, *modules],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    results = dict(map(json.loads, done.stdout.splitlines()))
    assert sorted(results) == sorted(modules)
    problems = [f"{name}: {problem}" for name, found in results.items() for problem in found]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", PUBLIC_CALLABLES)
def test_every_parameter_of_the_public_functions_is_documented(name: str) -> None:
    function = getattr(preimage, name)
    text = inspect.getdoc(function) or ""
    if inspect.isclass(function):
        text += inspect.getdoc(function.__init__) or ""
    missing = [
        parameter
        for parameter in inspect.signature(function).parameters
        if not re.search(rf"^\s+\*{{0,2}}{parameter}(, \w+)*:|`{parameter}`|, {parameter}(, \w+)*:", text, re.MULTILINE)
    ]
    assert not missing
