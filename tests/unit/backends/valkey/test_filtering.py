"""What was found in the index is for the streams that were open when it happened."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import filtering as module
from ffcompletion.backends.valkey.filtering import Filtering
from ffcompletion.backends.valkey.source import Source
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.tenure import Lease


def at(*times_ms: int, outcome: str = "success") -> list[ffc.CompletionPayload]:
    """That ended then, and say so in their ids."""
    return [
        ffc.CompletionPayload(
            ffc.ExecutionId(f"{{fp:0}}:00000000-0000-4000-8000-{time_ms:012d}"), outcome, produced_at_ms=time_ms
        )
        for time_ms in times_ms
    ]


async def ended(lease: Lease) -> None:
    """The backend's part in closing."""


class Streams:
    """A hub and its filtering; the server answers once it is let, and with the same for all."""

    def __init__(self) -> None:
        self.hub, self.answers = Hub[Source](), asyncio.Event()
        self.filtering = Filtering(self.hub, self.execute, self.execute)

    async def execute(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        await self.answers.wait()
        return [{"HGET": b"a", "GET": b"r", "STRLEN": 1}[command[0]] for command in commands]

    def opened(self, opened_ms: int, selector: Selector) -> Source:
        return Source(self.hub, selector, 1_000, opened_ms, 0.0, None, Lease(ended))

    async def settle(self) -> None:
        """All that waits is decided."""
        self.answers.set()
        running = asyncio.create_task(self.filtering.run())
        while any(self.filtering.pending(Selector(None, results=results)) for results in (False, True)):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])


def got(source: Source) -> list[int]:
    found: list[int] = []
    while batch := source.take().batch:
        found += [int(str(payload.execution_id)[-12:]) for payload in batch]
    return found


KINDS = pytest.mark.parametrize(
    "selector",
    [Selector(None), Selector(ffc.ScannerFilter("a")), Selector(None, results=True)],
    ids=["everything", "filtered", "results"],
)


@KINDS
async def test_what_is_older_than_a_stream_is_not_for_it(selector: Selector) -> None:
    """However much is found before it is decided, also where a later pass has found what is earlier (another clock's)."""
    streams = Streams()
    old, young = streams.opened(0, selector), streams.opened(950, selector)
    streams.answers.set()
    for found in (at(1_000), at(900, 960), at(930)):
        await streams.filtering.found(found, 0)
    await streams.settle()
    assert got(young) == [1_000, 960]
    assert got(old) == [1_000, 900, 960, 930]


@KINDS
async def test_the_time_of_a_skipped_one_says_nothing(selector: Selector) -> None:
    """It is the engine's; and what is announced is for every stream that is open."""
    streams = Streams()
    young = streams.opened(950, selector)
    streams.answers.set()
    await streams.filtering.found(at(900, outcome="skipped"), 0)
    streams.filtering.announced(at(901), 0)
    await streams.settle()
    assert got(young) == [900, 901]


async def test_where_the_server_does_not_answer_the_oldest_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By those for whom it has to be asked; what it is asked about, and the newest, are kept. Nobody else notices."""
    monkeypatch.setattr(module, "_WAITING", 8)
    monkeypatch.setattr(module, "_BATCH", 2)
    streams = Streams()
    plain, filtered = (streams.opened(0, Selector(wanted)) for wanted in (None, ffc.ScannerFilter("a")))
    for time_ms in range(1, 10):
        streams.filtering.announced(at(time_ms), 0)
    await streams.settle()
    assert got(plain) == list(range(1, 10))
    assert got(filtered) == [1, 2, 6, 7, 8, 9]
    assert (plain.stats().lost, filtered.stats().lost) == (0, 3)
