"""What is told and asked of ids far below where the reader began."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ffcompletion.backends.postgres import beneath
from ffcompletion.backends.postgres.announced import Hints
from ffcompletion.backends.postgres.beneath import Beneath
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.states import Read

LATE = 7


class Leader:
    """One that looked no further than 1,000 down, while somebody wrote."""

    def __init__(self) -> None:
        self.tracker = GapTracker(2_000)
        self.tracker.assume([], 0.0, 1_000, ["1/1"])
        self.settle_at = 1e9
        self.behind = [self]


class Session:
    """Rows and who wrote each; number 7 was under way."""

    polling_reason = ""

    def __init__(self, rows: dict[int, int]) -> None:
        self.rows = rows
        self.asked = 0
        self.more = False

    async def fetch(self, query: Any, values: Sequence[Any] = (), *, read: bool = False) -> list[Any]:
        self.asked += 1
        if "pg_xact_status" in str(query):
            return [([LATE], 9, 2, self.more)]
        if b"LIMIT" in query:
            stretch = sorted(id_ for id_ in self.rows if id_ <= values[3])[-values[4] :]
            return [(min(stretch, default=1), [id_ for id_ in stretch if self.rows[id_] in values[0]])]
        if b"AS x" in query:
            return [
                (id_, by)
                for id_, by in self.rows.items()
                if id_ in values[0] and (by in values[1] or values[2] <= by < 9)
            ]
        return [(id_,) for id_, by in self.rows.items() if values[0] < id_ < values[1] and by in values[2]]


def test_what_is_missing_up_to_where_nobody_looked() -> None:
    """Not where somebody did, nor what is another's to bring; and once it is told, it is looked after."""
    leader = Leader()
    made = Beneath(leader, Queries(None))
    assert made.missing(Read(990, 3_000, 0, [(997, 998)]), 2_500, [991, 995, 2_000], made.upto) == [
        (992, 994),
        (996, 996),
        (999, 1_000),
    ]
    assert made.missing(Read(1_000, 3_000, 0), 2_500, [2_000], made.upto) == []
    made.missed([(992, 994)])
    assert (leader.tracker.spans(), leader.settle_at < 1e9) == ([(992, 994)], True)


async def test_what_may_not_have_been_heard_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch at a time, down to the lowest, or as many as there are to be, on a new connection; elsewhere now and then."""
    monkeypatch.setattr(beneath, "_ROWS", 10)
    rows = {id_: LATE if id_ % 5 else 3 for id_ in range(1, 26)}
    leader, session = Leader(), Session(rows)
    made = Beneath(leader, Queries(None))
    await made.begin(session)
    assert await made.believed(session, Hints()) == Hints()
    again = Session(rows)
    late = [id_ for id_ in rows if id_ % 5]
    found = [(await made.believed(again, Hints())).ids]
    more = made.unfinished
    assert more
    found += [(await made.believed(again, Hints())).ids for _ in range(3)]
    assert [id_ for ids in reversed(found) for id_ in ids] == late
    more = made.unfinished
    assert ([len(ids) for ids in found], more) == ([8, 8, 4, 0], False)
    monkeypatch.setattr(beneath, "_STRETCHES", 1)
    # What came too fast is such, too; and where nothing is heard; not at once again.
    assert not (await made.believed(again, Hints(look=True))).ids
    made._again_at = 0.0
    assert len((await made.believed(again, Hints(look=True))).ids) == 8
    made._again_at, again.polling_reason = 0.0, "deaf"
    assert len((await made.believed(again, Hints())).ids) == 8
    assert not (await made.believed(again, Hints())).ids


@pytest.mark.parametrize("why", ["connection", "deaf", "too many"])
async def test_it_is_looked_through_to_the_end_though_all_have_ended(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """What they committed last is there by then. Once; and not long after, where all of it was heard."""
    monkeypatch.setattr(beneath, "_ROWS", 10)
    rows = dict.fromkeys(range(1, 26), LATE)
    for heard in (False, True):
        leader, session = Leader(), Session(rows)
        made = Beneath(leader, Queries(None))
        await made.begin(session)
        assert not (await made.believed(session, Hints())).ids
        leader.tracker.observe([])
        if heard:
            made._until = -1.0
            assert not (await made.believed(session, Hints())).ids
        again = Session(rows) if why == "connection" else session
        again.polling_reason = "deaf" if why == "deaf" else ""
        hints = Hints(look=why == "too many")
        found = [len((await made.believed(again, hints)).ids) for _ in range(4)]
        assert (found, made.unfinished) == ([0, 0, 0, 0] if heard else [10, 10, 5, 0], False)


async def test_a_subtransaction_that_was_released_too_long_ago_is_believed() -> None:
    """Its number is not among those that are asked for: then all that was written since the oldest began."""
    for more in (False, True):
        session = Session({900: 1, 901: 2, 902: 8, 903: 3})
        session.more = more
        made = Beneath(Leader(), Queries(None))
        await made.begin(session)
        assert (await made.believed(session, Hints((900, 901, 902)))).ids == ((901, 902) if more else ())


def test_what_has_come_meanwhile_is_nobodys_gap() -> None:
    """Not that of a place where it still waits for its record: a stream that joins there would leave it to the hub."""
    leader, place = Leader(), Leader()
    leader.behind = [place]
    made = Beneath(leader, Queries(None))
    assert leader.tracker.may_be_late([992]) == [992]
    leader.tracker.admit([992], 0.0)
    assert made.missed([(991, 994)]) == [(991, 991), (993, 994)]
    assert leader.tracker.spans() == place.tracker.spans() == [(991, 991), (993, 994)]


def test_an_announcement_stands_for_what_the_same_one_wrote_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes on, a stretch at a time, and no further than so many looks; others' rows are left out."""
    monkeypatch.setattr(beneath, "_WITHIN", 10)
    rows = {**dict.fromkeys(range(100, 400, 8), LATE), **dict.fromkeys(range(101, 401, 8), 3), 50: LATE, 950: LATE}
    made = Beneath(Leader(), Queries(None))

    async def believed(*ids: int) -> tuple[Sequence[int], int]:
        session = Session(rows)
        await made.begin(session)
        return (await made.believed(session, Hints(ids))).ids, session.asked - 1

    assert asyncio.run(believed(1_001)) == ((1_001,), 0)
    assert asyncio.run(believed(101, 405, 1_001)) == ((1_001,), 1)
    found, _ = asyncio.run(believed(50, 392, 396, 950, 1_001))
    assert found == (50, *range(100, 400, 8), 950, 1_001)
    monkeypatch.setattr(beneath, "_MOST_LOOKS", 3)
    assert asyncio.run(believed(396)) == ((372, 380, 388, 396), 4)
