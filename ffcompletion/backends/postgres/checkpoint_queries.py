"""What is said to the server about checkpoints; ``{}`` is their table."""

from __future__ import annotations

from typing import Final

from psycopg import sql

__all__ = ["ALL", "HIDES", "LOAD", "LOCK", "MAKE", "REMOVE", "SAVE", "UNLOCK"]

MAKE: Final = sql.SQL(
    "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, cursor bytea NOT NULL, backend text NOT NULL,"
    " selection text NOT NULL, saved_at timestamptz NOT NULL DEFAULT now())"
)
HIDES: Final = "SELECT row_security_active(made) FROM (SELECT to_regclass(%s)::oid AS made) t WHERE made IS NOT NULL"
"""Whether row security may hide rows of it from us; no row where there is no table."""
ALL: Final = sql.SQL(
    # As a number: a timestamp's text is as the role's DateStyle has it. Between years that a date here can have: whoever
    # may write there may write any, infinity included.
    "SELECT name, cursor, backend, selection, (extract(epoch FROM least(greatest(saved_at, '0001-01-02 00:00:00+00'),"
    " '9999-12-30 00:00:00+00')) * 1000000)::bigint FROM {} ORDER BY name"
)
REMOVE: Final = sql.SQL("DELETE FROM {} WHERE name = %s")
LOAD: Final = sql.SQL("SELECT cursor, backend, selection FROM {} WHERE name = %s")
SAVE: Final = sql.SQL(
    "INSERT INTO {} AS kept (name, cursor, backend, selection) VALUES (%s, %s, %s, %s) ON CONFLICT (name) DO UPDATE"
    " SET cursor = excluded.cursor, backend = excluded.backend, selection = excluded.selection, saved_at = now()"
)
# Of the table itself, however it was named: with its schema, or found on the search path.
_KEY: Final = "(hashtextextended('ffcompletion ' || %s::regclass::oid || ' ' || %s, 0))"
LOCK: Final = (
    "SELECT pg_try_advisory_lock"
    + _KEY
    # A holder whose machine is gone says no farewell: the server has to find that out, which by its defaults takes hours.
    + ", set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false)"
)
"""By the table and a checkpoint's name; so is ``UNLOCK``."""
UNLOCK: Final = "SELECT pg_advisory_unlock" + _KEY
