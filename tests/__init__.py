"""The tests, by room: see CONTRIBUTING.md."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
