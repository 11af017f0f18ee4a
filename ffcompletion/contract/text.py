"""Text that is handed to a server or a file: plain, and such as they can hold."""

from __future__ import annotations

import msgspec

from ffcompletion.contract.errors import Validation

__all__ = ["check_text", "json_line", "result_fields"]


def check_text(kind: str, what: str, value: object) -> str:
    """``value`` as plain text. Raises ``Validation`` of ``kind`` for what is no string, or none that can be stored."""
    if not isinstance(value, str):
        raise Validation(kind, f"{what} must be a string, not {type(value).__name__}")
    # Whatever a subclass makes of itself, this is its text.
    text = str.__str__(value)
    if "\0" in text:
        raise Validation(kind, f"{what} holds a NUL, which Postgres cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Validation(kind, f"{what} holds half a surrogate pair, which UTF-8 cannot spell") from None
    return text


def json_line(value: object) -> str:
    """``value`` as JSON, in one line by whatever splits lines, and with nothing in it that a terminal would obey.

    JSON itself lets through what Unicode calls line and paragraph separators, controls above ASCII, and what turns text
    round. They are spelled out, which reads the same.
    """
    text = msgspec.json.encode(value).decode()
    return text if text.isprintable() else "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    # As JSON has it: beyond 16 bits in two halves.
    data = sign.encode("utf-16-be")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))


def result_fields(stored: bytes | None) -> dict[str, object]:
    """A stored result, for JSON: ``result``, as text if it is UTF-8, else ``result_base64``."""
    try:
        return {"result": None if stored is None else stored.decode()}
    except UnicodeDecodeError:
        return {"result_base64": stored}
