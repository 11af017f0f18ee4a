"""The command line: ``tail``, ``demo``, ``producers``."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``ffcompletion``; says what is missing where the extra is not installed."""
    try:
        from ffcompletion.cli.app import app  # noqa: PLC0415  # needs the extra
    except ImportError as exc:
        sys.stderr.write(f"ffcompletion: {exc.name} is not installed; pip install 'ffcompletion[cli]'\n")
        sys.exit(2)
    app()
