"""Format the numbers and lists of findings and tables."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Return the names in one phrase: ``a, b and c``."""
    last = " and " if separator == ", " else separator
    return last.join([separator.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def whole_percent(share: float) -> str:
    """Return a share as ``12%``, for sentences."""
    return _signed(f"{share:.0%}")


def percent(share: float | None) -> str:
    """Return a share as ``12.3 %``, for tables; nothing for ``None``."""
    return "" if share is None else _signed(f"{100 * share:.1f} %")


def number(value: float | None) -> str:
    """Return a number with two decimals; nothing for ``None``."""
    return "" if value is None else _signed(f"{value:.2f}")


def two_digits(value: float) -> str:
    """Return a number that is not negative with two digits, from 100 on rounded to integers; without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{float(f'{value:.2g}'):.9f}".rstrip("0").rstrip(".")


def degrees(angle: float) -> str:
    """Return an angle with its sign, as ``+60°``."""
    return "0°" if round(angle) == 0 else _signed(f"{angle:+.0f}°")


def _signed(text: str) -> str:
    return text.replace("-", "−")
