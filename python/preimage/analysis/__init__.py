"""Measuring what an inverter gives back, and disturbing what it is given."""

from preimage.analysis.metrics import ErrorReport, NormalisedError, Originals

__all__ = ["ErrorReport", "NormalisedError", "Originals"]
