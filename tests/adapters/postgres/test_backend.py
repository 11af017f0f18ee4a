"""What is particular to the Postgres adapter."""

from __future__ import annotations

import pytest

import ffcompletion as ffc
from tests.worlds import PostgresWorld, done, first


@pytest.mark.parametrize(
    "bad", ["postgresql://u:sEcReT@h:bad", "host=h password='sEcReT", "postgresql://u:sEcReT@h/%zz"]
)
async def test_a_malformed_conninfo_is_refused_without_its_password(bad: str) -> None:
    """``Validation``, and the password in neither text nor cause."""
    with pytest.raises(ffc.Validation) as caught:
        ffc.connect(bad)
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "url" in str(caught.value)
    assert "sEcReT" not in shown or caught.value.__suppress_context__


async def test_many_streams_share_one_listener(postgres: PostgresWorld) -> None:
    """A hundred streams: one listening connection and one that reads."""
    async with postgres.backend() as backend:
        streams = [await backend.subscribe_completions() for _ in range(100)]
        assert await postgres.connections() <= 2
        item = done()
        await postgres.announce(item)
        for stream in streams:
            assert (await first(stream)).execution_id == item.execution_id
            await stream.aclose()
