"""The Postgres adapter: the outbox is the truth, NOTIFY only the wake-up.

An announcement's way: ``connection`` (LISTEN) → ``live`` (one read per wake) → ``rows`` → ``gaps`` → hub → stream.
"""

from ffcompletion.backends.postgres.backend import PostgresBackend
from ffcompletion.backends.postgres.checkpoints import PostgresCheckpoints

__all__ = ["PostgresBackend", "PostgresCheckpoints"]
