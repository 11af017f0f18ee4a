"""Whether a server can be reached, and if not, why: asked before glide is, which tries for a second and forgets the cause."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from typing import Final

from glide import RequestError

from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.sockets import open_connection

__all__ = ["check_reachable"]

_CONNECT_S: Final = 2.0
# A server without TLS does not answer a handshake; one that takes longer is asked, beside it, whether it is one.
_HANDSHAKE_S: Final = 0.5
_PLAIN_S: Final = 0.5
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


class NoTls(Exception):
    """A server that answers, but only without TLS."""


async def check_reachable(options: Options, password: str | None) -> None:
    """Return if one of the hosts takes us. Raises ``OSError`` with the cause of the last, also for one that is mute;
    and glide's error for what the server refuses. What may be the user's rights alone is left for glide to find.
    """
    fault: OSError | RequestError | None = None
    for host, port in options.hosts:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await _try(options, host, port, password)
        except RequestError as exc:
            fault = exc
        except (OSError, EOFError, NoTls, asyncio.LimitOverrunError) as exc:
            fault = OSError(f"{host}:{port}: {_reason(exc)}")
            fault.__cause__ = exc
        else:
            return
    if fault is not None:
        raise fault


async def _try(options: Options, host: str, port: int, password: str | None) -> None:
    if options.tls:
        await _try_tls(host, port)
        return
    commands: list[tuple[str, ...]] = [("PING",)]
    if options.database:
        commands.insert(0, ("SELECT", str(options.database)))
    if password is not None:
        commands.insert(0, ("AUTH", *([options.username] if options.username else []), password))
    reader, writer = await open_connection(host, port)
    try:
        for words in commands:
            writer.write(_encoded(words))
            reply = (await reader.readuntil(b"\r\n")).decode("utf-8", "replace").strip()
            code, _, text = reply.removeprefix("-").partition(" ")
            if reply.startswith("-") and code != "NOPERM":
                raise RequestError(f"{words[0]}: {code}: {text}")
    finally:
        writer.transport.abort()


async def _try_tls(host: str, port: int) -> None:
    # Whom to trust is glide's to decide, by its own rules: nothing is sent, least of all a password.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    handshake = asyncio.create_task(open_connection(host, port, context), name="ffcompletion-handshake")
    # That it is done is all there is to know, also where nobody waits for it any more.
    handshake.add_done_callback(_hang_up)
    try:
        await asyncio.wait({handshake}, timeout=_HANDSHAKE_S)
        if not handshake.done() and await _speaks_plainly(host, port):
            raise NoTls
        await handshake
    finally:
        handshake.cancel()
        await asyncio.wait({handshake})


def _hang_up(handshake: asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    if not handshake.cancelled() and handshake.exception() is None:
        handshake.result()[1].transport.abort()


async def _speaks_plainly(host: str, port: int) -> bool:
    with contextlib.suppress(OSError, EOFError):
        async with asyncio.timeout(_PLAIN_S):
            reader, writer = await open_connection(host, port)
            try:
                writer.write(_encoded(("PING",)))
                return (await reader.readexactly(1)) in b"+-"
            finally:
                writer.transport.abort()
    return False


def _encoded(words: tuple[str, ...]) -> bytes:
    data = [word.encode() for word in words]
    return b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in data)


def _reason(exc: Exception) -> str:
    """What the system says of it; asyncio puts its own words in place of them."""
    match exc:
        case TimeoutError():
            reason = f"no answer within {_CONNECT_S:g} s"
        case EOFError() | ConnectionResetError() | BrokenPipeError():
            reason = "the server closed the connection"
        case NoTls():
            reason = "the server does not speak TLS on this port"
        case ssl.SSLError():
            reason = f"TLS: {exc.reason}"
        case socket.gaierror():
            reason = exc.strerror or str(exc)
        case OSError():
            found = _ERRNO.search(str(exc))
            number = exc.errno or (int(found[1]) if found else None)
            reason = os.strerror(number) if number else str(exc)
        case _:
            reason = "what answers is no Valkey"
    return reason
