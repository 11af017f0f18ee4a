"""What was sent, delivered, repeated and lost, stream by stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["Ledger"]


class Ledger:
    """One stream's account. ``sent`` is settled at the end, from what the server holds."""

    def __init__(self, name: str, *, may_repeat: bool = False, may_lose: bool = False) -> None:
        self.name = name
        self.may_repeat = may_repeat
        self.may_lose = may_lose
        self.delivered: Counter[str] = Counter()
        self.sent = 0
        self.lost = 0
        self.strangers = 0
        self.unasked: set[str] = set()
        """Delivered, and not what should have come."""
        self._missing: set[str] = set()

    @property
    def repeated(self) -> int:
        """Deliveries beyond the first of each."""
        return self.delivered.total() - len(self.delivered)

    def add(self, execution_id: str) -> None:
        self.delivered[execution_id] += 1

    def settle(self, sent: Iterable[str]) -> None:
        """Compare with what should have come."""
        wanted = set(sent)
        self.sent = len(wanted)
        self._missing = wanted - self.delivered.keys()
        self.lost = len(self._missing)
        self.unasked = self.delivered.keys() - wanted

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
            f"{self.name:<28} sent {self.sent:>8}  delivered {len(self.delivered):>8}  repeated {self.repeated:>6}"
            f"  lost {self.lost:>4}  strangers {self.strangers:>3}  {'ok' if self.sound else 'BROKEN'}"
        )
