"""The live reader: one inbox that the subscriber fills, one task that empties it, one that keeps it honest.

The callback only appends. The pump takes whatever has arrived, decodes it, and hands it to every stream, through the
decider where something has to be asked first. The keeper checks the connection, and makes a new one when it is dead. What pub/sub forgets
meanwhile, another task finds (``catchup``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final, final

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.catchup import Catchup
from ffcompletion.backends.valkey.connection import Commands, Subscriber, translated
from ffcompletion.backends.valkey.decider import Decider, asks
from ffcompletion.backends.valkey.feed import since_opened
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.reconcile import Reconciler
from ffcompletion.backends.valkey.server import check_server
from ffcompletion.backends.valkey.terminal import TerminalIndex
from ffcompletion.backends.valkey.wire import decode
from ffcompletion.contract.errors import EngineError, Transport, Unavailable
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.buffer import Signal
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.link import Link
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Live", "log"]

log: Final = logger("ffcompletion.valkey")

# Announcements that may wait to be read, should the loop be held up: some 25 MB at the worst.
_INBOX: Final = 100_000
# Read at a time, between two turns of the loop.
_BATCH: Final = 1_024
# Announcements remembered from pass to pass, so that what the index shows can be told from what is news: some 15 MB.
_REMEMBERED: Final = 50_000
# What an estimate of the server's time may be wrong by.
_CLOCKS_MS: Final = 100
_CHECK_EVERY_S: Final = 0.5
_CHECK_DEADLINE_S: Final = 2.0
_STOP_S: Final = 0.3


@final
class Live:
    """Owns the subscriber, the inbox and the tasks."""

    def __init__(
        self,
        options: Options,
        hub: Hub,
        link: Link,
        *,
        lanes: Sequence[str],
        reconcile_interval_s: float,
        clock_skew_ms: int,
    ) -> None:
        self._options = options
        self._lanes = lanes
        self._interval_s = reconcile_interval_s
        self._skew_ms = clock_skew_ms
        self._hub = hub
        self._link = link
        self._subscriber: Subscriber | None = None
        self._commands: Commands | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._inbox: list[bytes] = []
        self._arrived = asyncio.Event()
        self._changed = Signal()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_error: BaseException | None = None
        self._malformed_log = RateLog(log)
        self._full_log = RateLog(log)
        self.received: int = 0
        self.malformed: int = 0
        self.dropped: int = 0
        self.gaps: int = 0
        self.catchup: Catchup | None = None
        """None where reconciling is turned off."""

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Connect and subscribe, then begin to read. Raises glide's errors and ``EngineError``."""
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._decider = Decider(self._hub, self.ask)
        self._link.connecting()
        try:
            await self._connect()
            if self._subscriber is not None:
                await check_server(self._subscriber.ask, self._options.shown)
            self.catchup = await self._new_catchup()
        except BaseException:
            await self._disconnect()
            self._link.idle()
            raise
        self._live()
        self._tasks = [
            asyncio.create_task(self._pump(), name="ffcompletion-valkey-pump"),
            asyncio.create_task(self._decider.run(), name="ffcompletion-valkey-decider"),
            asyncio.create_task(self._keep(), name="ffcompletion-valkey-keeper"),
        ]
        if self.catchup is not None and not self.catchup.off:
            self._tasks.append(asyncio.create_task(self.catchup.run(), name="ffcompletion-valkey-reconciler"))

    async def _new_catchup(self) -> Catchup | None:
        if not self._interval_s:
            return None
        index = TerminalIndex(self.ask, self._lanes)
        reconciler = Reconciler(overlap_ms=self._skew_ms, limit=_REMEMBERED)
        catchup = Catchup(
            index,
            reconciler,
            self._publish_found,
            self._decider,
            self._options.shown,
            self._interval_s,
            self._skew_ms if self._options.cluster else 0,
        )
        await catchup.baseline()
        return catchup

    @property
    def opened_ms(self) -> int:
        """Server time before which nothing can have happened that a stream opened now is to be told of."""
        if self.catchup is None or self.catchup.off:
            return 0
        # In a cluster each server has a clock of its own.
        return self.catchup.now_ms() - (self._skew_ms if self._options.cluster else _CLOCKS_MS)

    async def stop(self) -> None:
        """Release everything on the server, at once."""
        self._stopping = True
        self._changed.wake()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)
        await self._disconnect()
        self._inbox.clear()

    async def flowing(self, seconds: float) -> None:
        """Wait until completions flow. Raises ``Transport`` with the last fault as its cause after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while not self._link.flowing:
                    await self._changed.wait()
        except TimeoutError:
            raise Transport(self._options.shown, "the connection is being mended; try again") from self._last_error

    async def check_readable(self) -> None:
        """Raise ``Unavailable`` if the keys that filters ask about may not be read."""
        for reply in await self.ask(
            [("HGET", keys.core(keys.NOBODY), "namespace"), ("HMGET", keys.tags(keys.NOBODY), "x")]
        ):
            if isinstance(reply, GlideError):
                error = translated(reply, self._options.shown, "subscribe_completions_filtered")
                raise Unavailable(
                    "subscribe_completions_filtered",
                    f"{error}; the user needs `ACL SETUSER <user> +hget +hmget %R~ff:exec:*`",
                ) from reply

    async def ask(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        """Replies from the command connection, which is made when first needed."""
        connection = self._commands = self._commands or Commands(self._options)
        return await connection.ask(commands)

    async def forget_commands(self) -> None:
        """Give the command connection up."""
        commands, self._commands = self._commands, None
        if commands is not None:
            await commands.reset()

    async def _connect(self) -> None:
        subscriber = self._subscriber = Subscriber(self._options, self._on_message)
        await subscriber.open()

    async def _disconnect(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            await subscriber.close()
        if self._commands is not None:
            await self._commands.reset()

    def _live(self) -> None:
        self._link.live()
        self._changed.wake()

    # ── the announcement's way ───────────────────────────────────────────────────────────────────────────────────

    def _on_message(self, message: bytes) -> None:
        inbox = self._inbox
        inbox.append(message)
        if len(inbox) == 1:
            loop = self._loop
            if loop is asyncio._get_running_loop():  # pyright: ignore[reportPrivateUsage]  # the documented call raises
                self._arrived.set()
            elif loop is not None:
                # glide's pipe belongs to the first loop that used it, which may be another thread's.
                loop.call_soon_threadsafe(self._arrived.set)

    async def _pump(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._inbox:
                messages = self._inbox[:_BATCH]
                del self._inbox[: len(messages)]
                try:
                    await self._hand_out(messages)
                except Exception:
                    # A bug of ours must not end every stream's supply.
                    log.exception("%d announcements could not be handed out; counted as a gap", len(messages))
                    self.dropped += len(messages)
                    self.gaps += 1
                    self._look_soon()

    async def _hand_out(self, messages: Sequence[bytes]) -> None:
        if len(self._inbox) > _INBOX:
            self._shed()
        payloads: Sequence[CompletionPayload] = [found for raw in messages if (found := decode(raw)) is not None]
        self.received += len(messages)
        if len(payloads) < len(messages):
            self.malformed += len(messages) - len(payloads)
            self._malformed_log.warning("an announcement could not be read; skipped")
        if not payloads:
            return
        settled_ms = 0
        if self.catchup is not None and not self.catchup.off:
            settled_ms = self.catchup.reconciler.settled_ms
            payloads = self.catchup.reconciler.announced(payloads, time.monotonic())
            if self.catchup.reconciler.full:
                self.catchup.soon()
        # Streams that ask nothing of the server do not wait for those that do.
        self._hub.publish(payloads, only=_asks_nothing)
        self._decider.submit(payloads, settled_ms)

    async def _publish_found(self, payloads: Sequence[CompletionPayload]) -> None:
        self._hub.publish(payloads, only=_asks_nothing, fit=since_opened)
        await self._decider.decide_found(payloads, since_opened)

    def _shed(self) -> None:
        # The loop was held up for long: the oldest go unread, visibly, and are looked for in the index.
        excess = len(self._inbox) - _INBOX
        del self._inbox[:excess]
        self.dropped += excess
        self.gaps += 1
        self._full_log.warning(f"more than {_INBOX} announcements wait to be read; the oldest were dropped")
        self._look_soon()

    def _look_soon(self) -> None:
        if self.catchup is not None:
            self.catchup.soon()

    # ── liveness ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        backoff_s = 0.0
        while True:
            await asyncio.sleep(backoff_s or _CHECK_EVERY_S)
            try:
                if self._subscriber is None:
                    await self._connect()
                    self._live()
                    self._look_soon()
                elif not await self._subscriber.check(_CHECK_DEADLINE_S):
                    self.gaps += 1
                    self._link.broken("the connection was replaced; announcements in between were missed")
                    self._live()
                    self._look_soon()
                backoff_s = 0.0
            except Exception as exc:  # whatever it is, somebody has to look after the connection
                if not isinstance(exc, GlideError | OSError | EngineError):
                    log.exception("an error of our own; reconnecting as for a fault")
                self._last_error = exc
                self.gaps += self._link.flowing
                backoff_s = self._link.broken(str(exc) or "no answer to the echo")
                await self._disconnect_subscriber()

    async def _disconnect_subscriber(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            with contextlib.suppress(GlideError):
                await subscriber.close()


def _asks_nothing(selector: Selector) -> bool:
    return not asks(selector)
