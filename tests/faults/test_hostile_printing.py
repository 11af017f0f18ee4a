"""What tenants write, as the command line prints it: no command to the terminal, no line of their own, no end of ours."""

from __future__ import annotations

import asyncio
import json

import pytest

from ffcompletion.backends.postgres import PostgresCheckpoints
from tests.doors.cli.commands import FFC
from tests.worlds import Done, PostgresWorld, ValkeyWorld, World, done, hash_tag

# Clears the screen in two ways, ends the line in four, turns the rest round, and rings.
HOSTILE = "x\x1b[2J\x9b2J\r\nFORGED\u2028FORGED\u2029FORGED\x85FORGED\u202e\x07\x7f[bold]"
LAST = (1 << 63) - 1


async def printed(*words: str) -> str:
    """What a command prints, once it was looked at."""
    command = await asyncio.create_subprocess_exec(
        *FFC, *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(command.communicate(), 60)
    text = out.decode()
    assert "Traceback" not in text, text
    assert [sign for sign in text if sign != "\n" and not sign.isprintable()] == [], words
    assert not any(line.startswith("FORGED") for line in text.splitlines()), words
    return text


async def poisoned(world: World) -> tuple[Done, Done]:
    """Two that have ended: one with hostile texts, one at the end of all time."""
    loud, late = done(outcome=HOSTILE, namespace=HOSTILE, tags={HOSTILE: HOSTILE}), done()
    if isinstance(world, PostgresWorld):
        await world.announce(loud, late)
        bare = late.execution_id.partition("}:")[2]
        await world.sql("UPDATE ff_completion_event SET occurred_at_ms = %s WHERE execution_id = %s", (LAST, bare))
        await world.sql(
            "UPDATE ff_exec_core SET terminal_at_ms = %s, lane_id = %s WHERE execution_id = %s", (LAST, HOSTILE, bare)
        )
    elif isinstance(world, ValkeyWorld):
        await world.finish(loud)
        await world.finish(late)
        core = f"ff:exec:{hash_tag(late.execution_id)}:{late.execution_id}:core"
        await world.command("HSET", core, "completed_at", str(LAST), "lane_id", HOSTILE)
        await world.command("SADD", "ff:idx:lanes", HOSTILE)
    return loud, late


@pytest.mark.parametrize("world", ["valkey", "postgres18"], indirect=True)
async def test_what_is_stored_commands_no_terminal(world: ValkeyWorld | PostgresWorld) -> None:
    loud, late = await poisoned(world)
    for item in (loud, late):
        assert item.execution_id in await printed("describe", world.url, item.execution_id)
        told = json.loads(await printed("describe", world.url, item.execution_id, "--json"))
        assert (told["namespace"], told["terminal_outcome"]) == (item.namespace, item.outcome)
        waited = ("wait", world.url, item.execution_id, "--timeout", "20")
        assert item.execution_id in await printed(*waited)
        assert json.loads(await printed(*waited, "--json"))["outcome"] == item.outcome
    await printed("doctor", world.url)
    assert json.loads(await printed("doctor", world.url, "--json"))["findings"]
    await printed("status", world.url)
    await printed("status", world.url, "--json")


@pytest.mark.parametrize("postgres", [18], indirect=True)
async def test_one_row_ends_nobody_s_tail(postgres: PostgresWorld) -> None:
    """At the end of time `tail` ended, with a traceback, for whoever looked at all tenants."""
    loud, late = await poisoned(postgres)
    last = done()
    await postgres.announce(last)
    tail = ("tail", postgres.url, "--from", "beginning", "--count", "3")
    lines = (await printed(*tail)).splitlines()
    assert [item.execution_id in line for item, line in zip((loud, late, last), lines, strict=False)] == [True] * 3
    assert str(LAST) in lines[1]
    told = [json.loads(line) for line in (await printed(*tail, "--json")).splitlines() if line.startswith("{")]
    assert [line["outcome"] for line in told] == [HOSTILE, "success", "success"]
    await printed(*tail, "--summary")


@pytest.mark.parametrize("postgres", [18], indirect=True)
async def test_one_checkpoint_hides_no_other(postgres: PostgresWorld) -> None:
    """Of a table that others may write to: names, cursors and times as they please."""
    async with PostgresCheckpoints(postgres.url, table="poisoned") as store:
        await store.load("nobody")
        position, blank = bytes.fromhex("020000000000000005"), ("outbox", "")
        for name, cursor, at in (
            ("good", position, "now"),
            (HOSTILE, position, "now"),
            ("bad cursor", b"\x09 is none", "now"),
            ("never", position, "infinity"),
            ("once", position, "-infinity"),
            ("late", position, "290000-01-01"),
            ("early", position, "4000-01-01 BC"),
        ):
            await postgres.sql("INSERT INTO poisoned VALUES (%s, %s, %s, %s, %s)", (name, cursor, *blank, at))
        try:
            found = {each.name for each in await store.stored()}
            assert found == {"good", HOSTILE, "never", "once", "late", "early"}
            shown = await printed("checkpoints", "show", postgres.url, "--table", "poisoned")
            assert "'bad cursor'" in shown, "it is named"
            lines = (await printed("checkpoints", "show", postgres.url, "--table", "poisoned", "--json")).splitlines()
            assert {json.loads(line)["name"] for line in lines if line.startswith("{")} == found
            assert "is forgotten" in await printed(
                "checkpoints", "reset", postgres.url, "bad cursor", "--table", "poisoned", "--yes"
            )
        finally:
            await postgres.sql("DROP TABLE poisoned")
