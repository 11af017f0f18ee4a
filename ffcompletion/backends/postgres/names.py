"""Names of the user's, in statements and in the advice that we print: quoted as SQL wants them."""

from __future__ import annotations

from typing import LiteralString, cast

from psycopg import sql

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.text import check_text

__all__ = ["checked", "in_statement", "quoted"]


def checked(kind: str, name: str) -> str:
    """The name itself. Raises ``Validation`` for what no identifier can be."""
    if not check_text(kind, "a name", name):
        raise Validation(kind, "a name must not be empty")
    return name


def quoted(*names: str) -> str:
    """For people and their shells, always in quotes: an unquoted one may be a keyword, today or tomorrow."""
    return sql.Identifier(*names).as_string()


def in_statement(*names: str) -> sql.SQL:
    """For a text that is run with parameters, if only with none, where ``%`` begins a placeholder unless doubled."""
    # Quoted by the driver, so that it is as good as one written here.
    return sql.SQL(cast("LiteralString", sql.Identifier(*names).as_string().replace("%", "%%")))  # type: ignore[redundant-cast]  # to mypy, not to others
