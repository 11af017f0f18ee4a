"""The connection that keys are read on: the backend's exchange, which streams and questions share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, final

from glide import ClosingError, GlideError

from ffcompletion.backends.valkey.connection import Client, batch, close_now, make_client
from ffcompletion.backends.valkey.lengths import Lengths
from ffcompletion.backends.valkey.options import Options

__all__ = ["Commands"]

# glide has a time-out of its own for each request; this one holds where that one does not.
_ANSWER_S: Final = 5.0
# The password may be asked for over the network.
_CONNECT_S: Final = 15.0
# Commands in one pipeline: some milliseconds of the server's, a reply of some MB at the most.
_PIECE: Final = 4_096


@final
class Commands:
    """A client, made when first needed and made anew when it fails."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._client: Client | None = None
        # Whether the present one has answered: only then can its failing mean that it has grown stale.
        self._proven = False
        self._making = asyncio.Lock()
        self._ended = False
        self._lengths = Lengths()

    async def execute(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        """All replies, in order; an error of one command is its reply. Raises glide's errors for all the rest.

        Everything that is asked here is only read. So where a client fails that has worked before, a fresh one is
        asked once more: the old one's connection may have been dead for hours.
        """
        return await self._lengths.execute(commands, self._in_pieces)

    async def _in_pieces(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        replies: list[object] = []
        for start in range(0, len(commands), _PIECE):
            replies += await self._piece(commands[start : start + _PIECE])
        return replies

    async def _piece(self, commands: Sequence[Sequence[str]]) -> list[object]:
        client = await self._connected()
        proven = self._proven
        try:
            return await self._answer(client, commands)
        except (GlideError, OSError, TimeoutError):
            if not proven:
                raise
        return await self._answer(await self._connected(), commands)

    async def _connected(self) -> Client:
        async with asyncio.timeout(_CONNECT_S), self._making:
            if self._client is None:
                client = await make_client(self._options)
                # Looked at now: it may have been closed while the password was asked for.
                if self._ended:
                    close_now(client)
                    raise ClosingError("the backend was closed")
                self._client, self._proven = client, False
            return self._client

    async def _answer(self, client: Client, commands: Sequence[Sequence[str]]) -> list[object]:
        try:
            async with asyncio.timeout(_ANSWER_S):
                replies = await batch(client, commands)
        except (GlideError, OSError, TimeoutError):
            # It alone is given up: others may be asking its successor already.
            if self._client is client:
                self._client = None
            close_now(client)
            raise
        if self._client is client:
            self._proven = True
        return replies

    async def aclose(self) -> None:
        """Give the connection up; glide's closing never waits."""
        self.abort()

    def abort(self) -> None:
        """The same."""
        self._ended = True
        client, self._client = self._client, None
        if client is not None:
            close_now(client)
