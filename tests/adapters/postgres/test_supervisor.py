"""What keeps a run going, whatever happens."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, echoes
from ffcompletion.backends.postgres.reader import Reader
from ffcompletion.backends.postgres.session import Session
from ffcompletion.contract.stats import BackendState
from tests.worlds import PostgresWorld, done, eventually, first


async def test_an_echo_that_was_only_late_ends_polling(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first echo missed its deadline: polling, until two in a row have come back."""

    async def late(session: Session, _: float) -> bool:
        session.polling_reason = "late"
        return False

    monkeypatch.setattr(Session, "first_echo", late)
    monkeypatch.setattr(echoes, "_ECHO_EVERY_S", 0.05)
    async with PostgresBackend(postgres.url, poll_interval=5) as backend:
        async with ffc.subscribe(backend) as stream:
            assert backend.stats().state is BackendState.POLLING
            await eventually(lambda: backend.stats().state is BackendState.LIVE)
            item = done()
            await postgres.announce(item)
            assert (await first(stream, 2)).execution_id == item.execution_id


async def test_an_error_of_our_own_is_a_fault_like_any_other(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader logs it, connects anew, and goes on; nothing is lost."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        real, bugs = Reader.drain, [KeyError("a bug")]

        async def drain(*args: Any) -> bool:
            if bugs:
                raise bugs.pop()
            return await real(*args)

        monkeypatch.setattr(Reader, "drain", drain)
        item = done()
        await postgres.announce(item)
        assert (await first(stream)).execution_id == item.execution_id
        assert backend.stats().reconnects == 1
    assert "an error of our own" in caplog.text
