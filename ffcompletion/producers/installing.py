"""Show the producers' text, and put it on a server."""

from __future__ import annotations

from importlib.resources import files
from typing import Final, Literal

from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.urls import scheme_of

__all__ = ["Kind", "install", "text"]

Kind = Literal["postgres", "postgres-plain", "valkey"]
_FILES: Final[dict[Kind, str]] = {
    "postgres": "postgres.sql",
    "postgres-plain": "postgres_plain.sql",
    "valkey": "valkey.lua",
}


def text(kind: Kind) -> str:
    """The SQL or Lua, as shipped. ``postgres-plain`` moves tables of earlier versions over to plain ones."""
    return files("ffcompletion.producers").joinpath(_FILES[kind]).read_text(encoding="utf-8")


async def install(url: str, *, schema: str | None = None) -> str:
    """Install the producer for the server at ``url``; what was done, in one line. Safe to run again.

    ``schema`` (Postgres): into this schema, which must exist; None leaves it to ``search_path``. Where FlowFabric's
    own tables are found, nothing is changed. Raises ``EngineError``.
    """
    kind = scheme_of(url)
    if kind == "memory":
        raise Validation("url", "the memory backend is its own producer: call backend.emit(…)")
    try:
        if kind == "postgres":
            from ffcompletion.backends.postgres.installing import install_producer as on_postgres  # noqa: PLC0415  # loads the driver

            return await on_postgres(url, text("postgres"), schema)
        from ffcompletion.backends.valkey.installing import install_producer as on_valkey  # noqa: PLC0415  # loads the driver

        return await on_valkey(url, text("valkey"))
    except ImportError as exc:
        raise Unavailable(f"the {kind} backend", f"pip install 'ffcompletion[{kind}]' ({exc.name})") from exc
