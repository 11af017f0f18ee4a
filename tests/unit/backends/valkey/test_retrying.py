"""Without an answer nothing is let through and nothing is dropped: it is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from glide import ClosingError

import ffcompletion as ffc
from ffcompletion.backends.valkey.lookups import Lookups
from ffcompletion.backends.valkey.retrying import Retrying

IDS = [ffc.ExecutionId(f"{{fp:7}}:550e8400-e29b-41d4-a716-44665544000{n}") for n in range(4)]
PAYLOADS = [ffc.CompletionPayload(id_, "success") for id_ in IDS]


class Server:
    """Answers from the so manieth time on."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    async def execute(self, commands: Sequence[Sequence[str]]) -> list[object]:
        if self.failures:
            self.failures -= 1
            raise ClosingError("gone")
        return [{"HGET": b"a", "GET": b"r", "STRLEN": 1}.get(command[0]) for command in commands]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have waited."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("ffcompletion.backends.valkey.retrying.asyncio.sleep", sleep)
    return slept


async def test_it_asks_until_there_is_an_answer(slept: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """And says so once."""
    asking = Retrying(Lookups(Server(30).execute))
    facts = await asking.facts(PAYLOADS, [ffc.ScannerFilter("a")])
    assert [known and known[0] for known in facts] == ["a"] * 4
    assert len(slept) == 30
    assert max(slept) <= 1.0
    assert len(caplog.messages) == 1
    assert "ClosingError" in caplog.messages[0]


async def test_results_are_for_those_who_want_them(slept: list[float]) -> None:
    asking = Retrying(Lookups(Server().execute))
    count, rich = await asking.with_results(PAYLOADS, {IDS[1]})
    assert (count, [payload.payload_bytes for payload in rich]) == (4, [None, b"r", None, None])
    assert await asking.with_results(PAYLOADS, set()) == (4, PAYLOADS)
    nothing: Any = ["no id"]
    assert await asking.fitting(nothing) == 1
    assert not slept


async def test_what_somebody_has_made_up_is_asked_about_once() -> None:
    """It has no results: so many sizes are asked for at once, however many wait behind, and that many are done with."""
    asked: list[str] = []

    async def execute(commands: Sequence[Sequence[str]]) -> list[object]:
        asked.extend(command[0] for command in commands)
        return [0 if command[0] == "STRLEN" else None for command in commands]

    names = [ffc.ExecutionId(f"{{fp:7}}:550e8400-e29b-41d4-a716-{number:012}") for number in range(3_000)]
    payloads, left = [ffc.CompletionPayload(name, "success") for name in names], 3_000
    while left:
        count, _ = await Retrying(Lookups(execute)).with_results(payloads[-left:], set(names))
        assert count == min(left, 1_024)
        left -= count
    assert asked.count("STRLEN") == 3_000
