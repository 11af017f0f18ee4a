"""What notifications have told of since the last look: ids, as hints. Bounded, whatever is sent; pure, no I/O."""

from __future__ import annotations

from typing import Final, final

import msgspec

__all__ = ["Announced", "Hints"]

# Ids that are remembered between two looks. More of them are a burst, and a page at a time is quicker than picking.
_MOST: Final = 2_000
# An id is a bigint: 19 digits at the most.
_DIGITS: Final = 19
_LARGEST: Final = (1 << 63) - 1


@final
class Hints(msgspec.Struct, frozen=True):
    """What to look at."""

    ids: tuple[int, ...] = ()
    """Ids that were announced, each once, ascending."""
    look: bool = False
    """There was more than ids tell: look at everything that is new."""

    def __bool__(self) -> bool:
        return bool(self.ids) or self.look


@final
class Announced:
    """Collects notifications. Anybody may NOTIFY anything on the channel, so a payload promises nothing."""

    __slots__ = ("_ids", "_look")

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._look = False

    def __bool__(self) -> bool:
        return bool(self._ids) or self._look

    def add(self, payload: str) -> None:
        """One notification has arrived."""
        event_id = _id(payload)
        if event_id is None or len(self._ids) >= _MOST:
            self._look = True
        else:
            self._ids.add(event_id)

    def take(self) -> Hints:
        """What has arrived since the last time."""
        if not self:
            return _NOTHING
        hints = Hints(tuple(sorted(self._ids)), self._look)
        self.clear()
        return hints

    def clear(self) -> None:
        """Forget it: everything is looked at anyway."""
        self._ids.clear()
        self._look = False


_NOTHING: Final = Hints()


def _id(payload: str) -> int | None:
    # Leading zeros and signs are written by no producer.
    if not (payload.isascii() and payload.isdigit() and len(payload) <= _DIGITS):
        return None
    event_id = int(payload)
    return event_id if 0 < event_id <= _LARGEST else None
