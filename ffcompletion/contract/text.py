"""Text that is handed to a server or a file: plain, and such as they can hold."""

from __future__ import annotations

from ffcompletion.contract.errors import Validation

__all__ = ["check_text"]


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
