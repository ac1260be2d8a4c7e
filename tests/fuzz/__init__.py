"""Fuzz every parser of the package and the native module's boundary; ``python -m fuzz --list`` names the targets."""
