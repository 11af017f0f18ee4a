"""A hostile filter, a broken record: whoever is beside them gets exactly its own. Live, catching up, reconciling."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.testing import strategies as ffst
from ffcompletion.testing.hostile import HostileFilter
from tests.contract.test_properties import _Server, server  # noqa: F401  # the fixture
from tests.worlds import Done, MemoryWorld, PostgresWorld, ValkeyWorld, World, done, some

VICTIM = ffc.ScannerFilter("victim")
TAGGED = ffc.ScannerFilter("victim", ("k", "v"))


# ── hostile filters ──────────────────────────────────────────────────────────────────────────────────────────────────


def _mixed(count: int) -> list[Done]:
    """Every third is the victim's, every sixth has its tag."""
    return [
        done(namespace=("victim", "b", None)[n % 3], tags={"k": "v"} if n % 2 else {"k": "w"}, result=b"%d" % n)
        for n in range(count)
    ]


def _of(items: Sequence[Done], *, tagged: bool = False) -> list[str]:
    return [
        item.execution_id for item in items if item.namespace == "victim" and (not tagged or item.tags == {"k": "v"})
    ]


async def _ends(world: World, items: Sequence[Done], *, silently: bool = False) -> None:
    """As the engine writes it where there is an index to be reconciled from; else announced."""
    if isinstance(world, ValkeyWorld):
        for item in items:
            await world.finish(item, push=not silently)
    elif isinstance(world, PostgresWorld) and silently:
        for item in items:
            await world.begins(item)
        await world.cancels(*items)
    else:
        await world.announce(*items)


async def _exactly(streams: Sequence[Any], items: Sequence[Done], *, ordered: bool = True) -> None:
    """Everything, the victim's, and the victim's by tag."""
    expected = [[item.execution_id for item in items], _of(items), _of(items, tagged=True)]
    for stream, wanted in zip(streams, expected, strict=True):
        came = [item.execution_id for item in await some(stream, len(wanted), 30)]
        assert (came if ordered else sorted(came)) == (wanted if ordered else sorted(wanted))


async def _beside(world: World, hostile: Sequence[HostileFilter], *, silently: bool) -> None:
    items = _mixed(24)
    stored = items
    options: dict[str, Any] = {}
    if isinstance(world, ValkeyWorld):
        options = {"reconcile_interval": 0.3}
    elif silently:
        options = {"reconcile_interval": 0.1}
        # What ended without a row is looked for from the time of a position on.
        early = done(namespace="victim", tags={"k": "v"})
        await world.announce(early)
        stored = [early, *items]
    async with world.backend(**options) as backend:
        beginning = ffc.StreamCursor.beginning()
        own: list[Any] = [await backend.subscribe_completions_filtered(wanted) for wanted in hostile]
        own += [await backend.subscribe_completions_filtered(wanted, results=True) for wanted in hostile]
        streams: list[Any] = [
            await backend.subscribe_completions(),
            await backend.subscribe_completions_filtered(VICTIM),
            await backend.subscribe_completions_filtered(TAGGED, results=True),
        ]
        await _ends(world, items, silently=silently)
        await _exactly(streams, items, ordered=not silently)
        if isinstance(backend, ffc.ResumableCompletionBackend):
            own += [await backend.subscribe_completions_from(beginning, wanted) for wanted in hostile]
            again: list[Any] = [
                await backend.subscribe_completions_from(beginning),
                await backend.subscribe_completions_from(beginning, VICTIM),
                await backend.subscribe_completions_from(beginning, TAGGED),
            ]
            for reader in own[-len(hostile) :]:
                # As far as they read ahead by themselves: memory's are asked when they are read.
                reading = asyncio.ensure_future(anext(reader))
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
            await _exactly(again, stored, ordered=not silently)
            streams += again
        more = _mixed(6)
        await _ends(world, more, silently=False)
        await _exactly(streams[:3], more)
        for stream in streams[:3]:
            stats = stream.stats()
            assert (stats.lost, stats.buffered) == (0, 0)
        for stream in own:
            assert stream.stats().delivered <= sum(wanted.admitted for wanted in hostile)
        if isinstance(world, PostgresWorld | ValkeyWorld):
            assert backend.stats().reconnects == 0
            assert backend.stats().state is ffc.BackendState.LIVE
        for stream in (*own, *streams):
            await stream.aclose()


@pytest.mark.parametrize("silently", [False, True], ids=["announced", "found"])
@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(hostile=st.lists(ffst.hostile_filters(), min_size=3, max_size=6))
def test_beside_hostile_filters_everybody_gets_exactly_its_own(
    server: _Server,  # noqa: F811  # the fixture
    silently: bool,
    hostile: list[HostileFilter],
) -> None:
    """Live and catching up; and without an announcement, found in the index on Valkey, in the records on Postgres."""
    if silently and not isinstance(server.world, ValkeyWorld | PostgresWorld):
        return

    async def run() -> None:
        world: World = server.world or MemoryWorld()
        await world.reset()
        await _beside(world, hostile, silently=silently)

    asyncio.run_coroutine_threadsafe(run(), server.loop).result(60)
