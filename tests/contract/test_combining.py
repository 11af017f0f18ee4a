"""Filters made of filters, on real servers: what cannot be decided is not delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

import ffcompletion as ffc
from tests.unit.contract.test_combining import Raises, said
from tests.worlds import World, done


async def test_on_every_server_a_stream_gets_what_its_filter_admits(world: World) -> None:
    """For pairs of filters and executions, one that raises among them; live, and from the beginning where there is a log."""
    tags: list[Mapping[str, str]] = [{}, {"k": "x"}, {"k": "y", "l": "x"}]
    items = [done(namespace=name, tags=tag) for name in (None, "a", "b") for tag in tags]
    filters = {
        "either": ffc.any_of(ffc.ScannerFilter("a"), ffc.ScannerFilter("b", ("k", "x"))),
        "both": ffc.all_of(ffc.ScannerFilter("a"), ffc.ScannerFilter(None, ("k", "y"))),
        "neither": ffc.all_of(ffc.ScannerFilter("a"), ffc.ScannerFilter("b")),
        "not a": ffc.matching(lambda namespace, _: namespace != "a"),
        "tagged": ffc.matching(lambda _, value: value is not None, tag_key="k", unknown=True),
        "cannot tell": ffc.any_of(ffc.ScannerFilter("a"), Raises()),
    }
    async with world.backend() as backend:
        streams = {name: await backend.subscribe_completions_filtered(wanted) for name, wanted in filters.items()}
        await world.announce(*items)
        if isinstance(backend, ffc.ResumableBackend):
            beginning = ffc.StreamCursor.beginning()
            for name, wanted in filters.items():
                streams[f"{name}, stored"] = await backend.subscribe_completions_from(beginning, wanted)
        for name, stream in streams.items():
            wanted = filters[name.partition(",")[0]]
            expected = [
                item.execution_id
                for item in items
                if said(wanted, item.namespace, item.tags.get(wanted.tag_key or "")) is True
            ]
            got: list[str] = []
            async with asyncio.timeout(20):
                while len(got) < len(expected):
                    got.append((await anext(stream)).execution_id)
            assert sorted(got) == sorted(expected), name
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(stream)
            await stream.aclose()


class Later:
    """A filter of an untyped caller's, asynchronous by mistake."""

    tag_key = None

    async def is_noop(self) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        return core_namespace == "a"


@pytest.mark.filterwarnings("ignore:coroutine 'Later.is_noop' was never awaited:RuntimeWarning")
async def test_a_part_that_does_not_say_whether_it_admits_everything_is_refused() -> None:
    """Alone as among others: what it admits is never everybody's."""
    later: ffc.CompletionFilter = Later()  # type: ignore[assignment]  # the point
    async with ffc.connect("memory://") as backend:
        for wanted in later, ffc.any_of(ffc.ScannerFilter("a"), later), ffc.all_of(later, ffc.ScannerFilter.NOOP):
            for opening in ffc.subscribe(backend, wanted), ffc.subscribe(backend, wanted, cursor=ffc.StreamCursor()):
                with pytest.raises(ffc.Validation, match="is_noop"):
                    async with opening:
                        pass
            with pytest.raises(ffc.Validation, match="is_noop"):
                await backend.subscribe_completions_filtered(wanted)
        wanted = ffc.all_of(ffc.ScannerFilter("a"), later)
        async with ffc.subscribe(backend, wanted) as stream:
            for namespace in "ba":
                backend.emit(done().execution_id, namespace=namespace)
            await anext(stream)
            assert (stream.stats().delivered, stream.stats().filtered) == (1, 1)
