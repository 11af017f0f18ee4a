"""``python -m tests.fuzz [-max_total_time=60] tests/data/corpus``: fuzz the decoding of announcements. Needs atheris."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # not in the dev extra: no wheels for some

with atheris.instrument_imports():
    from ffcompletion.backends.valkey.wire import decode
    from ffcompletion.contract.cursor import StreamCursor
    from ffcompletion.contract.errors import Validation


def one_input(data: bytes) -> None:
    """Nothing but a payload, None, or ``Validation``."""
    payload = decode(data)
    if payload is not None:
        assert 0 <= payload.execution_id.partition <= 0xFFFF
        assert payload.execution_id.uuid is not None
    try:
        assert StreamCursor.from_bytes(data).to_bytes() == data
    except Validation:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
