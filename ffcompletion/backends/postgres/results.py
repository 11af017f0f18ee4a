"""Stored results beside completions: who wants which, whose they are, and how many of them fit one question. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, final

from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.lookups import Result
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import DISPUTED, Facts
from ffcompletion.delivery.hub import Group, Selector

__all__ = ["Budget", "admitted", "dispute", "stored_sizes"]

_START: Final = 1 << 20
_LEAST: Final = 1 << 14
_MOST: Final = 8 << 20
# An answer that comes within this many seconds may be twice as large the next time.
_QUICK_S: Final = 0.5
# How many times the usual time a single result may take, which cannot be divided.
_LONGEST: Final = 64


@final
class Budget:
    """Bytes of results in one question: fewer after a failure (a slow link), more again when answers are quick."""

    __slots__ = ("_bytes", "patience")

    def __init__(self) -> None:
        self._bytes = _START
        self.patience: int = 1
        """By how much a question may take longer than usual: more for a single result that failed."""

    def fit(self, sizes: Sequence[int | None]) -> int:
        """How many of them, from the first on, fit; one at the least, if there is any. None weighs nothing."""
        total = 0
        for count, size in enumerate(sizes):
            total += size or 0
            if total > self._bytes and count:
                return count
        return len(sizes)

    def shrink(self, count: int) -> None:
        """A question for so many results failed."""
        if count > 1:
            self._bytes = max(_LEAST, self._bytes // 2)
        else:
            self.patience = min(_LONGEST, self.patience * 2)

    def grow(self, took_s: float) -> None:
        """A question was answered."""
        self.patience = 1
        if took_s < _QUICK_S:
            self._bytes = min(_MOST, self._bytes * 2)


def admitted(
    selectors: Sequence[Selector], payloads: Sequence[CompletionPayload], facts: Sequence[Facts | None]
) -> AbstractSet[str]:
    """The executions whose results somebody is to get."""
    names: set[str] = set()
    for selector in selectors:
        if selector.results:
            # A group of its own, so that nothing is counted twice.
            chosen = Group(selector).select(payloads, facts)
            names.update(payload.execution_id for payload in chosen)
    return names


def stored_sizes(
    payloads: Sequence[CompletionPayload], wanted: AbstractSet[str], records: Mapping[str, Record]
) -> list[int | None]:
    """For each payload how large its result is; None where there is none, or nobody is to get it."""
    return [
        record.size if name in wanted and (record := records.get(name)) is not None else None
        for name in (payload.execution_id for payload in payloads)
    ]


def dispute(payloads: Sequence[CompletionPayload], facts: list[Facts | None], results: Mapping[str, Result]) -> None:
    """Whose record, by now, names another namespace than it was decided by is not given its result: in place."""
    for at, (payload, known) in enumerate(zip(payloads, facts, strict=False)):
        if known is None or (result := results.get(payload.execution_id)) is None:
            continue
        if not result.readable or result.namespace not in (None, known[0]):
            facts[at] = (known[0], DISPUTED)
