"""What Postgres selects by itself is what the filter would have said: the same completions, in order, and the same counts."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, fetching, pages
from ffcompletion.contract.combining import AllOf, AnyOf, is_plain, namespaces_of
from ffcompletion.delivery.hub import Selector
from ffcompletion.foreign.filters import ForeignFilter, checked_filter
from tests.worlds import PostgresWorld, done
from tests.worlds.attaching import database

NAMES = st.one_of(st.none(), st.sampled_from(["a", "b", "ü", ""]))
TAGS = st.one_of(st.none(), st.tuples(st.just("k"), st.sampled_from(["x", "y"])))
PLAIN: st.SearchStrategy[ffc.CompletionFilter] = st.recursive(
    st.builds(ffc.ScannerFilter, NAMES, TAGS),
    lambda inner: st.tuples(st.sampled_from([ffc.any_of, ffc.all_of]), st.lists(inner, min_size=1, max_size=3)).map(
        lambda made: made[0](*made[1])
    ),
    max_leaves=5,
)


class Opaque:
    """The same filter as somebody else's code, of which a server can know nothing."""

    def __init__(self, inner: ffc.CompletionFilter) -> None:
        self._inner = inner
        self.tag_key = inner.tag_key

    def is_noop(self) -> bool:
        return self._inner.is_noop()

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        return self._inner.matches(core_namespace, tag_value)


@given(PLAIN, NAMES, st.one_of(st.none(), st.sampled_from(["x", "y"])))
def test_nothing_is_admitted_of_a_namespace_that_is_not_named(
    wanted: ffc.CompletionFilter, namespace: str | None, value: str | None
) -> None:
    """So a row of another can stay where it is."""
    assert is_plain(wanted)
    names = namespaces_of(wanted)
    if wanted.matches(namespace, value) and names is not None:
        assert namespace in names


def test_which_filters_are_values() -> None:
    """Those made of ``ScannerFilter``s alone: equal ones share a pass, and none of them is waited for apart."""
    a, b = ffc.ScannerFilter("a"), ffc.ScannerFilter("b", ("k", "x"))
    nested = ffc.any_of(a, ffc.all_of(b, ffc.ScannerFilter("c")))
    assert isinstance(checked_filter(ffc.any_of(a, b)), AnyOf)
    assert isinstance(checked_filter(ffc.all_of(a, b)), AllOf)
    assert Selector(checked_filter(nested)) == Selector(
        checked_filter(ffc.any_of(a, ffc.all_of(b, ffc.ScannerFilter("c"))))
    )
    assert namespaces_of(nested) == frozenset({"a"})
    for foreign in Opaque(a), ffc.any_of(a, Opaque(b)), ffc.matching(lambda _n, _v: True):
        assert isinstance(checked_filter(foreign), ForeignFilter)
        assert namespaces_of(foreign) is None


class Stored:
    """A server with rows of several tenants, and a loop in a thread, because Hypothesis runs plain functions."""

    def __init__(self, url: str, version: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._world = PostgresWorld(version, url)
        self.backend: PostgresBackend
        self.do(self._fill())

    def do(self, work: Coroutine[object, object, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _fill(self) -> None:
        await self._world.reset()
        dice = random.Random(7)
        items = [
            done(namespace=dice.choice([None, "a", "b", "ü", "c"]), tags=dice.choice([{}, {"k": "x"}, {"k": "y"}]))
            for _ in range(120)
        ]
        await self._world.announce(*items)
        # Two of three rows name their namespace themselves; some are no completions, some cannot be read, some are gone.
        await self._world.sql(
            "UPDATE ff_completion_event e SET namespace = c.raw_fields->>'namespace' FROM ff_exec_core c"
            " WHERE c.partition_key = e.partition_key AND c.execution_id = e.execution_id AND e.event_id % 3 > 0"
        )
        await self._world.sql("UPDATE ff_completion_event SET outcome = 'resumable' WHERE event_id % 11 = 0")
        await self._world.sql("DELETE FROM ff_completion_event WHERE event_id % 13 = 0")
        self.backend = PostgresBackend(self._world.url, reconcile_interval=3600)

    def close(self) -> None:
        self.do(self.backend.aclose())
        self.do(self._world.close())
        self.do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def told(self, wanted: ffc.CompletionFilter, after: ffc.StreamCursor) -> tuple[list[ffc.CompletionPayload], Any]:
        """Everything that is stored for the filter, and the counters once that has been taken."""

        async def read() -> tuple[list[ffc.CompletionPayload], Any]:
            async with ffc.subscribe(self.backend, wanted, cursor=after) as stream:
                found: list[ffc.CompletionPayload] = []
                waiting = asyncio.ensure_future(anext(stream))
                while True:
                    await asyncio.wait({waiting}, timeout=0.01)
                    if waiting.done():
                        found.append(waiting.result())
                        waiting = asyncio.ensure_future(anext(stream))
                    elif not stream.stats().catching_up:
                        waiting.cancel()
                        stats = stream.stats()
                        return found, (stats.delivered, stats.filtered, stats.undecided)

        return self.do(read())  # type: ignore[no-any-return]  # of a coroutine in another thread


@pytest.fixture(scope="module")
def stored(postgres18_url: str) -> Iterator[Stored]:
    """In a database of its own: it outlives a test, and others empty the one that they share."""
    with database(postgres18_url, "selecting") as url:
        made = Stored(url, 18)
        yield made
        made.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLAIN, st.sampled_from([3, 7, 200]), st.integers(0, 60))
def test_selected_is_what_would_have_been_admitted(
    stored: Stored, wanted: ffc.CompletionFilter, page: int, skipped: int
) -> None:
    """Whatever the filter, the page and where it begins; cursors and counters too."""
    after = ffc.StreamCursor.outbox(skipped)
    selected: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_PAGE", page)
        real = fetching.fetch_selected

        async def counted(*args: Any, **options: Any) -> Any:
            rows, told = await real(*args, **options)
            selected.append(told[0])
            return rows, told

        patch.setattr(pages, "fetch_selected", counted)
        ours = stored.told(wanted, after)
        if not wanted.is_noop():
            selected_here, opaque = len(selected), stored.told(Opaque(wanted), after)
            assert len(selected) == selected_here
            assert ours == opaque
        names = namespaces_of(wanted)
        if page < 200 and names is not None and "ü" not in names:
            # After the first page, which shows that most are for others.
            assert selected
