"""What a Valkey holds now."""

from __future__ import annotations

import time

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import status as asking_status
from ffcompletion.backends.valkey.status import status
from tests.doors.cli.commands import told
from tests.worlds import ValkeyWorld, done, eventually

KEY = "ff:idx:{fp:%d}:lane:default:terminal"


async def test_valkey_what_has_finished_and_who_subscribes(valkey: ValkeyWorld) -> None:
    """Of all lanes and partitions; a user who may not read the index is told the rest."""
    assert told(valkey.url)["finished_executions"] == 0
    for _ in range(3):
        await valkey.finish(done())
    await valkey.finish(done(), lane="fast")
    await valkey.command("SADD", "ff:idx:lanes", "default", "fast")
    async with valkey.backend() as backend, ffc.subscribe(backend):
        found = told(valkey.url)
    assert (found["finished_executions"], found["lanes"], found["subscribers"]) == (4, ["default", "fast"], 1)
    assert 0 <= found["newest_age_s"] < 60
    await valkey.command("ACL", "SETUSER", "looker", "on", ">secret", "+info", "+pubsub|numsub", "&ff:dag:completions")
    try:
        limited = told(valkey.url.replace("valkey://", "valkey://looker:secret@"))
    finally:
        await valkey.command("ACL", "DELUSER", "looker")
    assert (limited["finished_executions"], limited["lanes"]) == (None, None)
    assert str(limited["server"]).startswith("valkey")


async def test_the_newest_of_all_keys_is_told(valkey: ValkeyWorld) -> None:
    """However old; one that claims to be of the future is of now; where there is none, nothing is told."""
    assert (await status(valkey.url))["newest_age_s"] is None
    now_ms = int(time.time() * 1_000)
    for partition, age_s in ((1, 7_000), (2, 1_000), (3, 9_000)):
        await valkey.command("ZADD", KEY % partition, str(now_ms - age_s * 1_000), done().execution_id)
    told_s = (await status(valkey.url))["newest_age_s"]
    assert isinstance(told_s, float)
    assert 990 < told_s < 1_100
    await valkey.command("ZADD", KEY % 4, str(now_ms + 1_000_000), done().execution_id)
    assert (await status(valkey.url))["newest_age_s"] == 0


async def test_a_key_of_another_type_counts_for_nothing(valkey: ValkeyWorld) -> None:
    """And hides none of the others."""
    await valkey.finish(done())
    await valkey.command("SET", KEY % 255, "x")
    assert (await status(valkey.url))["finished_executions"] == 1


async def test_of_many_lanes_some_are_shown(valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all are counted."""
    monkeypatch.setattr(asking_status, "_LANES_SHOWN", 2)
    await valkey.command("SADD", "ff:idx:lanes", "a", "b", "c")
    await valkey.finish(done(), lane="c")
    found = await status(valkey.url)
    assert (found["lanes"], found["finished_executions"]) == (["a", "b"], 1)


async def test_what_may_not_be_asked_is_not_told(valkey: ValkeyWorld) -> None:
    """The server and nothing else, and no connection stays; glide itself asks what the server is, and fails without."""
    url = valkey.url.replace("valkey://", "valkey://narrow:pw@")
    await valkey.command("ACL", "SETUSER", "narrow", "reset", "on", ">pw", "+info")
    try:
        found = dict(await status(url))
        assert str(found.pop("server")).startswith("valkey")
        assert set(found.values()) == {None}
        await valkey.command("ACL", "SETUSER", "narrow", "-info")
        with pytest.raises(ffc.Unavailable, match="ACL"):
            await status(url)
    finally:
        await valkey.command("ACL", "DELUSER", "narrow")
    await eventually(lambda: _nobody(valkey))


async def _nobody(valkey: ValkeyWorld) -> bool:
    return await valkey.connections() == 0
