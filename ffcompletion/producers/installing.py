"""Show the producers' text, put it on a server, take it away again, and clear away what it recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib.resources import files
from typing import Final, Literal, TypeVar

from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.extras import missing
from ffcompletion.contract.loops import running_loop
from ffcompletion.producers.calls import forgetting_call
from ffcompletion.urls import scheme_of

__all__ = ["RETENTION", "Kind", "install", "prune", "text", "uninstall"]

Kind = Literal["postgres", "postgres-plain", "valkey"]
_FILES: Final[dict[Kind, str]] = {
    "postgres": "postgres.sql",
    "postgres-plain": "postgres_plain.sql",
    "valkey": "valkey.lua",
}

_T = TypeVar("_T")

RETENTION: Final = timedelta(hours=24)
"""How long Valkey keeps what has finished, as the engine does."""
_RETENTION_LINE: Final = "local RETENTION_MS = 86400000\n"


def _file(name: str) -> str:
    return files("ffcompletion.producers").joinpath(name).read_text(encoding="utf-8")


def text(kind: Kind, *, retention: timedelta = RETENTION) -> str:
    """The SQL or Lua, as shipped. ``postgres-plain`` moves tables of earlier versions over to plain ones.

    ``retention`` (Valkey): how long what has finished is kept; zero means for ever.
    """
    if retention < timedelta(0):
        raise Validation("retention", "must not be negative")
    found = _file(_FILES[kind])
    if kind == "valkey":
        found = found.replace(_RETENTION_LINE, f"local RETENTION_MS = {retention // timedelta(milliseconds=1)}\n")
    return found


async def install(url: str, *, schema: str | None = None, retention: timedelta = RETENTION) -> str:
    """Install the producer for the server at ``url``; what was done, in one line. Safe to run again.

    ``schema`` (Postgres): into this schema, which must exist; None leaves it to ``search_path``. Where FlowFabric's
    own tables are found, nothing is changed. ``retention``: see ``text``; Postgres keeps everything until ``prune``.
    Raises ``EngineError``.
    """

    def on_postgres() -> Awaitable[str]:
        from ffcompletion.backends.postgres.installing import install_producer  # noqa: PLC0415  # loads the driver

        return install_producer(url, text("postgres"), schema)

    def on_valkey() -> Awaitable[str]:
        from ffcompletion.backends.valkey.installing import install_producer  # noqa: PLC0415  # loads the driver

        return install_producer(url, text("valkey", retention=retention))

    return await _on(url, on_postgres, on_valkey)


async def uninstall(url: str, *, schema: str | None = None) -> str:
    """Remove what ``install`` made, and on Postgres what was recorded with it; what was done, in one line.

    FlowFabric's own tables are left alone, and so is everything as long as a table of jobs is attached. On Valkey only
    the functions go; what was recorded goes with its retention, or by ``prune``. Raises ``EngineError``.
    """

    def on_postgres() -> Awaitable[str]:
        from ffcompletion.backends.postgres.installing import uninstall_producer  # noqa: PLC0415  # loads the driver

        return uninstall_producer(url, _file("uninstall.sql"), schema)

    def on_valkey() -> Awaitable[str]:
        from ffcompletion.backends.valkey.installing import uninstall_producer  # noqa: PLC0415  # loads the driver

        return uninstall_producer(url)

    return await _on(url, on_postgres, on_valkey)


async def prune(
    url: str,
    older_than: timedelta,
    *,
    unfinished: timedelta | None = None,
    schema: str | None = None,
    lanes: Sequence[str] = ("default",),
) -> int:
    """Remove what finished longer ago than that, in bounded pieces; how many rows (Postgres) or executions (Valkey).

    A cursor older than what is left expires loudly. ``unfinished``: executions that were submitted longer ago than
    that and never finished go too. ``lanes`` (Valkey): those that were written to. Raises ``EngineError``.
    """
    if older_than < timedelta(0) or (unfinished is not None and unfinished < timedelta(0)):
        raise Validation("age", "must not be negative")

    def on_postgres() -> Awaitable[int]:
        from ffcompletion.backends.postgres.installing import prune as pruned  # noqa: PLC0415  # loads the driver

        return pruned(url, older_than, unfinished, schema)

    def on_valkey() -> Awaitable[int]:
        from ffcompletion.backends.valkey.pruning import prune as pruned  # noqa: PLC0415  # loads the driver

        forget = [partial(forgetting_call, lane=lane) for lane in lanes]
        return pruned(url, older_than, unfinished, dict(zip(lanes, forget, strict=True)))

    return await _on(url, on_postgres, on_valkey)


async def _on(url: str, on_postgres: Callable[[], Awaitable[_T]], on_valkey: Callable[[], Awaitable[_T]]) -> _T:
    running_loop("producers")
    kind = scheme_of(url)
    if kind == "memory":
        raise Validation("url", "the memory backend is its own producer: call backend.emit(…)")
    try:
        return await (on_postgres() if kind == "postgres" else on_valkey())
    except ImportError as exc:
        raise Unavailable(f"the {kind} backend", missing(exc, kind)) from exc
