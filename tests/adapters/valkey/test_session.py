"""What a session needs of a server, and says where it lacks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from glide import ClosingError, GlideError

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey.inbox import Inbox
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.session import Session
from ffcompletion.options import ValkeyOptions
from tests import ROOT
from tests.worlds import FLOW, ValkeyWorld, done, eventually, first, nothing


@pytest.mark.parametrize(
    ("rules", "filtered", "message"),
    [
        (["resetchannels", "allkeys", "allcommands"], False, "SUBSCRIBE ff:dag:completions"),
        (["&ff:dag:completions", "resetkeys", "allcommands"], True, "ff:exec"),
        (["allchannels", "allkeys", "allcommands", "-hmget"], True, "+hmget"),
    ],
)
async def test_a_missing_right_is_named(valkey: ValkeyWorld, rules: list[str], filtered: bool, message: str) -> None:
    """With the ACL rule that mends it, at subscribe."""
    await valkey.command("ACL", "SETUSER", "narrow", "reset", "on", ">pw", *rules)
    async with ValkeyBackend(valkey.url, username="narrow", password="pw") as backend:
        with pytest.raises(ffc.Unavailable) as caught:
            if filtered:
                await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
            else:
                await backend.subscribe_completions()
        assert message in str(caught.value)
        assert "ACL SETUSER" in str(caught.value)


OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


RULES = {line.split()[2]: line.split() for line in OPERATIONS.splitlines() if line.startswith("ACL SETUSER")}


@pytest.mark.parametrize("user", RULES)
async def test_the_rights_in_the_readme_suffice(
    valkey: ValkeyWorld, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Line by line: push alone; filters and results; what is found in the index; and all of it."""
    await valkey.command(*RULES[user], "resetpass", ">password")
    options: ValkeyOptions = {"username": user, "password": "password", "reconcile_interval": 0.3}
    item, solo = done(namespace="a", result=b"r"), done(namespace="a", flow_id=None)
    try:
        async with ValkeyBackend(valkey.url, **options) as backend:
            if user in ("push", "waiting"):
                stream = await backend.subscribe_completions()
            else:
                stream = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"), results=True)
            async with stream:
                await valkey.finish(item)
                assert (await first(stream)).execution_id == item.execution_id
                if user in ("reconciled", "consumer"):
                    await valkey.finish(solo)
                    assert (await first(stream)).execution_id == solo.execution_id
                if user in ("waiting", "consumer"):
                    assert (
                        await ffc.wait_for_completion(backend, item.execution_id, result=True)
                    ).payload_bytes == b"r"
                    await valkey.joins(FLOW, item)
                    await valkey.finish(item)
                    assert item.execution_id in await ffc.wait_for_flow(backend, FLOW, timeout=5)
                # The echo goes round, and nobody finds fault with it.
                await asyncio.sleep(0.7)
                assert backend.stats().state is ffc.BackendState.LIVE
    finally:
        await valkey.command("ACL", "DELUSER", user)
    assert ("reconciling is off" in caplog.text) == (user not in ("reconciled", "consumer"))


async def test_without_an_echo_channel_a_ping_has_to_do(valkey: ValkeyWorld) -> None:
    """The channel and four commands (glide itself asks INFO) are the least that push can do with."""
    rules = RULES["push"][3 : RULES["push"].index("(+publish")]
    rules.remove("+client|info")
    await valkey.command("ACL", "SETUSER", "least", *rules)
    try:
        async with ValkeyBackend(valkey.url, username="least", password="password") as backend:
            async with ffc.subscribe(backend) as stream:
                item = done()
                await valkey.announce(item)
                assert (await first(stream)).execution_id == item.execution_id
                await asyncio.sleep(1.2)
                assert backend.stats().state is ffc.BackendState.LIVE
                await nothing(stream, done(), valkey)
    finally:
        await valkey.command("ACL", "DELUSER", "least")


@pytest.fixture
async def session(valkey: ValkeyWorld) -> AsyncGenerator[Session]:
    made = await Session.open(Options.from_url(valkey.url), Inbox())
    yield made
    await made.aclose()


async def test_a_connection_that_was_replaced_is_told_once(valkey: ValkeyWorld, session: Session) -> None:
    """Whatever was announced in between is missing; the next check is of the new one, and finds nothing."""
    assert await session.check(5)
    await valkey.drop_connections()
    told: list[bool] = []

    async def replaced() -> bool:
        try:
            told.append(await session.check(0.4))
        except (GlideError, TimeoutError):
            return False
        return not told[-1]

    await eventually(replaced)
    assert told == [False]
    assert await session.check(5)


async def test_a_server_is_recognised_by_its_run(session: Session) -> None:
    """Another one has another history; where there is nothing to compare, it may be the same."""
    await session.check_server()
    here = session.run_id
    assert here
    assert await session.recognise(here)
    assert not await session.recognise("another")
    assert session.run_id == here
    assert await session.recognise(None)


async def test_given_up_is_not_connected(session: Session) -> None:
    """Nothing is asked of it any more, and giving it up twice is nothing."""
    session.abort()
    for question in (session.check(1), session.execute([["PING"]])):
        with pytest.raises(ClosingError):
            await question
    session.abort()
