"""What is particular to the Valkey adapter."""

from __future__ import annotations

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from tests.worlds import ValkeyWorld, done, first, some


async def test_missing_and_wrong_keys_fail_closed(valkey: ValkeyWorld) -> None:
    """No core, a core of the wrong type, no namespace, tags of the wrong type, bytes that are no UTF-8."""
    async with valkey.backend() as backend:
        by_name = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        by_tag = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a", ("k", "v")))
        absent, wrong, bare, odd, garbled = done(), done(), done(), done(namespace="a"), done()
        await valkey.publish(absent)
        await valkey.command("SET", _key(wrong.execution_id, "core"), "x")
        await valkey.publish(wrong)
        await valkey.announce(bare)
        await valkey.command("SET", _key(odd.execution_id, "tags"), "x")
        await valkey.announce(odd)
        await valkey.command("HSET", _key(garbled.execution_id, "core"), "namespace", b"\xff")
        await valkey.publish(garbled)
        good = done(namespace="a", tags={"k": "v"})
        await valkey.announce(good)
        assert [p.execution_id for p in await some(by_name, 2)] == [odd.execution_id, good.execution_id]
        assert (await first(by_tag)).execution_id == good.execution_id
        stats = by_tag.stats()
        assert (stats.delivered, stats.filtered + stats.undecided) == (1, 5)
        await by_name.aclose()
        await by_tag.aclose()


def _key(execution_id: str, kind: str) -> str:
    return f"ff:exec:{execution_id[: execution_id.index('}') + 1]}:{execution_id}:{kind}"


async def test_a_batch_that_cannot_be_decided_is_held(valkey: ValkeyWorld) -> None:
    """The server refuses the reads for a while: nothing leaks, nothing is lost, order is kept."""
    user = "holder"
    await valkey.command("ACL", "SETUSER", user, "on", ">pw", "allkeys", "allchannels", "allcommands")
    try:
        async with ValkeyBackend(valkey.url, username=user, password="pw") as backend:
            async with ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
                await valkey.command("CLIENT", "PAUSE", "600", "ALL")
                items = [done(namespace=name) for name in ("a", "b", "a")]
                await valkey.announce(*items)
                got = [p.execution_id for p in await some(stream, 2)]
                assert got == [items[0].execution_id, items[2].execution_id]
    finally:
        await valkey.command("ACL", "DELUSER", user)


async def test_a_right_that_is_withdrawn_holds_and_leaks_nothing(valkey: ValkeyWorld) -> None:
    """An error in place of an answer is no answer: asked again until there is one."""
    user = "withdrawn"
    await valkey.command("ACL", "SETUSER", user, "on", ">pw", "allkeys", "allchannels", "allcommands")
    try:
        async with ValkeyBackend(valkey.url, username=user, password="pw", reconcile_interval=0) as backend:
            mine = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
            everything = await backend.subscribe_completions()
            await valkey.command("ACL", "SETUSER", user, "-hget")
            items = [done(namespace=name) for name in ("a", "b", "a")]
            await valkey.announce(*items)
            assert len(await some(everything, 3)) == 3
            assert mine.stats().buffered == 0
            await valkey.command("ACL", "SETUSER", user, "+hget")
            assert [p.execution_id for p in await some(mine, 2)] == [items[0].execution_id, items[2].execution_id]
            await mine.aclose()
            await everything.aclose()
    finally:
        await valkey.command("ACL", "DELUSER", user)


class Negating:
    """Admits everything but one namespace, and one tag's value."""

    def __init__(self, tag_key: str | None) -> None:
        self.tag_key = tag_key

    def is_noop(self, /) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        return core_namespace != "b" and tag_value != "b"


@pytest.mark.parametrize("tag_key", [None, "k"])
async def test_a_filter_that_negates_is_served_nothing_that_is_unknown(
    valkey: ValkeyWorld, tag_key: str | None
) -> None:
    """No record, one of another type, text that is no UTF-8: undecided. A record without namespace or tag: known."""
    async with ValkeyBackend(valkey.url, reconcile_interval=0) as backend:
        stream = await backend.subscribe_completions_filtered(Negating(tag_key))
        absent, wrong, garbled, tagged, bare = (done() for _ in range(5))
        await valkey.publish(absent)
        await valkey.command("SET", _key(wrong.execution_id, "core"), "x")
        await valkey.publish(wrong)
        await valkey.command("HSET", _key(garbled.execution_id, "core"), "namespace", b"\xff")
        await valkey.publish(garbled)
        await valkey.write(tagged)
        await valkey.command("HSET", _key(tagged.execution_id, "tags"), "k", b"\xff")
        await valkey.publish(tagged)
        await valkey.announce(bare)
        expected = [tagged, bare] if tag_key is None else [bare]
        assert [p.execution_id for p in await some(stream, len(expected))] == [item.execution_id for item in expected]
        assert stream.stats().undecided == 5 - len(expected)
        await stream.aclose()


async def test_a_time_of_five_thousand_digits_is_nobody_else_s_trouble(valkey: ValkeyWorld) -> None:
    """In one record: results, waits and filters of others go on."""
    odd, good = done(namespace="a", result=b"r"), done(namespace="a", result=b"r")
    async with ValkeyBackend(valkey.url) as backend:
        full = await backend.subscribe_completions(results=True)
        mine = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        await valkey.write(odd)
        await valkey.command("HSET", _key(odd.execution_id, "core"), "completed_at", "9" * 5000)
        await valkey.publish(odd)
        await valkey.announce(good)
        for stream in (full, mine):
            assert [p.execution_id for p in await some(stream, 2)] == [odd.execution_id, good.execution_id]
            await stream.aclose()
        found = await backend.describe_execution(odd.execution_id)
        assert found is not None
        assert found.completed_at_ms == 0
