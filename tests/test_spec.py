"""Test `preimage.spec`: equality, differences, and round trips through JSON."""

import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preimage.spec import Spec

HOG = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8, "color": "luma"})

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
specs = st.builds(
    Spec,
    st.text(),
    st.text(),
    st.integers(1, 10**9),
    st.none() | st.integers(1, 10**9),
    st.dictionaries(st.text(), scalars, max_size=5),
    st.integers(1, 10**9),
)


@given(specs)
def test_json_keeps_every_spec(spec):
    again = Spec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert hash(again) == hash(spec)
    assert spec.differences(again) == []
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_json_is_one_line_with_sorted_keys():
    text = Spec("hog", "v", 31, 8, {"b": 1, "a": 2}).to_json()
    assert text == Spec("hog", "v", 31, 8, {"a": 2, "b": 1}).to_json()
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"variant": "other"}, "variant: 'vlfeat-uoctti' != 'other'"),
        ({"channels": 32}, "channels: 31 != 32"),
        ({"stride": None}, "stride: 8 != None"),
        ({"version": 2}, "version: 1 != 2"),
        ({"parameters": {"cell_size": 4, "color": "luma"}}, "parameters.cell_size: 8 != 4"),
        ({"parameters": {"cell_size": 8}}, "parameters.color: 'luma' != 'absent'"),
    ],
)
def test_differences_name_the_field(change, phrase):
    other = dataclasses.replace(HOG, **change)
    assert HOG.differences(other) == [phrase]
    assert other != HOG


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HOG.channels = 3
    with pytest.raises(TypeError):
        HOG.parameters["cell_size"] = 4


def test_spec_copies_the_dictionary_of_the_caller():
    parameters = {"cell_size": 8}
    spec = Spec("hog", "v", 31, 8, parameters)
    parameters["cell_size"] = 4
    assert spec.parameters["cell_size"] == 8


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"channels": 0}, ValueError, "channels.*1|at 1"),
        ({"channels": 31.0}, TypeError, "channels"),
        ({"channels": True}, TypeError, "channels"),
        ({"version": 0}, ValueError, "1"),
        ({"stride": 0}, ValueError, "stride"),
        ({"stride": 1.5}, ValueError, "stride"),
        ({"representation": None}, TypeError, "representation"),
        ({"parameters": [1]}, TypeError, "mapping"),
        ({"parameters": {"a": [1]}}, TypeError, "'a'"),
        ({"parameters": {1: 1}}, TypeError, "1"),
    ],
)
def test_wrong_fields_are_named(fields, error, words):
    with pytest.raises(error, match=words):
        dataclasses.replace(HOG, **fields)


def test_from_dict_names_missing_and_unknown_fields():
    fields = HOG.to_dict()
    with pytest.raises(ValueError, match="channels, stride"):
        Spec.from_dict({name: fields[name] for name in fields if name not in ("channels", "stride")})
    with pytest.raises(ValueError, match=r"fields.*color"):
        Spec.from_dict(fields | {"color": 1})
    with pytest.raises(ValueError, match=r"JSON.*list"):
        Spec.from_json("[]")
    with pytest.raises(ValueError, match="channels"):
        Spec.from_dict(fields | {"channels": "31"})
