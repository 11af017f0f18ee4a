"""What is known about a table of jobs: pure data, checked for what can be checked without a server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, final

import msgspec

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.payload import Outcome

__all__ = ["PENDING_WORDS", "Definition", "table_parts"]

OUTCOMES: Final = tuple(outcome.value for outcome in Outcome if outcome is not Outcome.OTHER)
_LONGEST_NAME: Final = 63  # bytes, as Postgres cuts identifiers; cutting in silence would name something else
_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')

PENDING_WORDS: Final = frozenset({
    "active", "blocked", "claimed", "created", "delayed", "deferred", "doing", "enqueued", "in_progress", "new", "open",
    "paused", "pending", "picked", "processing", "queued", "ready", "resumed", "retry", "retrying", "running",
    "scheduled", "started", "submitted", "suspended", "todo", "waiting",
})  # fmt: skip
"""States that mean "not finished", in any case, where none are named."""


@final
class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of jobs: which rows are jobs, and what their states mean. Names are columns unless told otherwise."""

    name: str
    """The attachment's name: part of every id, and what it is detached by."""
    table: str
    """``table`` or ``schema.table``; a part that has a dot in it in double quotes."""
    key: str
    """Unique and never null."""
    state: str
    outcomes: Mapping[str, str]
    """State → outcome, of those that mean "finished"."""
    pending: tuple[str, ...] = ()
    """States that mean "not finished"; where none are named, ``PENDING_WORDS``."""
    deleted: Mapping[str, str] = {}
    """State → outcome of an unfinished row that is deleted in that state; ``*`` for all others. Without, cancelled."""
    namespace: str | None = None
    flow: str | None = None
    """Jobs with the same value belong to one flow."""
    result: str | None = None
    error: str | None = None
    """The result of what did not succeed."""
    result_table: str | None = None
    """Where ``result`` and ``error`` are, if not in the table of jobs: one row a job, written with the state, in one
    transaction and behind it."""
    result_key: str | None = None
    """Its column with the job's key; None if it has the same name."""
    tags: Mapping[str, str] = {}
    """Tag → column. The tag ``key`` always has the key's text, ``attachment`` the name."""
    history: str | None = None
    """The table has a row for each change of a job's state; this column says which is the newest."""

    def checked(self) -> Definition:
        """Itself. Raises ``Validation`` that names what is wrong."""
        self._check_names()
        if not self.outcomes:
            raise Validation("outcome", "at least one state must have an outcome: STATE=OUTCOME")
        for state, outcome in [*self.outcomes.items(), *self.deleted.items()]:
            if outcome not in OUTCOMES:
                raise Validation("outcome", f"{state}={outcome}: an outcome is one of {', '.join(OUTCOMES)}")
        for state in [*self.outcomes, *self.pending, *self.deleted]:
            _text("state", state)
        if both := sorted(set(self.outcomes) & set(self.pending)):
            raise Validation("state", f"{both[0]} is both finished and unfinished")
        if useless := sorted(set(self.outcomes) & set(self.deleted)):
            raise Validation("deleted", f"a job in the state {useless[0]} has finished: deleting it announces nothing")
        return self

    def _check_names(self) -> None:
        _name("name", self.name)
        table_parts(self.table)
        if self.result_table is not None:
            table_parts(self.result_table)
            if self.result is None and self.error is None:
                raise Validation("result", "of a table of results, the result's column or the error's is needed")
        elif self.result_key is not None:
            raise Validation("result_key", "belongs to a result_table")
        for column in [*self.columns, *self.result_columns]:
            _name("column", column)
        if "key" in self.tags or "attachment" in self.tags:
            raise Validation("tag", "the tags `key` and `attachment` are every job's already")
        for tag in self.tags:
            _name("tag", tag)

    @property
    def columns(self) -> list[str]:
        """Every column of the table of jobs that is read, once."""
        named = [self.key, self.state, self.namespace, self.flow, self.history, *self.tags.values()]
        if self.result_table is None:
            named += [self.result, self.error]
        return list(dict.fromkeys(column for column in named if column is not None))

    @property
    def result_columns(self) -> list[str]:
        """Every column that is read of the table of results, its key first; none where there is no such table."""
        if self.result_table is None:
            return []
        named = [self.key if self.result_key is None else self.result_key, self.result, self.error]
        return list(dict.fromkeys(column for column in named if column is not None))

    def is_pending(self, state: str) -> bool:
        """Whether a job in this state has not finished; "" stands for null."""
        if self.pending:
            return state in self.pending or not state
        return state.lower() in PENDING_WORDS or not state


def table_parts(table: str) -> tuple[str | None, str]:
    """Schema, or None, and table. Raises ``Validation``."""
    parts: list[str] = []
    at = -1
    while found := _PART.match(table, at + 1):
        parts.append(found[1].replace('""', '"') if found[1] is not None else found[2])
        at = found.end()
        if table[at : at + 1] != ".":
            break
    if at != len(table) or not 1 <= len(parts) <= 2:
        raise Validation("table", "must be table or schema.table, a part with a dot or a quote in double quotes")
    for part in parts:
        _name("table", part)
    return (parts[0], parts[1]) if len(parts) == 2 else (None, parts[0])


def _name(what: str, text: str) -> None:
    _text(what, text)
    if not text or len(text.encode()) > _LONGEST_NAME:
        raise Validation(what, f"a name has 1 to {_LONGEST_NAME} bytes")


def _text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Validation(what, "must be text that UTF-8 can spell") from None
    if "\0" in text:
        raise Validation(what, "must not have a NUL in it")
