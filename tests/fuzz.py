"""``python -m tests.fuzz [-max_total_time=60] tests/data/corpus``: fuzz every decoder. Needs atheris."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # not in the dev extra: no wheels for some

with atheris.instrument_imports():
    from tests.decoders import everything

if __name__ == "__main__":
    atheris.Setup(sys.argv, everything)
    atheris.Fuzz()
