"""One source, many streams: fan-out by filter, so that each filter is asked once however many streams share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, final

import msgspec
from typing_extensions import TypeVar

from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import DISPUTED, Batch, Facts
from ffcompletion.foreign.filters import ForeignFilter, Wanted, admits

__all__ = ["Fit", "Group", "Hub", "Member", "Selector"]


@final
class Selector(msgspec.Struct, frozen=True):
    """What a stream asks for; streams with equal selectors share one pass of the filter."""

    filter: Wanted | None = None
    """None admits everything."""
    results: bool = False
    """Whether payloads carry the stored result."""


class Member(Protocol):
    """One stream, as the hub sees it."""

    def deliver(self, payloads: Sequence[CompletionPayload], batch: Batch, /) -> None:
        """Take what of a batch is for this stream (maybe nothing), and its position. Must not block and must not raise."""
        ...


MemberT = TypeVar("MemberT", bound=Member, default=Member)

Fit = Callable[[MemberT, Sequence[CompletionPayload]], Sequence[CompletionPayload]]
"""What of a batch is for one stream."""


@final
class Group(Generic[MemberT]):
    """The streams that share a selector."""

    __slots__ = ("filtered", "members", "selector", "undecided")

    def __init__(self, selector: Selector) -> None:
        self.selector: Selector = selector
        self.members: dict[MemberT, None] = {}
        self.filtered: int = 0
        self.undecided: int = 0

    def select(
        self, payloads: Sequence[CompletionPayload], facts: Sequence[Facts | None] | None
    ) -> Sequence[CompletionPayload]:
        """What the selector admits, in order. Without a filter the very same sequence."""
        wanted = self.selector.filter
        if wanted is None:
            return payloads
        if facts is None:
            # A filter and nothing to decide by: fail closed.
            self.undecided += len(payloads)
            return ()
        key, results = wanted.tag_key, self.selector.results
        admitted: list[CompletionPayload] = []
        for payload, known in zip(payloads, facts, strict=True):
            withheld = known is None or (results and known[1] is DISPUTED)
            verdict = None if known is None or withheld else _verdict(wanted, key, known)
            if verdict:
                admitted.append(payload)
            elif verdict is None:
                self.undecided += 1
            else:
                self.filtered += 1
        return admitted


def _verdict(wanted: Wanted, key: str | None, known: Facts) -> bool | None:
    namespace, tags = known
    if key is None:
        return admits(wanted, namespace, None)
    tag = tags.get(key)
    return None if tag is None and key in tags else admits(wanted, namespace, tag)


@final
class Hub(Generic[MemberT]):
    """Hands each batch to every stream that it is for."""

    __slots__ = ("_groups", "groups")

    def __init__(self) -> None:
        self._groups: dict[Selector, Group[MemberT]] = {}
        self.groups: Sequence[Group[MemberT]] = ()
        """The groups that have streams; those whose filter is a caller's own code come last, and are waited for by none."""

    def attach(self, member: MemberT, selector: Selector) -> Group[MemberT]:
        """Add a stream; it gets every batch published from now on."""
        group = self._groups.get(selector)
        if group is None:
            group = self._groups[selector] = Group[MemberT](selector)
            self._order()
        group.members[member] = None
        return group

    def detach(self, member: MemberT, selector: Selector) -> None:
        """Remove a stream. Idempotent."""
        group = self._groups.get(selector)
        if group is not None:
            group.members.pop(member, None)
            if not group.members:
                del self._groups[selector]
                self._order()

    def _order(self) -> None:
        self.groups = sorted(self._groups.values(), key=lambda group: isinstance(group.selector.filter, ForeignFilter))

    @property
    def filters(self) -> Sequence[Wanted]:
        """The filters in use, each once."""
        return [wanted for group in self._groups.values() if (wanted := group.selector.filter) is not None]

    @property
    def wants_results(self) -> bool:
        """Whether any stream asked for results."""
        return any(group.selector.results for group in self._groups.values())

    def publish(
        self,
        batch: Batch,
        /,
        only: Callable[[Selector], bool] | None = None,
        fit: Fit[MemberT] | None = None,
    ) -> None:
        """Hand out a batch.

        ``only``: to the streams with such selectors. ``fit``: what of a batch is for one of them, where not all is.
        """
        for group in self.groups:
            if only is not None and not only(group.selector):
                continue
            rich = batch.with_results if group.selector.results else None
            payloads = group.select(batch.plain if rich is None else rich, batch.facts)
            for member in tuple(group.members):
                member.deliver(payloads if fit is None else fit(member, payloads), batch)
