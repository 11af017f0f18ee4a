"""``wait`` in shell scripts, and ``tail`` that begins somewhere and remembers."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import typer

from ffcompletion.cli.app import partitions_of
from tests.worlds import Done, PostgresWorld, ValkeyWorld, done, eventually
from tests.worlds.forking import Interpreter

FFC = Interpreter("-m", "ffcompletion")
on_servers = pytest.mark.parametrize("world", ["valkey", "postgres18"], indirect=True)


async def sh(script: str, *words: str) -> tuple[int, str, str]:
    """Run it as somebody's script; exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-uc", f'ffcompletion() {{ {" ".join(FFC)} "$@"; }}\n{script}', "script", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 40)
    return process.returncode or 0, out.decode(), err.decode()


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


async def test_tail_from_and_checkpoint(postgres: PostgresWorld, tmp_path: Path) -> None:
    """From the beginning, from a cursor of --json, and on from where the last run stopped."""
    items = [done() for _ in range(6)]
    await postgres.announce(*items)
    ids = [item.execution_id for item in items]

    async def tail(*words: str) -> list[Any]:
        status, out, err = await sh('ffcompletion tail "$@" --json', postgres.url, *words)
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()]

    async def tail_until(last: str, *words: str) -> list[str]:
        """Interrupted once it has shown this execution; the executions that it has shown."""
        process = await asyncio.create_subprocess_exec(
            *FFC, "tail", postgres.url, "--json", *words, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        shown: list[str] = []
        async with asyncio.timeout(40):
            while not shown or shown[-1] != last:
                shown.append(json.loads(await process.stdout.readline())["execution_id"])
            process.send_signal(signal.SIGINT)
            rest, _ = await process.communicate()
        assert (process.returncode, rest) == (0, b"")
        return shown

    lines = await tail("--from", "beginning", "--count", "6")
    assert [line["execution_id"] for line in lines] == ids
    later = await tail_until(ids[5], "--from", lines[3]["cursor"])
    assert later[-2:] == ids[4:]
    file = str(tmp_path / "checkpoint")
    lines = await tail("--checkpoint", file, "--from", "beginning", "--count", "4")
    assert [line["execution_id"] for line in lines] == ids[:4]
    again = Done(execution_id=done().execution_id)
    await postgres.announce(again)
    assert (await tail_until(again.execution_id, "--checkpoint", file))[-3:] == [*ids[4:], again.execution_id]
    # What is shown next is what comes next.
    newest = done()
    await postgres.announce(newest)
    assert await tail_until(newest.execution_id, "--checkpoint", file) == [newest.execution_id]
    status, _, err = await sh('ffcompletion tail "$@"', postgres.url, "--checkpoint", file, "--namespace", "a")
    assert (status, "everything" in err) == (2, True)
    status, _, err = await sh('ffcompletion tail "$@"', postgres.url, "--from", "xyz")
    assert (status, "cursor" in err) == (2, True)


async def test_tail_shows_results_of_a_share(postgres: PostgresWorld) -> None:
    """With the stored result, in JSON and for people; of some partitions, or of one worker's share."""
    ids = [f"{{fp:{number}}}:550e8400-e29b-41d4-a716-44665544{number:04}" for number in (3, 4, 7)]
    await postgres.announce(*[Done(execution_id=id_, flow_id=None, result=b"r\x1b%d" % n) for n, id_ in enumerate(ids)])

    async def tail(*words: str) -> str:
        words = (postgres.url, "--from", "beginning", "--result", *words)
        status, out, err = await sh('ffcompletion tail "$@"', *words)
        assert status == 0, err
        return out

    shown, share = await asyncio.gather(
        tail("--json", "--partitions", "7,0-3", "--count", "2"), tail("--partitions", "1/2", "--count", "2")
    )
    found = [json.loads(line) for line in shown.splitlines()]
    assert [(line["execution_id"], line["result"]) for line in found] == [(ids[0], "r\x1b0"), (ids[2], "r\x1b2")]
    assert [line.split()[2:] for line in share.splitlines()] == [[ids[0], "r\\x1b0"], [ids[2], "r\\x1b2"]]


@pytest.mark.parametrize("wrong", ["2/2", "x", "3-", "70000", "0-65536", ""])
def test_partitions_that_cannot_be(wrong: str) -> None:
    """Refused with what would be right."""
    with pytest.raises(typer.BadParameter, match="--partitions"):
        partitions_of(wrong)
