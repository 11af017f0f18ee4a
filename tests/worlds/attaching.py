"""A database with our producers for the tests of attaching, and what they ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ffcompletion.attaching import attached, detach
from ffcompletion.producers import text


@contextmanager
def database(server: str, name: str, *, producers: bool = True) -> Iterator[str]:
    """A new one, with our producers or empty, dropped afterwards."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = make_conninfo(server, dbname=name)
        if producers:
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(text("postgres").encode())
        yield url
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def clean(url: str) -> None:
    """Nothing attached, nothing recorded, no table of jobs."""
    for each in attached(url):
        detach(url, each.definition.name)
    with psycopg.connect(url, autocommit=True) as conn:
        for statement in (
            "DELETE FROM ff_exec_core",
            "DELETE FROM ff_completion_event",
            "DROP SCHEMA IF EXISTS app CASCADE",
            "CREATE SCHEMA app",
        ):
            conn.execute(statement.encode())


def rows(conn: psycopg.Connection, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
    return conn.execute(query, values).fetchall()


def told(conn: psycopg.Connection) -> list[tuple[str, str]]:
    """Key (or id) and outcome of everything announced, oldest first."""
    return [
        (key, outcome)
        for key, outcome in rows(
            conn,
            "SELECT coalesce(c.raw_fields->'tags'->>'key', e.execution_id::text), e.outcome FROM ff_completion_event e"
            " LEFT JOIN ff_exec_core c USING (partition_key, execution_id) ORDER BY event_id",
        )
    ]
