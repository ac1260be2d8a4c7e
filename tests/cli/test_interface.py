"""Compare the commands with the library functions that they call; test help, completion and parameters."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from conftest import Run
from preimage import cli, store
from preimage.app.server import explore
from preimage.cli import _options
from preimage.cli.study_budget import budget as budget_command
from preimage.cli.study_color import color as color_command
from preimage.cli.study_disclosure import disclosure as disclosure_command
from preimage.cli.study_interpolate import interpolate as interpolate_command
from preimage.cli.study_layers import layers as study_layers_command
from preimage.cli.study_perturb import perturb as study_perturb_command
from preimage.cli.study_random import random as random_command
from preimage.cli.weights import convert as convert_weights_command
from preimage.cli.weights import import_ as import_weights_command
from preimage.inspection import info
from preimage.installation import doctor
from preimage.pipelines.convert import convert
from preimage.pipelines.demo import demo
from preimage.pipelines.evaluate import evaluate
from preimage.pipelines.export import export
from preimage.pipelines.extract import extract, extract_with_summary
from preimage.pipelines.film import film
from preimage.pipelines.invert import invert
from preimage.pipelines.layers import layers
from preimage.pipelines.sheet import sheet
from preimage.pipelines.verify import verify
from preimage.pipelines.weights import convert_weights, import_weights
from preimage.reports.report import report
from preimage.representations import describe_representation, list_representations
from preimage.studies.audit import audit
from preimage.studies.budget import study_budget
from preimage.studies.color import study_color
from preimage.studies.compare import compare
from preimage.studies.disclosure import study_disclosure
from preimage.studies.interpolate import study_interpolate
from preimage.studies.layers import study_layers
from preimage.studies.look import look
from preimage.studies.perturb import study_perturb
from preimage.studies.random_features import study_random
from preimage.training import TrainConfig, run

# Parameters of commands that the functions do not have: --json, and what becomes a Representation or a Spec.
_COMMAND_ONLY = {"json", "param"}
# Parameters of functions that the commands do not have: a callback, and the command itself as text.
_LIBRARY_ONLY = {"progress", "command"}
# Options whose text is parsed.
_PARSED: dict[str, Callable[[str], object]] = {
    "shard": _options.parse_shard,
    "angles": lambda text: tuple(_options.parse_numbers(text, "--angles")),
    "methods": lambda text: tuple(text.split(",")),
    "percentages": lambda text: tuple(_options.parse_numbers(text, "--percentages")),
    "network": lambda texts: texts or (),
    "perturbations": lambda text: tuple(text.split(",")) if text else (),
}


def test_extract_has_the_same_parameters_with_and_without_summary() -> None:
    assert inspect.signature(extract).parameters == inspect.signature(extract_with_summary).parameters


@pytest.mark.parametrize(
    ("command", "function", "command_only", "library_only"),
    [
        (cli.audit, audit, set(), {"status"}),  # printed
        (cli.compare, compare, set(), {"status"}),
        (cli.convert, convert, set(), set()),
        (cli.demo, demo, set(), set()),
        (cli.doctor, doctor, set(), set()),
        (cli.evaluate, evaluate, set(), set()),
        (cli.explore, explore, set(), {"ready"}),  # printed
        (cli.export, export, set(), set()),
        (cli.extract, extract, set(), set()),
        (cli.film, film, set(), set()),
        (cli.info, info, set(), set()),
        (cli.invert, invert, {"representation"}, set()),  # becomes the spec of plain arrays
        (cli.layers, layers, set(), {"weights", "preprocessing", "input_size"}),  # with --param
        (cli.merge, store.merge, set(), set()),
        (cli.report, report, set(), set()),
        (cli.sheet, sheet, set(), set()),
        (cli.verify, verify, set(), set()),
        (budget_command, study_budget, set(), set()),
        (color_command, study_color, set(), set()),
        (disclosure_command, study_disclosure, set(), set()),
        (interpolate_command, study_interpolate, set(), set()),
        (random_command, study_random, set(), set()),
        (study_layers_command, study_layers, set(), set()),
        (study_perturb_command, study_perturb, set(), set()),
        (import_weights_command, import_weights, set(), set()),
        (convert_weights_command, convert_weights, set(), set()),
    ],
)
def test_commands_have_the_parameters_of_their_functions(
    command: Callable[..., None], function: Callable[..., Any], command_only: set[str], library_only: set[str]
) -> None:
    options, parameters = inspect.signature(command).parameters, inspect.signature(function).parameters
    assert options.keys() - parameters.keys() == command_only | (_COMMAND_ONLY & options.keys())
    assert parameters.keys() - options.keys() == library_only | (_LIBRARY_ONLY & parameters.keys())
    for name in options.keys() & parameters.keys():
        default = options[name].default
        if name in _PARSED:
            default = _PARSED[name](default)
        assert (str(default) if isinstance(default, Path) else default) == parameters[name].default, name


def test_look_has_the_parameters_of_its_function() -> None:
    options, parameters = inspect.signature(cli.look).parameters, inspect.signature(look).parameters
    assert options.keys() - parameters.keys() == {"json"}
    assert parameters.keys() - options.keys() == {"command", "display", "status"}
    for name in options.keys() & parameters.keys() - {"images"}:  # `network` may be the first of the images
        default = options[name].default
        assert (str(default) if isinstance(default, Path) else default) == parameters[name].default, name


def test_train_has_the_settings_of_a_run() -> None:
    options = dict(inspect.signature(cli.train).parameters)
    assert options.pop("resume").default == inspect.signature(run).parameters["resume"].default
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    assert options.keys() - fields.keys() == _COMMAND_ONLY
    assert fields.keys() - options.keys() == {"parameters"}, "--param"
    for name in options.keys() & fields.keys():
        default = fields[name].default
        if name not in ("images", "output"):  # `images` may be preceded by the representation
            assert (options[name].default or ()) == (default or ()), name


def _commands(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Yield every command with its words."""

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield words, command
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(f"{words} {name}".strip(), below)

    yield from walk("", typer.main.get_command(app))


COMMANDS = dict(_commands(cli.app))
LEAVES = {words: command for words, command in COMMANDS.items() if not hasattr(command, "commands")}


@pytest.mark.parametrize("words", COMMANDS)
def test_help_fits_80_columns_and_describes_everything(run: Run, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(*words.split(), "--help")
    assert code == 0
    usage, *lines = out.splitlines()
    assert [line for line in (usage, *lines) if len(line) > 80] == []
    assert [line for line in lines if line.endswith("...")] == [], "summaries that do not fit the list of commands"
    for parameter in COMMANDS[words].params:
        assert parameter.help, parameter.name
        assert parameter.help[0].isupper() or parameter.help.startswith((".", "torch:", "bvlc_", "weights=")), (
            parameter.name
        )
        assert parameter.help.endswith("."), parameter.name


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("extract", "REPRESENTATION IMAGES..."),
        ("train", "[REPRESENTATION] [IMAGES...]"),
        ("demo", "[IMAGES...]"),
        ("weights convert", "FILE"),
        ("study disclosure", "IMAGES..."),
    ],
)
def test_usage_names_arguments_in_capitals(run: Run, words: str, usage: str) -> None:
    _, out, _ = run(*words.split(), "--help")
    first, _, rest = out.partition("\n")
    assert first == f"Usage: preimage {words} [OPTIONS] {usage}"
    for name in usage.replace("[", "").replace("]", "").split():
        assert re.search(rf"^  {re.escape(name)} +[A-Z.]", rest, re.MULTILINE), "without a type"
    assert "<" not in rest


@pytest.mark.parametrize("words", LEAVES)
def test_every_command_has_one_example_that_parses(words: str) -> None:
    examples = re.findall(r"Example:\s+preimage (.+)", LEAVES[words].help)
    assert len(examples) == 1
    assert examples[0].startswith(words)
    arguments = examples[0].removeprefix(words).split()
    LEAVES[words].make_context(words, arguments)  # raises a usage error for an unknown option or a missing argument


@pytest.mark.parametrize("words", LEAVES)
def test_every_command_prints_json(words: str) -> None:
    assert "--json" in {option for parameter in LEAVES[words].params for option in parameter.opts}


def completions(words: str) -> list[str]:
    """Return the completions that bash offers for the last word."""
    environment = os.environ | {
        "_PREIMAGE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    script = "from preimage import cli; cli.main()"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("preimage ev", ["evaluate"]),
        ("preimage extract alexnet-conv", [f"alexnet-conv{number}" for number in range(1, 6)]),
        ("preimage train ho", ["hog"]),
        ("preimage sheet photos --representation dense", ["dense-sift"]),
        ("preimage invert f --inverter hog-c", ["hog-compact"]),
        ("preimage evaluate lbp", ["lbp-compact"]),
        ("preimage extract hog --dev", ["--device"]),
    ],
)
def test_completion(words: str, expected: list[str]) -> None:
    assert completions(words) == expected


def test_completion_imports_no_torch() -> None:
    script = """
import sys
from preimage.cli import _options
assert "hog" in _options.complete_representation("h")
assert "hog-compact" in _options.complete_inverter("h")
print([name for name in ("torch", "numpy", "cv2") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_representations_are_listed_and_described(run: Run) -> None:
    code, out, err = run("representations")
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert set(rows) == {*list_representations(), "torch:package.module:factory"}
    assert all(summary.endswith(".") for summary in rows.values())
    code, out, _ = run("representations", "hog")
    assert code == 0
    assert re.search(r"-p cell_size=<int> .*default: 8", out)
    assert re.search(r"-p color=<str> .*default: 'luma'", out)
    assert re.search(r"--preset.*: .*compact", out)
    code, _, err = run("representations", "hogg")
    assert (code, bool(re.search("'hogg'.*hog", err))) == (1, True)


@pytest.mark.parametrize("name", [*list_representations(), "torch:package.module:factory"])
def test_representations_as_json(run: Run, name: str) -> None:
    code, out, _ = run("representations", name, "--json")
    assert code == 0
    found = json.loads(out)
    assert {parameter["name"]: parameter["default"] for parameter in found["parameters"]} == {
        known.name: known.default for known in describe_representation(name).parameters
    }
    assert all(parameter["type"] for parameter in found["parameters"])


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("cell_size=big", "cell_size must be an integer, got 'big'"),
        ("cell_size=4.5", "cell_size must be an integer, got '4.5'"),
        ("cellsize=4", "hog has no parameter 'cellsize'; it has cell_size, variant, color"),
        ("cell_size", "got 'cell_size'"),
        ("=4", "hog has no parameter ''"),
    ],
)
def test_bad_parameters_are_usage_errors(run: Run, photo_folder: Path, tmp_path: Path, param: str, words: str) -> None:
    code, out, err = run("extract", "hog", photo_folder, "-o", tmp_path / "x", "-p", param)
    assert (code, out) == (2, "")
    assert f"Invalid value for '--param': {words}" in err or (words in err and "KEY=VALUE" in err)
    assert not (tmp_path / "x").exists()


def test_parameter_values_have_the_parameters_types() -> None:
    known = {"whole": "int", "number": "float", "maybe": "int | None", "text": "str", "flag": "bool"}
    texts = ["whole=8", "number=2", "maybe=3", "text=a=b", "flag=True"]
    values = _options.parse_parameters(texts, known, "x", "--param")
    assert values == {"whole": 8, "number": 2.0, "maybe": 3, "text": "a=b", "flag": True}
    assert (type(values["number"]), type(values["flag"])) == (float, bool)
    assert _options.parse_parameters(["whole=1", "whole=2"], known, "x", "--param") == {"whole": 2}
    for text, words in [("number=x", "a number"), ("flag=1", "true or false"), ("maybe=", "an integer")]:
        with pytest.raises(typer.BadParameter, match=words):
            _options.parse_parameters([text], known, "x", "--param")


@pytest.mark.parametrize("size", ["480", "0x640", "480x", "wide"])
def test_size_of_keypoint_images_is_height_x_width(run: Run, tmp_path: Path, size: str) -> None:
    code, out, err = run("invert", tmp_path / "a.sift", "-o", tmp_path / "x", "--size", size)
    assert (code, out) == (2, "")
    assert re.search(f"--size.*480x640.*'{size}'", err)


def test_train_takes_images_alone_with_precomputed_features(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    code, _, err = run("train", "hog", photo_folder, "--features", tmp_path / "absent.npz", "-o", tmp_path / "run")
    assert code == 2
    assert "representation is omitted, got 'hog'" in err
    code, _, err = run("train", photo_folder, "--features", tmp_path / "absent.npz", "-o", tmp_path / "run")
    assert (code, "absent.npz" in err) == (1, True)
    code, _, err = run("train", "hog", "-o", tmp_path / "run")
    assert (code, "IMAGES" in err) == (2, True)
    code, _, err = run("train", "hog", photo_folder, "-o", tmp_path / "run", "--max-steps", 0)
    assert (code, bool(re.search("steps.*0", err))) == (1, True)
