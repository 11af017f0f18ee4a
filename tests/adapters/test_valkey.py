"""What is particular to the Valkey adapter."""

from __future__ import annotations

import asyncio
import json

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend, supervisor
from ffcompletion.backends.valkey.options import Options
from ffcompletion.options import ValkeyOptions
from tests import ROOT
from tests.worlds import FLOW, ValkeyWorld, done, eventually, first, nothing, some

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


@pytest.mark.parametrize(
    ("rules", "filtered", "message"),
    [
        (["resetchannels", "allkeys", "allcommands"], False, "SUBSCRIBE ff:dag:completions"),
        (["&ff:dag:completions", "resetkeys", "allcommands"], True, "ff:exec"),
        (["allchannels", "allkeys", "allcommands", "-hmget"], True, "+hmget"),
    ],
)
async def test_a_missing_right_is_named(valkey: ValkeyWorld, rules: list[str], filtered: bool, message: str) -> None:
    """With the ACL rule that mends it, at subscribe."""
    await valkey.command("ACL", "SETUSER", "narrow", "reset", "on", ">pw", *rules)
    async with ValkeyBackend(valkey.url, username="narrow", password="pw") as backend:
        with pytest.raises(ffc.Unavailable) as caught:
            if filtered:
                await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
            else:
                await backend.subscribe_completions()
        assert message in str(caught.value)
        assert "ACL SETUSER" in str(caught.value)


OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES = {line.split()[2]: line.split() for line in OPERATIONS.splitlines() if line.startswith("ACL SETUSER")}


@pytest.mark.parametrize("user", RULES)
async def test_the_rights_in_the_readme_suffice(
    valkey: ValkeyWorld, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Line by line: push alone; filters and results; what is found in the index; and all of it."""
    await valkey.command(*RULES[user], "resetpass", ">password")
    options: ValkeyOptions = {"username": user, "password": "password", "reconcile_interval": 0.3}
    item, solo = done(namespace="a", result=b"r"), done(namespace="a", flow_id=None)
    try:
        async with ValkeyBackend(valkey.url, **options) as backend:
            if user in ("push", "waiting"):
                stream = await backend.subscribe_completions()
            else:
                stream = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"), results=True)
            async with stream:
                await valkey.finish(item)
                assert (await first(stream)).execution_id == item.execution_id
                if user in ("reconciled", "consumer"):
                    await valkey.finish(solo)
                    assert (await first(stream)).execution_id == solo.execution_id
                if user in ("waiting", "consumer"):
                    assert (
                        await ffc.wait_for_completion(backend, item.execution_id, result=True)
                    ).payload_bytes == b"r"
                    await valkey.joins(FLOW, item)
                    await valkey.finish(item)
                    assert item.execution_id in await ffc.wait_for_flow(backend, FLOW, timeout=5)
                # The echo goes round, and nobody finds fault with it.
                await asyncio.sleep(0.7)
                assert backend.stats().state is ffc.BackendState.LIVE
    finally:
        await valkey.command("ACL", "DELUSER", user)
    assert ("reconciling is off" in caplog.text) == (user not in ("reconciled", "consumer"))


async def test_without_an_echo_channel_a_ping_has_to_do(valkey: ValkeyWorld) -> None:
    """The channel and four commands (glide itself asks INFO) are the least that push can do with."""
    rules = RULES["push"][3 : RULES["push"].index("(+publish")]
    rules.remove("+client|info")
    await valkey.command("ACL", "SETUSER", "least", *rules)
    try:
        async with ValkeyBackend(valkey.url, username="least", password="password") as backend:
            async with ffc.subscribe(backend) as stream:
                item = done()
                await valkey.announce(item)
                assert (await first(stream)).execution_id == item.execution_id
                await asyncio.sleep(1.2)
                assert backend.stats().state is ffc.BackendState.LIVE
                await nothing(stream, done(), valkey)
    finally:
        await valkey.command("ACL", "DELUSER", "least")


async def test_wrong_credentials(valkey: ValkeyWorld) -> None:
    """``Unavailable``, and no password in it."""
    await valkey.command("ACL", "SETUSER", "known", "on", ">rIgHt", "allkeys", "allchannels", "allcommands")
    async with ValkeyBackend(valkey.url, username="known", password="wRoNg") as backend:
        with pytest.raises(ffc.Unavailable, match="credentials") as caught:
            await backend.subscribe_completions()
        assert "wRoNg" not in f"{caught.value} {caught.value.__cause__!r} {backend!r}"
        assert caught.value.__cause__ is not None


async def test_the_client_comes_back_within_half_a_second(valkey: ValkeyWorld) -> None:
    """``CLIENT KILL TYPE pubsub`` on a healthy server. Once of five times: other programs may keep the machine busy."""
    loop, took = asyncio.get_running_loop(), [60.0]
    while min(took) >= 0.5 and len(took) <= 5:
        async with valkey.backend() as backend, ffc.subscribe(backend) as stream:
            await valkey.drop_connections()
            killed = loop.time()
            waiting = asyncio.ensure_future(first(stream))
            while not waiting.done():
                await valkey.announce(done())
                await asyncio.wait({waiting}, timeout=0.005)
            took.append(loop.time() - killed)
            await eventually(lambda backend=backend: backend.stats().reconnects == 1)
    assert min(took) < 0.5, took


async def test_many_streams_share_one_connection(valkey: ValkeyWorld) -> None:
    """A hundred streams: one subscriber connection, and one to read keys."""
    async with valkey.backend() as backend:
        streams = [await backend.subscribe_completions() for _ in range(100)]
        assert await valkey.connections() == 2
        item = done()
        await valkey.announce(item)
        for stream in streams:
            assert (await first(stream)).execution_id == item.execution_id
            await stream.aclose()


async def test_loops_in_turn(valkey: ValkeyWorld) -> None:
    """Several event loops, one after the other, in threads: none is deaf."""

    def one_loop() -> object:
        async def work() -> object:
            async with ValkeyBackend(valkey.url) as backend, ffc.subscribe(backend) as stream:
                waiting = asyncio.ensure_future(first(stream, 8))
                while not waiting.done():
                    asyncio.run_coroutine_threadsafe(valkey.announce(done()), main).result(5)
                    await asyncio.wait({waiting}, timeout=0.05)
                return (await waiting).outcome

        return asyncio.run(work())

    main = asyncio.get_running_loop()
    for _ in range(3):
        assert await asyncio.to_thread(one_loop) == "success"


@pytest.mark.parametrize(
    ("url", "hosts", "extra"),
    [
        ("valkey://h", (("h", 6379),), {}),
        ("redis://h:1,[::1]:2/3", (("h", 1), ("::1", 2)), {"database": 3}),
        (
            "valkeys://u:p%40:x@h/?cluster=true",
            (("h", 6379),),
            {"username": "u", "password": "p@:x", "cluster": True, "tls": True},
        ),
        ("rediss://:p@h/0", (("h", 6379),), {"password": "p", "username": None, "tls": True}),
    ],
)
def test_urls_are_read(url: str, hosts: object, extra: dict[str, object]) -> None:
    """Hosts, credentials, database, TLS, cluster."""
    options = Options.from_url(url)
    assert options.hosts == hosts
    for name, value in extra.items():
        assert getattr(options, name) == value
    assert "p@:x" not in repr(options) + options.shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("valkey://", "host is missing"),
        ("valkey://user@h", "needs a password"),
        ("valkey://h:sEcReT", "port"),
        ("valkey://h:99999", "port"),
        ("valkey://h/x", "database number"),
        ("valkey://h?nope=1", "unknown option 'nope'"),
        ("valkey://h/1?cluster=true", "database 0 only"),
        ("valkey://h?cluster=maybe", "true or false"),
        ("valkeys://h?tls_ca=/does/not/exist", "cannot read"),
        ("valkeys://h?tls_cert=/dev/null", "both tls_cert and tls_key"),
        ("valkey://h?tls_ca=/dev/null", "scheme is not valkeys"),
        ("valkeys://h?tls_ca=/dev/null", "empty"),
        ("valkey://u:sEcReT@[::1", "cannot be parsed"),
    ],
)
def test_bad_urls_are_refused_with_the_remedy(url: str, message: str) -> None:
    """``Validation``, before anything is sent."""
    with pytest.raises(ffc.Validation) as caught:
        ffc.connect(url)
    assert message in str(caught.value)
    assert "sEcReT" not in str(caught.value)


async def test_a_consumer_s_glide_logger_is_left_alone(valkey: ValkeyWorld) -> None:
    """The library quietens glide only where nobody has set its logger up."""
    from glide import Logger, LogLevel

    Logger.set_logger_config(LogLevel.ERROR)
    before = Logger._instance  # type: ignore[attr-defined]  # glide's own
    async with valkey.backend() as backend, ffc.subscribe(backend):
        assert Logger._instance is before  # type: ignore[attr-defined]  # glide's own


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
