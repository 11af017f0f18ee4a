"""The live reader: one inbox that the subscriber fills, one task that empties it, one that keeps it honest.

The callback only appends. The pump takes whatever has arrived, decodes it, lets the gate ask what filters need, and
hands it to every stream. The keeper checks the connection, and makes a new one when it is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar, cast, final

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.connection import Commands, Subscriber, translated
from ffcompletion.backends.valkey.gate import Gate
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.wire import decode
from ffcompletion.contract.errors import EngineError, Transport, Unavailable
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.buffer import Signal
from ffcompletion.delivery.hub import Hub
from ffcompletion.delivery.link import Link
from ffcompletion.delivery.ratelog import RateLog

__all__ = ["Live", "log"]

_T = TypeVar("_T")

log: Final = logging.getLogger("ffcompletion.valkey")

# Announcements that may wait while the gate asks the server: some 25 MB at the worst.
_INBOX: Final = 100_000
# One pipeline. More would delay the first of them without being faster.
_BATCH: Final = 1_024
_CHECK_EVERY_S: Final = 0.5
_CHECK_DEADLINE_S: Final = 2.0
_STOP_S: Final = 0.3
_OLDEST: Final = (7, 2)


@final
class Live:
    """Owns the subscriber, the inbox and the two tasks."""

    def __init__(self, options: Options, hub: Hub, link: Link) -> None:
        self._options = options
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
        self._ask_log = RateLog(log)
        self.received = 0
        self.malformed = 0
        self.dropped = 0
        self.gaps = 0

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Connect and subscribe, then begin to read. Raises glide's errors and ``EngineError``."""
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._commands = Commands(self._options)
        self._link.connecting()
        try:
            await self._connect()
            await self._check_server()
        except BaseException:
            await self._disconnect()
            self._link.idle()
            raise
        self._live()
        self._tasks = [
            asyncio.create_task(self._pump(), name="ffcompletion-valkey-pump"),
            asyncio.create_task(self._keep(), name="ffcompletion-valkey-keeper"),
        ]

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
            [("HGET", keys.core(keys.NOBODY), "namespace"), ("HGET", keys.tags(keys.NOBODY), "x")]
        ):
            if isinstance(reply, GlideError):
                error = translated(reply, self._options.shown, "subscribe_completions_filtered")
                raise Unavailable(
                    "subscribe_completions_filtered",
                    f"{error}; the user needs `ACL SETUSER <user> +hget +hmget %R~ff:exec:*`",
                ) from reply

    async def ask(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        """Replies from the command connection."""
        if self._commands is None:
            raise Transport(self._options.shown, "not connected")
        return await self._commands.ask(commands)

    async def _connect(self) -> None:
        subscriber = self._subscriber = Subscriber(self._options, self._on_message)
        await subscriber.open()

    async def _disconnect(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            await subscriber.close()
        if self._commands is not None:
            await self._commands.reset()

    async def _check_server(self) -> None:
        if self._subscriber is None:
            return
        (reply,) = await self._subscriber.ask([["INFO", "server"]])
        if isinstance(reply, dict):
            reply = next(iter(cast("dict[object, object]", reply).values()), b"")  # a cluster answers per node
        if not isinstance(reply, bytes | str):
            return  # no right to ask: then nothing can be said about it
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
        info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        valkey = info.get("valkey_version") or (
            info.get("redis_version") if info.get("server_name") == "valkey" else None
        )
        if valkey is None:
            log.warning("%s is Redis, not Valkey; FlowFabric refuses it, reading may work", self._options.shown)
        elif tuple(int(part) for part in valkey.split(".")[:2]) < _OLDEST:
            raise Unavailable("subscribe", f"{self._options.shown} runs Valkey {valkey}; 7.2 or later is needed")

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

    async def _hand_out(self, messages: Sequence[bytes]) -> None:
        if len(self._inbox) > _INBOX:
            self._shed()
        payloads = [payload for message in messages if (payload := decode(message)) is not None]
        self.received += len(messages)
        if len(payloads) < len(messages):
            self.malformed += len(messages) - len(payloads)
            self._malformed_log.warning("an announcement could not be read; skipped")
        if not payloads:
            return
        filters = self._hub.filters
        if not filters and not self._hub.wants_results:
            self._hub.publish(payloads)
            return
        # Streams that ask nothing of the server do not wait for it.
        self._hub.publish(payloads, only=lambda selector: selector.filter is None and not selector.results)
        gate = Gate(self.ask)
        facts = await self._insist(lambda: gate.facts(payloads, filters)) if filters else None
        full = await self._insist(lambda: gate.results(payloads)) if self._hub.wants_results else None
        self._hub.publish(payloads, full, facts, only=lambda selector: selector.filter is not None or selector.results)

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """What ``ask`` answers, however often it takes: a batch that cannot be decided is held, not let through."""
        backoff = Backoff(0.02, 1.0)
        while True:
            try:
                return await ask()
            except (GlideError, OSError, TimeoutError) as exc:
                self._ask_log.warning(f"the server did not answer what a filter asks ({type(exc).__name__}); holding")
                if self._commands is not None:
                    await self._commands.reset()
                await asyncio.sleep(backoff.next_delay())

    def _shed(self) -> None:
        # The gate cannot keep up, or the server does not answer it: the oldest go, visibly.
        excess = len(self._inbox) - _INBOX
        del self._inbox[:excess]
        self.dropped += excess
        self.gaps += 1
        self._full_log.warning(f"more than {_INBOX} announcements wait to be decided; the oldest were dropped")

    # ── liveness ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        backoff_s = 0.0
        while True:
            await asyncio.sleep(backoff_s or _CHECK_EVERY_S)
            try:
                if self._subscriber is None:
                    await self._connect()
                    self._live()
                elif not await self._subscriber.check(_CHECK_DEADLINE_S):
                    self.gaps += 1
                    self._link.broken("the connection was replaced; announcements in between were missed")
                    self._live()
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
