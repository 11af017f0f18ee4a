"""``demo --board``: the page is there at once, and stays whatever becomes of what the command prints."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import sys

import httpx
import pytest

from tests.doors.cli.test_board import command
from tests.worlds.forking import Interpreter

pytestmark = pytest.mark.timeout(180)


async def test_the_demo_shows_it_at_once() -> None:
    """``demo --board`` prints the address, and the page is there."""
    async with command("demo", "--backend", "postgres", "--board", "--seconds", "60") as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            assert "<h1>Completions</h1>" in (await client.get("/")).text
            async with client.stream("GET", "api/events") as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        break
            assert json.loads(line.removeprefix("data: "))["namespace"] in ("acme", "globex")


async def test_the_demo_goes_on_where_nobody_reads_what_it_prints() -> None:
    """A full pipe held up its event loop, and with it the page."""
    ours, its = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4_096)
    words = ("demo", "--backend", "valkey", "--board", "--seconds", "60")
    process = await asyncio.create_subprocess_exec(*Interpreter("-m", "ffcompletion"), *words, stdout=its)
    os.close(its)
    try:
        text = ""
        while (found := re.search(r"http://\S+\n", text)) is None:
            text += (await asyncio.to_thread(os.read, ours, 200)).decode()
        async with httpx.AsyncClient(base_url=found[0].strip(), timeout=5) as client:
            async with client.stream("GET", "api/events") as answer:
                seen = 0
                async for line in answer.aiter_lines():
                    seen += line.startswith("data: ")
                    if seen == 150:  # with a line for each, twice what the pipe holds
                        break
    finally:
        os.close(ours)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 20)
