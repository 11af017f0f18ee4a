"""``ValkeyBackend``: the public class. Options, subscribing, closing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from typing_extensions import override

from ffcompletion.backends.valkey.connection import driver_errors
from ffcompletion.backends.valkey.feed import Feed
from ffcompletion.backends.valkey.live import Live, log
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.snapshots import describe, members
from ffcompletion.backends.valkey.terminal import is_lane
from ffcompletion.contract.errors import Validation
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.protocols import Backend, CompletionFilter
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendState, BackendStats, Observer
from ffcompletion.delivery.adapter import Adapter
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.link import Link
from ffcompletion.delivery.stream import Subscription
from ffcompletion.foreign.filters import checked_filter

__all__ = ["ValkeyBackend"]


@final
class ValkeyBackend(Adapter):
    """Completions that FlowFabric publishes on Valkey, 7.2 or later. One subscriber connection serves any number of
    streams; a second connection reads keys. At least once, while the engine keeps the execution (24 h by default).

    ``url``: ``valkey://[user[:password]@]host[:port][,host…][/database][?cluster=true]``, ``valkeys://`` for TLS
    (``redis://`` and ``rediss://`` are aliases).

    - ``username``, ``password``, ``database``: take precedence over the URL.
    - ``tls_ca``, ``tls_cert``, ``tls_key``: PEM files, for a private CA and a client certificate.
    - ``buffer_size``: completions that may wait for one consumer.
    - ``setup_timeout``: seconds within which subscribing succeeds or raises.
    - ``reconcile_interval``: seconds between looks at the engine's terminal index, for what pub/sub forgot and for
      what is never announced (solo executions); also done after every fault. 0 turns it off: at most once, then.
    - ``lanes``: lanes made since the engine booted, which its own list of lanes lacks.
    - ``clock_skew``: seconds by which the clocks of engine and servers may lie apart; so much is looked at again.
    - ``observer``: told of each change of state.

    Belongs to the event loop that it is first used on. glide reads all answers of a process on the loop that connected
    first: while that one stands still, backends on other loops time out and connect anew.
    """

    def __init__(
        self,
        url: str = "valkey://localhost:6379",
        *,
        username: str | None = None,
        password: str | None = None,
        database: int | None = None,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        buffer_size: int = 10_000,
        setup_timeout: float = 8.0,
        reconcile_interval: float = 15.0,
        lanes: Sequence[str] = (),
        clock_skew: float = 5.0,
        observer: Observer | None = None,
    ) -> None:
        if buffer_size < 1 or setup_timeout <= 0 or reconcile_interval < 0 or clock_skew < 0:
            raise Validation(
                "option", "buffer_size ≥ 1, setup_timeout > 0, reconcile_interval ≥ 0 and clock_skew ≥ 0 are needed"
            )
        for lane in lanes:
            if not is_lane(lane):
                raise Validation("lane", f"{lane[:80]!r} is not 1 to 64 bytes of printable ASCII")
        self._options = Options.from_url(
            url,
            username=username,
            password=password,
            database=database,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        super().__init__(Link("valkey", log, observer, Backoff()), setup_timeout)
        self._buffer_size = buffer_size
        self._hub = Hub()
        self._live = Live(
            self._options,
            self._hub,
            self._link,
            lanes=lanes,
            reconcile_interval_s=reconcile_interval,
            clock_skew_ms=round(clock_skew * 1000),
        )

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
        narrowed = checked_filter(wanted)
        async with driver_errors(self._options.shown, "subscribe"), self._setting_up():
            feed = await self._open_feed(Selector(narrowed, results))
        return Subscription(feed, "valkey")

    async def _open_feed(self, selector: Selector) -> Feed:
        if self._link.state is BackendState.IDLE:
            await self._live.start()
        else:
            await self._live.flowing(self._setup_s)
        if selector.filter is not None or selector.results:
            await self._live.check_readable()
        feed = Feed(self._hub, selector, self._buffer_size, self._live.opened_ms, self._live.catchup, self._closed)
        self._feeds.add(feed)
        return feed

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The executions as their keys say, in one pipeline; None where there is no core record."""
        ids = [ExecutionId(execution_id) for execution_id in execution_ids]
        async with driver_errors(self._options.shown, "describe_execution"), self._asking("describe_execution"):
            return await describe(self._live.ask, ids, result=result)

    async def flow_members(self, flow_id: str, /) -> Sequence[ExecutionId]:
        """The flow's members as its set of keys says; empty where there is none. Raises ``Validation``."""
        flow = FlowId(flow_id)
        async with driver_errors(self._options.shown, "flow_members"), self._asking("flow_members"):
            return await members(self._live.ask, flow)

    # ── closing ──────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def aclose(self) -> None:
        await super().aclose()
        await self._live.forget_commands()

    @override
    async def _stop(self) -> None:
        await self._live.stop()

    # ── looking at it ────────────────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> BackendStats:
        """Counters of this backend, now."""
        return BackendStats(
            state=self._link.state,
            streams=len(self._feeds),
            received=self._live.received,
            malformed=self._live.malformed,
            reconnects=self._link.reconnects,
            gaps=self._live.gaps,
            dropped=self._live.dropped,
            reconciled=0 if self._live.catchup is None else self._live.catchup.found,
        )

    @override
    def __repr__(self) -> str:
        return f"<ValkeyBackend {self._options.shown}, {self._link.state.value}, {len(self._feeds)} streams>"


if TYPE_CHECKING:
    _: type[Backend] = ValkeyBackend
