"""The connection that keys are read on: the backend's exchange, which streams and questions share.

What is asked goes in pieces that shrink where answers are late, and grow again where they come at once: over a slow link,
or where somebody has stored something very large, a piece that is too large would fail each time, and hold up the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, final

from glide import ClosingError, GlideError
from glide import TimeoutError as GlideTimeoutError

from ffcompletion.backends.valkey.connection import Client, abort_client, batch, clocks_apart, make_client
from ffcompletion.backends.valkey.errors import is_unserved
from ffcompletion.backends.valkey.lengths import Lengths
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.portions import Portions
from ffcompletion.backends.valkey.replies import TooSlowError
from ffcompletion.contract.errors import EngineError

__all__ = ["Commands"]

# glide has a time-out of its own for each request; this one holds where that one does not.
_ANSWER_S: Final = 5.0
# The password may be asked for over the network.
_CONNECT_S: Final = 15.0
# A cluster that is down says so to a new client as well.
_STALE_S: Final = 2.0


@final
class Commands:
    """A client, made when first needed and made anew when it fails."""

    def __init__(self, options: Options, *, patient: bool = False, lengths: Lengths | None = None) -> None:
        """``patient``: for what may be large. A command that was too slow is put again, and may take twice as long each time.
        ``lengths``: what is known of the server's fields already.
        """
        self._options = options
        self._portions = Portions(patient=patient)
        self._client: Client | None = None
        # Whether the present one has answered: only then can its failing mean that it has grown stale.
        self._proven = False
        self._made_at = 0.0
        self._making = asyncio.Lock()
        self._ended = False
        self.lengths: Final = lengths or Lengths()

    async def execute(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        """All replies, in order; an error of one command is its reply. Raises glide's errors for all the rest, and
        ``TooSlowError`` where it is one command that gets no answer.

        Everything that is asked here is only read. So where a client fails that has worked before, a fresh one is
        asked once more: the old one's connection may have been dead for hours.
        """
        return await self.lengths.execute(commands, self._in_pieces)

    async def clocks_apart(self) -> int | None:
        """By how many ms the clocks of the servers differ, at the most; None where not all of them answer."""
        try:
            client = await self._connected()
            async with asyncio.timeout(_ANSWER_S):
                return await clocks_apart(client)
        except (GlideError, OSError, TimeoutError, EngineError):
            return None

    async def _in_pieces(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        replies: list[object] = []
        again, portions = False, self._portions
        while len(replies) < len(commands):
            piece = commands[len(replies) : len(replies) + portions.most]
            started = time.monotonic()
            try:
                replies += await self._piece(piece)
            except (GlideTimeoutError, TimeoutError):
                portions.unanswered(len(piece))
                # A server that is away is nobody's fault, and is not asked for less and less.
                await self._answer(await self._connected(), [("PING",)])
                if len(piece) == 1:
                    # In this same question: what is quick in the next one would take the time away again that it needs.
                    if not portions.is_put_again(piece[0], again=again):
                        raise TooSlowError(piece[0]) from None
                    again = True
            else:
                again = False
                portions.answered(len(piece), time.monotonic() - started)
        return replies

    async def _piece(self, commands: Sequence[Sequence[str]]) -> list[object]:
        client = await self._connected()
        proven, patience = self._proven, self._portions.patience if len(commands) == 1 else 1
        try:
            return await self._answer(client, commands, patience)
        except (GlideTimeoutError, TimeoutError):
            raise
        except (GlideError, OSError):
            if not proven:
                raise
        return await self._answer(await self._connected(), commands, patience)

    async def _connected(self) -> Client:
        async with asyncio.timeout(_CONNECT_S), self._making:
            if self._client is None:
                client = await make_client(self._options)
                # Looked at now: it may have been closed while the password was asked for.
                if self._ended:
                    abort_client(client)
                    raise ClosingError("the backend was closed")
                self._client, self._proven, self._made_at = client, False, time.monotonic()
            return self._client

    async def _answer(self, client: Client, commands: Sequence[Sequence[str]], patience: int = 1) -> list[object]:
        try:
            async with asyncio.timeout(_ANSWER_S * patience):
                replies = await batch(client, commands, patience=patience)
        except (GlideError, OSError, TimeoutError):
            # It alone is given up: others may be asking its successor already.
            if self._client is client:
                self._client = None
            abort_client(client)
            raise
        if self._client is client:
            self._proven = True
            self._leave_stale(client, replies)
        return replies

    def _leave_stale(self, client: Client, replies: Sequence[object]) -> None:
        # glide looks at the nodes of a cluster once a minute; until then it asks one that has left it.
        if not self._options.cluster or not any(map(is_unserved, replies)):
            return
        if time.monotonic() - self._made_at > _STALE_S:
            self._client = None
            abort_client(client)

    async def aclose(self) -> None:
        """Give the connection up; glide's closing never waits."""
        self.abort()

    def abort(self) -> None:
        """The same."""
        self._ended = True
        client, self._client = self._client, None
        if client is not None:
            abort_client(client)
