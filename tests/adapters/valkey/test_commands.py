"""Commands, on connections that may have gone stale."""

from __future__ import annotations

import ffcompletion as ffc
from tests.adapters.valkey.test_backend import UNKNOWN, _gone
from tests.worlds import ValkeyWorld, eventually


async def test_a_stale_connection_is_asked_anew(valkey: ValkeyWorld) -> None:
    """Killed under an idle backend: each question is answered, the first one too."""
    async with valkey.backend() as backend, ffc.subscribe(backend):
        for _ in range(4):
            assert await backend.describe_execution(UNKNOWN) is None
            await valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert await backend.describe_execution(UNKNOWN) is None


async def test_what_a_question_opened_stays_for_the_next(valkey: ValkeyWorld) -> None:
    """Thirty in turn are one connection, which is gone some seconds later."""
    async with valkey.backend() as backend:
        info = str(await valkey.command("INFO", "stats"))
        before = int(info.split("total_connections_received:")[1].split("\\r", maxsplit=1)[0])
        for _ in range(30):
            await backend.describe_execution(UNKNOWN)
        info = str(await valkey.command("INFO", "stats"))
        assert int(info.split("total_connections_received:")[1].split("\\r")[0]) <= before + 2
        await eventually(lambda: _gone(valkey))
