"""What one record in so many is poisoned with, on either server, and who is to get it all the same.

The kind of poison is written into the execution's id, so that nothing that fails can change it.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from typing import Any, NamedTuple

_MARK = "dead"
# Two groups of the UUID: of some hundred thousand random ones, several begin with any four digits.
_POISONED = re.compile(r"\{fp:\d+\}:dead([0-9a-f]{4})-beef-")
DEEP = "[" * 900 + "]" * 900
DIGITS = "9" * 5_000


class Held(NamedTuple):
    """A completion that the server holds, as filters are to see it."""

    execution_id: str
    tenant: str | None
    """None: nobody's that can be told."""
    shard: str | None = None
    """Its tag of that name; None: none, or none that can be told."""
    certain: bool = True
    """False: who may get it may also not, because something that it takes is broken."""


def poisoned_id(dice: random.Random, kind: int) -> str:
    """A bare id that says so."""
    bare = str(uuid.UUID(int=dice.getrandbits(128)))
    return f"{_MARK}{kind:04x}-beef{bare[13:]}"


def kind_of(execution_id: str) -> int | None:
    """With what it is poisoned; None if it is not."""
    found = _POISONED.match(execution_id)
    return None if found is None else int(found[1], 16)


# ── Postgres ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Poisoned(NamedTuple):
    """A row of the outbox and the record behind it."""

    tenant: str | None
    """Who is to get it."""
    namespace: str | bytes | None
    """The row's own."""
    record: str | bytes | None
    """Its ``raw_fields``; None: no record."""
    outcome: str = "success"
    occurred_at_ms: int = 1
    partition: int | None = None
    certain: bool = True


def _fields(namespace: Any, tags: Any) -> str:
    return json.dumps({"namespace": namespace, "tags": tags})


ROWS = (
    Poisoned("c", None, '{"namespace": "c", "tags": {"shard": ' + DEEP + "}}"),
    Poisoned("c", None, _fields("c", [1, 2])),
    Poisoned("c", None, _fields("c", {"shard": ["1"]})),
    Poisoned("c", None, '{"namespace": "c", "tags": {"shard": ' + DIGITS + "}}"),
    Poisoned(None, None, _fields(["c"], {"shard": {"1": 1}})),
    Poisoned(None, None, '{"namespace": ' + DIGITS + ', "tags": 7}', occurred_at_ms=2**63 - 1),
    Poisoned(None, None, "[]", occurred_at_ms=-(2**63)),
    Poisoned(None, None, None),
    # Somebody's row for somebody else's execution: it is the row's by name, and whoever asks the record gets nothing.
    Poisoned("a", "a", _fields("b", {"shard": "1"})),
    Poisoned("b", "b", _fields("a", {"shard": "1"})),
    Poisoned("a", "a", '{"namespace": "a", "tags": ' + DEEP + "}"),
    # No outcome is so long: no completion.
    Poisoned(None, "a", _fields("a", None), outcome="\u2028" * 5_000, certain=False),
    # No id that can be told: nobody's.
    Poisoned(None, "a", None, partition=-5, certain=False),
)
BYTES = (
    # What only a database without an encoding takes.
    Poisoned("a", "a", b'{"namespace": "a", "tags": {"shard": "1", "k": "\xff\xfe"}}'),
    Poisoned(None, None, b'{"namespace": "\xff", "tags": {"shard": "1"}}'),
    Poisoned(None, b"a\xff", None, certain=False),
)


def poisons(*, any_bytes: bool) -> tuple[Poisoned, ...]:
    """Those that a database takes, by kind."""
    return ROWS + BYTES if any_bytes else ROWS


# ── Valkey ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Broken(NamedTuple):
    """What is done to an execution's keys before it is announced, as Lua; and what is left of it."""

    lua: str
    tenant: bool = True
    """Its own tenant is to get it."""
    shard: bool = True
    """Its tag can be told."""
    certain: bool = True
    """It can be found in the index as well as announced, or only the one or the other."""
    message: bytes | None = None
    """What is announced in its place."""


KEYS = (
    Broken("redis.call('HSET', KEYS[1], 'completed_at', string.rep('9', 5000))"),
    Broken("redis.call('HSET', KEYS[1], 'namespace', '\\255\\254')", tenant=False, shard=False),
    Broken("redis.call('DEL', KEYS[1])", tenant=False, shard=False, certain=False),
    Broken("redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], 'x')", tenant=False, shard=False, certain=False),
    Broken("redis.call('DEL', KEYS[2]) redis.call('SET', KEYS[2], 'x')", shard=False),
    Broken("redis.call('HSET', KEYS[2], 'shard', '\\255')", shard=False),
    Broken("redis.call('HSET', KEYS[2], 'shard', string.rep('[', 100000))", shard=False),
    Broken("redis.call('LPUSH', KEYS[3], 'x')"),
    Broken("redis.call('HSET', KEYS[1], 'flow_id', '\\255', 'replay_count', '1e999')", certain=False),
    Broken("redis.call('HSET', KEYS[1], 'lifecycle_phase', string.rep('x', 5000))", certain=False),
    Broken("redis.call('ZADD', KEYS[4], at, '\\255' .. at) redis.call('ZADD', KEYS[4], at, string.rep('9', 5000))"),
    Broken("at = '+inf'", certain=False),
    Broken("at = '-1e300'", certain=False),
    # Found in the index alone.
    Broken("", message=b'{"execution_id":' * 1_000),
    Broken("", message=b"\xff" * 5_000),
)

POISON = """
local time = redis.call('TIME')
local at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'flow_id', ARGV[2], 'lane_id', 'default', 'lifecycle_phase', 'terminal',
    'terminal_outcome', 'success', 'completed_at', at, 'replay_count', '0', 'namespace', ARGV[3])
redis.call('HSET', KEYS[2], 'shard', ARGV[4])
-- here
redis.call('ZADD', KEYS[4], at, ARGV[1])
if ARGV[5] ~= '' then redis.call('PUBLISH', 'ff:dag:completions', ARGV[5]) end
"""


def tenant_of(execution_id: str) -> str:
    """By the id's last digit."""
    return "ab"[int(execution_id[-1], 16) % 2]


def shard_of(execution_id: str) -> str:
    """By the last but one."""
    return "01"[int(execution_id[-2], 16) % 2]


def held_on_valkey(execution_id: str) -> Held:
    """What filters are to see of it."""
    kind = kind_of(execution_id)
    tenant, shard = tenant_of(execution_id), shard_of(execution_id)
    if kind is None:
        return Held(execution_id, tenant, shard)
    broken = KEYS[kind]
    return Held(execution_id, tenant if broken.tenant else None, shard if broken.shard else None, broken.certain)
