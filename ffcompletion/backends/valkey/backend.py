"""``ValkeyBackend``: the public class. Options, subscribing, closing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from glide import GlideError
from typing_extensions import override

from ffcompletion.backends.valkey.commands import Commands
from ffcompletion.backends.valkey.errors import code_of, driver_errors
from ffcompletion.backends.valkey.lanes import is_lane
from ffcompletion.backends.valkey.options import Options, Settings
from ffcompletion.backends.valkey.snapshots import describe, members
from ffcompletion.backends.valkey.source import Source
from ffcompletion.backends.valkey.states import Counters
from ffcompletion.backends.valkey.supervisor import Supervisor
from ffcompletion.contract.errors import Validation
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.numbers import check_count, check_seconds
from ffcompletion.contract.protocols import Backend, CompletionFilter
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendStats, Observer
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.credentials import Password
from ffcompletion.delivery.hub import Selector
from ffcompletion.delivery.lifecycle import NetworkedBackend
from ffcompletion.delivery.stream import Subscription
from ffcompletion.delivery.tenure import Lease
from ffcompletion.foreign.filters import checked_filter
from ffcompletion.foreign.logs import logger

__all__ = ["ValkeyBackend"]

_log: Final = logger("ffcompletion.valkey")


@final
class ValkeyBackend(NetworkedBackend[Commands, Supervisor]):
    """Completions that FlowFabric publishes on Valkey, 7.2 or later. One subscriber connection serves any number of
    streams; others read keys: one for questions and filters, one for the index, one for results. At least once, while the engine keeps the execution (24 h by default).

    ``url``: ``valkey://[user[:password]@]host[:port][,host…][/database][?cluster=true]``, ``valkeys://`` for TLS
    (``redis://`` and ``rediss://`` are aliases).

    - ``username``, ``password``, ``database``: take precedence over the URL. ``password`` may be a callable, plain or
      ``async``, which is asked at each connect: for passwords that are rotated, and tokens that do not last.
    - ``tls_ca``, ``tls_cert``, ``tls_key``: PEM files, for a private CA and a client certificate.
    - ``buffer_size``: completions that may wait for one consumer.
    - ``setup_timeout``: seconds within which subscribing succeeds or raises.
    - ``reconcile_interval``: seconds between looks at the engine's terminal index, for what pub/sub forgot and for
      what is never announced (solo executions); also done after every fault. 0 turns it off: at most once, then.
    - ``lanes``: lanes made since the engine booted, which its own list of lanes lacks.
    - ``clock_skew``: seconds by which the clocks of engine and servers may lie apart; so much is looked at again.
    - ``linger``: for how many seconds what was opened for a wait or a question stays for the next; closing the backend
      does not wait for it. 0 releases it at once.
    - ``observer``: told of each change of state.

    Follows its user from one event loop to the next; while it is in use on one, calls on another raise. glide reads all answers of a process on the loop that connected
    first: while that one stands still, backends on other loops time out and connect anew.
    """

    def __init__(
        self,
        url: str = "valkey://localhost:6379",
        *,
        username: str | None = None,
        password: Password | None = None,
        database: int | None = None,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        buffer_size: int = 10_000,
        setup_timeout: float = 8.0,
        reconcile_interval: float = 15.0,
        lanes: Sequence[str] = (),
        clock_skew: float = 5.0,
        linger: float = 2.0,
        observer: Observer | None = None,
    ) -> None:
        setup_timeout = check_seconds("setup_timeout", setup_timeout, above_zero=True)
        linger = check_seconds("linger", linger)
        if isinstance(lanes, str):
            raise Validation("lanes", "names of lanes are needed, not one string")
        for lane in lanes:
            if not is_lane(lane):
                raise Validation("lane", f"{lane[:80]!r} is not 1 to 64 bytes of printable ASCII")
        options = Options.from_url(
            url,
            username=username,
            password=password,
            database=database,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        self._settings = Settings(
            options=options,
            lanes=tuple(lanes),
            reconcile_interval_s=check_seconds("reconcile_interval", reconcile_interval),
            clock_skew_ms=round(check_seconds("clock_skew", clock_skew) * 1000),
            buffer_size=check_count("buffer_size", buffer_size),
        )
        self._counters = Counters()
        super().__init__(ConnectionState("valkey", _log, observer, Backoff()), options.shown, setup_timeout, linger)

    @override
    async def _make_exchange(self) -> Commands:
        return Commands(self._settings.options)

    @override
    async def _make_run(self, exchange: Commands) -> Supervisor:
        return await Supervisor.open(self._settings, self._connection, self._counters, exchange)

    # ── subscribing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def subscribe_completions(self, *, results: bool = False) -> Subscription:
        """A live stream of every announced completion. ``results``: payloads carry the stored result and its time."""
        return await self._subscribe(None, results)

    async def subscribe_completions_filtered(
        self,
        filter: CompletionFilter,  # noqa: A002  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """The same, for what ``filter`` admits. Raises ``Unavailable`` where the keys may not be read."""
        return await self._subscribe(filter, results)

    async def _subscribe(self, wanted: CompletionFilter | None, results: bool) -> Subscription:
        selector = Selector(checked_filter(wanted), results)

        async def make(run: Supervisor, lease: Lease) -> Source:
            return await run.open_source(selector, lease)

        async with driver_errors(self._shown, "subscribe"):
            return Subscription(await self._open_stream("subscribe", make), "valkey")

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The executions as their keys say, in one pipeline; None where there is no core record."""
        ids = [ExecutionId(execution_id) for execution_id in execution_ids]
        op = "describe_execution"
        async with driver_errors(self._shown, op), self._querying(op) as commands:
            return await describe(commands.execute, ids, result=result)

    async def flow_members(self, flow_id: str, /) -> Sequence[ExecutionId]:
        """The flow's members as its set of keys says; empty where there is none. Raises ``Validation``."""
        flow = FlowId(flow_id)
        async with driver_errors(self._shown, "flow_members"), self._querying("flow_members") as commands:
            return await members(commands.execute, flow)

    async def ping(self, /) -> float:
        """Ask the server (of a cluster, one node) for a sign of life; the seconds that took, connecting included."""
        began = time.monotonic()
        async with driver_errors(self._shown, "ping"), self._querying("ping") as commands:
            (reply,) = await commands.execute([["PING"]])
            # Who may not ask has been answered by a server that knows this user.
            if isinstance(reply, GlideError) and code_of(reply) != "NOPERM":
                raise reply
        return time.monotonic() - began

    # ── looking at it ────────────────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> BackendStats:
        """Counters of this backend, now."""
        counters = self._counters
        return BackendStats(
            state=self._connection.state,
            streams=self._streams,
            received=counters.received,
            malformed=counters.malformed,
            reconnects=self._connection.reconnects,
            gaps=counters.interruptions,
            dropped=counters.dropped,
            reconciled=counters.reconciled,
        )

    @override
    def __repr__(self) -> str:
        return f"<ValkeyBackend {self._shown}, {self._connection.state.value}, {self._streams} streams>"


if TYPE_CHECKING:
    _: type[Backend] = ValkeyBackend
