"""What a session needs of a server, and says where it lacks it."""

from __future__ import annotations

import asyncio

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.options import ValkeyOptions
from tests import ROOT
from tests.worlds import FLOW, ValkeyWorld, done, first, nothing


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
