"""Whether something is attached under a name: for whoever would otherwise wait for its jobs in silence."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from ffcompletion.attaching.quoting import identifier
from ffcompletion.backends.postgres.connection import Target, deadline
from ffcompletion.backends.postgres.errors import driver_errors
from ffcompletion.contract.errors import NotFound

__all__ = ["check_attached", "not_attached"]

_PATIENCE_S = 8.0


def not_attached(name: str, there: Iterable[str]) -> NotFound:
    """The error, with the names that there are."""
    known = ", ".join(map(repr, there))
    return NotFound(f"attachment {name!r}; {f'attached here: {known}' if known else 'nothing is attached here'}")


async def check_attached(url: str, name: str, *, schema: str | None = None) -> None:
    """Raises ``NotFound``, which names what is attached, where nothing is under ``name``; ``EngineError``.

    ``schema`` is where our tables are: None is the first of ``search_path`` that has them. A role that may read the
    stream need not be able to read the names: then it is not known, and no error.
    """
    registry = "ff_attachment" if schema is None else f"{identifier(schema)}.ff_attachment"
    target = Target(url, _PATIENCE_S)
    async with driver_errors(target.shown, "attached"):
        try:
            async with await target.connect() as conn:
                with deadline(conn, _PATIENCE_S):
                    row = await (await conn.execute("SELECT to_regclass(%s) IS NOT NULL", (registry,))).fetchone()
                    rows = (
                        await (await conn.execute(f"SELECT name FROM {registry} ORDER BY name".encode())).fetchall()
                        if row == (True,)
                        else []
                    )
        except psycopg.errors.InsufficientPrivilege:
            return
    there = [str(each) for (each,) in rows]
    if name not in there:
        raise not_attached(name, there)
