"""glide's clients: made without blocking the loop, asked in pipelines, given up without waiting.

``GlideClient.create`` connects on the loop's own thread, for seconds on a mute server; with ``lazy_connect`` the first
command connects instead, off the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final, cast

from glide import (
    AdvancedGlideClientConfiguration,
    AdvancedGlideClusterClientConfiguration,
    AllPrimaries,
    BackoffStrategy,
    Batch,
    BatchOptions,
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

from ffcompletion.backends.valkey.keys import CHANNEL
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.pipe import Answering, take_over
from ffcompletion.backends.valkey.reaching import check_reachable
from ffcompletion.backends.valkey.replies import server_ms
from ffcompletion.delivery.credentials import ask_password

__all__ = ["Client", "abort_client", "batch", "clocks_apart", "make_client"]

Client = GlideClient | GlideClusterClient
# glide looks every 3 s whether its subscriptions are in place; until then a reconnected client is deaf. Each look wakes two
# threads: ten a second were half of what an idle process costs.
_RESUBSCRIBE_MS: Final = 150
_CONNECT_MS: Final = 2_000
_REQUEST_MS: Final = 2_000
# What glide waits between its own attempts: 20 ms · 2ⁿ, up to 160 ms. All attempts of a first connecting share its
# time, and if that runs out, the cause of their failing is lost: waiting takes a small part of it.
_RECONNECT: Final = (3, 20, 2)


def _config(
    options: Options, password: str | None, on_message: Callable[[PubSubMsg, object], None] | None
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
        if password is None and options.username is None
        else ServerCredentials(password=password or "", username=options.username)
    )
    # Who subscribes to nothing looks as seldom as glide does by itself.
    resubscribe_ms = None if on_message is None else _RESUBSCRIBE_MS
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
                _CONNECT_MS, tls_config=tls, pubsub_reconciliation_interval=resubscribe_ms
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
            _CONNECT_MS, tls_config=tls, pubsub_reconciliation_interval=resubscribe_ms
        ),
        pubsub_subscriptions=on_message and single.PubSubSubscriptions({}, on_message, None),
    )


async def make_client(options: Options, on_message: Callable[[PubSubMsg, object], None] | None = None) -> Client:
    """A client that connects with its first command. A password that is a callable is asked for now.

    Raises glide's errors, ``OSError`` where no host can be reached, ``Transport`` where that callable gives nothing.
    """
    # glide logs to stderr by itself, also in a hot loop; init() leaves a logger that the user has set up alone.
    Logger.init(LogLevel.OFF)
    password = None if options.password is None else await ask_password(options.password, options.shown)
    await check_reachable(options, password)
    config = _config(options, password, on_message)
    loop = asyncio.get_running_loop()
    take_over(loop)
    client: Client
    if isinstance(config, GlideClusterClientConfiguration):
        client = await GlideClusterClient.create(config)
    else:
        client = await GlideClient.create(config)
    # Where glide hands answers over to.
    vars(client)["_loop"] = Answering(loop)
    return client


async def batch(
    client: Client, commands: Sequence[Sequence[str | bytes]], *, route_to_channel: bool = False, patience: int = 1
) -> list[object]:
    """Send all in one pipeline; an error of one command is its reply, not an exception.

    ``route_to_channel``: in a cluster, to the node where glide subscribes to the engine's channel. ``patience``: how many
    times the usual time it may take.
    """
    if not commands:
        # glide takes a pipeline without a command for an error.
        return []
    take_over(asyncio.get_running_loop())
    if isinstance(client, GlideClusterClient):
        many = ClusterBatch(is_atomic=False)
        _fill(many, commands)
        route = SlotKeyRoute(SlotType.PRIMARY, CHANNEL) if route_to_channel else None
        options = ClusterBatchOptions(_REQUEST_MS * patience, route) if route_to_channel or patience > 1 else None
        return await client.exec(many, raise_on_error=False, options=options) or []
    one = Batch(is_atomic=False)
    _fill(one, commands)
    longer = BatchOptions(_REQUEST_MS * patience) if patience > 1 else None
    return await client.exec(one, raise_on_error=False, options=longer) or []


async def clocks_apart(client: Client) -> int:
    """By how many ms the clocks of a cluster's primaries differ, at the most. Raises glide's errors."""
    if not isinstance(client, GlideClusterClient):
        return 0
    take_over(asyncio.get_running_loop())
    began = time.monotonic()
    replies = await client.custom_command(["TIME"], AllPrimaries())
    found = [server_ms(reply) for reply in cast("dict[object, object]", replies).values()]
    # They were read one after the other.
    return max(found) - min(found) + math.ceil((time.monotonic() - began) * 1000)


def _fill(pipeline: Batch | ClusterBatch, commands: Sequence[Sequence[str | bytes]]) -> None:
    for command in commands:
        # glide pays for each word that it passes on; this is the command that there are thousands of.
        if command[0] == "HGET":
            pipeline.hget(command[1], command[2])
        else:
            pipeline.custom_command(list(command))


def abort_client(client: Client) -> None:
    """Give a client up, also a dead one, also where its loop is closed: glide's ``close`` never waits for anything."""
    finalizer: weakref.finalize[..., Client] | None = getattr(client, "_core_client_finalizer", None)
    if finalizer is not None and not finalizer.alive:
        # The collector had it before whoever owned it, and glide, which does not look, would release it twice.
        return
    # On a closed loop whoever waited for an answer cannot be told any more, and nobody is left to hear it: glide fails
    # in trying, and would not come to its closing.
    waiting: dict[int, asyncio.Future[object]] = getattr(client, "_pending_futures", {})
    for number in [number for number, future in tuple(waiting.items()) if future.get_loop().is_closed()]:
        waiting.pop(number, None)
    closing = client.close()
    with contextlib.suppress(StopIteration, GlideError, RuntimeError):
        closing.send(None)
    closing.close()
