"""The smallest client there is: commands on one socket, replies as they come. For examinations, which must see refusals
as the server words them and never wait longer than they were told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from pathlib import Path
from typing import Final, final

from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.sockets import open_connection
from ffcompletion.delivery.credentials import ask_password

__all__ = ["Refused", "Reply", "Wire"]

Reply = str | int | None | list["Reply"]
_MOST_BYTES: Final = 1 << 20


class Refused(Exception):
    """An error reply; its text is the server's own."""


@final
class Wire:
    """One connection. Every call raises ``OSError`` or ``TimeoutError`` after ``seconds`` at the latest."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        self._reader = reader
        self._writer = writer
        self._seconds = seconds

    @classmethod
    async def connect(cls, options: Options, seconds: float) -> Wire:
        """To the first host; authenticated, in its database. Raises ``Refused`` for wrong credentials."""
        host, port = options.hosts[0]
        async with asyncio.timeout(seconds):
            context = _context(options) if options.tls else None
            reader, writer = await open_connection(host, port, context, limit=_MOST_BYTES)
        wire = cls(reader, writer, seconds)
        try:
            if options.password is not None:
                password = await ask_password(options.password, options.shown)
                await wire.query("AUTH", *([options.username] if options.username else []), password)
            if options.database:
                await wire.query("SELECT", str(options.database))
        except BaseException:
            wire.abort()
            raise
        return wire

    async def query(self, *words: str) -> Reply:
        """One command's reply. Raises ``Refused`` for an error."""
        self._writer.write(
            f"*{len(words)}\r\n".encode() + b"".join(b"$%d\r\n%b\r\n" % (len(w.encode()), w.encode()) for w in words)
        )
        async with asyncio.timeout(self._seconds):
            return await self._reply()

    async def next_message(self, seconds: float) -> Reply:
        """What is pushed next to a subscriber."""
        async with asyncio.timeout(seconds):
            return await self._reply()

    async def _reply(self) -> Reply:
        line = (await self._reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "replace")
        kind, text = line[:1], line[1:]
        if kind == "-":
            raise Refused(text)
        if kind == ":":
            return int(text)
        if kind == "$":
            if text == "-1":
                return None
            return (await self._reader.readexactly(int(text) + 2))[:-2].decode("utf-8", "replace")
        if kind == "*":
            return None if text == "-1" else [await self._reply() for _ in range(int(text))]
        return text

    def abort(self) -> None:
        """At once."""
        self._writer.transport.abort()


def _context(options: Options) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=options.tls_ca.decode() if options.tls_ca else None)
    if options.tls_cert and options.tls_key:
        # The library takes files only; they are gone again when it has read them.
        with tempfile.TemporaryDirectory() as folder:
            cert, key = Path(folder, "cert"), Path(folder, "key")
            cert.write_bytes(options.tls_cert)
            key.touch(mode=0o600)
            key.write_bytes(options.tls_key)
            with contextlib.suppress(ssl.SSLError):
                context.load_cert_chain(cert, key)
    return context
