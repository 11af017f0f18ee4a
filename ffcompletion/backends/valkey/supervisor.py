"""The run: from the first open stream on an event loop to the last. One inbox, and the tasks that look after it.

The session puts announcements into the inbox. One task takes whatever has arrived, decodes it, and hands it on; one
keeps the connection honest, and makes a new session when this one is dead. What pub/sub forgets meanwhile, a third one
finds (``reconciler``); a fourth asks what the streams' filters want to know (``filtering``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Final, Self, final

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.commands import Commands
from ffcompletion.backends.valkey.errors import code_of, translated
from ffcompletion.backends.valkey.filtering import Filtering, needs_lookup
from ffcompletion.backends.valkey.inbox import Inbox
from ffcompletion.backends.valkey.index import TerminalIndex
from ffcompletion.backends.valkey.options import Settings
from ffcompletion.backends.valkey.reconciler import Reconciler
from ffcompletion.backends.valkey.session import Session
from ffcompletion.backends.valkey.source import Source
from ffcompletion.backends.valkey.states import Counters
from ffcompletion.backends.valkey.wire import decode_batch
from ffcompletion.contract.errors import EngineError, Unavailable
from ffcompletion.contract.loops import shared_task
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.buffer import Signal
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.delivery.tenure import Lease
from ffcompletion.foreign.logs import logger

__all__ = ["Supervisor"]

_log: Final = logger("ffcompletion.valkey")

# Read at a time, between two turns of the loop.
_BATCH: Final = 1_024
_GATHERED_S: Final = 0.002
# Together, how long a half-open connection goes unnoticed; each check costs both sides some 2 ms.
_CHECK_EVERY_S: Final = 1.0
_CHECK_DEADLINE_S: Final = 1.8
_OPEN_S: Final = 15.0
_CLOSE_GRACE_S: Final = 0.3


@final
class Supervisor:
    """Owns the inbox, the session and the tasks. Made whole by ``open``; ended by ``aclose`` or ``abort``."""

    def __init__(
        self, settings: Settings, connection: ConnectionState, counters: Counters, commands: Commands, inbox: Inbox
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._counters = counters
        self._commands = commands
        self._inbox = inbox
        self._dropped = 0
        self._hub = Hub[Source]()
        # For what may be large and is not to be waited for by the rest, the index and results: made when first needed.
        self._searching, self._fetching = (
            Commands(settings.options, patient=True, lengths=commands.lengths) for _ in range(2)
        )
        self._filtering = Filtering(self._hub, commands.execute, self._fetching.execute)
        self._session: Session | None = None
        # Of the server that answered last.
        self._run_id: str | None = None
        self._reconciler: Reconciler | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._changed = Signal()
        self._malformed_log = RateLog(_log)
        self._full_log = RateLog(_log)

    # ── from the first stream to the last ────────────────────────────────────────────────────────────────────────

    @classmethod
    async def open(
        cls, settings: Settings, connection: ConnectionState, counters: Counters, commands: Commands
    ) -> Self:
        """Connect and subscribe, look at what is old, begin to read. Raises glide's errors and ``EngineError``."""
        run = cls(settings, connection, counters, commands, Inbox())
        try:
            run._session = await Session.open(settings.options, run._inbox)
            await run._session.check_server()
            run._run_id = run._session.run_id
            if settings.reconcile_interval_s:
                clocks = run._searching.clocks_apart if settings.options.cluster else None
                index = TerminalIndex(run._searching.execute, settings.lanes, clocks)
                run._reconciler = await Reconciler.open(settings, run._hub, index, run._filtering, counters)
        except BaseException:
            run.abort()
            raise
        connection.live()
        run._start("pump", run._pump())
        run._start("filtering", run._filtering.run())
        run._start("keeper", run._keep())
        if run._reconciler is not None:
            run._start("reconciler", run._reconciler.run())
        return run

    def _start(self, name: str, work: Coroutine[object, object, None]) -> None:
        self._tasks.append(shared_task(work, f"ffcompletion-valkey-{name}"))

    async def aclose(self) -> None:
        """Release everything on the server, at once."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_GRACE_S)
        self.abort()

    def abort(self) -> None:
        """The same, without waiting for the tasks. Also where the loop is closed."""
        tasks, self._tasks = self._tasks, []
        if not self._loop.is_closed():
            for task in tasks:
                task.cancel()
        session, self._session = self._session, None
        if session is not None:
            session.abort()
        for each in (self._searching, self._fetching):
            each.abort()

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def open_source(self, selector: Selector, lease: Lease) -> Source:
        """One more stream, live. Raises glide's errors, ``Unavailable`` where its filter could not be decided."""
        await self._changed.until(lambda: self._connection.flowing)
        if needs_lookup(selector):
            await self._check_readable()
        reconciler = self._reconciler
        opened_ms = 0 if reconciler is None else reconciler.opened_ms
        return Source(
            self._hub, selector, self._settings.buffer_size, opened_ms, time.monotonic(), reconciler, lease
        )  # fmt: skip

    async def _check_readable(self) -> None:
        op = "subscribe_completions_filtered"
        wanted = [("HGET", keys.core(keys.NOBODY), "namespace"), ("HMGET", keys.tags(keys.NOBODY), "x")]
        for reply in await self._commands.execute(wanted):
            if isinstance(reply, GlideError):
                error = translated(reply, self._settings.options.shown, op)
                raise Unavailable(
                    op, f"{error}; the user needs `ACL SETUSER <user> +hget +hmget %R~ff:exec:*`"
                ) from reply

    # ── the announcement's way ───────────────────────────────────────────────────────────────────────────────────

    async def _pump(self) -> None:
        inbox = self._inbox
        while True:
            await inbox.ready()
            messages = inbox.take(_BATCH)
            try:
                if inbox.dropped > self._dropped:
                    self._overflowed()
                self._hand_on(messages)
            except Exception:  # noqa: BLE001  # it is logged, and what was lost is looked for
                # A bug of ours must not end every stream's supply.
                _log.exception("%d announcements could not be handed out; counted as an interruption", len(messages))
                self._counters.dropped += len(messages)
                self._interrupted()
            # The callback runs on this loop too: a batch, then its turn. glide brings large ones one in a turn, and holds
            # what it has not brought, however much: so it gets several.
            await asyncio.sleep(_GATHERED_S if inbox.heavy else 0)

    def _hand_on(self, messages: Sequence[bytes]) -> None:
        payloads: Sequence[CompletionPayload] = decode_batch(messages)
        self._counters.received += len(messages)
        if len(payloads) < len(messages):
            self._counters.malformed += len(messages) - len(payloads)
            self._malformed_log.warning("an announcement could not be read; skipped")
        settled_ms = 0
        if self._reconciler is not None:
            settled_ms = self._reconciler.reconciliation.settled_ms
            payloads = self._reconciler.announced(payloads)
        if payloads:
            self._filtering.announced(payloads, settled_ms)

    def _overflowed(self) -> None:
        # The loop was held up for long: the oldest went unread, visibly, and are looked for in the index.
        dropped = self._inbox.dropped
        self._counters.dropped += dropped - self._dropped
        self._dropped = dropped
        self._full_log.warning("too many announcements waited to be read; the oldest were dropped")
        self._interrupted()

    def _interrupted(self) -> None:
        """Announcements may have been missed."""
        self._counters.interruptions += 1
        if self._reconciler is not None:
            self._reconciler.request_pass()

    # ── liveness ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        backoff_s = 0.0
        while True:
            await asyncio.sleep(backoff_s or _CHECK_EVERY_S)
            try:
                if self._session is None:
                    # glide's own limits do not hold everywhere, and nobody else would notice.
                    async with asyncio.timeout(_OPEN_S):
                        session = self._session = await Session.open(self._settings.options, self._inbox)
                        await self._recognise(session)
                    self._connected()
                elif not await self._session.check(_CHECK_DEADLINE_S):
                    self._counters.interruptions += 1
                    self._connection.broken("the connection was replaced; announcements in between were missed")
                    await self._recognise(self._session)
                    self._connected()
                backoff_s = 0.0
            except Exception as exc:  # noqa: BLE001  # whatever it is, somebody has to look after the connection
                backoff_s = self._broken(exc)

    async def _recognise(self, session: Session) -> None:
        if not await session.recognise(self._run_id):
            _log.info(
                "the server is another than before: restarted, restored, or failed over to; what it keeps is read again"
            )
        self._run_id = session.run_id or self._run_id

    def _connected(self) -> None:
        self._connection.live()
        self._changed.wake()
        if self._reconciler is not None:
            self._reconciler.request_pass(reconnected=True)

    def _broken(self, exc: Exception) -> float:
        """Seconds until the next attempt."""
        if not isinstance(exc, GlideError | OSError | EngineError):
            _log.exception("an error of our own; reconnecting as for a fault")
        self._counters.interruptions += self._connection.flowing
        session, self._session = self._session, None
        if session is not None:
            session.abort()
        fault = translated(exc, self._settings.options.shown, "subscribe") if isinstance(exc, GlideError) else exc
        kind = f"{type(fault).__name__} {type(exc.__cause__).__name__} {code_of(exc)}"
        return self._connection.broken(str(fault) or "no answer to the echo", fault, kind=kind)
