"""Emptying the engine's tables between tests, over one connection for each server: a new one would learn of each of their
hundreds of partitions first, which takes longer than most tests."""

from __future__ import annotations

import psycopg

_connections: dict[str, psycopg.Connection] = {}


def empty(url: str) -> None:
    """No row is left in the engine's tables."""
    try:
        _empty(url)
    except psycopg.OperationalError:
        if (conn := _connections.pop(url, None)) is None:
            raise
        # The server was restarted.
        conn.close()
        _empty(url)


def _empty(url: str) -> None:
    if (conn := _connections.get(url)) is None:
        conn = _connections[url] = psycopg.connect(url, autocommit=True, application_name="test")
    for table in ("ff_completion_event", "ff_exec_core"):
        # Planned once.
        conn.execute(f"DELETE FROM {table}".encode(), prepare=True)


def forget_connections() -> None:
    """Close them."""
    while _connections:
        _connections.popitem()[1].close()
