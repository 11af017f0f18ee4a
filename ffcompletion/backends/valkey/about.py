"""What a server says of itself in INFO: which it is, and whether that will do. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

__all__ = ["facts_of", "is_too_old", "valkey_version"]

_OLDEST: Final = (7, 2)


def facts_of(reply: object) -> Mapping[str, str]:
    """INFO's fields, by name; none where the user may not ask."""
    if isinstance(reply, dict):
        # A cluster answers per node, and which of them comes first says nothing.
        replies = cast("dict[object, object]", reply).values()
        return {name: value for name, value in _fields(next(iter(replies), b"")).items() if name != "run_id"}
    return _fields(reply)


def _fields(reply: object) -> dict[str, str]:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    if not isinstance(text, str):
        return {}
    return {key: value for key, colon, value in (line.partition(":") for line in text.splitlines()) if colon}


def valkey_version(facts: Mapping[str, str]) -> str | None:
    """None for Redis, which Valkey says it is compatible with."""
    is_valkey = facts.get("server_name") == "valkey"
    return facts.get("valkey_version") or (facts.get("redis_version") if is_valkey else None)


def is_too_old(version: str) -> bool:
    """Whether FlowFabric does not run on that Valkey."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _OLDEST
