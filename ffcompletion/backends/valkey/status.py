"""What a Valkey holds of completions now, for whoever looks at it from outside; reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.about import facts_of
from ffcompletion.backends.valkey.commands import Commands
from ffcompletion.backends.valkey.errors import code_of, driver_errors
from ffcompletion.backends.valkey.index import TerminalIndex
from ffcompletion.backends.valkey.options import Options

__all__ = ["status"]

_LANES_SHOWN: Final = 1_000


async def status(url: str) -> Mapping[str, object]:
    """Facts by name, in the order to be shown; None for what this user may not see. Raises ``EngineError``."""
    options = Options.from_url(url)
    commands = Commands(options)
    async with driver_errors(options.shown, "status"):
        try:
            info, counted = await commands.execute([("INFO", "server"), ("PUBSUB", "NUMSUB", keys.CHANNEL)])
            return {"server": _server(info), "subscribers": _subscribers(counted), **await _index(commands)}
        finally:
            await commands.aclose()


async def _index(commands: Commands) -> Mapping[str, object]:
    index = TerminalIndex(commands.execute, ())
    try:
        now_ms = (await index.look()).server_ms
        names = [name for some in index.names() for name in some]
        counts = await commands.execute([("ZCARD", name) for name in names])
        newest = await commands.execute([("ZRANGE", name, "-1", "-1", "WITHSCORES") for name in names])
    except GlideError as exc:
        if code_of(exc) != "NOPERM":
            raise
        # Push alone is this user's: what is stored may not be read.
        return {"lanes": None, "finished_executions": None, "newest_age_s": None}
    scores = [score for reply in newest if (score := _score(reply)) is not None]
    return {
        "lanes": list(index.lanes)[:_LANES_SHOWN],
        "finished_executions": sum(count for count in counts if isinstance(count, int))
        if any(isinstance(count, int) for count in counts)
        else None,
        "newest_age_s": round(max(0.0, (now_ms - max(scores)) / 1_000), 3) if scores else None,
    }


def _server(reply: object) -> str | None:
    facts = facts_of(reply)
    name, version = facts.get("server_name", "redis"), facts.get("valkey_version") or facts.get("redis_version")
    return f"{name} {version}, {facts.get('server_mode') or facts.get('redis_mode')}" if version else None


def _subscribers(reply: object) -> int | None:
    if isinstance(reply, dict):
        return next((n for n in cast("dict[object, object]", reply).values() if isinstance(n, int)), None)
    if isinstance(reply, list):
        return next((n for n in cast("Sequence[object]", reply) if isinstance(n, int)), None)
    return None


def _score(reply: object) -> float | None:
    if isinstance(reply, dict):
        return next((s for s in cast("dict[object, object]", reply).values() if isinstance(s, float)), None)
    return None
