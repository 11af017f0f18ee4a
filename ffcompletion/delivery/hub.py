"""One source, many streams: fan-out by filter, so that each filter is asked once however many streams share it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.delivery.ratelog import RateLog

__all__ = ["Facts", "Fit", "Group", "Hub", "Member", "Selector"]

_log = logging.getLogger("ffcompletion.filter")
_raised: Final = RateLog(_log)

Facts = tuple[str | None, Mapping[str, str | None]]
"""What is known about an execution: its namespace, and at least the tags that somebody's filter asks for.

A tag that is there with None is one that cannot be read: who asks for it cannot tell.
"""


@final
class Selector(msgspec.Struct, frozen=True):
    """What a stream asks for; streams with equal selectors share one pass of the filter."""

    filter: CompletionFilter | None = None
    """None admits everything."""
    results: bool = False
    """Whether payloads carry the stored result."""


class Member(Protocol):
    """One stream, as the hub sees it."""

    def deliver(self, batch: Sequence[CompletionPayload], cursor: StreamCursor | None) -> None:
        """Take a batch (maybe empty) and the position after it. Must not block and must not raise."""
        ...


Fit = Callable[[Member, Sequence[CompletionPayload]], Sequence[CompletionPayload]]


@final
class Group:
    """The streams that share a selector."""

    __slots__ = ("filtered", "members", "selector", "undecided")

    def __init__(self, selector: Selector) -> None:
        self.selector: Selector = selector
        self.members: dict[Member, None] = {}
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
        key = wanted.tag_key
        admitted: list[CompletionPayload] = []
        for payload, known in zip(payloads, facts, strict=True):
            verdict = None if known is None else admits(wanted, known, key)
            if verdict:
                admitted.append(payload)
            elif verdict is None:
                self.undecided += 1
            else:
                self.filtered += 1
        return admitted


def admits(wanted: CompletionFilter, facts: Facts, tag_key: str | None) -> bool | None:
    """Whether a filter admits an execution; None, undecided, if it raised or the tag that it asks for cannot be read."""
    tag = None if tag_key is None else facts[1].get(tag_key)
    if tag is None and tag_key is not None and tag_key in facts[1]:
        return None
    try:
        return bool(wanted.matches(facts[0], tag))
    except Exception as exc:  # noqa: BLE001  # somebody else's code: whatever it raises, it admits nothing
        _raised.warning(f"a filter's matches() raised {type(exc).__name__}; the completion is withheld")
        return None


@final
class Hub:
    """Hands each batch to every stream that it is for."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[Selector | int, Group] = {}

    def attach(self, member: Member, selector: Selector) -> Group:
        """Add a stream; it gets every batch published from now on."""
        group = self._groups.setdefault(_identity(selector), Group(selector))
        group.members[member] = None
        return group

    def detach(self, member: Member, selector: Selector) -> None:
        """Remove a stream. Idempotent."""
        group = self._groups.get(_identity(selector))
        if group is not None:
            group.members.pop(member, None)
            if not group.members:
                del self._groups[_identity(selector)]

    @property
    def groups(self) -> Sequence[Group]:
        """The groups that have streams."""
        return tuple(self._groups.values())

    @property
    def filters(self) -> Sequence[CompletionFilter]:
        """The filters in use, each once."""
        return [wanted for group in self._groups.values() if (wanted := group.selector.filter) is not None]

    @property
    def wants_results(self) -> bool:
        """Whether any stream asked for results."""
        return any(group.selector.results for group in self._groups.values())

    def publish(
        self,
        plain: Sequence[CompletionPayload],
        with_results: Sequence[CompletionPayload] | None = None,
        facts: Sequence[Facts | None] | None = None,
        cursor: StreamCursor | None = None,
        only: Callable[[Selector], bool] | None = None,
        fit: Fit | None = None,
    ) -> None:
        """Hand out a batch. ``with_results`` and ``facts`` run parallel to ``plain``; ``cursor`` is after the batch.

        ``only``: to the streams with such selectors. ``fit``: what of a batch is for one of them, where not all is.
        """
        for group in self.groups:
            if only is not None and not only(group.selector):
                continue
            payloads = with_results if group.selector.results and with_results is not None else plain
            batch = group.select(payloads, facts)
            for member in tuple(group.members):
                member.deliver(batch if fit is None else fit(member, batch), cursor)


def _identity(selector: Selector) -> Selector | int:
    # Somebody else's filter may be unhashable; then only the very same object shares a group.
    try:
        hash(selector)
    except TypeError:
        return id(selector.filter)
    return selector
