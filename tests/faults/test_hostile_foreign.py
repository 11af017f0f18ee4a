"""Somebody else's code, called in one place: whatever it raises, answers or claims to be, nobody else notices."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.contract.stats import BackendEvent
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.foreign.awaiting import called
from ffcompletion.foreign.calling import FAILED, Culprit, contained
from ffcompletion.foreign.filters import ForeignFilter, checked_filter
from ffcompletion.foreign.logs import logger
from tests.worlds import World, done, some
from tests.worlds.equal import EqualText

RAISED = (ValueError, RecursionError, MemoryError, StopIteration, StopAsyncIteration, GeneratorExit, SystemExit)


def raiser(error: type[BaseException]) -> Callable[..., Any]:
    def raises(*_: object) -> Any:
        raise error

    return raises


class Own:
    """A filter of a user's own, made of functions that may do anything."""

    def __init__(
        self,
        says: Callable[[str | None, str | None], Any] = lambda namespace, tag: namespace == "a",
        *,
        key: Callable[[], Any] = lambda: None,
        noop: Callable[[], Any] = lambda: False,
    ) -> None:
        self._says, self._key, self._noop = says, key, noop

    @property
    def tag_key(self) -> Any:
        return self._key()

    def is_noop(self) -> Any:
        return self._noop()

    def matches(self, namespace: str | None, tag: str | None) -> Any:
        return self._says(namespace, tag)


class Unhashable(Own):
    __hash__ = None  # type: ignore[assignment]  # that is the point


class EqualToAll(Own):
    @override
    def __eq__(self, other: object) -> bool:
        return True

    @override
    def __hash__(self) -> int:
        return 0


class OnlyA(NamedTuple):
    name: str = "a"

    @property
    def tag_key(self) -> str | None:
        return None

    def is_noop(self) -> bool:
        return False

    def matches(self, namespace: str | None, tag: str | None) -> bool:
        return namespace == self.name


class AllButA(NamedTuple):
    name: str = "a"

    @property
    def tag_key(self) -> str | None:
        return None

    def is_noop(self) -> bool:
        return False

    def matches(self, namespace: str | None, tag: str | None) -> bool:
        return namespace is not None and namespace != self.name


# ── calling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [*RAISED, asyncio.CancelledError], ids=str)
def test_whatever_is_raised_is_contained_and_counted(error: type[BaseException]) -> None:
    def raises() -> int:
        raise error

    culprit = Culprit("a test", logger("ffcompletion.test"))
    assert contained(culprit, raises) is FAILED
    assert culprit.failures == 1
    assert contained(culprit, lambda: 3) == 3
    assert culprit.failures == 1


def test_the_keyboards_interrupt_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever runs this in the background may have interrupts ignored.
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)

    def raises() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contained(Culprit("a test", logger("ffcompletion.test")), raises)


async def test_what_is_awaited_raises_errors_only() -> None:
    """A CancelledError that nobody asked for would end the task that waits, in silence."""

    async def raises(error: BaseException) -> int:
        raise error

    with pytest.raises(ZeroDivisionError):
        await called("a test", lambda: raises(ZeroDivisionError()))
    for error in (asyncio.CancelledError(), SystemExit(), GeneratorExit()):
        with pytest.raises(ffc.Unavailable) as caught:
            await called("a test", partial(raises, error))
        assert caught.value.__cause__ is error
    assert await called("a test", lambda: asyncio.sleep(0, 8)) == 8


async def test_a_cancelling_of_ours_is_no_error() -> None:
    task = asyncio.create_task(called("a test", lambda: asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_filters_are_the_same_only_if_they_are_the_very_same_object() -> None:
    """Two classes that compare equal share no verdict; nor does one filter with results and without."""

    hub = Hub()
    one, other = OnlyA(), AllButA()
    assert tuple(one) == tuple(other)
    assert hash(one) == hash(other)
    members = [_Member() for _ in range(8)]
    unhashable, equal = Unhashable(), EqualToAll()
    asked = [
        Selector(checked_filter(one)),
        Selector(checked_filter(one)),
        Selector(checked_filter(other)),
        Selector(checked_filter(unhashable)),
        Selector(checked_filter(unhashable), results=True),
        Selector(checked_filter(equal)),
        Selector(checked_filter(EqualToAll())),
        Selector(checked_filter(equal)),
    ]
    for member, selector in zip(members, asked, strict=True):
        hub.attach(member, selector)
    assert [len(group.members) for group in hub.groups] == [2, 1, 1, 1, 2, 1]
    for member, selector in zip(members, asked, strict=True):
        hub.detach(member, selector)
    assert not hub.groups


class _Member:
    def deliver(self, batch: object, cursor: object) -> None:
        pass


def test_our_own_filter_holds_plain_text_alone() -> None:
    """A str that is equal to everything would admit everything, and share the group of everybody."""
    one = ffc.ScannerFilter(EqualText("a"), (EqualText("k"), EqualText("v")))
    assert type(one.namespace) is str
    assert one.instance_tag is not None
    assert {type(part) for part in one.instance_tag} == {str}
    assert one != ffc.ScannerFilter("b", ("k", "v"))
    assert not one.matches("b", "v")
    assert not one.matches("a", "w")
    assert one == ffc.ScannerFilter("a", ("k", "v"))


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "a\udfff"])
def test_what_no_server_can_hold_is_refused_at_construction(text: str) -> None:
    makers: list[Callable[[], object]] = [
        lambda: ffc.ScannerFilter(text),
        lambda: ffc.ScannerFilter(None, (text, "v")),
        lambda: ffc.ScannerFilter(None, ("k", text)),
        lambda: ffc.ScannerFilter.NOOP.with_namespace(text),
        lambda: ffc.ScannerFilter.NOOP.with_instance_tag("k", text),
    ]
    for make in makers:
        with pytest.raises(ffc.Validation, match="filter"):
            make()


async def _later(*_: object) -> bool:
    return True


def _same(answer: object) -> object:
    return answer


UNREADABLE = [
    *(Own(key=partial(_same, key)) for key in ("", "\0", "\ud800", 3, b"k", ["k"])),
    *(Own(key=raiser(error)) for error in (*RAISED, asyncio.CancelledError)),
    *(Own(noop=raiser(error)) for error in (*RAISED, asyncio.CancelledError)),
    *(Own(noop=partial(_same, answer)) for answer in (None, 0, 1, "no", object())),
    Own(noop=_later),
]


@pytest.mark.parametrize("wanted", UNREADABLE)
async def test_a_filter_that_cannot_be_read_is_refused_when_the_stream_is_opened(wanted: Any) -> None:
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Validation, match="filter"):
            await backend.subscribe_completions_filtered(wanted)
        with pytest.raises(ffc.Validation, match="filter"):
            async with ffc.subscribe(backend, wanted):
                pass
        assert backend.stats().streams == 0


@pytest.mark.parametrize("answer", [None, 1, 0, "yes", [], object()], ids=lambda answer: type(answer).__name__)
def test_only_a_plain_yes_admits(answer: object) -> None:
    """What is no bool withholds, and counts as undecided; nobody's truth value is asked for."""

    checked = checked_filter(Own(lambda namespace, tag: answer))
    assert isinstance(checked, ForeignFilter)
    assert checked.admits("a", None) is None
    assert not checked.matches("a", None)
    assert checked.failures == 2


def test_a_verdict_that_would_have_to_be_awaited_withholds() -> None:
    checked = checked_filter(Own(_later))
    assert checked is not None
    assert not checked.matches("a", None)


def test_a_filters_tag_is_read_once() -> None:
    keys = iter(("k", "other"))
    checked = checked_filter(Own(key=lambda: next(keys)))
    assert checked is not None
    assert (checked.tag_key, checked.tag_key) == ("k", "k")


async def test_equal_filters_get_their_own_on_every_backend(world: World) -> None:
    """The second of two filters that compare equal gets what it admits, not what the first does."""
    async with world.backend() as backend:
        streams = [await backend.subscribe_completions_filtered(wanted) for wanted in (OnlyA(), AllButA())]
        ours, others = done(namespace="a"), done(namespace="b")
        await world.announce(ours, others, ours, others)
        assert {item.execution_id for item in await some(streams[0], 2)} == {ours.execution_id}
        assert {item.execution_id for item in await some(streams[1], 2)} == {others.execution_id}
        for stream in streams:
            await stream.aclose()


# ── observers and log handlers ───────────────────────────────────────────────────────────────────────────────────────


async def test_an_observer_may_raise_anything(world: World) -> None:
    told: list[BackendEvent] = []

    def observer(event: BackendEvent) -> None:
        told.append(event)
        raise RAISED[len(told) % len(RAISED)]

    async with world.backend(observer=observer) as backend:
        stream = await backend.subscribe_completions()
        item = done()
        await world.announce(item)
        assert (await some(stream, 1))[0].execution_id == item.execution_id
        await stream.aclose()
    assert told


async def test_an_observer_that_is_no_plain_function_is_told_of() -> None:
    async def observer(event: BackendEvent) -> None: ...

    backend = MemoryBackend(observer=observer)  # type: ignore[arg-type]  # that is the point
    await (await backend.subscribe_completions()).aclose()
    await backend.aclose()


class _Refuses(logging.Filter):
    @override
    def filter(self, record: logging.LogRecord) -> bool:
        raise ZeroDivisionError


class _Raises(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit


def test_a_line_that_is_refused_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log = logger("ffcompletion.test.refused")
    raw, refuses = logging.getLogger("ffcompletion.test.refused"), _Refuses()
    raw.addFilter(refuses)
    try:
        log.warning("the %s is broken", "server")
        log.error("and more so")
    finally:
        raw.removeFilter(refuses)
    assert log.refused == 2
    assert "the server is broken" in capsys.readouterr().err


def test_a_line_says_where_it_was_written(caplog: pytest.LogCaptureFixture) -> None:
    logger("ffcompletion.test").warning("here")
    assert caplog.records[0].funcName == "test_a_line_says_where_it_was_written"


async def test_streams_go_on_behind_a_log_handler_that_raises(world: World) -> None:
    """Faults are told of, and the telling fails: nothing ends by that."""
    root, handler = logging.getLogger("ffcompletion"), _Raises()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.DEBUG)
    try:
        async with world.backend() as backend:
            stream = await backend.subscribe_completions_filtered(Own(raiser(SystemExit)))
            everything = await backend.subscribe_completions()
            await world.drop_connections()
            items = [done(namespace="a") for _ in range(3)]
            for item in items:
                await world.ends(item)
            came = await some(everything, 3)
            assert {item.execution_id for item in came} == {item.execution_id for item in items}
            await stream.aclose()
            await everything.aclose()
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def test_every_line_is_logged_through_the_containing_logger() -> None:
    """No module asks `logging` for a logger by itself."""
    package = Path(ffc.__file__).parent
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "getLogger(" in path.read_text(encoding="utf-8") and path.parent.name not in ("foreign", "cli")
    ]
    assert not found
