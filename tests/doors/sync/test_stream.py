"""The blocking bridge: from plain threads, under Ctrl-C, after fork; the same answers as the asynchronous calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import ffcompletion as ffc
from tests.doors.sync.blocking import Plain
from tests.worlds import Done, MemoryWorld, PostgresWorld, done, member

UNKNOWN = "{fp:9}:550e8400-e29b-41d4-a716-446655440099"


def later(plain: Plain, work: Callable[[], Any], delay: float = 0.2) -> threading.Thread:
    """Have it happen in another thread, in a moment."""

    def run() -> None:
        time.sleep(delay)
        plain.do(work())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_iterating(plain: Plain) -> None:
    """Live when subscribe returns; a loop, a filter, a second stream; closing ends the loop in another thread."""
    items = [done(namespace="a" if n % 2 else "b") for n in range(20)]
    with plain.backend() as backend:
        stream, filtered = backend.subscribe(), backend.subscribe(ffc.ScannerFilter("a"))
        plain.do(plain.world.announce(*items))
        assert [next(stream).execution_id for _ in items] == [item.execution_id for item in items]
        assert [next(filtered).execution_id for _ in range(10)] == [i.execution_id for i in items if i.namespace == "a"]
        filtered.close()
        with ThreadPoolExecutor() as pool:
            rest = pool.submit(list, stream)
            time.sleep(0.1)
            assert not rest.done()
            stream.close()
            assert rest.result(5) == []
        assert backend.stats().streams == 0


def test_more_than_is_kept_ahead(plain: Plain) -> None:
    """Nothing lost or out of order when the thread is slow."""
    items = [done() for _ in range(3000)]
    with plain.backend() as backend, backend.subscribe() as stream:
        if isinstance(plain.world, MemoryWorld):
            plain.do(plain.world.announce(*items))
        else:
            items = items[:300]
            plain.do(plain.world.announce(*items))
        time.sleep(0.1)
        assert [next(stream).execution_id for _ in items] == [item.execution_id for item in items]


@pytest.mark.parametrize("partitions", [None, range(1, 65_536, 2)], ids=["all", "half"])
def test_a_thread_that_is_slow_holds_no_more_than_a_stream_may(postgres18_url: str, partitions: range | None) -> None:
    """Within ``buffer_size``, whatever waits at the server; each is counted once, and a cursor passes over none."""
    items = [done() for _ in range(300)]
    ids = [ffc.ExecutionId(item.execution_id) for item in items]
    wanted = [id_ for id_ in ids if partitions is None or id_.partition in partitions]
    plain = Plain(PostgresWorld(18, postgres18_url))
    cursor, came = ffc.StreamCursor.beginning(), list[ffc.CompletionPayload]()
    try:
        with ffc.sync.connect(postgres18_url, buffer_size=25) as backend:
            with backend.subscribe(partitions=partitions) as stream:
                plain.do(plain.world.announce(*items))
                while len(came) < len(wanted):
                    came.append(next(stream))
                    stats = stream.stats()
                    assert stats.buffered <= 25
                    assert (stats.delivered, stats.lost) == (len(came), 0)
                    if len(came) == len(wanted) // 3:
                        cursor = stream.cursor or cursor
                assert [completion.execution_id for completion in came] == wanted
            with backend.subscribe(partitions=partitions, cursor=cursor) as again:
                rest = wanted[len(wanted) // 3 :]
                repeated: list[str] = []
                while not repeated or repeated[-1] != rest[-1]:
                    repeated.append(next(again).execution_id)
                assert [id_ for id_ in repeated if id_ in rest] == rest
    finally:
        plain.close()


def test_threads_take_turns_at_one_stream(plain: Plain) -> None:
    """Each completion goes to one of them, and is counted once."""
    items = [done() for _ in range(400)]
    with plain.backend() as backend, backend.subscribe(partitions=range(0, 65_536, 2)) as stream:
        mine = {item.execution_id for item in items if not ffc.ExecutionId(item.execution_id).partition % 2}
        plain.do(plain.world.announce(*items))
        with ThreadPoolExecutor(8) as pool:
            came = list(pool.map(lambda _: next(stream).execution_id, range(len(mine))))
        assert sorted(came) == sorted(mine)
        assert stream.stats().delivered == len(mine)


@pytest.mark.parametrize("when", ["before", "later", "silently", "again"])
def test_waiting_for_one(plain: Plain, when: str) -> None:
    """Finished before, later, without a word, and after a replay."""
    item, world = done(outcome="failed", result=b"r"), plain.world
    with plain.backend() as backend:
        plain.do(world.begins(item))
        if when in ("before", "again"):
            plain.do(world.ends(item))
        expected, thread = "failed", None
        if when == "later":
            thread = later(plain, lambda: world.ends(item))
        elif when == "silently":
            thread = later(plain, lambda: world.ends(item, silently=True))
        elif when == "again":
            plain.do(world.begins(item))
            expected = "skipped"
            thread = later(plain, lambda: world.ends(Done(execution_id=item.execution_id, outcome="skipped")))
        found = backend.wait_for_completion(item.execution_id, timeout=10, poll_interval=0.2)
        if thread is not None:
            thread.join()
        assert (found.execution_id, found.outcome) == (item.execution_id, expected)
        if when == "before":
            assert backend.wait_for_completion(item.execution_id, result=True).payload_bytes == item.result
            snapshot = backend.describe_execution(item.execution_id)
            assert snapshot is not None
            assert snapshot.terminal_outcome == "failed"


def test_waiting_in_vain(plain: Plain) -> None:
    """Unknown, malformed, too late: the same errors."""
    item = done()
    with plain.backend() as backend:
        with pytest.raises(ffc.NotFound):
            backend.wait_for_completion(UNKNOWN)
        with pytest.raises(ffc.Validation):
            backend.wait_for_completion("nonsense")
        plain.do(plain.world.begins(item))
        with pytest.raises(TimeoutError, match="has not finished"):
            backend.wait_for_completion(item.execution_id, timeout=0.3)
        _released(backend)


def _released(backend: Any) -> None:
    """What waits share lingers for the next one, and is released by itself."""
    deadline = time.monotonic() + 30
    while backend.stats().streams:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_waiting_for_many(plain: Plain) -> None:
    """As they finish; all of them; a flow; a loop that is left early leaves nothing."""
    flow = "550e8400-e29b-41d4-a716-446655440000"
    items = [member(flow) for _ in range(4)]
    ids = [item.execution_id for item in items]
    with plain.backend() as backend:
        plain.do(plain.world.joins(flow, *items))
        plain.do(plain.world.ends(items[2]))
        answers = backend.as_completed(ids, timeout=10)
        assert next(answers).execution_id == ids[2]
        plain.do(plain.world.ends(items[0]))
        assert next(answers).execution_id == ids[0]
        answers.close()
        _released(backend)
        plain.do(plain.world.ends(items[1]))
        plain.do(plain.world.ends(items[3]))
        assert list(backend.wait_for_all(ids, timeout=10)) == ids
        assert set(backend.wait_for_flow(flow, timeout=10)) == {*ids}


def test_threads_share(plain: Plain) -> None:
    """Thirty threads wait on one backend; closing it ends those that are left, with our error."""
    items = [done() for _ in range(30)]
    with ThreadPoolExecutor(40) as pool:
        with plain.backend() as backend:
            for item in items:
                plain.do(plain.world.begins(item))
            waits = [pool.submit(backend.wait_for_completion, item.execution_id) for item in items]
            stuck = pool.submit(list, backend.as_completed([items[0].execution_id, items[1].execution_id]))
            for item in items[1:]:
                plain.do(plain.world.ends(item))
            assert [wait.result(10).execution_id for wait in waits[1:]] == [item.execution_id for item in items[1:]]
            assert backend.stats().streams == 1
        for left in (waits[0], stuck):
            with pytest.raises(ffc.Unavailable):
                left.result(5)
        backend.close()
        with pytest.raises(ffc.Unavailable, match="closed"):
            backend.wait_for_completion(items[0].execution_id)


def test_a_server_that_is_not_there() -> None:
    """The error of the asynchronous call, and no thread is left."""
    with ffc.sync.connect("valkey://127.0.0.1:1", setup_timeout=2.0) as backend:
        with pytest.raises(ffc.EngineError):
            backend.subscribe()
        with pytest.raises(ffc.EngineError):
            backend.wait_for_completion(UNKNOWN)
        assert "sync" in repr(backend)
    assert not [thread.name for thread in threading.enumerate() if thread.name == "ffcompletion-sync"]
