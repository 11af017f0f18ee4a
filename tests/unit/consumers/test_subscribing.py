"""``subscribe``: which method is called, what is closed, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from tests.unit.test_urls import Duck


async def test_subscribe_picks_the_method_and_closes() -> None:
    """Plain for none and no-op, filtered for a filter, resumed for a cursor; so does the stream of a generator."""
    duck = Duck()
    ffc.assert_completion_backend(duck)
    for wanted in (None, ffc.ScannerFilter.NOOP, ffc.ScannerFilter("a")):
        async with ffc.subscribe(duck, wanted) as stream:
            assert (await stream.__anext__()).outcome == "0"
        assert duck.closed
    assert duck.calls == ["plain", "plain", "filtered"]
    untyped: Any = duck
    with pytest.raises(ffc.Unavailable, match="keeps no log"):
        async with ffc.subscribe(untyped, cursor=ffc.StreamCursor.empty()):
            pass


async def test_what_untyped_callers_mistake_is_named(tmp_path: Path) -> None:
    """A stored text for the cursor, one string for several things, a namespace for a filter: before anything is asked."""
    id_, backend = "{fp:7}:550e8400-e29b-41d4-a716-446655440000", ffc.MemoryBackend()
    text: Any = ffc.StreamCursor.beginning().to_text()
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("cursor: a StreamCursor is needed, not str; from_text", {"cursor": text}),
        ("cursor: a StreamCursor is needed, not bytes", {"cursor": b""}),
        ("partitions: a list, set or range", {"partitions": "12"}),
        ("partitions: a list, set or range", {"partitions": 3}),
        ("partitions: a list, set or range", {"partitions": [0.5]}),
        ("partitions: none", {"partitions": []}),
        ("partitions: -1 to 5 is not", {"partitions": {5, -1}}),
    ]
    for kind, odd in mistakes:
        with pytest.raises(ffc.Validation, match=kind):
            async with ffc.subscribe(backend, **odd):
                pass
    with pytest.raises(ffc.Validation, match="cursor: a StreamCursor is needed"):
        ffc.checkpointed(backend, ffc.FileCheckpoints(tmp_path / "c"), "a", start=text)
    with pytest.raises(ffc.Validation, match="several are needed"):
        ffc.as_completed(backend, id_)
    with pytest.raises(ffc.Validation, match="several are needed"):
        await ffc.wait_for_all(backend, id_)
    for url in ("memory://", "valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x"):
        with pytest.raises(ffc.Validation, match="observer: a str cannot be called"):
            ffc.connect(url, observer=text)
    plain: Any = Duck()
    with pytest.raises(ffc.Unavailable, match="Duck cannot tell who belongs"):
        await ffc.wait_for_flow(plain, "a76a8496-6e9c-457a-8727-b5169796f3cd")
    for make in (ffc.any_of, ffc.all_of):
        no_filter: Any
        for no_filter, name in (("tenant-a", "str"), ([ffc.ScannerFilter("a")], "list"), (None, "NoneType")):
            with pytest.raises(ffc.Validation, match=f"a {name} is none"):
                make(ffc.ScannerFilter("a"), no_filter)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[object, ...], bool]]:
    """Which methods of a backend were called, with what, and whether for results."""
    seen: list[tuple[str, tuple[object, ...], bool]] = []
    for name in ("subscribe_completions", "subscribe_completions_filtered", "subscribe_completions_from"):
        real: Any = getattr(ffc.MemoryBackend, name)

        def called(*args: Any, real: Any = real, name: str = name, results: bool = False) -> Any:
            seen.append((name.removeprefix("subscribe_completions"), args[1:], results))
            return real(*args, results=results)

        monkeypatch.setattr(ffc.MemoryBackend, name, called)
    return seen


@pytest.mark.parametrize("results", [False, True])
async def test_results_are_asked_for_in_the_same_way(
    calls: list[tuple[str, tuple[object, ...], bool]], results: bool
) -> None:
    """With them or without: a no-op is no filter, and a position comes first."""
    backend, a, beginning = ffc.MemoryBackend(), ffc.ScannerFilter("a"), ffc.StreamCursor.beginning()
    for wanted, cursor in ((None, None), (ffc.ScannerFilter.NOOP, None), (a, None), (None, beginning), (a, beginning)):
        async with ffc.subscribe(backend, wanted, cursor=cursor, results=results):
            pass
    assert calls == [
        ("", (), results), ("", (), results), ("_filtered", (a,), results),
        ("_from", (beginning, None), results), ("_from", (beginning, a), results),
    ]  # fmt: skip


async def test_what_a_backend_of_somebody_s_own_cannot_do_is_refused() -> None:
    """Results, which it has no word for; nothing is opened."""
    duck: Any = Duck()
    for cursor in (None, ffc.StreamCursor.beginning()):
        with pytest.raises(ffc.Unavailable, match="Duck is no"):
            async with ffc.subscribe(duck, cursor=cursor, results=True):
                pass
    assert duck.calls == []


async def test_partitions_are_told_by_the_id_whatever_the_backend() -> None:
    """Those of this worker; the first and the last that there can be, too."""
    async with ffc.MemoryBackend() as backend:
        ids = [f"{{fp:{partition}}}:550e8400-e29b-41d4-a716-446655440000" for partition in (0, 1, 2, 65_535)]
        for partitions, mine in (([0], ids[:1]), (range(1, 65_536, 2), ids[1::2]), ({65_535}, ids[3:])):
            async with ffc.subscribe(backend, partitions=partitions) as stream:
                for id_ in ids:
                    backend.emit(id_)
                assert [(await anext(stream)).execution_id for _ in mine] == mine
                backend.emit(mine[0], "failed")
                assert (await anext(stream)).outcome == "failed"
        with pytest.raises(ffc.Validation, match="65536 is not"):
            async with ffc.subscribe(backend, partitions=[65_536]):
                pass
