"""TLS with a private CA and client certificates. The wheel's server speaks none, so a proxy in front of it does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey.sockets import open_connection
from ffcompletion.options import ValkeyOptions
from tests.worlds import ValkeyWorld, done, first
from tests.worlds.proxy import Proxy
from tests.worlds.servers import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def _target(valkey: ValkeyWorld) -> tuple[str, int]:
    host, _, port = valkey.url.removeprefix("valkey://").partition(":")
    return host, int(port)


@pytest.fixture
def tls(valkey: ValkeyWorld, authority: Authority) -> Iterator[Proxy]:
    with Proxy(_target(valkey), authority.server()) as proxy:
        yield proxy


@pytest.fixture
def mutual(valkey: ValkeyWorld, authority: Authority) -> Iterator[Proxy]:
    with Proxy(_target(valkey), authority.server(ask_for_client=True)) as proxy:
        yield proxy


async def _delivers(backend: ValkeyBackend, valkey: ValkeyWorld) -> None:
    async with backend, ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
        item = done(namespace="a")
        await valkey.finish(item)
        assert (await first(stream)).execution_id == item.execution_id


async def test_a_private_ca(valkey: ValkeyWorld, tls: Proxy, authority: Authority) -> None:
    """By keyword, and by URL."""
    await _delivers(ValkeyBackend(f"valkeys://localhost:{tls.port}", tls_ca=authority.ca), valkey)
    await _delivers(ValkeyBackend(f"rediss://127.0.0.1:{tls.port}?tls_ca={authority.ca}"), valkey)


class Slow(Proxy):
    """A handshake with it takes longer than it takes to doubt that it speaks TLS."""

    @override
    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.7)
        await super()._forward(reader, writer)


async def test_a_server_that_is_slow_to_shake_hands(valkey: ValkeyWorld, authority: Authority) -> None:
    """It is far away or busy, and speaks TLS all the same."""
    with Slow(_target(valkey), authority.server()) as tls:
        async with ValkeyBackend(f"valkeys://localhost:{tls.port}", tls_ca=authority.ca) as backend:
            assert await backend.describe_execution(done().execution_id) is None


async def test_a_client_certificate(valkey: ValkeyWorld, mutual: Proxy, authority: Authority) -> None:
    """The server asks for one, and gets it."""
    options: ValkeyOptions = {"tls_ca": authority.ca, "tls_cert": authority.cert, "tls_key": authority.key}
    await _delivers(ValkeyBackend(f"valkeys://localhost:{mutual.port}", **options), valkey)


async def test_a_missing_client_certificate_is_refused(mutual: Proxy, authority: Authority) -> None:
    """At subscribe, in a bounded time, as our error."""
    started = time.monotonic()
    async with ValkeyBackend(f"valkeys://localhost:{mutual.port}", tls_ca=authority.ca, setup_timeout=4) as backend:
        with pytest.raises(ffc.EngineError):
            await backend.subscribe_completions()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("wrong", ["another CA", "no CA", "no TLS"])
async def test_a_server_that_cannot_be_trusted_is_refused(
    tls: Proxy, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    """Whoever it is: nothing is read from it."""
    url, ca = f"valkeys://localhost:{tls.port}", None
    if wrong == "another CA":
        ca = Authority(tmp_path / "other").ca
    if wrong == "no TLS":
        url = url.replace("valkeys", "valkey")
    async with ValkeyBackend(url, tls_ca=ca, setup_timeout=4) as backend:
        with pytest.raises(ffc.EngineError):
            await backend.subscribe_completions()


async def test_a_handshake_that_is_cancelled_leaves_no_socket(tls: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just when it has succeeded, where asyncio would go on to wait for the server's goodbye; and before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    wake_up = SSLProtocol._wakeup_waiter

    def cancelled_then(protocol: SSLProtocol, exc: BaseException | None = None) -> None:
        wake_up(protocol, exc)
        if asyncio.get_running_loop() is opening.get_loop():
            opening.cancel()

    monkeypatch.setattr(SSLProtocol, "_wakeup_waiter", cancelled_then)
    # uvloop's TLS is its own.
    begun = (None,) if type(asyncio.get_running_loop()).__module__.startswith("asyncio.") else ()
    for delay_s in (*begun, 0.0, 0.001, 0.002):
        opening = asyncio.create_task(open_connection("127.0.0.1", tls.port, context))
        if delay_s is not None:
            await asyncio.sleep(delay_s)
            opening.cancel()
        await asyncio.wait({opening})
        if not opening.cancelled():
            opening.result()[1].transport.abort()
        assert opening.cancelled() or delay_s
        # A turn of the loop closes it, not a word of the server's.
        await asyncio.sleep(0)
        assert tls.port not in _peers()


def _peers() -> set[int]:
    """The ports that sockets of this process are connected to."""
    found = set[int]()
    for each in gc.get_objects():
        if isinstance(each, socket.socket) and each.fileno() != -1:
            with contextlib.suppress(OSError, TypeError, IndexError):
                found.add(each.getpeername()[1])
    return found
