"""What somebody announces before it is so keeps nobody from what is so."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend, keys
from ffcompletion.contract.ids import ExecutionId
from tests.worlds import FLOW, ValkeyWorld, done, eventually, some


@pytest.mark.parametrize("early_s", [0.05, 0.5])
async def test_an_end_that_was_announced_before_it_was_one(valkey: ValkeyWorld, early_s: float) -> None:
    """By whoever may publish: when it ends in silence it is found, as its record says, for every stream whose it is."""
    item = done(namespace="a", flow_id=None, outcome="failed", result=b"r")
    async with (
        ValkeyBackend(valkey.url, reconcile_interval=0.3) as backend,
        ffc.subscribe(backend, ffc.ScannerFilter("a")) as mine,
        ffc.subscribe(backend, results=True) as everything,
    ):
        await valkey.begins(item)
        await valkey.command("HSET", keys.core(ExecutionId(item.execution_id)), "namespace", "a")
        await valkey.publish(msgspec.structs.replace(item, flow_id=FLOW, outcome="success"))
        # As early as it arrives, that is.
        await eventually(lambda: backend.stats().received == 1)
        await asyncio.sleep(early_s)
        await valkey.finish(item)
        for stream, result in ((mine, None), (everything, b"r")):
            told = [(p.execution_id, p.outcome, p.payload_bytes) for p in await some(stream, 2)]
            assert told == [(item.execution_id, "success", None), (item.execution_id, "failed", result)]
        assert backend.stats().reconciled == 1
