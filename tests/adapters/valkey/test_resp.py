"""The smallest client: replies of every kind as the server means them, refusals in its words, and no waiting for ever."""

from __future__ import annotations

import time

import pytest

from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.resp import Refused, Wire
from tests.worlds import ValkeyWorld
from tests.worlds.proxy import Proxy


async def test_replies_of_every_kind(valkey: ValkeyWorld) -> None:
    wire = await Wire.connect(Options.from_url(valkey.url), 5)
    try:
        assert await wire.query("PING") == "PONG"
        assert await wire.query("SET", "ff:resp", "ä\r\nb") == "OK"
        assert await wire.query("GET", "ff:resp") == "ä\r\nb"
        assert await wire.query("GET", "ff:nothing") is None
        assert await wire.query("STRLEN", "ff:resp") == 5
        assert await wire.query("SET", "ff:resp", "") == "OK"
        assert await wire.query("GET", "ff:resp") == ""
        assert await wire.query("EVAL", "return {1, {'a', false}, {}}", "0") == [1, ["a", None], []]
        # Bytes that are no text are shown, not refused: whoever examines wants to see something.
        assert await wire.query("EVAL", r"return '\255x'", "0") == "\ufffdx"
    finally:
        wire.abort()


async def test_a_refusal_is_in_the_server_s_words_and_ends_nothing(valkey: ValkeyWorld) -> None:
    wire = await Wire.connect(Options.from_url(valkey.url), 5)
    try:
        with pytest.raises(Refused, match="unknown command"):
            await wire.query("NOSUCHCOMMAND")
        assert await wire.query("PING") == "PONG"
    finally:
        wire.abort()


async def test_what_is_pushed_comes_one_by_one(valkey: ValkeyWorld) -> None:
    wire = await Wire.connect(Options.from_url(valkey.url), 5)
    try:
        assert await wire.query("SUBSCRIBE", "ff:resp") == ["subscribe", "ff:resp", 1]
        for text in ("one", "two"):
            await valkey.command("PUBLISH", "ff:resp", text)
        assert [await wire.next_message(5) for _ in range(2)] == [
            ["message", "ff:resp", "one"],
            ["message", "ff:resp", "two"],
        ]
    finally:
        wire.abort()


async def test_credentials_and_the_database_come_first(valkey: ValkeyWorld) -> None:
    """Wrong ones are refused, and nothing stays open."""
    user = "resp user"
    await valkey.command("ACL", "SETUSER", "resp", "on", ">p w", "allkeys", "allcommands")
    try:
        wire = await Wire.connect(Options.from_url(f"{valkey.url}/3", username="resp", password="p w"), 5)
        info = str(await wire.query("CLIENT", "INFO"))
        wire.abort()
        assert " db=3 " in info
        assert " user=resp " in info
        with pytest.raises(Refused, match="WRONGPASS"):
            await Wire.connect(Options.from_url(valkey.url, username=user, password="p w"), 5)
    finally:
        await valkey.command("ACL", "DELUSER", "resp")


async def test_a_mute_server_is_given_up(valkey: ValkeyWorld) -> None:
    host, port = Options.from_url(valkey.url).hosts[0]
    with Proxy((host, port)) as proxy:
        wire = await Wire.connect(Options.from_url(f"valkey://127.0.0.1:{proxy.port}"), 0.2)
        proxy.freeze()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await wire.query("PING")
        assert time.monotonic() - started < 10
        wire.abort()
