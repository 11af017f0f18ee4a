"""What the filters of streams are decided by: the row itself where it can, else the execution's record. Pure.

A row that carries its namespace decides a namespace filter, whatever its record says; a tag is only ever known from the
record. Where row and record name different namespaces, nobody who asks for a tag or a result is served: the record may
be somebody else's. What a stream gets depends on row, record and what it asks for, never on which others are open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, final

import msgspec

from ffcompletion.backends.postgres.rows import Row, tags_of
from ffcompletion.contract.combining import namespaces_of
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.delivery.batch import DISPUTED, UNREADABLE, Facts
from ffcompletion.delivery.hub import Selector

__all__ = ["Needs", "Record", "Records", "facts_of"]

_ROW_NAMESPACE: Final = 5


@final
class Record(msgspec.Struct, frozen=True, gc=False):
    """What an execution's record says."""

    namespace: str | None
    tags: str | None
    """Their JSON text."""
    size: int | None
    """Bytes of the stored result; None if there is none."""
    readable: bool = True
    """False: it holds bytes that are no text, so nothing is known."""


Records = Mapping[str, Record]
"""By execution id; those without a record are missing."""


@final
class Needs(msgspec.Struct, frozen=True):
    """For which rows the record has to be looked up, given the streams there are."""

    filtered: bool = False
    """There is a filter: rows without a namespace of their own need their record's."""
    tags_of: frozenset[str | None] = frozenset()
    """Namespaces whose rows need tags; None among them: all rows."""
    results: bool = False
    """Somebody wants results: for all rows, the record tells how large they are."""

    @classmethod
    def of(cls, selectors: Sequence[Selector]) -> Needs:
        """Of streams that ask for these."""
        filters = [wanted for selector in selectors if (wanted := selector.filter) is not None]
        return cls(
            bool(filters),
            frozenset(name for wanted in filters if wanted.tag_key is not None for name in _namespaces(wanted)),
            any(selector.results for selector in selectors),
        )

    def lookups(self, rows: Sequence[Row]) -> list[str]:
        """The executions among these rows that have to be looked up, each once."""
        if not self.filtered and not self.results:
            return []
        everything = self.results or None in self.tags_of
        names = (
            row[1] for row in rows if everything or row[_ROW_NAMESPACE] is None or row[_ROW_NAMESPACE] in self.tags_of
        )
        return list(dict.fromkeys(name for name in names if name is not None))


def _namespaces(wanted: CompletionFilter) -> Collection[str | None]:
    names = namespaces_of(wanted)
    return (None,) if names is None else names


def facts_of(rows: Sequence[Row], records: Records, looked_up: frozenset[str] | set[str]) -> list[Facts | None]:
    """What filters are to be decided by, for each row; None where that cannot be told."""
    return [_facts(row, records, looked_up) for row in rows]


def _facts(row: Row, records: Records, looked_up: frozenset[str] | set[str]) -> Facts | None:
    own = row[_ROW_NAMESPACE]
    name = row[1] or ""
    if name not in looked_up:
        return None if own is None else (own, {})
    record = records.get(name)
    if record is None:
        # No record: the row's own namespace may still decide, tags cannot.
        return None if own is None else (own, {})
    if not record.readable:
        return None if own is None else (own, DISPUTED)
    if own is not None and record.namespace is not None and own != record.namespace:
        return own, DISPUTED
    tags = tags_of(record.tags)
    return record.namespace if own is None else own, UNREADABLE if tags is None else tags
