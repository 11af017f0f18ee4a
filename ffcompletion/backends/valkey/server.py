"""Which server answers: the engine needs Valkey 7.2 or later; Redis is read from, with a warning."""

from __future__ import annotations

from typing import Final, cast

from ffcompletion.backends.valkey.gate import Ask
from ffcompletion.contract.errors import Unavailable
from ffcompletion.foreign.logs import logger

__all__ = ["check_server"]

_log: Final = logger("ffcompletion.valkey")
_OLDEST: Final = (7, 2)


async def check_server(ask: Ask, shown: str) -> None:
    """Raise ``Unavailable`` if the server is too old. Where the user may not ask, nothing can be said about it."""
    (reply,) = await ask([["INFO", "server"]])
    if isinstance(reply, dict):
        reply = next(iter(cast("dict[object, object]", reply).values()), b"")  # a cluster answers per node
    if not isinstance(reply, bytes | str):
        return
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    valkey = info.get("valkey_version") or (info.get("redis_version") if info.get("server_name") == "valkey" else None)
    if valkey is None:
        _log.warning("%s is Redis, not Valkey; FlowFabric refuses it, reading may work", shown)
    elif tuple(int(part) for part in valkey.split(".")[:2]) < _OLDEST:
        raise Unavailable("subscribe", f"{shown} runs Valkey {valkey}; 7.2 or later is needed")
