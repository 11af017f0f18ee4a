"""Which updates of a row are worth the trigger function's call, as SQL; the function decides. Half of all are a job that
begins, and are not.

Short, because the server reads a condition anew for each statement. So there are two: the one over the key is looked at
only where a statement sets the key.
"""

from __future__ import annotations

import re
from typing import Final

from ffcompletion.attaching.definition import PENDING_WORDS, Definition
from ffcompletion.attaching.quoting import byte_for_byte, identifier, literal

__all__ = ["key_changes", "state_changes"]

# What a regular expression may take for more than itself.
_SIGN: Final = re.compile(r"[^\w ]")


def state_changes(definition: Definition) -> str:
    """Whether a job had finished before, or has now; or is in a state of which nothing is known."""
    return f"{_states(definition)} !~ {_unfinished(definition)}"


def key_changes(definition: Definition) -> str:
    """Whether it has another key, and nothing that ``state_changes`` tells."""
    old, new = (byte_for_byte(row, definition.key) for row in ("OLD", "NEW"))
    return f"{old} <> {new}\n        AND {_states(definition)} ~ {_unfinished(definition)}"


def _states(definition: Definition) -> str:
    state = identifier(definition.state)
    return f"pg_catalog.format('%L,%L', OLD.{state}, NEW.{state}) COLLATE pg_catalog.\"C\""


def _unfinished(definition: Definition) -> str:
    """What two states match that are both of a job that has not finished, each between quotes of its own."""
    ends = {text.lower() for text in definition.outcomes}
    # A quote would be doubled, a backslash spelled otherwise: such a state costs a call.
    words = [word for word in definition.pending or sorted(PENDING_WORDS) if not {"'", "\\"} & set(word)]
    one = "'(" + "|".join(_SIGN.sub(r"\\\g<0>", word) for word in words if word.lower() not in ends) + ")'"
    return literal(f"{'' if definition.pending else '(?i)'}^{one},{one}$")
