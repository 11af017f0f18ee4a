"""``wait`` in shell scripts, and ``tail`` that begins somewhere and remembers."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest
import typer

from ffcompletion.cli.app import partitions_of
from tests.doors.cli.commands import FFC, sh
from tests.worlds import PostgresWorld, ValkeyWorld, done, eventually

on_servers = pytest.mark.parametrize("world", ["valkey", "postgres18"], indirect=True)


@on_servers
async def test_exit_codes_in_a_script(world: ValkeyWorld | PostgresWorld) -> None:
    """Success, everything else, time-out, trouble; a script branches on them."""
    items = {outcome: done(outcome=outcome) for outcome in ("success", "failed", "cancelled", "expired", "skipped")}
    running = done()
    for item in items.values():
        await world.begins(item)
        await world.ends(item)
    await world.begins(running)
    script = """
    for id in "${@:2}"; do
      if ffcompletion wait "$1" "$id" --timeout 2 >/dev/null; then echo ok; else echo "$?"; fi
    done
    """
    ids = [item.execution_id for item in items.values()]
    _, out, err = await sh(script, world.url, *ids, running.execution_id, done().execution_id, "nonsense")
    assert out.split() == ["ok", "1", "1", "1", "1", "124", "2", "2"], err
    assert "has not finished within 2 s" in err
    assert "not found" in err
    assert "Traceback" not in err


@on_servers
async def test_all_any_and_results(world: ValkeyWorld | PostgresWorld) -> None:
    """One failure among all is a failure; the first will do with --any; results as bytes, and as JSON."""
    good, bad = done(result=b"fine\x00\xff"), done(outcome="failed", result=b'{"a":1}')
    running = done()
    for item in (good, bad):
        await world.begins(item)
        await world.ends(item)
    await world.begins(running)
    status, out, _ = await sh('ffcompletion wait "$@" --json --result', world.url, good.execution_id, bad.execution_id)
    assert status == 1
    lines = {line["execution_id"]: line for line in map(json.loads, out.splitlines())}
    assert lines[bad.execution_id]["result"] == '{"a":1}'
    assert lines[good.execution_id]["result_base64"] == "ZmluZQD/"
    status, out, _ = await sh('ffcompletion wait "$@" --any', world.url, running.execution_id, good.execution_id)
    assert (status, good.execution_id in out) == (0, True)
    status, out, err = await sh('ffcompletion wait "$@" --result | od -An -tx1', world.url, good.execution_id)
    assert (status, out.split()) == (0, ["66", "69", "6e", "65", "00", "ff"])
    assert good.execution_id in err
    status, _, err = await sh('ffcompletion wait "$@" --result', world.url, good.execution_id, bad.execution_id)
    assert (status, "--any" in err) == (2, True)


@on_servers
async def test_waiting_and_interrupted(world: ValkeyWorld | PostgresWorld) -> None:
    """It waits while it runs; Ctrl-C ends it without a word."""
    item = done()
    await world.begins(item)
    command = [*FFC, "wait", world.url, item.execution_id]
    waiting = [await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE) for _ in range(2)]

    async def both_listen() -> bool:
        # One that subscribes and one that reads keys, or an outbox.
        return await world.connections() >= 4

    await eventually(both_listen, 30)
    assert all(process.returncode is None for process in waiting)
    waiting[0].send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(waiting[0].communicate(), 10)
    assert (waiting[0].returncode, err) == (130, b"")
    await world.ends(item)
    assert await asyncio.wait_for(waiting[1].wait(), 10) == 0


@pytest.mark.parametrize("wrong", ["2/2", "x", "3-", "70000", "0-65536", ""])
def test_partitions_that_cannot_be(wrong: str) -> None:
    """Refused with what would be right."""
    with pytest.raises(typer.BadParameter, match="--partitions"):
        partitions_of(wrong)
