"""What a Valkey holds now."""

from __future__ import annotations

import ffcompletion as ffc
from tests.doors.cli.commands import told
from tests.worlds import ValkeyWorld, done


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
