"""One spell of being connected: the subscriber's client, its subscription confirmed and the way of an announcement proven.

glide neither notices a half-open connection nor tells of a dropped one, so ``check`` does.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final, Self, final

from glide import ClosingError, GlideError, PubSubMsg
from glide import TimeoutError as GlideTimeoutError

from ffcompletion.backends.valkey.about import facts_of, is_too_old, valkey_version
from ffcompletion.backends.valkey.connection import Client, abort_client, batch, make_client
from ffcompletion.backends.valkey.errors import is_refused, is_unserved
from ffcompletion.backends.valkey.inbox import Inbox
from ffcompletion.backends.valkey.keys import CHANNEL, NEAR_CHANNEL
from ffcompletion.backends.valkey.options import Options
from ffcompletion.contract.errors import Unavailable
from ffcompletion.delivery.buffer import resolve
from ffcompletion.foreign.logs import logger

__all__ = ["Session"]

_log: Final = logger("ffcompletion.valkey")
_SUBSCRIBE_MS: Final = 1_500
# The echo channel is one more right; without it a PING has to do.
_ECHO_MS: Final = 500
# A cluster is down for a moment whenever a primary is replaced, and what is announced arrives all the same.
_DOWN_S: Final = 5.0


@final
class Session:
    """The one connection that announcements arrive on. Made by ``open``; its announcements go into an inbox."""

    def __init__(self, client_options: Options, inbox: Inbox) -> None:
        self._options = client_options
        self._put = inbox.put
        self._client: Client | None = None
        # In a cluster glide subscribes by slot, each channel on its own node: the tag puts both on the same connection.
        self._echo_channel = f"ffcompletion:echo:{{{CHANNEL}}}:{secrets.token_hex(8)}"
        self._echo_bytes = self._echo_channel.encode()
        self._echoes: dict[bytes, asyncio.Future[None]] = {}
        self._has_echoes = True
        self._identity: str | None = None
        self._served_at = -math.inf
        self.run_id: str | None = None
        """The server process's own name; None where it may not be asked for, and in a cluster."""
        self._received = 0
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, options: Options, inbox: Inbox) -> Self:
        """Connect and subscribe; returns when the server has confirmed it. Raises glide's errors and ours."""
        session = cls(options, inbox)
        try:
            session._client = await make_client(options, session._on_message)
            await session._subscribe(session._client)
        except BaseException:
            session.abort()
            raise
        return session

    async def _subscribe(self, client: Client) -> None:
        await client.ping()
        try:
            await client.subscribe({CHANNEL}, _SUBSCRIBE_MS)
        except GlideTimeoutError as exc:
            # glide goes on trying a refused SUBSCRIBE in silence, in a hot loop, until the client is given up.
            raise Unavailable(
                "subscribe",
                f"{self._options.shown} answers, but does not confirm SUBSCRIBE {CHANNEL}; the user's ACL needs"
                f" `ACL SETUSER <user> +subscribe &{CHANNEL}`",
            ) from exc
        try:
            await client.subscribe({self._echo_channel}, _ECHO_MS)
        except GlideTimeoutError:
            self._has_echoes = False
            await client.unsubscribe_lazy({self._echo_channel})
        await self.check(_SUBSCRIBE_MS / 1000)

    def _on_message(self, message: PubSubMsg, _: object) -> None:
        # On the thread of the loop that glide's pipe belongs to, which is ours unless several loops run at once.
        self._received += 1
        if message.channel == self._echo_bytes:
            waiting = self._echoes.pop(message.message, None)
            if waiting is not None:
                self._loop.call_soon_threadsafe(resolve, waiting)
        else:
            self._put(message.message)

    async def check(self, seconds: float) -> bool:
        """Prove that the connection carries announcements: an echo on a channel of our own, the whole way round.

        Returns whether this is still the same connection as at the last check; if not, announcements were missed.
        Raises ``TimeoutError`` or glide's errors. A connection on which anything arrived meanwhile is not dead: in a
        flood the echo waits behind everything that was announced before it.
        """
        client = self._usable()
        nonce = secrets.token_hex(8)
        echoed = self._loop.create_future()
        received_before = self._received
        commands: list[list[str]] = [["CLIENT", "INFO"], ["PING"]]
        if self._has_echoes:
            self._echoes[nonce.encode()] = echoed
            commands[1] = ["PUBLISH", self._echo_channel, nonce]
        if self._options.cluster:
            commands.append(["HGET", NEAR_CHANNEL, "x"])
        try:
            async with asyncio.timeout(seconds):
                about, sent, *served = await batch(client, commands, route_to_channel=True)
                self._check_served(served)
                if isinstance(sent, GlideError):
                    if not is_refused(sent):
                        raise sent
                    self._has_echoes = False
                elif self._has_echoes:
                    await echoed
        except (TimeoutError, GlideTimeoutError):
            # Where the loop was held up, what has come in meanwhile is told in its next turn.
            for _ in range(2):
                await asyncio.sleep(0)
            if self._received == received_before:
                raise
            return True
        finally:
            self._echoes.pop(nonce.encode(), None)
        before, self._identity = self._identity, _identity(about)
        return before is None or self._identity is None or before == self._identity

    def _check_served(self, replies: Sequence[object]) -> None:
        # A node that has left the cluster, or is cut off from most of it, echoes, and hears nothing of what is announced.
        now = time.monotonic()
        for reply in replies:
            if not is_unserved(reply):
                self._served_at = now
            elif now - self._served_at > _DOWN_S:
                raise reply

    async def check_server(self) -> None:
        """Raise ``Unavailable`` if the server is too old. Where the user may not ask, nothing can be said about it."""
        shown = self._options.shown
        info = await self._about()
        if not info:
            return
        self.run_id = info.get("run_id")
        version = valkey_version(info)
        if version is None:
            _log.warning("%s is Redis, not Valkey; FlowFabric refuses it, reading may work", shown)
        elif is_too_old(version):
            raise Unavailable("subscribe", f"{shown} runs Valkey {version}; 7.2 or later is needed")

    async def recognise(self, before: str | None) -> bool:
        """Whether this may be the server that had this run id; another one was restarted, restored or failed over to."""
        self.run_id = (await self._about()).get("run_id")
        return before is None or self.run_id is None or before == self.run_id

    async def _about(self) -> Mapping[str, str]:
        """What the server says of itself; nothing where the user may not ask, and in a cluster no run id."""
        (reply,) = await self.execute([["INFO", "server"]])
        return facts_of(reply)

    async def execute(self, commands: Sequence[Sequence[str]]) -> list[object]:
        """Run commands on this connection."""
        return await batch(self._usable(), commands)

    def _usable(self) -> Client:
        if self._client is None:
            raise ClosingError("not connected")
        return self._client

    async def aclose(self) -> None:
        """Give the connection up at once, also a dead one; the server notices by itself."""
        self.abort()

    def abort(self) -> None:
        """The same."""
        client, self._client = self._client, None
        if client is not None:
            abort_client(client)


def _identity(about: object) -> str | None:
    """Id and address from CLIENT INFO; None where the ACL does not let us ask. Ids alone repeat after a restart."""
    text = about.decode("utf-8", "replace") if isinstance(about, bytes) else about
    return " ".join(text.split(" ", 2)[:2]) if isinstance(text, str) else None
