"""What was sent, delivered, repeated and lost, stream by stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tests.chaos.poison import Held, kind_of

__all__ = ["Ledger"]


class Ledger:
    """One stream's account. ``sent`` is settled at the end, from what the server holds."""

    def __init__(
        self,
        name: str,
        tenant: str | None = None,
        shard: str | None = None,
        *,
        may_repeat: bool = False,
        may_lose: bool = False,
        limit: Callable[[], int] | None = None,
    ) -> None:
        """``limit``: of a stream whose filter says what it likes, how often it has said yes."""
        self.name = name
        self.tenant = tenant
        self.shard = shard
        self.may_repeat = may_repeat
        self.may_lose = may_lose
        self.limit = limit
        self.delivered: Counter[str] = Counter()
        self.sent = 0
        self.poisoned = 0
        self.lost = 0
        self.strangers = 0
        self.unasked: set[str] = set()
        """Delivered, and not what might have come."""
        self._missing: set[str] = set()

    @property
    def repeated(self) -> int:
        """Deliveries beyond the first of each."""
        return self.delivered.total() - len(self.delivered)

    def add(self, execution_id: str) -> None:
        self.delivered[execution_id] += 1

    def admits(self, held: Held) -> bool:
        """Whether its stream asked for this."""
        return self.tenant in (None, held.tenant) and self.shard in (None, held.shard)

    def settle(self, everything: Iterable[Held]) -> None:
        """Compare with what should have come."""
        asked = [held for held in everything if self.admits(held)]
        wanted = {held.execution_id for held in asked if held.certain}
        self.sent = len(wanted)
        self.poisoned = sum(kind_of(held.execution_id) is not None for held in asked)
        self._missing = wanted - self.delivered.keys()
        self.lost = len(self._missing)
        self.unasked = self.delivered.keys() - {held.execution_id for held in asked}

    def count_strangers(self, is_stranger: Callable[[Ledger, str], bool]) -> None:
        """Among what nobody asked for, or beyond what a filter admitted."""
        self.strangers = sum(is_stranger(self, id_) for id_ in self.unasked)
        if self.limit is not None:
            self.strangers += max(0, self.delivered.total() - self.limit())

    def look_again(self) -> None:
        """What was missing may have come since."""
        self._missing -= self.delivered.keys() & self._missing
        self.lost = len(self._missing)

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing of others, and nothing twice where that is promised."""
        lossless = self.may_lose or not self.lost
        return lossless and not self.strangers and (self.may_repeat or not self.repeated)

    def row(self) -> str:
        return (
            f"{self.name:<36} sent {self.sent:>8}  delivered {len(self.delivered):>8}  repeated {self.repeated:>6}"
            f"  poisoned {self.poisoned:>5}  lost {self.lost:>4}  strangers {self.strangers:>3}  {'ok' if self.sound else 'BROKEN'}"
        )
