"""The terminal index, whatever has been written to it."""

from __future__ import annotations

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from tests.worlds import ValkeyWorld, done, first


async def test_a_score_that_is_no_time_hides_nothing(valkey: ValkeyWorld) -> None:
    """Of one key of the index: it is never read, and the others are reconciled as ever."""
    async with ValkeyBackend(valkey.url, reconcile_interval=0.2) as backend, ffc.subscribe(backend) as stream:
        for number in range(12):
            score, member = ("+inf", "1e300", "-inf", "-5")[number % 4], done().execution_id
            await valkey.command("ZADD", "ff:idx:{fp:7}:lane:default:terminal", score, member)
        for _ in range(2):
            item = done(flow_id=None)
            await valkey.finish(item)
            assert (await first(stream)).execution_id == item.execution_id
        assert backend.stats().malformed == 0


async def test_three_thousand_lanes(valkey: ValkeyWorld) -> None:
    """Subscribing does not wait for a look at 768,000 keys, and no pipeline holds them all."""
    await valkey.command("SADD", "ff:idx:lanes", *(f"lane-{number}" for number in range(3000)))
    async with valkey.backend() as backend, ffc.subscribe(backend) as stream:
        item = done()
        await valkey.publish(item)
        assert (await first(stream)).execution_id == item.execution_id
