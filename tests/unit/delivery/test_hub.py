"""One source, many streams: who gets what, decided once for all that ask the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.delivery.batch import DISPUTED, UNREADABLE, Batch, Facts
from ffcompletion.delivery.hub import Group, Hub, Selector
from ffcompletion.foreign.filters import ForeignFilter, checked_filter

PAYLOADS = [
    ffc.CompletionPayload(ffc.ExecutionId(f"{{fp:0}}:550e8400-e29b-41d4-a716-44665544000{n}"), "success")
    for n in range(4)
]
RICH = [ffc.CompletionPayload(payload.execution_id, "success", b"r") for payload in PAYLOADS]
A, TAGGED = ffc.ScannerFilter("a"), ffc.ScannerFilter("a", ("k", "v"))


class Member:
    def __init__(self) -> None:
        self.got: list[Sequence[ffc.CompletionPayload]] = []

    def deliver(self, payloads: Sequence[ffc.CompletionPayload], batch: Batch, /) -> None:
        self.got.append(payloads)


def test_a_stream_gets_what_its_selector_admits_and_nothing_once_it_has_left() -> None:
    """With results where it wants them and there are any; of the rest, the position."""
    hub = Hub[Member]()
    plain, mine, rich = Member(), Member(), Member()
    asked = [(plain, Selector()), (mine, Selector(A)), (rich, Selector(results=True))]
    for member, selector in asked:
        hub.attach(member, selector)
    assert (hub.filters, hub.wants_results) == ([A], True)
    facts: list[Facts | None] = [("a", {}), ("b", {}), ("a", {}), None]
    hub.publish(Batch(PAYLOADS, RICH, facts))
    hub.publish(Batch(PAYLOADS, None, facts))
    assert (plain.got, mine.got) == ([PAYLOADS] * 2, [[PAYLOADS[0], PAYLOADS[2]]] * 2)
    assert rich.got == [RICH, PAYLOADS]
    hub.publish(Batch(PAYLOADS), only=lambda selector: selector.filter is None, fit=lambda _, payloads: payloads[1:])
    assert (len(mine.got), plain.got[-1], rich.got[-1]) == (2, PAYLOADS[1:], PAYLOADS[1:])
    for member, selector in [*asked, *asked]:
        hub.detach(member, selector)
    hub.publish(Batch(PAYLOADS))
    assert ([len(member.got) for member, _ in asked], hub.groups, hub.wants_results) == ([3, 2, 3], [], False)


def test_streams_that_ask_the_same_share_a_group_until_the_last_has_left() -> None:
    hub = Hub[Member]()
    one, other = Member(), Member()
    assert hub.attach(one, Selector(A)) is hub.attach(other, Selector(ffc.ScannerFilter("a")))
    hub.publish(Batch(PAYLOADS, facts=[("b", {})] * 4))
    assert [group.filtered for group in hub.groups] == [4], "each is counted once"
    hub.detach(one, Selector(A))
    hub.publish(Batch(PAYLOADS, facts=[("a", {})] * 4))
    assert (len(one.got), other.got) == (1, [[], PAYLOADS])


def test_a_stream_may_leave_while_a_batch_is_handed_out() -> None:
    hub = Hub[Member]()

    class Leaves(Member):
        @override
        def deliver(self, payloads: Sequence[ffc.CompletionPayload], batch: Batch, /) -> None:
            super().deliver(payloads, batch)
            hub.detach(self, Selector())

    members = [Leaves(), Leaves()]
    for member in members:
        hub.attach(member, Selector())
    hub.publish(Batch(PAYLOADS))
    assert [member.got for member in members] == [[PAYLOADS]] * 2
    assert not hub.groups


@pytest.mark.parametrize(
    ("known", "by_namespace", "by_tag", "with_results"),
    [
        (("a", {}), "admitted", "filtered", "admitted"),
        (("a", {"k": "v"}), "admitted", "admitted", "admitted"),
        (("a", {"k": None}), "admitted", "undecided", "admitted"),
        (("b", {"k": "v"}), "filtered", "filtered", "filtered"),
        (("a", UNREADABLE), "admitted", "undecided", "admitted"),
        (("a", DISPUTED), "admitted", "undecided", "undecided"),
        (None, "undecided", "undecided", "undecided"),
    ],
)
def test_what_cannot_be_told_is_withheld_and_counted(
    known: Facts | None, by_namespace: str, by_tag: str, with_results: str
) -> None:
    """A record that may be somebody else's gives away neither a tag nor a result."""
    for selector, verdict in (
        (Selector(A), by_namespace), (Selector(TAGGED), by_tag), (Selector(A, results=True), with_results),
    ):  # fmt: skip
        group = Group[Member](selector)
        admitted = group.select(PAYLOADS[:1], [known])
        assert (len(admitted), group.filtered, group.undecided) == (
            verdict == "admitted", verdict == "filtered", verdict == "undecided",
        )  # fmt: skip


def test_without_facts_no_filter_admits_anything() -> None:
    """And who has none gets the very same sequence."""
    group = Group[Member](Selector(A))
    assert (group.select(PAYLOADS, None), group.undecided) == ((), 4)
    assert Group[Member](Selector()).select(PAYLOADS, None) is PAYLOADS


def test_our_own_filters_are_asked_before_a_caller_s_own_code() -> None:
    hub = Hub[Member]()
    foreign = checked_filter(ffc.matching(lambda namespace, _: namespace == "a"))
    hub.attach(Member(), Selector(foreign))
    hub.attach(Member(), Selector(A))
    assert [type(group.selector.filter) for group in hub.groups] == [ffc.ScannerFilter, ForeignFilter]
