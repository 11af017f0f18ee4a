"""Questions about records and results."""

from __future__ import annotations

import ffcompletion as ffc
from tests.worlds import ValkeyWorld, done, some


async def test_each_field_is_asked_for_once(valkey: ValkeyWorld) -> None:
    """Twenty filtered streams cost the server no more than one."""
    async with valkey.backend() as backend:
        streams = [await backend.subscribe_completions_filtered(ffc.ScannerFilter("a", ("k", "v"))) for _ in range(20)]
        await valkey.command("CONFIG", "RESETSTAT")
        items = [done(namespace="a", tags={"k": "v"}) for _ in range(10)]
        await valkey.announce(*items)
        for stream in streams:
            assert len(await some(stream, 10)) == 10
            await stream.aclose()
        info = await valkey.command("INFO", "commandstats")
        text = info.decode() if isinstance(info, bytes) else str(info)
        calls = {
            line.split(":")[0]: int(line.split("calls=")[1].split(",")[0])
            for line in text.splitlines()
            if "calls=" in line
        }
        # One field of the core record, one of the tags.
        assert calls["cmdstat_hget"] == 20
        assert "cmdstat_hmget" not in calls
