"""Names of the user's, in statements and in the advice that we print: quoted as SQL wants them."""

from __future__ import annotations

from typing import LiteralString, cast

from psycopg import sql

from ffcompletion.contract.errors import Validation

__all__ = ["checked", "in_statement", "quoted"]


def checked(kind: str, name: str) -> str:
    """The name itself. Raises ``Validation`` for what no identifier can be."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not size or "\0" in name:
        raise Validation(kind, f"{name[:80]!r} is no name that Postgres can have")
    return name


def quoted(*names: str) -> str:
    """For people and their shells, always in quotes: an unquoted one may be a keyword, today or tomorrow."""
    return sql.Identifier(*names).as_string()


def in_statement(*names: str) -> sql.SQL:
    """For a text that is run with parameters, if only with none, where ``%`` begins a placeholder unless doubled."""
    # Quoted by the driver, so that it is as good as one written here.
    return sql.SQL(cast("LiteralString", sql.Identifier(*names).as_string().replace("%", "%%")))  # type: ignore[redundant-cast]  # to mypy, not to others
