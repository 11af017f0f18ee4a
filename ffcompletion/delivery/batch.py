"""What is handed to the streams at once: made whole where it is read or decided, and never changed afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

import msgspec
from typing_extensions import override

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["DISPUTED", "UNREADABLE", "Batch", "Facts"]

Facts = tuple[str | None, Mapping[str, str | None]]
"""What is known about an execution: its namespace, and at least the tags that somebody's filter asks for.

A tag that is there with None is one that cannot be read: who asks for it cannot tell.
"""


@final
class _Unreadable(Mapping[str, str | None]):
    """Tags of which nothing is known: each of them may be there, and cannot be read."""

    @override
    def __contains__(self, key: object) -> bool:
        return True

    @override
    def __getitem__(self, key: str) -> None:
        return None

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(())

    @override
    def __len__(self) -> int:
        return 0


UNREADABLE: Final[Mapping[str, str | None]] = _Unreadable()
"""Tags for ``Facts`` where the namespace is known, and no tag is."""
DISPUTED: Final[Mapping[str, str | None]] = _Unreadable()
"""The same, and the record may be another tenant's: no filter of who wants a tag or a result can tell."""


@final
class Batch(msgspec.Struct, frozen=True, gc=False):
    """Completions that go to the hub together; the sequences of payloads and facts run parallel."""

    plain: Sequence[CompletionPayload] = ()
    """Without results."""
    with_results: Sequence[CompletionPayload] | None = None
    """The same with their stored results, where some stream wants them and they were asked for."""
    facts: Sequence[Facts | None] | None = None
    """What filters are decided by, None for one that cannot be told; without them, no filter admits anything."""
    cursor: StreamCursor | None = None
    """The position after it, on backends that have one. A batch of nothing but that moves it."""
    ids: Sequence[int] = ()
    """The outbox rows that it was made of, on Postgres: what a stream that cannot take it has to read again."""
    beneath: Mapping[str, int] = msgspec.field(default_factory=dict[str, int])
    """Of rows far below, where nobody looked: each execution's. Who resumed below one reads it there."""
