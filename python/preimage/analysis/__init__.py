"""Measuring what an inverter gives back."""

from preimage.analysis.metrics import ErrorReport, NormalisedError

__all__ = ["ErrorReport", "NormalisedError"]
