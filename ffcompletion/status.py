"""``look``: what a server holds of completions now, which no program's own counters can tell. Changes nothing on it."""

from __future__ import annotations

from collections.abc import Mapping

from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.extras import missing
from ffcompletion.urls import scheme_of

__all__ = ["look"]


async def look(url: str, *, schema: str | None = None) -> Mapping[str, object]:
    """Facts by name, in the order to be shown. Raises ``EngineError``."""
    kind = scheme_of(url)
    if kind == "memory":
        raise Unavailable("status", "memory:// lives in the process that made it; ask its stats()")
    try:
        if kind == "postgres":
            from ffcompletion.backends.postgres import status as postgres  # noqa: PLC0415  # loads the driver

            return await postgres.status(url, schema)
        from ffcompletion.backends.valkey import status as valkey  # noqa: PLC0415  # the same

        return await valkey.status(url)
    except ImportError as exc:
        raise Unavailable("status", missing(exc, kind)) from exc
