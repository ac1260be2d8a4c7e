"""Test how findings and tables format numbers and lists."""

from __future__ import annotations

import pytest

from preimage.studies.formatting import listed, two_digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"),
        (123.4, "123"),
        (99.96, "100"),
        (99.4, "99"),
        (2.04, "2"),
        (0.0851, "0.085"),
        (0.0000123, "0.000012"),
        (0.00000012, "0.00000012"),
        (0.0, "0"),
    ],
)
def test_two_digits(value: float, text: str) -> None:
    assert two_digits(value) == text


@pytest.mark.parametrize(("count", "text"), [(1, "a"), (2, "a and b"), (3, "a, b and c")])
def test_listed(count: int, text: str) -> None:
    assert listed(["a", "b", "c"][:count]) == text
