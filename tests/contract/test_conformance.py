"""The conformance kit, held against what is broken; and our own backends held against it, by the public door."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import history
from ffcompletion.backends.valkey.connection import batch, make_client
from ffcompletion.backends.valkey.options import Options as ValkeyOptions
from ffcompletion.options import ConnectOptions
from ffcompletion.testing import (
    CHECKS,
    BackendContract,
    ContractViolation,
    Execution,
    FaultInjector,
    NotChecked,
    Options,
    Subject,
    check_backend,
)
from tests import ROOT
from tests.faults.test_faults import Victim
from tests.gallery.broken import GALLERY
from tests.gallery.examining import broken_clauses
from tests.gallery.right import Exchange, Right
from tests.worlds import FINISH, PostgresWorld, ValkeyWorld, hash_tag
from tests.worlds.proxy import Proxy

Contract = Callable[[], AbstractAsyncContextManager[Subject]]


# ── the kit itself ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(240)
def test_each_broken_backend_fails_its_clauses_and_no_other() -> None:
    """Forty ways to be wrong; ``python -m tests.gallery`` prints the table. In processes: some block their loop."""
    assert len(GALLERY) >= 20
    expected = {kind.__name__: sorted(kind.breaks) for kind in GALLERY} | {"Right": []}
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["tests.gallery.examining"])
    with ProcessPoolExecutor(12, processes) as pool:
        found = dict(zip(expected, pool.map(broken_clauses, expected), strict=True))
    assert {name: sorted(clauses) for name, clauses in found.items()} == expected
    # Every clause is broken by somebody, so no check is there for nothing; shape is the type checker's and Python's.
    assert {check.clause for check in CHECKS} - set(itertools.chain(*expected.values())) == {"0.1"}


def test_every_check_is_numbered_and_explained() -> None:
    assert len({check.clause for check in CHECKS}) == len(CHECKS) >= 35
    assert all(check.title and check.__doc__ and repr(check) for check in CHECKS)


async def test_the_report() -> None:
    """Clause, what was expected, what happened."""

    class Wrong(Right):
        @override
        def subscribe_completions(self) -> None:  # type: ignore[override]  # the point
            raise NotImplementedError

    exchange = Exchange()
    report = await check_backend(lambda: Wrong(exchange), exchange, Options(patience_s=0.2))
    assert not report.sound
    assert "0.1" in report.broken
    assert "expected: both methods are coroutine functions" in str(report)
    with pytest.raises(AssertionError, match="the contract is broken"):
        report.raise_if_broken()
    right = await check_backend(lambda: Right(exchange), exchange, Options(burst=100, flood=300, patience_s=2))
    right.raise_if_broken()
    assert {result.clause for result in right.results if result.outcome == "not checked"} >= {"2.6", "3.8", "1.2"}


async def test_a_check_by_itself() -> None:
    """Each is a coroutine that takes a factory and an announcer."""
    exchange = Exchange()
    check = next(check for check in CHECKS if check.name == "live_on_return")
    await check(lambda: Right(exchange), exchange)
    with pytest.raises(NotChecked):
        await next(check for check in CHECKS if check.clause == "2.6")(lambda: Right(exchange), exchange)
    broken = next(kind for kind in GALLERY if kind.__name__ == "LiveTooLate")
    with pytest.raises(ContractViolation, match=r"clause 1\.1\n  expected: .*\n  happened: 1 of 1 did not come"):
        await check(lambda: broken(exchange), exchange, Options(patience_s=0.2))


def test_no_test_runner_is_imported() -> None:
    program = "import sys; from ffcompletion.testing import *; assert not {'pytest', 'hypothesis'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)


def test_the_plugin_sums_up_by_clause(tmp_path: Path) -> None:
    """Somebody's test file: one test per clause, skips that say why, and a line for what is broken."""
    (tmp_path / "test_mine.py").write_text(
        "import pytest\n"
        "from contextlib import asynccontextmanager\n"
        "from ffcompletion.testing import BackendContract, Options, Subject\n"
        "from tests.gallery.broken import IgnoresTheTag\n"
        "from tests.gallery.right import Exchange\n"
        "class TestMine(BackendContract):\n"
        "    @pytest.fixture\n"
        "    def backend_contract(self):\n"
        "        @asynccontextmanager\n"
        "        async def subject():\n"
        "            exchange = Exchange()\n"
        "            yield Subject(lambda: IgnoresTheTag(exchange), exchange, Options(flood=300, patience_s=1))\n"
        "        return subject\n"
    )
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", str(tmp_path), "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
         "-k", "test_5_ or test_2_6_"],
        cwd=root, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "TestMine: broken clauses 5.3, 5.4" in done.stdout, done.stdout
    assert "2 failed" in done.stdout
    assert "no FaultInjector was supplied" in done.stdout


# ── our own backends ─────────────────────────────────────────────────────────────────────────────────────────────────


class _MemoryAnnouncer:
    def __init__(self) -> None:
        self.backends: list[MemoryBackend] = []

    def factory(self) -> MemoryBackend:
        # One log per backend: what is announced goes to whichever is newest.
        self.backends.append(MemoryBackend(retention=300, buffer_size=100))
        return self.backends[-1]

    async def announce(self, *executions: Execution) -> None:
        for item in executions:
            self.backends[-1].emit(
                item.execution_id, item.outcome, flow_id=item.flow_id, namespace=item.namespace, tags=item.tags
            )


class TestMemory(BackendContract):
    @pytest.fixture
    def backend_contract(self) -> Contract:
        @asynccontextmanager
        async def subject() -> AsyncGenerator[Subject]:
            announcer = _MemoryAnnouncer()
            yield Subject(announcer.factory, announcer, Options(flood=600, holds=100))

        return subject


class _Faults:
    """By the proxy that the backends connect through, and the server itself."""

    def __init__(self, victim: Victim, proxy: Proxy) -> None:
        self.victim = victim
        self.proxy = proxy

    async def disconnect(self) -> None:
        self.proxy.cut()

    async def mute(self) -> None:
        self.proxy.freeze()

    async def unmute(self) -> None:
        self.proxy.cut()
        self.proxy.thaw()

    async def restart(self) -> None:
        await self.victim.restart()


assert isinstance(_Faults, type)
_: type[FaultInjector] = _Faults


class _ValkeyAnnouncer:
    """All that the engine does when an execution ends, many in one pipeline."""

    def __init__(self, world: ValkeyWorld) -> None:
        self.world = world

    async def announce(self, *executions: Execution) -> None:
        commands: list[list[str]] = []
        for item in executions:
            tag = hash_tag(item.execution_id)
            key = f"ff:exec:{tag}:{item.execution_id}"
            message = {"flow_id": item.flow_id, "outcome": item.outcome, "execution_id": item.execution_id}
            commands.append([
                "EVAL", FINISH, "4", f"{key}:core", f"{key}:tags", f"{key}:result", f"ff:idx:{tag}:lane:default:terminal",
                item.execution_id, item.flow_id or "", item.namespace or "", item.outcome, "",
                json.dumps(message) if item.flow_id else "", "0", *itertools.chain.from_iterable(item.tags.items()),
            ])  # fmt: skip
        if self.world._client is None:
            self.world._client = await make_client(ValkeyOptions.from_url(self.world.url))
        for reply in await batch(self.world._client, commands):
            if isinstance(reply, Exception):
                raise reply


class PostgresAnnouncer:
    """Core records and outbox rows, in one transaction."""

    def __init__(self, world: PostgresWorld) -> None:
        self.world = world

    async def announce(self, *executions: Execution) -> None:
        if self.world._conn is None or self.world._conn.closed or self.world._conn.broken:
            self.world._conn = await self.world.connect()
        cores, events = [], []
        for item in executions:
            partition, bare = item.execution_id.partition, item.execution_id.uuid
            flow = None if item.flow_id is None else item.flow_id.uuid
            fields: dict[str, object] = {"tags": dict(item.tags)}
            if item.namespace is not None:
                fields["namespace"] = item.namespace
            cores.append((partition, bare, flow, json.dumps(fields)))
            events.append((partition, bare, flow, item.outcome))
        # At once: a statement for each row would plan over 256 partitions as often.
        async with self.world._conn.transaction():
            await self.world._conn.execute(
                "INSERT INTO ff_exec_core (partition_key, execution_id, flow_id, lifecycle_phase, raw_fields)"
                " SELECT k, e, f, 'terminal', r FROM unnest(%s::smallint[], %s::uuid[], %s::uuid[], %s::jsonb[])"
                " AS u(k, e, f, r) ON CONFLICT DO NOTHING",
                tuple(map(list, zip(*cores, strict=True))),
            )
            await self.world._conn.execute(
                "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, occurred_at_ms)"
                " SELECT k, e, f, o, 1 FROM unnest(%s::smallint[], %s::uuid[], %s::uuid[], %s::text[])"
                " WITH ORDINALITY AS u(k, e, f, o, n) ORDER BY n",
                tuple(map(list, zip(*events, strict=True))),
            )


@pytest.fixture(scope="module", params=["valkey", "postgres18"])
def victim(request: pytest.FixtureRequest) -> Iterator[Victim]:
    made = Victim(request.param)
    yield made
    made.server.close()


@pytest.mark.timeout(120)
class TestServers(BackendContract):
    """Each on a server of its own, through a proxy that can hurt the connection."""

    @pytest.fixture
    def backend_contract(self, victim: Victim, monkeypatch: pytest.MonkeyPatch) -> Contract:
        @asynccontextmanager
        async def subject() -> AsyncGenerator[Subject]:
            world = victim.world
            assert isinstance(world, ValkeyWorld | PostgresWorld)
            announcer = _ValkeyAnnouncer(world) if isinstance(world, ValkeyWorld) else PostgresAnnouncer(world)
            # Often, so that little has to be remembered for the next look at the index.
            options: ConnectOptions = {"buffer_size": 300}
            if isinstance(world, ValkeyWorld):
                options |= {"reconcile_interval": 0.5, "clock_skew": 0.2}
            # The same by number of rows.
            monkeypatch.setattr(history, "_REMEMBERED", 1_000)
            nowhere = "valkey://127.0.0.1:1" if isinstance(world, ValkeyWorld) else "postgresql://127.0.0.1:1/x"
            with Proxy(victim.target) as proxy:
                url = victim.through(proxy)
                try:
                    await world.reset()
                    yield Subject(
                        lambda: ffc.connect(url, **options),
                        announcer,
                        Options(
                            faults=_Faults(victim, proxy),
                            unreachable=lambda: ffc.connect(nowhere),
                            connections=world.connections,
                            flood=1_200,
                            holds=300,
                            remembers=2_000,
                            # Longer than it takes to notice that a connection is half open.
                            patience_s=20,
                        ),
                    )
                finally:
                    await world.close()

        return subject
