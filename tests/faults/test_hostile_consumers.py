"""Stores, handlers and files that misbehave: the consumer is told, nothing is passed over, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from tests.faults.test_hostile_foreign import Own
from tests.worlds import PostgresWorld, done, eventually, some

ID = "{fp:7}:550e8400-e29b-41d4-a716-4466554400%02x"
CHECKPOINT = ffc.Checkpoint(cursor=ffc.StreamCursor.outbox(42), backend="PostgresBackend", selection="namespace='ä'")
QUIET = (asyncio.CancelledError, SystemExit, GeneratorExit)


class Store:
    """A store made of functions that may do anything."""

    def __init__(self) -> None:
        self.kept: dict[str, ffc.Checkpoint] = {}
        self.loading: Callable[[], Awaitable[Any]] | None = None
        self.saving: Callable[[], Awaitable[Any]] | None = None

    async def load(self, name: str, /) -> ffc.Checkpoint | None:
        if self.loading is not None:
            answer: ffc.Checkpoint | None = await self.loading()
            return answer
        return self.kept.get(name)

    async def save(self, name: str, checkpoint: ffc.Checkpoint, /) -> None:
        if self.saving is not None:
            await self.saving()
        self.kept[name] = checkpoint


def _raising(error: type[BaseException]) -> Callable[..., Awaitable[Any]]:
    async def raises(*_: object) -> Any:
        raise error

    return raises


# ── stores and handlers ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", QUIET, ids=str)
async def test_a_store_that_ends_in_silence_is_an_error(error: type[BaseException]) -> None:
    """It used to end the task that saves, and the position stood still for ever without a word."""
    store = Store()
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Unavailable, match="save a checkpoint") as caught:
            async with ffc.checkpointed(backend, store, "a", save_interval=0) as completions, asyncio.timeout(5):
                store.saving = _raising(error)
                backend.emit(ID % 1)
                backend.emit(ID % 2)
                while True:
                    await anext(completions)
        assert isinstance(caught.value.__cause__, error)
        store.saving, store.loading = None, _raising(error)
        with pytest.raises(ffc.Unavailable, match="load a checkpoint"):
            async with ffc.checkpointed(backend, store, "a"):
                pass
        assert backend.stats().streams == 0


@pytest.mark.parametrize("answer", [b"\x02", "position", 7, object()], ids=lambda answer: type(answer).__name__)
async def test_a_store_that_answers_what_is_no_checkpoint_is_refused(answer: object) -> None:
    async def loading() -> object:
        return answer

    store = Store()
    store.loading = loading
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Validation, match="no Checkpoint"):
            async with ffc.checkpointed(backend, store, "a"):
                pass
        assert backend.stats().streams == 0


@pytest.mark.parametrize("error", [*QUIET, ZeroDivisionError], ids=str)
async def test_a_handler_that_ends_in_silence_is_an_error(error: type[BaseException]) -> None:
    """A CancelledError out of a handler used to count as nothing: its completion was never done, nor told of."""
    store = Store()
    async with MemoryBackend() as backend, ffc.checkpointed(backend, store, "a") as completions:
        before = store.kept["a"]
        backend.emit(ID % 1)
        with pytest.raises((ffc.Unavailable, ZeroDivisionError)):
            async with asyncio.timeout(5):
                await completions.run(_raising(error))
    assert store.kept["a"] == before


async def test_a_store_that_hangs_outlives_no_cancelled_consumer() -> None:
    """The leak check behind each test sees the task that was waiting for it."""
    store, hanging = Store(), asyncio.Event()

    async def saving() -> None:
        hanging.set()
        await asyncio.Event().wait()

    async with MemoryBackend() as backend:

        async def consume() -> None:
            async with ffc.checkpointed(backend, store, "a", save_interval=0) as completions:
                store.saving = saving
                backend.emit(ID % 1)
                await anext(completions)
                backend.emit(ID % 2)
                await anext(completions)
                await hanging.wait()

        consuming = asyncio.create_task(consume())
        await hanging.wait()
        await asyncio.sleep(0.01)
        consuming.cancel()
        await asyncio.wait([consuming], timeout=5)
        assert consuming.cancelled()
        assert backend.stats().streams == 0


# ── whose position it is ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_position_of_one_filter_is_no_position_of_another_of_its_class() -> None:
    """Both are an `Own`; what the first did not admit would be passed over for the second."""
    one, other = Own(), Own(lambda namespace, tag: namespace != "a")
    store = Store()
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Validation, match="selection"):
            ffc.checkpointed(backend, store, "x", one)
        async with ffc.checkpointed(backend, store, "x", one, selection="only a") as completions:
            backend.emit(ID % 1, namespace="b")
            backend.emit(ID % 2, namespace="a")
            assert (await anext(completions)).execution_id == ID % 2
        kept = dict(store.kept)
        with pytest.raises(ffc.Validation, match="only a"):
            async with ffc.checkpointed(backend, store, "x", other, selection="all but a"):
                pass
        with pytest.raises(ffc.Validation, match="only a"):
            async with ffc.checkpointed(backend, store, "x"):
                pass
        assert store.kept == kept
        async with ffc.checkpointed(backend, store, "x", one, selection="only a") as completions:
            assert (await anext(completions)).execution_id == ID % 2


def test_a_consumers_name_is_text_that_can_be_stored() -> None:
    for name in ("a\0", "\ud800", 7, None):
        wrong: Any = name
        with pytest.raises(ffc.Validation, match="checkpoint"):
            ffc.checkpointed(MemoryBackend(), Store(), wrong)


@pytest.mark.parametrize("sees", [True, False], ids=["sees the sequence", "sees no sequence"])
async def test_a_cursor_of_the_future_passes_over_nothing(
    postgres: PostgresWorld, sees: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused where the sequence tells; read from the newest row on, and told, where it may not be seen."""
    await postgres.sql("DROP ROLE IF EXISTS future")
    await postgres.sql("CREATE ROLE future LOGIN")
    await postgres.sql("GRANT SELECT ON ff_completion_event, ff_exec_core TO future")
    if sees:
        await postgres.sql("GRANT SELECT ON SEQUENCE ff_completion_event_event_id_seq TO future")
    try:
        item = done()
        await postgres.announce(item)
        ((newest,),) = await postgres.sql("SELECT max(event_id) FROM ff_completion_event")
        cursor = ffc.StreamCursor.outbox(newest + 3)
        async with ffc.connect(postgres.url.replace("//postgres@", "//future@")) as backend:
            assert isinstance(backend, ffc.ResumableCompletionBackend)
            if sees:
                with pytest.raises(ffc.Validation, match="future"):
                    await backend.subscribe_completions_from(cursor)
                return
            stream = await backend.subscribe_completions_from(cursor)
            assert "future" in caplog.text
            after = [done() for _ in range(5)]
            await postgres.announce(*after)
            assert [came.execution_id for came in await some(stream, 5)] == [item.execution_id for item in after]
            await stream.aclose()
    finally:
        await postgres.sql("DROP OWNED BY future")
        await postgres.sql("DROP ROLE future")


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_replaced_file_keeps_its_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "c"
    store = ffc.FileCheckpoints(path)
    await store.save("a", CHECKPOINT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for mode in (0o664, 0o640, 0o400):
        path.chmod(mode)
        await store.save("a", CHECKPOINT)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    if os.geteuid() == 0:
        os.chown(path, 4711, 4712)
        await store.save("a", CHECKPOINT)
        assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)
    assert await store.load("a") == CHECKPOINT


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _null(path: Path) -> None:
    # A device node needs rights; a link to one does not, and is followed.
    path.symlink_to("/dev/null")


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_fifo, _null, _folder], ids=["pipe", "device", "folder"])
async def test_what_is_no_regular_file_is_refused_and_left(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """At once: a pipe without a writer used to be waited for, for ever; a device used to be replaced."""
    path = tmp_path / "c"
    make(path)
    before = path.stat()
    store = ffc.FileCheckpoints(path)
    async with asyncio.timeout(5):
        with pytest.raises(ffc.Unavailable, match="no regular file"):
            await store.load("a")
        with pytest.raises(ffc.Unavailable, match="no regular file"):
            await store.save("a", CHECKPOINT)
    after = path.stat()
    assert (before.st_mode, before.st_ino, before.st_rdev) == (after.st_mode, after.st_ino, after.st_rdev)
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


async def test_names_that_no_file_can_hold(tmp_path: Path) -> None:
    for path in ("a\0b", "\ud800"):
        with pytest.raises(ffc.Validation, match="name of a file"):
            ffc.FileCheckpoints(path)
    store = ffc.FileCheckpoints(tmp_path / "c")
    for name in ("\ud800", "a\0"):
        with pytest.raises(ffc.Validation, match="the name"):
            await store.save(name, CHECKPOINT)
        assert await store.load(name) is None
    assert not list(tmp_path.iterdir())
    # As long as a file's name may be; and one whose bytes are no text is fine, and can be printed.
    for raw in (b"c" * 255, b"\xff\xfe"):
        odd = ffc.FileCheckpoints(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw))
        await odd.save("a", CHECKPOINT)
        assert await odd.load("a") == CHECKPOINT
        with pytest.raises(ffc.Validation) as caught:
            await odd.load("b")
        str(caught.value).encode()


async def test_a_file_that_is_torn_or_damaged_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "c"
    store = ffc.FileCheckpoints(path)
    await store.save("a", CHECKPOINT)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole) - 1, 7)]
    damaged += [
        whole.replace(b"42", b"43"),
        b"[" * 100_000,
        b"\xff" * 50,
        b'{"name":"\\ud800"}',
        b"null",
        b"x" * (2 << 20),
    ]
    damaged += [
        whole.replace(b"namespace", b"nam\\ud800pace"),
        whole.replace(b'"crc32":', b'"crc32":9999999999999999999'),
    ]
    for data in damaged:
        if data == whole:
            continue
        path.write_bytes(data)
        with pytest.raises(ffc.Validation):
            await store.load("a")
        assert path.read_bytes() == data


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "tags", [{"k": 1}, {"k": 1.10}, {"k": None}, {"k": ["v"]}, {7: "v"}, {"k": b"v"}, {"k": "\ud800"}]
)
async def test_memory_takes_text_alone(tags: Any) -> None:
    """What is no text would be equal to no filter's, and a stream would wait in vain."""
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Validation, match="tags"):
            backend.emit(ID % 1, tags=tags)
        with pytest.raises(ffc.Validation, match="tags"):
            backend.submit(ID % 1, tags=tags)
        wrong: Any = 7
        with pytest.raises(ffc.Validation, match="namespace"):
            backend.emit(ID % 1, namespace=wrong)
        assert backend.stats().received == 0
        await eventually(lambda: backend.stats().streams == 0)
