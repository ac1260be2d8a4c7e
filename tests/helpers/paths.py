"""Define the folders of the source tree that tests read."""

from pathlib import Path

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
EXAMPLES = ROOT / "examples"
MODELS = ROOT / "models"  # inverters that are not in the package
