"""What decides whether a Valkey announces completions to this user: each right is tried, nothing is written."""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Final

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.about import facts_of, is_too_old, valkey_version
from ffcompletion.backends.valkey.lanes import MOST_LANES
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.resp import Refused, Reply, Wire
from ffcompletion.contract.diagnosis import Finding, Verdict, about_clocks, about_no_encryption
from ffcompletion.contract.ids import FlowId

__all__ = ["checks"]

_ANSWER_S: Final = 2.5
_ECHO_S: Final = 1.5
_SMALL_BUFFER: Final = 1 << 20
# Keys of no execution: what counts is whether they may be asked for.
_CORE: Final = keys.core(keys.NOBODY)
_TAGS: Final = keys.tags(keys.NOBODY)
_RESULT: Final = keys.result(keys.NOBODY)
_MEMBERS: Final = keys.members(FlowId("00000000-0000-0000-0000-000000000000"), 1)
# The second: to read keys of a slot that is being moved.
_SLOTS: Final = (("CLUSTER", "SLOTS"), ("ASKING",))

OK, NOTE, WARNING, FAILURE = Verdict.OK, Verdict.NOTE, Verdict.WARNING, Verdict.FAILURE

# What it is for, how grave its lack is, the commands that are tried, the rule that grants them.
_RIGHTS: Final[tuple[tuple[str, Verdict, tuple[tuple[str, ...], ...], str], ...]] = (
    ("filters", WARNING, (("HGET", _CORE, "namespace"), ("HMGET", _CORE, "namespace"), ("HGET", _TAGS, "x")), "+hget +hmget %R~ff:exec:*"),
    ("results", NOTE, (("GET", _RESULT),), "+get %R~ff:exec:*"),
    ("reconciling", WARNING, (("TIME",), ("SSCAN", keys.LANES, "0"), ("ZRANGE", keys.terminal(0, "default"), "0", "0"),
                              ("HGET", keys.PARTITIONS, "num_flow_partitions")),
     "+time +sscan +zrange +hget %R~ff:idx:* %R~ff:config:partitions"),
    ("waiting", WARNING, (("HGETALL", _TAGS), ("HMGET", _CORE, "lifecycle_phase"), ("SSCAN", _MEMBERS, "0")),
     "+hgetall +hmget +sscan %R~ff:exec:* %R~ff:flow:*"),
    # Without them what is long is taken to see that it is, or taken in small portions.
    ("lengths", NOTE, (("HSTRLEN", _CORE, "x"), ("STRLEN", _RESULT)), "+hstrlen +strlen %R~ff:exec:*"),
    ("tags' sizes", NOTE, (("HLEN", _TAGS), ("MEMORY", "USAGE", _TAGS)), "+hlen +memory|usage %R~ff:exec:*"),
)  # fmt: skip


async def checks(url: str) -> AsyncGenerator[Finding]:
    """Each finding as it comes; ends after the first that makes the rest unanswerable."""
    options = Options.from_url(url)
    before = time.monotonic()
    try:
        wire = await Wire.connect(options, _ANSWER_S)
        try:
            await wire.query("PING")
        except BaseException:
            wire.abort()
            raise
    except (OSError, TimeoutError, Refused, EOFError) as exc:
        yield _not_connected(exc, options)
        return
    yield Finding("connection", OK, f"{options.shown}, in {(time.monotonic() - before) * 1000:.0f} ms")
    yield _tls(options)
    try:
        async for finding in _examined(wire, options):
            yield finding
    except (OSError, TimeoutError, EOFError) as exc:
        yield Finding("connection", FAILURE, f"lost while being asked: {str(exc) or type(exc).__name__}")
    finally:
        wire.abort()


def _not_connected(exc: BaseException, options: Options) -> Finding:
    host, port = options.hosts[0]
    cli = f"valkey-cli -h {shlex.quote(host)} -p {port}"
    text, remedy = f"{options.shown}: {str(exc) or type(exc).__name__}", f"is a server listening there? {cli} PING"
    if isinstance(exc, Refused):
        user = shlex.quote(options.username or "default")
        for start, check, told in (
            ("WRONGPASS", "credentials", f"wrong user or password; set another: {cli} ACL SETUSER {user} on '><password>'"),
            ("NOAUTH", "credentials", f"write them into the URL: valkey://<user>:<password>@{host}:{port}"),
            ("NOPERM", "credentials", f"{cli} ACL SETUSER {user} +ping"),
            ("ERR max number of clients", "connection", f"close connections, or: {cli} CONFIG SET maxclients 10000"),
            ("LOADING", "connection", f"it reads its data: wait until it answers; {cli} PING"),
            ("DENIED", "connection", "on the server: valkey-cli CONFIG SET requirepass '<password>'; then write it into the URL"),
        ):  # fmt: skip
            if str(exc).startswith(start):
                return Finding(check, FAILURE, text, told)
        return Finding("connection", FAILURE, text, "it answers, and refuses: what it says is the cause")
    if isinstance(exc, TimeoutError):
        text = f"{options.shown}: no answer within {_ANSWER_S:g} s"
        remedy = "something accepts the connection and does not answer: a hanging server, a server with TLS, or a firewall that drops"
    elif isinstance(exc, ssl.SSLError):
        remedy = "look at tls_ca, tls_cert and tls_key in the URL; a server without TLS is valkey://"
    elif isinstance(exc, (EOFError, ConnectionResetError)):
        remedy = "it hangs up at once: a server with TLS is valkeys://"
    return Finding("connection", FAILURE, text, remedy)


def _tls(options: Options) -> Finding:
    host = options.hosts[0][0]
    if options.tls:
        return Finding("TLS", OK, "encrypted")
    return about_no_encryption(host, "valkeys:// in the URL, with tls-port on the server")


async def _examined(wire: Wire, options: Options) -> AsyncGenerator[Finding]:
    user = options.username or "default"
    with suppress(Refused):
        user = str(await wire.query("ACL", "WHOAMI"))
    about = await _info(wire)
    if about:
        yield _version(about)
        yield _role(about, options)
        yield await _cluster(wire, about, options)
        if about.get("cluster_enabled") == "1":
            yield await _right(wire, "slots", WARNING, _SLOTS, f"ACL SETUSER {user} +cluster|slots +asking")
    else:
        yield Finding("version", NOTE, f"{user} may not ask (INFO)", f"ACL SETUSER {user} +info")
    yield await _clocks(wire, user)
    yield await _subscribing(wire, options, user)
    for name, gravity, commands, rule in _RIGHTS:
        yield await _right(wire, name, gravity, commands, f"ACL SETUSER {user} {rule}")
    yield await _lanes(wire)
    yield await _buffers(wire)
    yield await _eviction(wire)


async def _info(wire: Wire) -> Mapping[str, str]:
    try:
        return facts_of(await wire.query("INFO"))
    except Refused:
        return {}


def _version(about: Mapping[str, str]) -> Finding:
    valkey = valkey_version(about)
    if valkey is None:
        return Finding(
            "version",
            WARNING,
            f"Redis {about.get('redis_version', '')}: FlowFabric refuses it, and it is not tested",
            "Valkey 7.2 or later",
        )
    if is_too_old(valkey):
        return Finding("version", FAILURE, f"Valkey {valkey}", "Valkey 7.2 or later is needed")
    return Finding("version", OK, f"Valkey {valkey}")


def _role(about: Mapping[str, str], options: Options) -> Finding:
    if about.get("role") != "slave":
        return Finding("role", OK, "primary")
    cut_off = "" if about.get("master_link_status") == "up" else ", and cut off from its primary"
    if options.cluster or len(options.hosts) > 1:
        return Finding("role", WARNING if cut_off else NOTE, f"replica{cut_off}: the primary is asked")
    return Finding("role", FAILURE, f"replica{cut_off}: no stream opens here", "name the primary in the URL")


async def _cluster(wire: Wire, about: Mapping[str, str], options: Options) -> Finding:
    if about.get("cluster_enabled") != "1":
        if options.cluster:
            return Finding(
                "cluster", FAILURE, "the URL says it is one, the server says it is not", "leave ?cluster=true out"
            )
        return Finding("cluster", OK, "none")
    if not options.cluster:
        return Finding(
            "cluster", FAILURE, "the server is part of one, and the URL does not say so", "?cluster=true in the URL"
        )
    with suppress(Refused):
        lines = str(await wire.query("CLUSTER", "INFO")).splitlines()
        state = dict(line.split(":", 1) for line in lines if ":" in line)
        text = f"{state.get('cluster_state')}, {state.get('cluster_slots_ok')} of 16384 slots, {state.get('cluster_known_nodes')} nodes"
        if state.get("cluster_state") != "ok":
            host, port = options.hosts[0]
            return Finding("cluster", FAILURE, text, f"valkey-cli --cluster check {shlex.quote(f'{host}:{port}')}")
        return Finding("cluster", OK, text)
    return Finding("cluster", NOTE, "its state may not be asked (CLUSTER INFO)")


async def _clocks(wire: Wire, user: str) -> Finding:
    before = time.time()
    try:
        reply = await wire.query("TIME")
    except Refused:
        return Finding("clocks", NOTE, "the server's may not be asked (TIME)", f"ACL SETUSER {user} +time")
    after = time.time()
    server = float(str(reply[0])) + float(str(reply[1])) / 1e6 if isinstance(reply, list) else before
    return about_clocks(server, before, after)


async def _subscribing(wire: Wire, options: Options, user: str) -> Finding:
    """SUBSCRIBE as the reader does, and an echo on a channel of its own, the whole way round."""
    echo, nonce = f"ffcompletion:echo:{{{keys.CHANNEL}}}:doctor:{secrets.token_hex(8)}", secrets.token_hex(8)
    listening = await Wire.connect(options, _ANSWER_S)
    try:
        try:
            await listening.query("SUBSCRIBE", keys.CHANNEL)
        except Refused as exc:
            return Finding("announcements", FAILURE, str(exc), f"ACL SETUSER {user} +subscribe &{keys.CHANNEL}")
        rule = f"ACL SETUSER {user} (+publish +subscribe +unsubscribe &ffcompletion:echo:*)"
        try:
            await listening.query("SUBSCRIBE", echo)
            before = time.monotonic()
            await wire.query("PUBLISH", echo, nonce)
        except Refused as exc:
            return Finding(
                "announcements",
                NOTE,
                f"SUBSCRIBE is allowed; the echo that proves the connection is not, PING has to do: {exc}",
                rule,
            )
        async with asyncio.timeout(_ECHO_S):
            while _text_of(await listening.next_message(_ECHO_S)) != nonce:
                pass
        return Finding(
            "announcements",
            OK,
            f"SUBSCRIBE is allowed, and the echo is back in {(time.monotonic() - before) * 1000:.0f} ms",
        )
    except TimeoutError:
        return Finding(
            "announcements",
            WARNING,
            "SUBSCRIBE is accepted, and nothing published arrives",
            "is there a proxy in between? connect to the server itself",
        )
    finally:
        listening.abort()


def _text_of(message: Reply) -> object:
    return message[-1] if isinstance(message, list) and message and message[0] == "message" else None


async def _right(
    wire: Wire, name: str, gravity: Verdict, commands: tuple[tuple[str, ...], ...], remedy: str
) -> Finding:
    for command in commands:
        try:
            await wire.query(*command)
        except Refused as exc:
            # In a cluster the key may be another node's: then it would have been allowed.
            if str(exc).startswith(("MOVED", "ASK")):
                continue
            # Only a right that is missing is mended by granting it; what else is wrong is told by another check, or by itself.
            told = remedy if str(exc).startswith("NOPERM") else ""
            return Finding(name, gravity, f"{' '.join(command[:2])}: {exc}", told)
    return Finding(name, OK, "may be read")


async def _lanes(wire: Wire) -> Finding:
    try:
        # A page of them will do; its cursor says whether there are more.
        page = await wire.query("SSCAN", keys.LANES, "0", "COUNT", "1000")
    except Refused:
        return Finding("lanes", NOTE, "may not be asked, or are another node's")
    cursor, lanes = page if isinstance(page, list) else (None, None)
    names = sorted(str(lane) for lane in lanes) if isinstance(lanes, list) else []
    if not names:
        return Finding(
            "lanes",
            NOTE,
            "none is registered: what is never announced is looked for in lane `default` alone",
            "lanes=[…] where there are others",
        )
    if cursor != "0" or len(names) > MOST_LANES:
        return Finding(
            "lanes", WARNING,
            f"more than {MOST_LANES:,} are registered: only so many are read",
            f"lanes=[…] for those that matter; SREM {keys.LANES} for what is none",
        )  # fmt: skip
    return Finding("lanes", OK, ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else ""))


async def _buffers(wire: Wire) -> Finding:
    try:
        reply = await wire.query("CONFIG", "GET", "client-output-buffer-limit")
    except Refused:
        return Finding("output buffers", NOTE, "their limits may not be asked (CONFIG GET)")
    text = str(reply[1]) if isinstance(reply, list) and len(reply) > 1 else ""
    found = re.search(r"pubsub (\d+) (\d+) (\d+)", text)
    if found is None:
        return Finding("output buffers", NOTE, f"unknown limits {text!r}")
    hard, soft, seconds = (int(part) for part in found.groups())
    limits = f"pubsub {hard} {soft} {seconds}"
    if 0 < hard < _SMALL_BUFFER or 0 < soft < _SMALL_BUFFER:
        return Finding(
            "output buffers",
            WARNING,
            f"{limits}: a reader that is held up for a moment is cut off",
            "CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60'",
        )
    return Finding("output buffers", OK, limits)


async def _eviction(wire: Wire) -> Finding:
    try:
        memory, policy = [await wire.query("CONFIG", "GET", name) for name in ("maxmemory", "maxmemory-policy")]
    except Refused:
        return Finding("eviction", NOTE, "the policy may not be asked (CONFIG GET)")
    limit, name = (str(reply[1]) if isinstance(reply, list) and len(reply) > 1 else "" for reply in (memory, policy))
    if limit not in ("", "0") and name not in ("noeviction", ""):
        return Finding(
            "eviction",
            WARNING,
            f"maxmemory-policy {name}: executions may vanish before they are read",
            "CONFIG SET maxmemory-policy noeviction",
        )
    return Finding("eviction", OK, "nothing is evicted")
