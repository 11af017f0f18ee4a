"""What the checks are made of: a backend that is closed afterwards, waits with deadlines, and things that must not come."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, final

from ffcompletion.contract.errors import EngineError, Unavailable
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import (
    CompletionBackend,
    CompletionFilter,
    CompletionStream,
    ResumableCompletionBackend,
)
from ffcompletion.testing.subject import Announcer, Execution, Factory, FaultInjector, Options, fresh
from ffcompletion.testing.violation import ContractViolation, NotChecked

__all__ = ["Harness", "closed", "opened"]

# How long a backend may go on tidying up after its last stream was closed.
_TIDY_S: Final = 2.0
_STEP_S: Final = 0.01


async def closed(what: object) -> None:
    """Await ``what.aclose()``, where it has one."""
    close = getattr(what, "aclose", None)
    if close is not None:
        answer = close()
        if inspect.isawaitable(answer):
            await answer


@final
class Harness:
    """One backend, held against one clause."""

    def __init__(self, clause: str, backend: CompletionBackend, announcer: Announcer, options: Options) -> None:
        self.clause = clause
        self.backend = backend
        self.announcer = announcer
        self.options = options
        self._streams: list[CompletionStream] = []
        self._warm_ups: set[str] = set()

    # ── what can go wrong, and what cannot be checked ────────────────────────────────────────────────────────────

    def broken(self, expected: str, happened: str) -> ContractViolation:
        """The clause is broken; to be raised."""
        return ContractViolation(self.clause, expected, happened)

    @property
    def faults(self) -> FaultInjector:
        """The author's. Raises ``NotChecked`` where there is none."""
        if self.options.faults is None:
            raise NotChecked("no FaultInjector was supplied")
        return self.options.faults

    @property
    def resumable(self) -> ResumableCompletionBackend:
        """The backend, if it is resumable. Raises ``NotChecked``."""
        if not isinstance(self.backend, ResumableCompletionBackend):
            raise NotChecked("the backend is not resumable")
        return self.backend

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def stream(self, *, warm: bool = True) -> CompletionStream:
        """A stream of everything, closed at the end; ``warm``: known to be live, whether or not clause 1 holds."""
        stream = self.kept(await self.within(self.backend.subscribe_completions(), "subscribe_completions() returns"))
        return await self.warmed(stream, fresh()) if warm else stream

    async def filtered(self, wanted: CompletionFilter, admitted: Execution) -> CompletionStream:
        """A live stream of what the filter admits. Raises ``NotChecked`` where the backend refuses filters.

        ``admitted``: an execution that the filter admits, to see that the stream is live.
        """
        try:
            opening = self.backend.subscribe_completions_filtered(wanted)
            stream = self.kept(await self.within(opening, "subscribe_completions_filtered() returns"))
        except Unavailable as exc:
            if wanted.is_noop():
                raise self.broken("a no-op filter is served by any backend", f"it raised {exc!r}") from exc
            raise NotChecked("the backend refuses filters") from exc
        return await self.warmed(stream, admitted)

    async def warmed(self, stream: CompletionStream, admitted: Execution) -> CompletionStream:
        """Announce an execution, again and again, until the stream tells of it."""
        self._warm_ups.add(admitted.execution_id)
        await self._until_heard(stream, lambda: admitted, self.options.patience_s / 20, "the stream is live")
        return stream

    def kept(self, stream: CompletionStream) -> CompletionStream:
        """A stream, to be closed at the end."""
        if not isinstance(stream, CompletionStream):  # pyright: ignore[reportUnnecessaryIsInstance]  # what is checked
            raise self.broken("a stream has __aiter__, __anext__ and aclose", f"it is a {type(stream).__name__}")
        self._streams.append(stream)
        return stream

    async def within(self, work: Awaitable[CompletionStream], what: str) -> CompletionStream:
        """The stream that a subscribe call returns in time; what it raises is an ``EngineError``."""
        try:
            async with asyncio.timeout(self.options.setup_s):
                return await work
        except TimeoutError:
            raise self.broken(f"{what} or raises within {self.options.setup_s:g} s", "it did neither") from None
        except EngineError:
            raise
        except Exception as exc:
            raise self.broken(f"{what}, or raises an EngineError", f"it raised {exc!r}") from exc

    async def close(self, stream: CompletionStream, when: str) -> None:
        """Close it, in time and without an error."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.options.closing_s * 2):
                await stream.aclose()
        except TimeoutError:
            raise self.broken(f"closing {when} is done within {self.options.closing_s:g} s", "it hung") from None
        except Exception as exc:
            raise self.broken(f"closing {when} raises nothing", f"it raised {exc!r}") from exc
        took = time.monotonic() - began
        if took > self.options.closing_s:
            raise self.broken(f"closing {when} is done within {self.options.closing_s:g} s", f"it took {took:.1f} s")

    async def tidy(self) -> None:
        """Close what the check left open, whatever that does."""
        for thing in (*self._streams, self.backend):
            try:
                async with asyncio.timeout(self.options.closing_s):
                    await closed(thing)
            except Exception:  # noqa: BLE001, S112  # another clause's business
                continue

    # ── things that happen, and must arrive ──────────────────────────────────────────────────────────────────────

    async def announce(self, *executions: Execution) -> None:
        """Make them finish."""
        await self.announcer.announce(*executions)

    async def next(self, stream: CompletionStream, expected: str) -> CompletionPayload:
        """The stream's next completion, in time."""
        try:
            async with asyncio.timeout(self.options.patience_s):
                item = await anext(aiter(stream))
        except TimeoutError:
            raise self.broken(expected, f"nothing came within {self.options.patience_s:g} s") from None
        except StopAsyncIteration:
            raise self.broken(expected, "the stream ended by itself") from None
        except Exception as exc:
            raise self.broken(expected, f"the stream raised {exc!r}") from exc
        if not isinstance(item, CompletionPayload):  # pyright: ignore[reportUnnecessaryIsInstance]  # what is checked
            raise self.broken("a stream yields CompletionPayload", f"it yielded a {type(item).__name__}")
        return item

    async def all(self, stream: CompletionStream, executions: Sequence[Execution], expected: str) -> list[str]:
        """Read until all of these have come; the ids in the order they came in, repetitions included."""
        missing = {execution.execution_id for execution in executions}
        came: list[str] = []
        while missing:
            try:
                item = await self.next(stream, expected)
            except ContractViolation as exc:
                count = len(executions)
                raise self.broken(expected, f"{len(missing)} of {count} did not come; {exc.happened}") from exc
            if item.execution_id not in self._warm_ups:
                came.append(item.execution_id)
                missing.discard(item.execution_id)
        return came

    async def until_now(self, stream: CompletionStream, expected: str) -> list[str]:
        """Everything that comes before something announced now; what does not come is another clause's business."""
        marker = fresh()
        marks: set[str] = {marker.execution_id}
        came: list[str] = []
        await self.announce(marker)
        end = time.monotonic() + self.options.patience_s
        while True:
            try:
                async with asyncio.timeout(self.options.patience_s / 5):
                    item = await self.next(stream, expected)
            except TimeoutError:
                if time.monotonic() > end:
                    raise self.broken(expected, "nothing comes any more") from None
                marker = fresh()
                marks.add(marker.execution_id)
                await self.announce(marker)
                continue
            if item.execution_id in marks:
                return came
            if item.execution_id not in self._warm_ups:
                came.append(item.execution_id)

    async def nothing_but(
        self, stream: CompletionStream, wanted: Sequence[Execution], marker: Execution, expected: str
    ) -> None:
        """Announce the marker, which the stream must get; before it, nothing may have come but what was wanted."""
        await self.announce(marker)
        allowed = {execution.execution_id for execution in wanted} | {marker.execution_id}
        for id_ in await self.all(stream, [marker], expected):
            if id_ not in allowed:
                raise self.broken(expected, f"{id_} came as well")

    async def what_comes(self, stream: CompletionStream, marker: Execution) -> list[str]:
        """What comes up to the marker, or until a tenth of the patience is over, or the stream is."""
        came: list[str] = []
        try:
            async with asyncio.timeout(self.options.patience_s / 10):
                while marker.execution_id not in came:
                    item = await self.next(stream, "the stream goes on")
                    if item.execution_id not in self._warm_ups:
                        came.append(item.execution_id)
        except (TimeoutError, ContractViolation):
            pass
        return came

    async def goes_on(self, stream: CompletionStream, expected: str) -> None:
        """Announce now and then until the stream tells of it: it may take a moment to be live again."""
        await self._until_heard(stream, fresh, 0.05, expected)

    async def _until_heard(
        self, stream: CompletionStream, item: Callable[[], Execution], every_s: float, expected: str
    ) -> None:
        end = time.monotonic() + self.options.patience_s
        waiting = asyncio.ensure_future(self.next(stream, expected))
        try:
            while not waiting.done() and time.monotonic() < end:
                await self.announce(item())
                await asyncio.wait({waiting}, timeout=every_s)
            await waiting
        finally:
            waiting.cancel()

    async def eventually(self, what: Callable[[], Awaitable[bool]], expected: str, happened: str) -> None:
        """Wait until it is so."""
        end = time.monotonic() + _TIDY_S + self.options.patience_s / 5
        while not await what():
            if time.monotonic() > end:
                raise self.broken(expected, happened)
            await asyncio.sleep(_STEP_S)


@asynccontextmanager
async def opened(
    clause: str, factory: Factory, announcer: Announcer, options: Options | None
) -> AsyncGenerator[Harness]:
    """A harness with a backend of its own."""
    harness = Harness(clause, factory(), announcer, options or Options())
    try:
        yield harness
    finally:
        await harness.tidy()
        # What was dropped without being closed says so now, and not in somebody else's test.
        gc.collect()


@contextmanager
def heartbeat(stalls: list[float]) -> Generator[None]:
    """Note for how long, in seconds, the event loop stood still while the block ran."""

    async def beat() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_STEP_S)
            stalls.append(time.monotonic() - before - _STEP_S)

    task = asyncio.ensure_future(beat())
    try:
        yield
    finally:
        task.cancel()
