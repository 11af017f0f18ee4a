"""The doctor before a Valkey in the very condition that each check is for; the remedy is pasted, and helps."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.contract.diagnosis import Verdict, exit_status
from ffcompletion.doctor import examine
from tests.adapters.examined import FAILURE, NOTE, OK, WARNING, found
from tests.doors.cli.commands import raw_valkey
from tests.worlds import eventually
from tests.worlds.proxy import Proxy
from tests.worlds.servers import Authority, free_ports

pytestmark = pytest.mark.timeout(150)


async def test_a_valkey_that_is_well(valkey_url: str) -> None:
    """Nothing that is more than a note."""
    findings = await examine(valkey_url)
    assert exit_status(findings) == 0, [it for it in findings if it.verdict not in (OK, NOTE)]
    assert {"connection", "TLS", "version", "role", "cluster", "clocks", "announcements", "filters", "results", "reconciling",
            "waiting", "lengths", "tags' sizes", "lanes", "output buffers", "eviction"} == {it.check for it in findings}  # fmt: skip


_ALL = "+ping +info +time +subscribe +publish +hget +hmget +hgetall +get +sscan +zrange"


_KEYS = "%R~ff:exec:* %R~ff:idx:* %R~ff:flow:* %R~ff:config:partitions"


_CHANNELS = "&ff:dag:completions &ffcompletion:echo:*"


@pytest.mark.parametrize(
    ("rules", "check", "verdict"),
    [
        (f"{_ALL} {_KEYS} &ffcompletion:echo:*", "announcements", FAILURE),
        (f"{_ALL} {_KEYS} &ff:dag:completions", "announcements", NOTE),
        (f"{_ALL} {_CHANNELS} %R~ff:idx:*", "filters", WARNING),
        (f"{_ALL} {_CHANNELS} {_KEYS} -get", "results", NOTE),
        (f"{_ALL} {_CHANNELS} %R~ff:exec:*", "reconciling", WARNING),
        (f"{_ALL} {_CHANNELS} {_KEYS} -hgetall", "waiting", WARNING),
        (f"{_ALL} {_CHANNELS} {_KEYS} -info", "version", NOTE),
        (f"{_ALL} {_CHANNELS} {_KEYS}", "lengths", NOTE),
        (f"{_ALL} {_CHANNELS} {_KEYS}", "tags' sizes", NOTE),
    ],
)
async def test_a_right_that_the_acl_withholds(valkey_url: str, rules: str, check: str, verdict: Verdict) -> None:
    """Named, with the rule that grants it; pasted, it does."""
    user = "patient"
    raw_valkey(valkey_url, ["ACL", "SETUSER", user, "reset", "on", ">secret", "resetchannels", *rules.split()])
    url = valkey_url.replace("valkey://", f"valkey://{user}:secret@")
    it = await found(url, check)
    assert it.verdict is verdict, it
    assert it.remedy.startswith(f"ACL SETUSER {user} ")
    raw_valkey(valkey_url, it.remedy.split())
    assert (await found(url, check)).verdict is OK
    raw_valkey(valkey_url, ["ACL", "DELUSER", user])


async def test_wrong_credentials_and_nobody_there(valkey_url: str) -> None:
    """A wrong password is that, not an unreachable server; no password in any of it."""
    (it,) = await examine(valkey_url.replace("valkey://", "valkey://patient:hunter2@"))
    assert (it.check, it.verdict) == ("credentials", FAILURE)
    assert "hunter2" not in it.found + it.remedy
    (port,) = free_ports(1)
    (it,) = await examine(f"valkey://127.0.0.1:{port}")
    assert (it.check, it.verdict, "valkey-cli" in it.remedy) == ("connection", FAILURE, True)
    assert (await found(valkey_url + "?cluster=true", "cluster")).verdict is FAILURE


async def test_a_server_that_is_full_or_a_cluster_that_is_down_is_not_a_lack_of_rights() -> None:
    """The cause is what is mended: how many may connect, which slots are served."""
    with embedded.valkey("--maxclients", "3") as server:
        host, port = server.url.removeprefix("valkey://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(3)]
        (it,) = await examine(server.url)
        assert (it.check, it.verdict) == ("connection", FAILURE)
        assert f"valkey-cli -h {host} -p {port} CONFIG SET maxclients" in it.remedy
        for each in held:
            each.close()
    # By itself its second port lies 10,000 above the first, where there may be none.
    (bus,) = free_ports(1)
    with embedded.valkey("--cluster-enabled", "yes", "--cluster-port", str(bus)) as server:
        findings = {it.check: it for it in await examine(f"{server.url}?cluster=true")}
        assert findings["cluster"].remedy == f"valkey-cli --cluster check {server.url.removeprefix('valkey://')}"
        assert {it.remedy for it in findings.values() if "CLUSTERDOWN" in it.found} == {""}


async def test_a_user_s_name_is_as_the_shell_wants_it(valkey_url: str) -> None:
    """Valkey takes any without blanks."""
    (it,) = await examine(valkey_url.replace("valkey://", "valkey://o'brien%24HOME:hunter2@"))
    words = shlex.split(it.remedy.partition("another: ")[2])
    assert words[5:] == ["ACL", "SETUSER", "o'brien$HOME", "on", "><password>"]


async def test_buffers_that_are_small_and_executions_that_are_evicted() -> None:
    """Both limits are read, and the remedies change them."""
    with embedded.valkey("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--client-output-buffer-limit",
                         "pubsub 1000 1000 1") as server:  # fmt: skip
        for check in ("output buffers", "eviction"):
            it = await found(server.url, check)
            assert it.verdict is WARNING
            words = it.remedy.replace("'", "").split(" ", 3)
            raw_valkey(server.url, words)
            assert (await found(server.url, check)).verdict is OK


async def test_a_replica_of_a_valkey_and_lanes(valkey_url: str) -> None:
    """Alone it will not do, as subscribing says. Beside others it is a note; cut off, a warning. Registered lanes are named."""
    with embedded.valkey() as primary:
        raw_valkey(primary.url, ["SADD", "ff:idx:lanes", "default", "slow"])
        assert (await found(primary.url, "lanes")).found == "default, slow"
        host, port = primary.url.rpartition("/")[2].rsplit(":", 1)
        with embedded.valkey("--replicaof", f"{host} {port}") as replica:
            both = f"{replica.url},{host}:{port}"
            await eventually(lambda: _is_a(both, NOTE), 20)
            async with ValkeyBackend(both) as backend, ffc.subscribe(backend):
                assert backend.stats().state is ffc.BackendState.LIVE
            assert (await found(replica.url, "role")).verdict is FAILURE
            async with ValkeyBackend(replica.url) as backend:
                with pytest.raises(ffc.EngineError, match="No primary"):
                    await backend.subscribe_completions()
            primary.stop()
            await eventually(lambda: _is_a(both, WARNING), 20)
            assert "cut off" in (await found(replica.url, "role")).found


async def _is_a(url: str, verdict: Verdict) -> bool:
    return (await found(url, "role")).verdict is verdict


async def test_tls_of_a_valkey(valkey_url: str, tmp_path: Path) -> None:
    """Encrypted is well; a CA that is not named, and a URL without TLS, are told apart."""
    authority = Authority(tmp_path)
    host, _, port = valkey_url.removeprefix("valkey://").partition(":")
    with Proxy((host, int(port)), authority.server()) as tls:
        url = f"valkeys://localhost:{tls.port}"
        assert (await found(f"{url}?tls_ca={authority.ca}", "TLS")).verdict is OK
        it = await found(url, "connection")
        assert (it.verdict, "tls_ca" in it.remedy) == (FAILURE, True)
        it = await found(f"valkey://localhost:{tls.port}", "connection")
        assert (it.verdict, "TLS" in it.remedy) == (FAILURE, True)
