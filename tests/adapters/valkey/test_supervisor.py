"""What keeps a run going, whatever arrives."""

from __future__ import annotations

import json

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import supervisor
from tests.worlds import ValkeyWorld, done, eventually, nothing, some

POISON = [
    b"",
    b"nonsense",
    b"[1,2,3]",
    b"\xff\xfe\x00",
    b"{" * 5000,
    b'{"x":' * 5000,
    b"x" * 1_000_000,
    json.dumps({"execution_id": "{fp:7}:nope", "flow_id": "nope"}).encode(),
]


async def test_poison_is_counted_logged_at_a_bounded_rate_and_skipped(
    valkey: ValkeyWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream goes on; the counters add up."""
    async with valkey.backend() as backend, ffc.subscribe(backend) as stream:
        for _ in range(5):
            for raw in POISON:
                await valkey.command("PUBLISH", "ff:dag:completions", raw)
        await nothing(stream, done(), valkey)
        stats = backend.stats()
        assert stats.malformed == 5 * len(POISON)
        assert stats.received == stats.malformed + 1
    assert len([r for r in caplog.records if "could not be read" in r.getMessage()]) == 1


async def test_an_error_of_our_own_ends_nothing(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pump logs it, counts a gap, and goes on."""
    async with valkey.backend() as backend, ffc.subscribe(backend) as stream:
        monkeypatch.setattr(supervisor, "decode_batch", lambda messages: 1 / 0)
        await valkey.announce(done())
        await eventually(lambda: backend.stats().gaps == 1)
        monkeypatch.undo()
        await nothing(stream, done(), valkey)
    assert "could not be handed out" in caplog.text


async def test_a_flood_does_not_look_like_a_dead_connection(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The echo waits behind everything announced before it; what arrives meanwhile proves the connection."""
    monkeypatch.setattr(supervisor, "_CHECK_DEADLINE_S", 1.0)
    monkeypatch.setattr(supervisor, "_CHECK_EVERY_S", 0.05)
    item = done()
    script = "for i = 1, 1000 do redis.call('PUBLISH', 'ff:dag:completions', ARGV[1]) end"
    message = json.dumps({"flow_id": item.flow_id, "outcome": "success", "execution_id": item.execution_id})
    async with valkey.backend(buffer_size=1_000_000) as backend, ffc.subscribe(backend) as stream:
        for _ in range(100):
            await valkey.command("EVAL", script, "0", message)
        await some(stream, 100_000, 100)
        stats = backend.stats()
    assert (stats.reconnects, stats.gaps) == (0, 0)
