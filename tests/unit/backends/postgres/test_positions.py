"""``stream.cursor`` against a model: resuming there, at any moment, yields everything that was not yielded yet."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.postgres.beneath import Beneath
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.outbox import Stream
from ffcompletion.backends.postgres.pages import Piece
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.source import Source
from ffcompletion.backends.postgres.spans import Spans, covers, missing
from ffcompletion.backends.postgres.states import Missing, Read
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import Batch, Facts
from ffcompletion.delivery.buffer import Room
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.stream import Subscription
from ffcompletion.delivery.tenure import Leased

Row = tuple[int, str, str]
"""Event id, a name that is given once, and the tenant."""

# The long profile: FFCOMPLETION_TEST_POSITIONS=5000.
EXAMPLES = int(os.environ.get("FFCOMPLETION_TEST_POSITIONS", "60"))
PAGE = 4
PIECE = 2
# With little room a page is one row; with more it has some of both sides of a gap.
BUFFERS = 3, 9


def payload(row: Row, watermark: int) -> CompletionPayload:
    event_id, name, _ = row
    return CompletionPayload(
        ffc.ExecutionId(f"{{fp:0}}:00000000-0000-4000-8000-{int(name):012d}"),
        "success",
        cursor=StreamCursor.outbox(min(event_id, watermark)),
    )


def facts(row: Row) -> Facts:
    return row[2], {}


class Page:
    """A page as a stream takes it, of rows that the server selected."""

    def __init__(
        self, rows: Sequence[Row], tenant: str | None, reached: int, limit: int, beneath: Beneath, lacks: Spans
    ) -> None:
        self.beneath = beneath
        self.lacks = lacks
        self.rows = list(rows)
        self.tenant = tenant
        self.reached = reached
        self.bytes = 0
        self.limit = limit

    def __len__(self) -> int:
        return len(self.rows)

    def limit_cursors(self, limit: int) -> None:
        self.limit = min(self.limit, limit)

    def missed(self) -> Missing:
        if not self.lacks:
            return Missing()
        self.limit_cursors(self.lacks[0][0] - 1)
        return Missing(self.lacks, self.beneath.missed(self.lacks))

    def take(self, most: int) -> Piece:
        count = min(PIECE, most)
        taken, self.rows = self.rows[:count], self.rows[count:]
        admitted = [payload(row, self.limit) for row in taken if self.tenant in (None, row[2])]
        return Piece(admitted, taken[-1][0], len(taken) - len(admitted), 0, 0)


class Server:
    """Rows, transactions that are under way, and the one reader's place: what the machine plays with."""

    def __init__(self) -> None:
        self.sequence = 0
        # What was there when the reader began.
        self.stored: frozenset[str] = frozenset()
        self.names = 0
        self.visible: dict[int, Row] = {}
        self.under_way: dict[str, list[Row]] = {}
        self.tracker = GapTracker(0)
        self.hub = Hub[Stream]()
        self.now = 0.0
        self.buffer = min(BUFFERS)
        self.behind: list[Any] = []
        self.settle_at = 0.0

    def skipped(self, malformed: int) -> None:
        raise AssertionError(malformed)

    def insert(self, tenant: str) -> Row:
        self.sequence += 1
        self.names += 1
        return self.sequence, str(self.names), tenant

    def admit(self, ids: Sequence[int]) -> None:
        """Hand out what of these was not seen before."""
        if beneath := self.tracker.beneath(ids):
            self.tracker.below.extend(sorted(beneath))
            self.publish(sorted(beneath), beneath=True)
        self.publish(ids)

    def publish(self, ids: Sequence[int], *, beneath: bool = False) -> None:
        self.now += 1
        fresh = [ids[index] for index in self.tracker.admit(ids, self.now)]
        if fresh:
            rows = [self.visible[event_id] for event_id in fresh]
            watermark = self.tracker.watermark
            self.hub.publish(
                Batch(
                    [payload(row, watermark) for row in rows],
                    None,
                    [facts(row) for row in rows],
                    StreamCursor.outbox(watermark),
                    fresh,
                    {payload(row, 0).execution_id: row[0] for row in rows} if beneath else {},
                )
            )


class Pages:
    """Reads that end when the machine says so."""

    def __init__(self, server: Server, tenant: str | None) -> None:
        self.server = server
        self.tenant = tenant
        self.waiting: asyncio.Future[bool] | None = None
        self.stopped = False

    async def read(self, selector: Selector, step: Read, room: Room) -> Page | None:
        early = self.select(step, room)
        self.waiting = asyncio.get_running_loop().create_future()
        seen_early = await self.waiting
        self.waiting = None
        if self.stopped:
            return None
        return early if seen_early else self.select(step, room)

    def select(self, step: Read, room: Room) -> Page:
        most = min(PAGE, room.items)
        stretch = sorted(event_id for event_id in self.server.visible if event_id > step.after)[:most]
        reached = min(stretch[-1], step.upto) if len(stretch) == most else step.upto
        rows = [
            self.server.visible[event_id]
            for event_id in stretch
            if event_id <= reached and not covers(step.holes, (event_id, event_id))
        ]
        beneath = Beneath(self.server, Queries(None))
        lacks = beneath.missing(step, reached, stretch, beneath.upto)
        return Page(rows, self.tenant, reached, step.limit, beneath, lacks)

    def answer(self, *, seen_early: bool) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(seen_early)

    def finish(self) -> None:
        self.stopped = True
        self.answer(seen_early=True)

    def abort(self) -> None:
        self.finish()


class Consumer:
    """One stream, and what it has yielded."""

    def __init__(self, server: Server, tenant: str | None, after: int | None) -> None:
        self.tenant = tenant
        self.pages = Pages(server, tenant)
        # What it is not asked for: it was there, and it lies before the beginning.
        self.before = {row[1] for row in server.visible.values() if after is None or row[0] <= after}
        # Where nobody looked, others may find what is missing; one from now on is not asked for that.
        self.strict = after is not None or not server.tracker.floor
        if after is None:
            under_way = (row for rows in server.under_way.values() for row in rows)
            self.before |= {row[1] for row in under_way if row[0] <= server.tracker.floor}
        self.yielded: set[str] = set()
        # By this stream itself: each once.
        self.mine: set[str] = set()
        # What is announced to it: what the reader has still to find, or all that was written after its position.
        tracker = server.tracker
        self.first = (tracker.high if after is None else after) + 1
        self.missing = [] if after is not None else tracker.spans()
        # Whether it has seen a history replaced, whose rows were announced and are no longer there.
        self.replaced = False
        # When it was last looked at.
        self.counted = ffc.StreamStats()
        selector = Selector(None if tenant is None else ffc.ScannerFilter(tenant))
        self.source = Source(server, server.hub, self.pages, selector, server.buffer, self.gone, after)
        self.stream = Subscription(self.source, "model")

    async def gone(self, feed: Leased) -> None:
        """The backend's part in closing."""

    def wants(self, row: Row) -> bool:
        """Whether this row is still to be yielded."""
        return self.tenant in (None, row[2]) and row[1] not in self.before and row[1] not in self.yielded

    def announced(self, event_id: int) -> bool:
        """Whether a row of this id is one that it has to account for."""
        return event_id >= self.first or covers(self.missing, (event_id, event_id))


class Positions(RuleBasedStateMachine):
    """Commits, rollbacks, late commits, strangers, polls, joins, overflows, takes, yields, closings, in any order."""

    transactions: Bundle[str] = Bundle("transactions")
    consumers: Bundle[Consumer] = Bundle("consumers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.server = Server()
        self.all: list[Consumer] = []
        self.positions: list[int] = []

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    @initialize(
        target=transactions,
        backlog=st.lists(st.sampled_from("ab"), max_size=12),
        buffer=st.sampled_from(BUFFERS),
        early=st.lists(st.integers(0, 12), max_size=3),
        floor=st.integers(0, 12),
    )
    def start(self, backlog: list[str], buffer: int, early: list[int], floor: int) -> Any:
        """Some writers are at work already, among the rows that are there; the reader looks back to its floor."""
        server = self.server
        server.buffer = buffer
        for number, tenant in enumerate(backlog):
            for _ in range(early.count(number)):
                self.begin([tenant, "b"])
            row = server.insert(tenant)
            server.visible[row[0]] = row
        server.stored = frozenset(row[1] for row in server.visible.values())
        start = max(server.visible, default=0)
        server.tracker = GapTracker(start)
        if server.under_way:
            floor = min(floor, start)
            looked = [event_id for event_id in sorted(server.visible) if event_id > floor]
            server.tracker.assume(missing([floor, *looked, start + 1]), 0.0, floor, server.under_way)
        return multiple(*server.under_way)

    # ── writers ──────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(target=transactions, tenants=st.lists(st.sampled_from("ab"), min_size=1, max_size=3))
    def begin(self, tenants: list[str]) -> str:
        name = f"{self.server.names}/1"
        self.server.under_way[name] = [self.server.insert(tenant) for tenant in tenants]
        return name

    @rule(transaction=consumes(transactions), commit=st.booleans())
    def end(self, transaction: str, commit: bool) -> None:
        rows = self.server.under_way.pop(transaction, [])
        if commit:
            self.server.visible |= {row[0]: row for row in rows}

    @rule(tenants=st.lists(st.sampled_from("abbb"), min_size=1, max_size=5))
    def commit_at_once(self, tenants: list[str]) -> None:
        for tenant in tenants:
            row = self.server.insert(tenant)
            self.server.visible[row[0]] = row

    # ── the reader ───────────────────────────────────────────────────────────────────────────────────────────────

    @rule(reread=st.integers(0, 4), most=st.integers(1, 6))
    def poll(self, reread: int, most: int) -> None:
        server = self.server
        after = max(server.tracker.watermark, server.tracker.high - reread)
        server.admit(sorted(event_id for event_id in server.visible if event_id > after)[:most])

    @rule()
    def hear(self) -> None:
        """What was under way when the reader began, and was committed since, is announced."""
        server = self.server
        late = [event_id for event_id, row in server.visible.items() if row[1] not in server.stored]
        server.admit(server.tracker.may_be_late(sorted(late)))

    @rule()
    def settle(self) -> None:
        """The owners are asked for, and gaps without any are decided."""
        server = self.server
        server.tracker.observe(server.under_way)
        resolvable = server.tracker.resolvable
        for low, high in resolvable:
            server.admit(sorted(event_id for event_id in server.visible if low <= event_id <= high))
        server.tracker.retire(resolvable)
        if resolvable:
            server.hub.publish(Batch(cursor=StreamCursor.outbox(server.tracker.watermark)))

    @precondition(lambda self: self.server.visible)
    @rule(back=st.integers(1, 4))
    def promote_a_replica(self, back: int) -> None:
        """It lacks the newest rows, what was under way is gone, and ids are given anew."""
        server = self.server
        high = max(0, server.tracker.high - back)
        server.visible = {event_id: row for event_id, row in server.visible.items() if event_id <= high}
        server.under_way.clear()
        server.sequence = high
        server.tracker.forget_owners()
        server.tracker.rewind(high)
        # A position that was stored before is one of another history, whose business that is elsewhere.
        self.all = [consumer for consumer in self.all if not consumer.source.closed]
        for consumer in self.all:
            consumer.source.rewind(high)
            consumer.replaced = True

    # ── consumers ────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(target=consumers, tenant=st.sampled_from([None, "a"]), where=st.sampled_from(["now", "beginning", "cursor"]))
    def subscribe(self, tenant: str | None, where: str) -> Consumer:
        async def opened() -> Consumer:
            # No position was handed out beyond what is still to come, whoever read then.
            lowest = min((row[0] for rows in self.server.under_way.values() for row in rows), default=1 << 62)
            stored = min(self.server.tracker.watermark // 2, lowest - 1)
            after = {"now": None, "beginning": 0}.get(where, stored)
            return Consumer(self.server, tenant, after)

        consumer = self.loop.run_until_complete(opened())
        self.all.append(consumer)
        return consumer

    @rule(consumer=consumers)
    def resubscribe(self, consumer: Consumer) -> None:
        """Closed wherever it is; another goes on from its position, and together they miss nothing."""

        if consumer not in self.all:
            return

        async def again() -> None:
            await consumer.stream.aclose()
            self.check(consumer)
            position = consumer.stream.cursor
            assert position is not None
            following = Consumer(self.server, consumer.tenant, position.position)
            following.before = consumer.before
            following.yielded = consumer.yielded
            self.all.append(following)

        self.run(again())

    @rule(consumer=consumers, count=st.integers(1, 8), seen_early=st.booleans())
    def read(self, consumer: Consumer, count: int, seen_early: bool) -> None:
        """Up to so many items; a read that the stream waits for is answered on the way."""

        async def some() -> None:
            for _ in range(count):
                waiting = asyncio.ensure_future(consumer.stream.__anext__())
                await turns()
                if not waiting.done():
                    consumer.pages.answer(seen_early=seen_early)
                    await turns()
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.wait([waiting])
                    return
                with contextlib.suppress(StopAsyncIteration):
                    item = waiting.result()
                    name = str(int(item.execution_id[-12:]))
                    assert item.cursor is not None
                    consumer.yielded.add(name)
                    assert name not in consumer.mine or consumer.replaced, "it came twice"
                    consumer.mine.add(name)
                    # One that was in hand when the history was replaced is a row of the old one, with its cursor.
                    if name in {row[1] for row in self.server.visible.values()}:
                        self.holds(consumer, item.cursor.position, "a payload's cursor ran ahead")
                self.check(consumer)

        self.run(some())

    @rule(consumer=consumers, seen_early=st.booleans())
    def answer(self, consumer: Consumer, seen_early: bool) -> None:
        """A read ahead ends, while nobody reads."""

        async def answered() -> None:
            await turns()
            consumer.pages.answer(seen_early=seen_early)
            await turns()

        self.run(answered())

    @rule(consumer=consumers)
    def cancelled_wait(self, consumer: Consumer) -> None:
        """A wait that is given up at once."""

        async def given_up() -> None:
            waiting = asyncio.ensure_future(consumer.stream.__anext__())
            await asyncio.sleep(0)
            if not waiting.cancel():
                with contextlib.suppress(StopAsyncIteration):
                    consumer.yielded.add(str(int(waiting.result().execution_id[-12:])))
            await asyncio.wait([waiting])

        self.run(given_up())

    @rule(consumer=consumers)
    def close(self, consumer: Consumer) -> None:
        self.run(consumer.stream.aclose())

    # ── what holds ───────────────────────────────────────────────────────────────────────────────────────────────

    def holds(self, consumer: Consumer, position: int, what: str) -> None:
        rows = [*self.server.visible.values(), *(row for rows in self.server.under_way.values() for row in rows)]
        # What is under way may still commit; a stream from now is asked for it as well, for it commits after that.
        passed = [row for row in rows if row[0] <= position and consumer.wants(row) and consumer in self.all]
        assert not passed, f"{what}: {position} passes {passed}"

    def check(self, consumer: Consumer) -> None:
        cursor = consumer.stream.cursor
        assert cursor is not None
        self.holds(consumer, cursor.position, "the stream's cursor ran ahead")

    @invariant()
    def resuming_yields_the_rest(self) -> None:
        for consumer in self.all:
            self.check(consumer)

    @invariant()
    def no_more_is_held_than_there_is_room_for(self) -> None:
        """Live, joining, catching up and overflowed: in the buffer, read ahead, and in hand, together."""
        for consumer in self.all:
            assert consumer.stream.stats().buffered <= self.server.buffer

    @invariant()
    def no_counter_runs_backwards(self) -> None:
        """And of what a table keeps nothing is lost."""
        for consumer in self.all:
            stats = consumer.stream.stats()
            for name in ("delivered", "filtered", "undecided", "overflows"):
                assert getattr(stats, name) >= getattr(consumer.counted, name), name
            assert stats.lost == 0
            consumer.counted = stats

    @override
    def teardown(self) -> None:
        """When all writers have ended and each stream reads on, it yields everything, and its position arrives."""
        try:
            self.at_the_end()
        finally:
            for consumer in self.all:
                self.run(consumer.stream.aclose())
            self.run(turns())
            self.loop.close()

    def at_the_end(self) -> None:
        server = self.server
        server.under_way.clear()
        self.poll(0, 1_000)
        self.settle()
        self.settle()
        for consumer in self.all:
            if consumer.source.closed:
                continue
            for _ in range(40):
                self.read(consumer, 8, False)
            assert not [row for row in server.visible.values() if consumer.wants(row)]
            # And a restart would repeat nothing.
            assert consumer.stream.cursor is not None
            assert consumer.stream.cursor.position >= max(server.visible, default=0)
            if not consumer.replaced and consumer.strict:
                stats = consumer.stream.stats()
                accounted = stats.delivered + stats.buffered + stats.filtered + stats.undecided + stats.lost
                assert accounted == sum(map(consumer.announced, server.visible))


async def turns() -> None:
    """Everything that can go on by itself does."""
    for _ in range(12):
        await asyncio.sleep(0)


TestPositions = Positions.TestCase
TestPositions.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
