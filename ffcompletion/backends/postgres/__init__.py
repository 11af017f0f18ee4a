"""The Postgres adapter: the outbox is the truth, NOTIFY only the wake-up.

An announcement's way: ``session`` (LISTEN) → ``inbox`` → ``supervisor`` (one read per wake) → ``reader`` → ``filtering`` →
``source``.
"""

from ffcompletion.backends.postgres.backend import PostgresBackend
from ffcompletion.backends.postgres.checkpoints import PostgresCheckpoints

__all__ = ["PostgresBackend", "PostgresCheckpoints"]
