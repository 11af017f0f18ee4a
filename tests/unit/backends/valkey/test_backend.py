"""One backend through everything that may happen to it, in any order, on a server that is made up."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

from glide import ClosingError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend, commands, reconciler, session, supervisor
from ffcompletion.delivery.stream import Subscription
from tests.worlds import FLOW, done

T = TypeVar("T")
PATIENCE_S = 30.0
ROOM = 3


class Client:
    """What glide would have made: open until it is closed or cut."""

    def __init__(self, server: Server, on_message: Callable[[Any, object], None] | None) -> None:
        self.server, self.on_message = server, on_message
        self.channels: set[str] = set()
        self.identity = next(server.identities)
        self.cut = False
        server.clients.append(self)

    async def ping(self) -> bytes:
        await self.answer()
        return b"PONG"

    async def subscribe(self, channels: set[str], timeout_ms: int) -> None:
        await self.answer()
        self.channels |= channels

    async def answer(self) -> None:
        await asyncio.sleep(0)
        if self.cut or self.server.down:
            raise ClosingError("the server is gone")


class Server:
    """Keys, an index and a channel, in memory."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.identities = itertools.count()
        self.namespaces: dict[str, str] = {}
        self.index: dict[str, int] = {}
        self.down = False

    @staticmethod
    def now_ms() -> int:
        """Its clock goes as ours does, however long we are kept waiting; a backend counts on that."""
        return 1_700_000_000_000 + time.monotonic_ns() // 1_000_000

    async def make_client(self, options: object, on_message: Any = None) -> Client:
        await asyncio.sleep(0)
        return Client(self, on_message)

    def abort_client(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
        client.cut = True

    def drop_all(self) -> None:
        for client in self.clients:
            client.cut = True

    def publish(self, channel: str, message: bytes) -> None:
        for client in self.clients:
            if channel in client.channels and client.on_message is not None and not client.cut:
                client.on_message(SimpleNamespace(channel=channel.encode(), message=message), None)

    def finish(self, namespace: str, *, push: bool) -> None:
        item = done()
        self.namespaces[item.execution_id] = namespace
        self.index[item.execution_id] = self.now_ms()
        message = {"flow_id": FLOW, "outcome": "success", "execution_id": item.execution_id}
        if push:
            self.publish("ff:dag:completions", json.dumps(message, separators=(",", ":")).encode())

    async def batch(
        self, client: Client, asked: Sequence[Sequence[str]], *, route_to_channel: bool = False, patience: int = 1
    ) -> list[Any]:
        await client.answer()
        return [self.reply(client, *command) for command in asked]

    def reply(self, client: Client, name: str, *words: str) -> object:
        record = words[0].removeprefix("ff:exec:").partition("}:")[2].rpartition(":")[0] if words else ""
        match name:
            case "CLIENT":
                return f"id={client.identity} addr=x".encode()
            case "INFO":
                return b"valkey_version:9.1.0"
            case "PUBLISH":
                self.publish(words[0], words[1].encode())
                return 1
            case "TIME":
                now = self.now_ms()
                return [b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000)]
            case "SSCAN":
                return [b"0", list[bytes]()]
            case "HGET" if words[1] == "namespace":
                return self.namespaces.get(record, "").encode() or None
            case "HMGET" if record in self.namespaces:
                return [b"terminal", b"success", FLOW.encode(), b"0"]
            case "ZRANGE":
                tag = words[0].split("}")[0].removeprefix("ff:idx:") + "}"
                found = {
                    id_: at
                    for id_, at in self.index.items()
                    if id_.startswith(tag) and int(words[1]) <= at <= int(words[2])
                }
                return {
                    id_.encode(): float(at)
                    for id_, at in sorted(found.items(), key=lambda item: item[1])[: int(words[6])]
                }
            case _:
                return None


def _seldom(life: Any) -> bool:
    """What ends everything is left out four times of five, so that there is something to end."""
    life.steps += 1
    return bool(life.steps % 5 == 0)


class Life(RuleBasedStateMachine):
    """A live stream receives, counters add up, and a closed backend holds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.server = Server()
        self.patches = [
            patch.object(module, name, getattr(self.server, name))
            for module in (session, commands)
            for name in ("make_client", "batch", "abort_client")
        ]
        self.patches += [
            patch.object(supervisor, "_CHECK_EVERY_S", 0.01),
            patch.object(reconciler, "_APART_S", 0.0),
        ]
        for each in self.patches:
            each.start()
        self.loop = asyncio.new_event_loop()
        self.left: list[Subscription] = []
        self.start()

    def start(self) -> None:
        self.backend = ValkeyBackend(
            "valkey://nowhere", reconcile_interval=0.05, buffer_size=ROOM, setup_timeout=PATIENCE_S, linger=0.02
        )
        # Each open stream, and what had been finished for it before it was opened.
        self.streams: dict[Subscription, int] = {}
        self.finished = 0
        # What was counted when it was last looked at: by each stream that is or was open, and by the backend.
        self.counted: dict[Subscription, ffc.StreamStats] = {}
        self.counted_by_backend = self.backend.stats()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))

    # ── what may happen ──────────────────────────────────────────────────────────────────────────────────────────

    @rule(filtered=st.booleans())
    def subscribe(self, filtered: bool) -> None:
        wanted = ffc.ScannerFilter("a") if filtered else ffc.ScannerFilter()
        stream = self.do(self.backend.subscribe_completions_filtered(wanted))
        self.streams[stream] = self.finished

    @rule(turns=st.integers(0, 40))
    def subscribe_and_be_cancelled(self, turns: int) -> None:
        async def work() -> None:
            subscribing = asyncio.create_task(self.backend.subscribe_completions())
            for _ in range(turns):
                await asyncio.sleep(0)
            subscribing.cancel()
            try:
                await (await subscribing).aclose()
            except asyncio.CancelledError:
                pass

        self.do(work())

    @precondition(_seldom)
    @rule(turns=st.integers(0, 40), finish=st.booleans())
    def close_all_while_subscribing(self, turns: int, finish: bool) -> None:
        async def work() -> None:
            subscribing = asyncio.create_task(self.backend.subscribe_completions())
            for _ in range(turns):
                await asyncio.sleep(0)
            if finish:
                self.finish("a", push=True)
            await self.backend.aclose()
            try:
                await subscribing
            except ffc.Unavailable:
                return
            assert subscribing.result()._source.closed

        self.do(work())
        self.check_closed()

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 9), at_once=st.booleans())
    def close_a_stream(self, which: int, at_once: bool) -> None:
        stream = list(self.streams)[which % len(self.streams)]
        del self.streams[stream]

        async def close() -> None:
            closing = asyncio.create_task(stream.aclose())
            await asyncio.sleep(0)
            if at_once:
                closing.cancel()
            await asyncio.wait({closing})

        self.do(close())

    @rule(namespace=st.sampled_from("ab"), push=st.booleans())
    def one_finishes(self, namespace: str, push: bool) -> None:
        self.finish(namespace, push=push)

    def finish(self, namespace: str, *, push: bool) -> None:
        self.server.finish(namespace, push=push)
        self.finished += 1

    @rule(namespaces=st.lists(st.sampled_from("ab"), min_size=4, max_size=12), push=st.booleans(), read=st.booleans())
    def many_finish(self, namespaces: list[str], push: bool, read: bool) -> None:
        """One after the other, so that a stream that nobody reads overflows."""

        async def work() -> None:
            for namespace in namespaces:
                self.finish(namespace, push=push)
                for _ in range(6):
                    await asyncio.sleep(0)

        self.do(work())
        if read:
            self.every_stream_receives()

    @rule(read=st.booleans())
    def connections_are_cut(self, read: bool) -> None:
        self.server.drop_all()
        self.do(asyncio.sleep(0.02))
        if read:
            self.every_stream_receives()

    @rule()
    def ask(self) -> None:
        async def work() -> None:
            for _ in range(20):
                try:
                    await self.backend.describe_execution("{fp:1}:00000000-0000-0000-0000-000000000001")
                except ffc.Transport:
                    continue
                return
            raise AssertionError("never answered")

        self.do(work())

    @precondition(_seldom)
    @rule()
    def the_loop_ends_and_another_begins(self) -> None:
        self.end_loop()
        self.loop = asyncio.new_event_loop()
        # Their loop is gone: nobody can read them any more.
        self.left += self.streams
        self.streams = {}

    def end_loop(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()

    @precondition(_seldom)
    @rule()
    def close_the_backend(self) -> None:
        self.do(self.backend.aclose())
        self.do(self.backend.aclose())
        self.check_closed()

    # ── what holds ───────────────────────────────────────────────────────────────────────────────────────────────

    def every_stream_receives(self) -> None:
        self.finish("a", push=True)

        async def read(stream: Subscription, before: int) -> None:
            while True:
                stats = stream.stats()
                total = stats.delivered + stats.buffered + stats.filtered + stats.undecided + stats.lost
                if total >= self.finished - before and not stats.buffered and not stats.catching_up:
                    assert stats.lost == 0
                    assert stats.undecided == 0
                    return
                try:
                    async with asyncio.timeout(0.05):
                        await anext(stream)
                except TimeoutError:
                    pass

        async def all_of_them() -> None:
            await asyncio.gather(*(read(stream, before) for stream, before in self.streams.items()))

        self.do(all_of_them())

    @invariant()
    def no_more_is_held_than_there_is_room_for(self) -> None:
        """Live, overflowed and joining."""
        for stream in self.streams:
            assert stream.stats().buffered <= ROOM

    @invariant()
    def no_counter_runs_backwards(self) -> None:
        """Through overflow, faults, other loops, and the end of a stream."""
        for stream in (*self.streams, *self.counted):
            stats = stream.stats()
            before = self.counted.get(stream, ffc.StreamStats())
            for name in ("delivered", "filtered", "undecided", "lost", "overflows"):
                assert getattr(stats, name) >= getattr(before, name), name
            self.counted[stream] = stats
        now = self.backend.stats()
        for name in ("received", "malformed", "reconnects", "gaps", "dropped", "reconciled"):
            assert getattr(now, name) >= getattr(self.counted_by_backend, name), name
        self.counted_by_backend = now

    @precondition(lambda self: not self.streams)
    @rule()
    def nothing_is_held_without_a_stream(self) -> None:
        async def work() -> None:
            # On a loop that has ended something may be left, until the next one uses the backend.
            await self.backend.flow_members("550e8400-e29b-41d4-a716-446655440000")
            while self.server.clients:
                await asyncio.sleep(0.01)

        self.do(work())
        assert self.backend.stats().state is ffc.BackendState.IDLE

    def check_closed(self) -> None:
        assert self.server.clients == []
        self.do(asyncio.sleep(0))
        assert [task for task in asyncio.all_tasks(self.loop) if task.get_name().startswith("ffcompletion")] == []
        assert self.backend.stats().streams == 0
        for stream in self.streams:
            assert stream._source.closed
        self.left += self.streams
        self.start()

    @override
    def teardown(self) -> None:
        self.do(self.backend.aclose())
        for stream in (*self.left, *self.streams):
            self.do(stream.aclose())
        try:
            assert self.server.clients == []
        finally:
            self.end_loop()
            for each in self.patches:
                each.stop()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
