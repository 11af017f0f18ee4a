"""Connections of our own, beside glide's: whoever is cancelled while one is made leaves none."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

__all__ = ["open_connection"]

_LINE_BYTES: Final = 1 << 16


async def open_connection(
    host: str, port: int, context: ssl.SSLContext | None = None, *, limit: int = _LINE_BYTES
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Like asyncio's, with TLS where there is a context. Raises ``OSError``.

    asyncio's own would, where the cancellation comes just when the handshake has succeeded, wait half a minute for the server
    to say goodbye, with nobody left to close the socket.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=limit)
    if context is not None:
        socket = writer.transport
        try:
            await writer.start_tls(context, server_hostname=host)
        except BaseException:
            socket.abort()
            raise
    return reader, writer
