"""One stream of the Valkey backend: a bounded buffer behind the hub, and what it missed once that has overflowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

from ffcompletion.backends.valkey.backlog import Backlog
from ffcompletion.backends.valkey.reconciliation import Announced
from ffcompletion.backends.valkey.states import NOTHING_DENIED, Denied, Standing, StreamState
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import Lag, StreamStats
from ffcompletion.delivery.batch import Batch
from ffcompletion.delivery.buffer import Buffer, Hand, Room
from ffcompletion.delivery.hub import Group, Hub, Selector
from ffcompletion.delivery.tenure import Lease

__all__ = ["OverflowRecovery", "Source"]


class OverflowRecovery(Protocol):
    """Where an overflowing stream gets what it missed."""

    def now_ms(self) -> int:
        """The server's time."""
        ...

    def backlog(self, selector: Selector) -> Backlog | None:
        """What a stream that overflows now has to get; None: nothing, it is lost."""
        ...

    def recover(self, source: Source) -> None:
        """The stream has room for some of it."""
        ...


@final
class Source:
    """A source for ``Subscription`` and a member of the hub.

    A batch that does not fit puts it behind: it takes nothing from the hub until its consumer has made room, and gets
    what it missed from the index. Before the last of that is read it *joins*: it takes announcements again.
    """

    def __init__(
        self,
        hub: Hub[Source],
        selector: Selector,
        limit: int,
        opened_ms: int,
        opened_at: float,
        recovery: OverflowRecovery | None,
        lease: Lease,
    ) -> None:
        self._hub = hub
        self._buffer = Buffer(limit, weighed=selector.results)
        # Something that it missed needs more room than there was, and waits until there is nothing else.
        self._crowded = False
        self._recovery = recovery
        self._lease = lease
        self._standing = Standing()
        self.selector = selector
        self.opened_ms = opened_ms
        """What happened before this time of the server's is not for this stream."""
        self.opened_at = opened_at
        """The same moment by our own clock, in seconds, monotonic."""
        self.backlog: Backlog | None = None
        self.received: list[Announced] = []
        """What it has been told of since it began to join."""
        self._group: Group[Source] = hub.attach(self, selector)
        self._seen = Denied(self._group.filtered, self._group.undecided)

    # ── the hub's side ───────────────────────────────────────────────────────────────────────────────────────────

    def deliver(self, payloads: Sequence[CompletionPayload], batch: Batch) -> None:  # noqa: ARG002  # no positions here
        """Take them. What does not fit puts this stream behind; nobody else notices."""
        standing, denied = self._standing, self._denied()
        if standing.takes and self._buffer.offer(payloads):
            standing.took(denied)
            if standing.state is StreamState.JOINING and self._recovery is not None:
                self.received.append(Announced.of(self._recovery.now_ms(), payloads))
            return
        if standing.takes:
            self._overflow()
        if standing.takes:
            # What it misses now is lost: so it takes as many as there is room for.
            count = self._buffer.fit(payloads)
            self._buffer.offer(payloads[:count])
            payloads = payloads[count:]
        self._miss(payloads, denied)

    @property
    def takes(self) -> bool:
        """Whether what is announced is for its buffer, and not for the index to bring later."""
        return self._standing.takes

    def overflow(self, payloads: Sequence[CompletionPayload]) -> None:
        """These could not even be decided: it misses them."""
        self._overflow()
        self._miss(payloads, Denied())

    def _overflow(self) -> None:
        if self.backlog is None and self._recovery is not None:
            self.backlog = self._recovery.backlog(self.selector)
        self._leave()
        self._standing.overflowed(recoverable=self.backlog is not None)

    def _miss(self, batch: Sequence[CompletionPayload], denied: Denied) -> None:
        self._standing.missed(len(batch), denied)
        if self.backlog is not None:
            self.backlog.missed(batch)
            self.request()

    def _denied(self) -> Denied:
        """What the filter has denied since the last look."""
        group, before = self._group, self._seen
        if group.filtered == before.filtered and group.undecided == before.undecided:
            return NOTHING_DENIED
        self._seen = Denied(group.filtered, group.undecided)
        return self._seen.less(before)

    # ── the index's side ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def room(self) -> Room:
        """What there is room for."""
        return self._buffer.room

    def fits(self, batch: Sequence[CompletionPayload]) -> bool:
        """Whether there is room for these."""
        return self._buffer.fits(batch)

    def join(self) -> None:
        """Take what is announced, from now on."""
        if self._standing.state is not StreamState.JOINING:
            self.received = []
        self._standing.joining()

    def without_received(self, payloads: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
        """Those that it has not been told of since it began to join."""
        received = {execution_id for announced in self.received for execution_id in announced.ids}
        return [payload for payload in payloads if payload.execution_id not in received] if received else payloads

    def recovered(self, batch: Sequence[CompletionPayload], denied: Denied, *, all_of_it: bool) -> bool:
        """Take some of what it missed, or the last of it. False if it does not fit: it is still missing."""
        if not self._buffer.offer(batch):
            self._crowded = True
            self._leave()
            return False
        self._standing.recovered(len(batch), denied, all_of_it=all_of_it)
        if self._standing.behind:
            self._leave()
        else:
            self.backlog = None
            self.received = []
        return True

    def unrecoverable(self) -> None:
        """Nothing can be read (for now): what it has missed is lost."""
        self._standing.unrecoverable()
        self.backlog = None
        self.received = []

    def request(self) -> None:
        """Ask for more, if something is missing and half the buffer is free."""
        if self.backlog is None or self._recovery is None or self.closed:
            return
        if self._buffer.at_ease and not (self._crowded and not self.room.alone):
            self._crowded = False
            self._recovery.recover(self)

    def _leave(self) -> None:
        if self.backlog is not None:
            self.backlog.received(self.received)
        self.received = []
        self._standing.left()

    # ── the consumer's side ──────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> Hand:
        hand = self._buffer.hand(self._buffer.take())
        self.request()
        return hand

    async def ready(self) -> None:
        await self._buffer.signal.until(self._something)

    def _something(self) -> bool:
        return self.closed or bool(self._buffer.size)

    @property
    def closed(self) -> bool:
        return self._standing.state is StreamState.CLOSED

    def abort(self) -> None:
        if not self.closed:
            self._standing.denied = self._standing.denied.plus(self._denied())
            self._standing.closed()
            self._hub.detach(self, self.selector)
            self._buffer.wake()

    async def aclose(self) -> None:
        self.abort()
        await self._lease.aclose()

    @property
    def cursor(self) -> StreamCursor | None:
        return None

    def stats(self) -> StreamStats:
        standing = self._standing
        behind = self._buffer.size + standing.missed_count
        return StreamStats(
            delivered=self._buffer.taken,
            buffered=self._buffer.size,
            filtered=standing.denied.filtered,
            undecided=standing.denied.undecided,
            lost=standing.lost,
            overflows=standing.overflows,
            catching_up=standing.behind,
            lag=Lag(completions=behind, seconds=self._buffer.age_s) if behind else Lag(),
        )
