"""Each breaks the contract in one way; ``breaks`` names the clauses that this breaks, and there are no others."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from typing import Any, ClassVar

from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.testing import Execution
from tests.gallery.right import RETENTION, Link, Right, RightStream

POSITIONS = {"8.7", "8.8", "8.9", "8.10", "8.11", "8.12"}


class Broken(Right):
    """One of the gallery."""

    breaks: ClassVar[set[str]] = set()


class DropsOneInAHundred(Broken):
    """Now and then one is missing."""

    breaks: ClassVar[set[str]] = {"2.1", "4.4", "8.4", "8.7", "8.9", "8.11"}

    class Stream(RightStream):
        count = 0

        @override
        def admits(self, execution: Execution) -> bool:
            self.count += 1
            return self.count % 100 != 90 and super().admits(execution)


class Repeats(Broken):
    """Now and then one comes twice."""

    breaks: ClassVar[set[str]] = {"2.2"}

    class Stream(RightStream):
        again: ffc.CompletionPayload | None = None

        @override
        def take(self) -> ffc.CompletionPayload | None:
            again, self.again = self.again, None
            if again is not None:
                return again
            item = super().take()
            if self.position % 50 == 49:
                self.again = item
            return item


class WrongOrder(Broken):
    """Of a burst, neighbours change places."""

    breaks: ClassVar[set[str]] = {"2.3", "8.7", "8.8", "8.9", "8.11", "8.12"}

    class Stream(RightStream):
        back: ffc.CompletionPayload | None = None

        @override
        def take(self) -> ffc.CompletionPayload | None:
            held, self.back = self.back, None
            if held is not None:
                return held
            item = super().take()
            # Not at the seams of what the other checks announce.
            if item is not None and self.seen - self.position > 50:
                self.back, item = item, super().take()
            return item


class MangledOutcome(Broken):
    """Another word for the outcome than the wire's."""

    breaks: ClassVar[set[str]] = {"2.4"}

    class Stream(RightStream):
        @override
        def payload(self, execution: Execution) -> ffc.CompletionPayload:
            whole = super().payload(execution)
            return ffc.CompletionPayload(
                whole.execution_id, whole.outcome.upper(), None, 1, whole.flow_id, whole.cursor
            )


class CancelLoses(Broken):
    """What arrives while a wait is being cancelled goes with it."""

    breaks: ClassVar[set[str]] = {"2.5", "8.11", "8.12"}

    class Stream(RightStream):
        @override
        async def __anext__(self) -> ffc.CompletionPayload:
            item = await super().__anext__()
            await asyncio.sleep(0)
            return item


class LiveTooLate(Broken):
    """Subscribing returns a moment before the stream is live."""

    breaks: ClassVar[set[str]] = {"1.1"}

    class Stream(RightStream):
        def __init__(self, backend: Right, position: int, wanted: ffc.CompletionFilter | None) -> None:
            super().__init__(backend, position, wanted)
            self.from_now = position == backend.exchange.end

        @override
        async def run(self) -> None:
            if self.from_now:
                await asyncio.sleep(0.01)
                self.position = self.seen = self.exchange.end
            await super().run()


class DriverErrorAtSetup(Broken):
    """What the driver raises comes out as it is."""

    breaks: ClassVar[set[str]] = {"1.2"}

    @override
    async def connected(self, stream: RightStream) -> None:
        try:
            await super().connected(stream)
        except ffc.Transport as exc:
            raise ConnectionRefusedError("nobody there") from exc


class SetupHangs(Broken):
    """Where no server is, subscribing waits for one."""

    breaks: ClassVar[set[str]] = {"1.2"}

    @override
    async def connected(self, stream: RightStream) -> None:
        await self.exchange.open.wait()
        await super().connected(stream)


class BlocksTheLoop(Broken):
    """Connects with a call that blocks, until what it looks up is known by heart."""

    breaks: ClassVar[set[str]] = {"1.3"}
    looked_up = itertools.count()

    @override
    async def connected(self, stream: RightStream) -> None:
        if next(self.looked_up) < 15:
            time.sleep(0.7)
        await super().connected(stream)


class EndsAfterDisconnect(Broken):
    """A connection that is cut is the end."""

    breaks: ClassVar[set[str]] = {"2.6", "2.7", "2.8", "2.9"}

    class Stream(RightStream):
        @override
        def broken(self, exc: BaseException) -> bool:
            self.ended = True
            self.ready.set()
            return True


class RaisesAfterDisconnect(Broken):
    """The driver's error comes out of the loop."""

    breaks: ClassVar[set[str]] = {"2.6", "2.7", "2.8", "2.9"}

    class Stream(RightStream):
        error: BaseException | None = None

        @override
        def broken(self, exc: BaseException) -> bool:
            self.error = exc
            self.ready.set()
            return True

        @override
        def take(self) -> ffc.CompletionPayload | None:
            if self.error is not None:
                raise self.error
            return super().take()


class LosesOnDisconnect(Broken):
    """Begins anew when it is connected again."""

    breaks: ClassVar[set[str]] = {"2.7"}

    class Stream(RightStream):
        @override
        def reconnected(self) -> None:
            super().reconnected()
            self.position = self.seen


class DeafAfterRestart(Broken):
    """Comes back to one restart, and not to the next."""

    breaks: ClassVar[set[str]] = {"2.6", "2.7"}

    class Stream(RightStream):
        times = 0

        @override
        def broken(self, exc: BaseException) -> bool:
            self.times += 1
            return self.times > 1


class NeverNoticesMute(Broken):
    """Trusts a connection that says nothing."""

    breaks: ClassVar[set[str]] = {"2.9"}

    class Stream(RightStream):
        @override
        async def probe(self, link: Link) -> None:
            return


class SharedStream(Broken):
    """Two streams take turns with one supply."""

    breaks: ClassVar[set[str]] = {"3.1", "5.2", "8.2", "8.3", "8.8", "8.10"}

    class Stream(RightStream):
        @override
        def take(self) -> ffc.CompletionPayload | None:
            if len(self.backend.streams) > 2:
                self.position = max([self.position, *(stream.position for stream in self.backend.streams)])
            return super().take()


class ClosingOneClosesAll(Broken):
    """The last to be opened owns the connection."""

    breaks: ClassVar[set[str]] = {"3.2", "8.7", "8.8", "8.9", "8.10"}

    class Stream(RightStream):
        @override
        async def aclose(self) -> None:
            await super().aclose()
            if len(self.backend.streams) == 1:
                for stream in tuple(self.backend.streams):
                    await stream.aclose()


class CloseTwiceRaises(Broken):
    """The second time there is nothing to close."""

    breaks: ClassVar[set[str]] = {"3.3"}

    class Stream(RightStream):
        @override
        async def aclose(self) -> None:
            if self.closed:
                raise RuntimeError("closed already")
            await super().aclose()


class WaiterLeftHanging(Broken):
    """Closing does not wake who waits."""

    breaks: ClassVar[set[str]] = {"3.4", "9.1"}

    class Stream(RightStream):
        @override
        async def aclose(self) -> None:
            self.ready = asyncio.Event()
            await super().aclose()


class YieldsAfterClose(Broken):
    """What had arrived still comes."""

    breaks: ClassVar[set[str]] = {"3.5"}

    class Stream(RightStream):
        @override
        async def __anext__(self) -> ffc.CompletionPayload:
            item = self.take()
            return await super().__anext__() if item is None else item


class NoSecondLife(Broken):
    """Once the last stream was closed, the source is gone."""

    breaks: ClassVar[set[str]] = {"3.6"}
    used = False

    @override
    async def opened(self, wanted: ffc.CompletionFilter | None, position: int) -> Any:
        stream = await super().opened(wanted, position if not self.used or self.streams else 1 << 60)
        self.used = True
        return stream

    @override
    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, filter: ffc.CompletionFilter | None = None, /
    ) -> Any:
        self.used = False
        return await super().subscribe_completions_from(cursor, filter)


class LeaksATask(Broken):
    """Its reader goes on when everything is closed."""

    breaks: ClassVar[set[str]] = {"3.7"}

    class Stream(RightStream):
        @override
        async def release(self) -> None:
            if self.link is not None:
                self.link.close()


class LeaksAConnection(Broken):
    """Closing leaves the connection open."""

    breaks: ClassVar[set[str]] = {"3.8"}

    class Stream(RightStream):
        @override
        async def release(self) -> None:
            self.link = None
            await super().release()


class HeldUpByTheDropped(Broken):
    """A stream that was dropped is waited for."""

    breaks: ClassVar[set[str]] = {"3.9"}

    class Stream(RightStream):
        def __del__(self) -> None:
            self.backend.exchange.links.clear()
            for stream in self.backend.streams:
                if stream.task is not None:
                    stream.task.cancel()


class CloseWaitsForTheServer(Broken):
    """Says goodbye, and waits for the answer."""

    breaks: ClassVar[set[str]] = {"3.10"}

    class Stream(RightStream):
        @override
        async def release(self) -> None:
            await super().release()
            while not self.exchange.open.is_set():
                await asyncio.sleep(0.01)


class OneSlowStallsAll(Broken):
    """Hands out nothing while one consumer is far behind."""

    breaks: ClassVar[set[str]] = {"4.1", "8.7", "8.9"}

    class Stream(RightStream):
        @override
        def take(self) -> ffc.CompletionPayload | None:
            behind = [stream for stream in self.backend.streams if self.exchange.end - stream.position > 150]
            if len(self.backend.streams) > 1 and behind and self not in behind:
                return None
            return super().take()


class EndsAfterOverflow(Broken):
    """A consumer that was too slow is thrown out."""

    breaks: ClassVar[set[str]] = {"4.2", "4.4", "8.9"}

    class Stream(RightStream):
        @override
        def missed(self, count: int) -> None:
            if self.position:
                self.closed = True
                self.seen = self.position


class UnboundedBuffer(Broken):
    """Keeps everything for everybody."""

    breaks: ClassVar[set[str]] = {"4.3", "4.5", "8.7", "8.8", "8.9", "8.10", "8.11"}

    class Stream(RightStream):
        def __init__(self, backend: Right, position: int, wanted: ffc.CompletionFilter | None) -> None:
            super().__init__(backend, position, wanted)
            self.buffer: deque[ffc.CompletionPayload] = deque()

        @override
        def arrived(self) -> None:
            while (item := super().take()) is not None:
                self.buffer.append(item)
            super().arrived()

        @override
        def take(self) -> ffc.CompletionPayload | None:
            self.arrived()
            return self.buffer.popleft() if self.buffer else None

        @override
        def stats(self) -> ffc.StreamStats:
            return ffc.StreamStats(lost=self.lost, buffered=len(self.buffer))


class LossUncounted(Broken):
    """What did not fit is gone, and nobody can tell."""

    breaks: ClassVar[set[str]] = {"4.4", "8.9"}

    class Stream(RightStream):
        @override
        def missed(self, count: int) -> None:
            return


class IgnoresTheNamespace(Broken):
    """A filter that has a namespace is decided by its tag."""

    breaks: ClassVar[set[str]] = {"5.1", "5.4", "5.5", "5.7", "5.9", "8.5"}

    class Stream(RightStream):
        @override
        def admits(self, execution: Execution) -> bool:
            if isinstance(self.wanted, ffc.ScannerFilter) and self.wanted.namespace is not None:
                return self.wanted.matches(self.wanted.namespace, execution.tags.get(self.wanted.tag_key or ""))
            return super().admits(execution)


class IgnoresTheTag(Broken):
    """Any value will do."""

    breaks: ClassVar[set[str]] = {"5.3", "5.4"}

    class Stream(RightStream):
        @override
        def admits(self, execution: Execution) -> bool:
            if isinstance(self.wanted, ffc.ScannerFilter) and self.wanted.instance_tag is not None:
                return self.wanted.matches(execution.namespace, self.wanted.instance_tag[1])
            return super().admits(execution)


class AdmitsTooLittle(Broken):
    """Wants both dimensions where one was asked for."""

    breaks: ClassVar[set[str]] = {"5.2"}

    class Stream(RightStream):
        @override
        def admits(self, execution: Execution) -> bool:
            return super().admits(execution) and not (self.wanted is not None and "other" in execution.tags)


class FailsOpen(Broken):
    """What has no namespace is everybody's."""

    breaks: ClassVar[set[str]] = {"5.5", "5.9", "8.5"}

    class Stream(RightStream):
        @override
        def admits(self, execution: Execution) -> bool:
            undecidable = execution.namespace is None and not execution.tags
            lenient = isinstance(self.wanted, ffc.ScannerFilter) and self.wanted.instance_tag is None
            return (undecidable and lenient) or super().admits(execution)


class NoopRefused(Broken):
    """Refuses filters, even one that asks for nothing."""

    breaks: ClassVar[set[str]] = {"5.6"}

    @override
    async def subscribe_completions_filtered(self, filter: ffc.CompletionFilter, /) -> Any:
        raise ffc.Unavailable("subscribe_completions_filtered")


class FiltersNothing(Broken):
    """Takes a filter, and returns a stream of everything."""

    breaks: ClassVar[set[str]] = {"5.1", "5.3", "5.4", "5.5", "5.7", "5.8", "5.9", "8.5"}

    @override
    async def opened(self, wanted: ffc.CompletionFilter | None, position: int) -> Any:
        return await super().opened(None, position)


class LeaksWhenTheFilterRaises(Broken):
    """An error is taken for a yes."""

    breaks: ClassVar[set[str]] = {"5.8"}

    class Stream(RightStream):
        @override
        def admits(self, execution: Execution) -> bool:
            key = None if self.wanted is None else self.wanted.tag_key
            try:
                return self.wanted is None or self.wanted.matches(execution.namespace, execution.tags.get(key or ""))
            except Exception:
                return True


class CursorSkips(Broken):
    """Resumes one too late."""

    breaks: ClassVar[set[str]] = {"8.1", "8.2", "8.4", "8.5", *POSITIONS}

    @override
    def position(self, cursor: ffc.StreamCursor) -> int:
        position = super().position(cursor)
        return position if cursor.is_empty or cursor.is_beginning else position + 1


class NoCursor(Broken):
    """Resumable, and tells nobody where it stands."""

    breaks: ClassVar[set[str]] = {"8.1", "8.2", "8.4", "8.5", *POSITIONS}

    class Stream(RightStream):
        @override
        def here(self) -> ffc.StreamCursor | None:
            return None


class BeginningIsNow(Broken):
    """Forgets what it keeps."""

    breaks: ClassVar[set[str]] = {"8.3"}

    @override
    def position(self, cursor: ffc.StreamCursor) -> int:
        return self.exchange.end if cursor.is_beginning else super().position(cursor)


class TakesAnyCursor(Broken):
    """Whosever it is."""

    breaks: ClassVar[set[str]] = {"8.6"}

    @override
    def position(self, cursor: ffc.StreamCursor) -> int:
        try:
            return super().position(cursor)
        except ffc.Validation:
            return self.exchange.end


class CursorOfWhatWasRead(Broken):
    """Reads ten at a time, and says that it stands behind them."""

    breaks: ClassVar[set[str]] = POSITIONS - {"8.12"}

    class Stream(RightStream):
        @property
        @override
        def cursor(self) -> ffc.StreamCursor | None:
            ahead = min(self.position - self.position % 10 + 10, self.seen)
            return ffc.StreamCursor.stream(7, ahead)


class CursorOfTheLiveSignal(Broken):
    """What came in since it was opened moves the cursor, though what is stored has not been read."""

    breaks: ClassVar[set[str]] = {"8.7", "8.8", "8.10"}

    class Stream(RightStream):
        begun: int | None = None

        @override
        def arrived(self) -> None:
            self.begun = self.begun or self.seen
            super().arrived()

        @property
        @override
        def cursor(self) -> ffc.StreamCursor | None:
            joining = self.begun is not None and self.position < self.begun
            return ffc.StreamCursor.stream(7, self.seen) if joining else self.here()


class CursorForgetsTheOverflow(Broken):
    """More has come than it has room for: it stands at the newest."""

    breaks: ClassVar[set[str]] = {"8.9"}

    class Stream(RightStream):
        @property
        @override
        def cursor(self) -> ffc.StreamCursor | None:
            behind = self.seen - self.position > RETENTION * 3 // 4
            return ffc.StreamCursor.stream(7, self.seen) if behind else self.here()


class CursorFollowsStrangers(Broken):
    """What the filter does not admit moves the cursor, over what it does."""

    breaks: ClassVar[set[str]] = {"8.10"}

    class Stream(RightStream):
        @property
        @override
        def cursor(self) -> ffc.StreamCursor | None:
            newest = self.exchange.entries[-1] if self.exchange.entries else None
            passed = self.wanted is not None and newest is not None and not self.admits(newest)
            return ffc.StreamCursor.stream(7, self.seen) if passed else self.here()


class CursorMovesWhenClosed(Broken):
    """Closing drops what has arrived, and counts it as yielded."""

    breaks: ClassVar[set[str]] = {"8.11"}

    class Stream(RightStream):
        @property
        @override
        def cursor(self) -> ffc.StreamCursor | None:
            return ffc.StreamCursor.stream(7, self.seen) if self.closed else self.here()


class CursorOfTheNext(Broken):
    """While somebody waits, the one that will come next is counted as yielded: a cancelled wait passes it over."""

    breaks: ClassVar[set[str]] = {"8.12"}

    class Stream(RightStream):
        waits = False

        @override
        async def __anext__(self) -> ffc.CompletionPayload:
            self.waits = True
            item = await super().__anext__()
            self.waits = False
            return item

        @property
        @override
        def cursor(self) -> ffc.StreamCursor | None:
            return ffc.StreamCursor.stream(7, self.position + 1) if self.waits else self.here()


class CloseLeavesStreams(Broken):
    """The backend is closed, and its streams wait on."""

    breaks: ClassVar[set[str]] = {"9.1"}

    @override
    async def aclose(self) -> None:
        self.closed = True


GALLERY: list[type[Broken]] = Broken.__subclasses__()
