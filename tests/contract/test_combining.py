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
