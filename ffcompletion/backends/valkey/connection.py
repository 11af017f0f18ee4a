"""Clients: made without blocking the loop, given up without waiting, and glide's errors in our words.

``GlideClient.create`` connects on the loop's own thread, for seconds on a mute server; with ``lazy_connect`` the first
command connects instead, off the loop. glide notices neither a half-open connection nor tells of a dropped one, so
``Subscriber.check`` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, final

from glide import (
    AdvancedGlideClientConfiguration,
    AdvancedGlideClusterClientConfiguration,
    BackoffStrategy,
    Batch,
    ClosingError,
    ClusterBatch,
    ClusterBatchOptions,
    GlideClient,
    GlideClientConfiguration,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    GlideError,
    Logger,
    LogLevel,
    NodeAddress,
    PubSubMsg,
    ServerCredentials,
    SlotKeyRoute,
    SlotType,
    TlsAdvancedConfiguration,
)
from glide import TimeoutError as GlideTimeoutError

from ffcompletion.backends.valkey.keys import CHANNEL
from ffcompletion.backends.valkey.options import Options
from ffcompletion.contract.errors import EngineError, Transport, Unavailable

__all__ = ["Client", "Commands", "Subscriber", "driver_errors", "make_client", "named", "translated"]

Client = GlideClient | GlideClusterClient
# glide looks every 3 s whether its subscriptions are in place; until then a reconnected client is deaf.
_RESUBSCRIBE_MS: Final = 100
_CONNECT_MS: Final = 2_000
_REQUEST_MS: Final = 2_000
# glide has a time-out of its own for each request; this one holds where that one does not.
_ANSWER_S: Final = 5.0
# What glide waits between its own attempts: 20 ms · 2ⁿ, up to 640 ms.
_RECONNECT: Final = (5, 20, 2)
_SUBSCRIBE_MS: Final = 1_500
# The echo channel is one more right; without it a PING has to do.
_ECHO_MS: Final = 500


def _config(
    options: Options, on_message: Callable[[PubSubMsg, object], None] | None
) -> GlideClientConfiguration | GlideClusterClientConfiguration:
    tls = (
        TlsAdvancedConfiguration(
            root_pem_cacerts=options.tls_ca, client_cert_pem=options.tls_cert, client_key_pem=options.tls_key
        )
        if options.tls
        else None
    )
    credentials = (
        None
        if options.password is None and options.username is None
        else ServerCredentials(password=options.password or "", username=options.username)
    )
    addresses = [NodeAddress(host, port) for host, port in options.hosts]
    if options.cluster:
        cluster = GlideClusterClientConfiguration
        return cluster(
            addresses,
            use_tls=options.tls,
            credentials=credentials,
            request_timeout=_REQUEST_MS,
            reconnect_strategy=BackoffStrategy(*_RECONNECT),
            lazy_connect=True,
            advanced_config=AdvancedGlideClusterClientConfiguration(
                _CONNECT_MS, tls_config=tls, pubsub_reconciliation_interval=_RESUBSCRIBE_MS
            ),
            pubsub_subscriptions=on_message and cluster.PubSubSubscriptions({}, on_message, None),
        )
    single = GlideClientConfiguration
    return single(
        addresses,
        use_tls=options.tls,
        credentials=credentials,
        request_timeout=_REQUEST_MS,
        reconnect_strategy=BackoffStrategy(*_RECONNECT),
        database_id=options.database,
        lazy_connect=True,
        advanced_config=AdvancedGlideClientConfiguration(
            _CONNECT_MS, tls_config=tls, pubsub_reconciliation_interval=_RESUBSCRIBE_MS
        ),
        pubsub_subscriptions=on_message and single.PubSubSubscriptions({}, on_message, None),
    )


async def make_client(options: Options, on_message: Callable[[PubSubMsg, object], None] | None = None) -> Client:
    # glide logs to stderr by itself, also in a hot loop; init() leaves a logger that the user has set up alone.
    Logger.init(LogLevel.OFF)
    config = _config(options, on_message)
    if isinstance(config, GlideClusterClientConfiguration):
        return await GlideClusterClient.create(config)
    return await GlideClient.create(config)


async def batch(
    client: Client, commands: Sequence[Sequence[str | bytes]], *, near_channel: bool = False
) -> list[object]:
    """Send all in one pipeline; an error of one command is its reply, not an exception.

    ``near_channel``: in a cluster, to the node where glide subscribes to the engine's channel.
    """
    if not commands:
        # glide takes a pipeline without a command for an error.
        return []
    if isinstance(client, GlideClusterClient):
        many = ClusterBatch(is_atomic=False)
        _fill(many, commands)
        options = ClusterBatchOptions(route=SlotKeyRoute(SlotType.PRIMARY, CHANNEL)) if near_channel else None
        return await client.exec(many, raise_on_error=False, options=options) or []
    one = Batch(is_atomic=False)
    _fill(one, commands)
    return await client.exec(one, raise_on_error=False) or []


def _fill(pipeline: Batch | ClusterBatch, commands: Sequence[Sequence[str | bytes]]) -> None:
    for command in commands:
        # glide pays for each word that it passes on; this is the command that there are thousands of.
        if command[0] == "HGET":
            pipeline.hget(command[1], command[2])
        else:
            pipeline.custom_command(list(command))


def named(exc: BaseException) -> str:
    """An error for a log line: its class and the beginning of its text, in one line."""
    return " ".join(f"{type(exc).__name__}: {exc}".split())[:200]


def translated(exc: Exception, shown: str, op: str) -> EngineError:
    """Glide's error in our words. Its text carries addresses and the server's reply, never a password."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    if "WRONGPASS" in text or "NOAUTH" in text:
        return Unavailable(op, f"{shown} refused the credentials (user or password is wrong or missing)")
    if "NOPERM" in text or "PermissionDenied" in text or "permissions" in text:
        return Unavailable(op, f"{shown}: the user's ACL does not allow this: {text}")
    if "cluster support disabled" in text or "No topology views found" in text:
        return Unavailable(op, f"{shown} is not a cluster; leave ?cluster=true out")
    return Transport(shown, text)


@asynccontextmanager
async def driver_errors(shown: str, op: str) -> AsyncGenerator[None]:
    """Whatever the driver raises inside comes out as one of our errors, with the driver's as its cause."""
    try:
        yield
    except GlideError as exc:
        raise translated(exc, shown, op) from exc
    except (OSError, TimeoutError) as exc:
        raise Transport(shown, str(exc) or "timed out") from exc


@final
class Subscriber:
    """The one connection that announcements arrive on."""

    def __init__(self, options: Options, on_message: Callable[[bytes], None]) -> None:
        self._options = options
        self._deliver = on_message
        self._client: Client | None = None
        # In a cluster glide subscribes by slot, each channel on its own node: the tag puts both on the same connection.
        self._echo_channel = f"ffcompletion:echo:{{{CHANNEL}}}:{secrets.token_hex(8)}"
        self._echo_bytes = self._echo_channel.encode()
        self._echoes: dict[bytes, asyncio.Future[None]] = {}
        self._identity: str | None = None
        self._heard = 0
        self._loop = asyncio.get_running_loop()
        self.echoes: bool = True
        """Whether the echo channel may be used; else a PING has to do."""

    async def open(self) -> None:
        """Connect and subscribe; returns when the server has confirmed it. Raises glide's errors and ours."""
        client = self._client = await make_client(self._options, self._on_message)
        await client.ping()
        try:
            await client.subscribe({CHANNEL}, _SUBSCRIBE_MS)
        except GlideTimeoutError as exc:
            # glide retries a refused SUBSCRIBE in silence, in a hot loop: give the client up.
            await self.close()
            raise Unavailable(
                "subscribe",
                f"{self._options.shown} answers, but does not confirm SUBSCRIBE {CHANNEL}; the user's ACL needs"
                f" `ACL SETUSER <user> +subscribe &{CHANNEL}`",
            ) from exc
        try:
            await client.subscribe({self._echo_channel}, _ECHO_MS)
        except GlideTimeoutError:
            self.echoes = False
            await client.unsubscribe_lazy({self._echo_channel})
        await self.check(_SUBSCRIBE_MS / 1000)

    def _on_message(self, message: PubSubMsg, _: object) -> None:
        # On the thread of the loop that glide's pipe belongs to, which is ours unless several loops run at once.
        self._heard += 1
        if message.channel == self._echo_bytes:
            waiting = self._echoes.pop(message.message, None)
            if waiting is not None:
                self._loop.call_soon_threadsafe(_resolve, waiting)
        else:
            self._deliver(message.message)

    async def check(self, seconds: float) -> bool:
        """Prove that the connection carries announcements: an echo on a channel of our own, the whole way round.

        Returns whether this is still the same connection as at the last check; if not, announcements were missed.
        Raises ``TimeoutError`` or glide's errors. A connection on which anything arrived meanwhile is not dead: in a
        flood the echo waits behind everything that was announced before it.
        """
        client = self._client
        if client is None:
            raise ClosingError("not connected")
        nonce = secrets.token_hex(8)
        heard = self._loop.create_future()
        heard_before = self._heard
        commands: list[list[str]] = [["CLIENT", "INFO"], ["PING"]]
        if self.echoes:
            self._echoes[nonce.encode()] = heard
            commands[1] = ["PUBLISH", self._echo_channel, nonce]
        try:
            async with asyncio.timeout(seconds):
                about, echoed = await batch(client, commands, near_channel=True)
                if isinstance(echoed, GlideError):
                    if "NOPERM" not in str(echoed) and "ermission" not in str(echoed):
                        raise echoed
                    self.echoes = False
                elif self.echoes:
                    await heard
        except (TimeoutError, GlideTimeoutError):
            if self._heard == heard_before:
                raise
            return True
        finally:
            self._echoes.pop(nonce.encode(), None)
        before, self._identity = self._identity, _identity(about)
        return before is None or self._identity is None or before == self._identity

    async def ask(self, commands: Sequence[Sequence[str]]) -> list[object]:
        """Run commands on this connection."""
        if self._client is None:
            raise ClosingError("not connected")
        return await batch(self._client, commands)

    async def close(self) -> None:
        """Give the connection up at once, also a dead one."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)


async def _close(client: Client) -> None:
    with contextlib.suppress(GlideError):
        await client.close()


def _identity(about: object) -> str | None:
    """Id and address from CLIENT INFO; None where the ACL does not let us ask. Ids alone repeat after a restart."""
    text = about.decode("utf-8", "replace") if isinstance(about, bytes) else about
    return " ".join(text.split(" ", 2)[:2]) if isinstance(text, str) else None


def _resolve(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


@final
class Commands:
    """The connection that keys are read on; made when first needed."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._client: Client | None = None
        self._making: asyncio.Lock = asyncio.Lock()

    async def ask(self, commands: Sequence[Sequence[str | bytes]]) -> list[object]:
        """All replies, in order; an error of one command is its reply. Raises glide's errors for all the rest.

        A client that fails is given up, it alone: others may have asked the next one already.
        """
        async with self._making:
            client = self._client = self._client or await make_client(self._options)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await batch(client, commands)
        except (GlideError, OSError, TimeoutError):
            if self._client is client:
                self._client = None
            await _close(client)
            raise

    async def reset(self) -> None:
        """Give the connection up; the next ``ask`` makes another."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)
