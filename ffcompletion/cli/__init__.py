"""The command line: ``tail``, ``wait``, ``demo``, ``doctor``, ``producers``."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Final

from ffcompletion.contract.extras import missing

_TROUBLE: Final = 2
# As a shell reports a program that SIGPIPE ended.
_NOBODY_READS: Final = 141
_PLAIN: Final = {"\u2026": "...", "\u2013": "-", "\u2014": "-", "\u2192": "->", "\u2265": ">=", "\u00d7": "x"}


def main() -> None:
    """Entry point of ``ffcompletion``; says what is missing where the extra is not installed."""
    _readable_everywhere()
    try:
        from ffcompletion.cli.app import app  # noqa: PLC0415  # needs the extra
    except ImportError as exc:
        sys.stderr.write(f"ffcompletion: {missing(exc, 'cli')}\n")
        sys.exit(_TROUBLE)
    try:
        try:
            app()
        finally:
            # Here, where it can be told of, and not at the interpreter's exit.
            sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        sys.exit(_NOBODY_READS)
    except OSError as exc:
        _give_up_output()
        with contextlib.suppress(OSError):
            sys.stderr.write(f"ffcompletion: {exc.strerror or exc}\n")
        sys.exit(_TROUBLE)


def _give_up_output() -> None:
    """Nothing can be written any more: what is still buffered goes nowhere, without a word at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _readable_everywhere() -> None:
    """Where the locale's encoding lacks a character: its plain form, or its number; never a traceback."""
    codecs.register_error("ffcompletion", _plain_form)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ffcompletion")


def _plain_form(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(char, char.encode("ascii", "backslashreplace").decode()) for char in found)
    return plain, error.end
