"""A completion as text: for people, and as JSON Lines."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final

from rich.text import Text

from ffcompletion.contract.attached import attached_key
from ffcompletion.contract.payload import CompletionPayload, Outcome
from ffcompletion.contract.text import json_line, result_fields

__all__ = ["COLOURS", "as_json", "as_text", "moment", "printable", "printable_lines"]

COLOURS = {
    Outcome.SUCCESS: "green",
    Outcome.FAILED: "bold red",
    Outcome.CANCELLED: "yellow",
    Outcome.EXPIRED: "magenta",
    Outcome.SKIPPED: "cyan",
    Outcome.OTHER: "white",
}
# Characters of a result in a line for people.
_SHOWN: Final = 100


def as_json(completion: CompletionPayload, *, result: bool = False, attached: str | None = None) -> str:
    """One line of JSON: the wire's own names, plus ``cursor`` where there is one.

    ``result``: the stored one as well, as text if it is UTF-8, else in ``result_base64``.
    """
    line: dict[str, object] = {
        "execution_id": str(completion.execution_id),
        "outcome": completion.outcome,
        "flow_id": None if completion.flow_id is None else str(completion.flow_id),
        "produced_at_ms": completion.produced_at_ms,
    }
    if attached is not None:
        line["key"] = attached_key(completion.execution_id, attached)
    if completion.cursor is not None:
        line["cursor"] = completion.cursor.to_text()
    if result:
        line |= result_fields(completion.payload_bytes)
    return json_line(line)


def as_text(completion: CompletionPayload, *, result: bool = False, attached: str | None = None) -> Text:
    """One line for people. Control characters from the wire are shown, never sent to the terminal.

    ``result``: the beginning of the stored one as well, or its size where it is no text.
    """
    at_ms = completion.produced_at_ms or time.time_ns() // 1_000_000
    at = moment(at_ms)
    outcome = completion.outcome or "(none)"
    line = Text(f"{at_ms} ms  " if at is None else f"{at:%H:%M:%S}.{at_ms % 1_000:03d}  ", style="dim")
    line.append(f"{printable(outcome):<10}", style=COLOURS[completion.kind])
    key = None if attached is None else attached_key(completion.execution_id, attached)
    line.append(printable(completion.execution_id) if key is None else f"{attached} {key}", style="default")
    if completion.flow_id is not None:
        line.append(f"  flow {completion.flow_id}", style="dim")
    if result and completion.payload_bytes is not None:
        line.append(f"  {_beginning(completion.payload_bytes)}")
    return line


def _beginning(stored: bytes) -> str:
    try:
        text = stored.decode()
    except UnicodeDecodeError:
        return f"({len(stored)} bytes)"
    return printable(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def printable(text: str) -> str:
    """The text with control characters shown, so that nothing from the wire is sent to the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def printable_lines(text: str) -> str:
    """A text of our own lines, in which somebody else may have named things: lanes, roles, programs."""
    return "\n".join(map(printable, text.split("\n")))


def moment(at_ms: int) -> datetime | None:
    """That time, here; None for one that no calendar has, which is then to be shown as it is."""
    try:
        return datetime.fromtimestamp(at_ms / 1_000).astimezone()
    except (OverflowError, ValueError, OSError):
        return None
