"""``tail``: on a terminal, piped, interrupted, from somewhere on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.doors.cli.commands import FFC, E, F, announce, sh
from tests.worlds import Done, PostgresWorld, done


def _start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*FFC, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _announce_until(process: subprocess.Popen[str], url: str, *announcements: tuple[object, ...]) -> tuple[str, str]:
    """The tail takes a moment to be live: announce again until it has ended by itself."""
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        for words in announcements:
            announce(url, *words)  # type: ignore[arg-type]  # number, outcome, tenant
        time.sleep(0.05)
    return process.communicate(timeout=10)


def test_tail_piped_is_plain_lines(url: str) -> None:
    """No escape codes; totals on stderr; --count ends it with status 0."""
    process = _start("tail", url, "--count", "2")
    out, err = _announce_until(process, url, (1, "success", "a"))
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 2
    assert all(E % 1 in line and "success" in line for line in lines)
    assert "\x1b" not in out
    assert "2 completions" in err


def test_tail_json_filters_and_outcomes(url: str) -> None:
    """JSON Lines; another tenant's and other outcomes never show."""
    process = _start("tail", url, "--json", "--count", "1", "--namespace", "b", "--outcome", "failed", "--flow", F)
    out, err = _announce_until(process, url, (2, "failed", "a"), (3, "success", "b"), (4, "failed", "b"))
    assert process.returncode == 0, err
    (line,) = [json.loads(text) for text in out.splitlines()]
    assert (line["execution_id"], line["outcome"], line["flow_id"]) == (E % 4, "failed", F)
    assert ("cursor" in line) == url.startswith("postgres")


def test_tail_by_tag(url: str) -> None:
    """--tag KEY=VALUE; without a = it is refused."""
    process = _start("tail", url, "--tag", "k=v", "--count", "1")
    out, err = _announce_until(process, url, (6, "success", "a"), (7, "success", "a", "v"))
    assert process.returncode == 0, err
    assert (E % 7 in out, E % 6 in out) == (True, False)
    done = subprocess.run([*FFC, "tail", url, "--tag", "kv"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "KEY=VALUE" in done.stderr


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_tail_interrupted_ends_cleanly(url: str, sign: signal.Signals) -> None:
    """Totals, status 0, no traceback."""
    process = _start("tail", url)
    assert process.stdout is not None
    end = time.monotonic() + 30
    while not select.select([process.stdout], [], [], 0.05)[0] and time.monotonic() < end:
        announce(url, 5)
    process.send_signal(sign)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "completions in" in err
    assert "Traceback" not in err


def test_tail_on_a_terminal_has_colours(url: str) -> None:
    """A live line per completion, coloured; Ctrl-C ends it with the totals."""
    child = pexpect.spawn(
        FFC[0],
        [*FFC[1:], "tail", url],
        encoding="utf-8",
        timeout=20,
        dimensions=(24, 120),
        env={**os.environ, "TERM": "xterm-256color"},
    )
    child.expect("listening")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        announce(url, 6, "failed")
        if child.expect([r"failed", pexpect.TIMEOUT], timeout=0.2) == 0:
            break
    assert "\x1b[" in str(child.before)
    child.expect(re.escape(E % 6))
    child.sendintr()
    child.expect(r"completions in")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


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
