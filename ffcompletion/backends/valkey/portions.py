"""How much is asked of the server at once, and for how long an answer is waited for. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

__all__ = ["Portions"]

# Commands in one pipeline: some milliseconds of the server's, a reply of some MB at the most.
_PIECE: Final = 4_096
# The next piece is half as large after so many seconds, and twice as large after fewer than these; after none at all it
# is a part of what failed.
_SLOW_S: Final = 1.0
_QUICK_S: Final = 0.25
_PART: Final = 8
# How many times the usual time a single command may take on a connection that is meant for such.
_LONGEST: Final = 16


@final
class Portions:
    """They shrink where answers are late, and grow again where they come at once."""

    __slots__ = ("_longest", "most", "patience")

    def __init__(self, *, patient: bool) -> None:
        """``patient``: a command that was too slow may take twice as long each time."""
        self._longest = _LONGEST if patient else 1
        self.most: int = _PIECE
        """Commands in the next piece."""
        self.patience: int = 1
        """How many times the usual time a single command may take now."""

    def answered(self, count: int, took_s: float) -> None:
        """So many commands were, in so many seconds."""
        if took_s > _SLOW_S:
            self.most = max(1, count // 2)
        elif took_s < _QUICK_S:
            self.patience = max(1, self.patience // 2)
            if count == self.most:
                self.most = min(_PIECE, self.most * 2)

    def unanswered(self, count: int) -> None:
        """So many commands were not."""
        self.most = max(1, count // _PART)

    def is_put_again(self, command: Sequence[str], *, again: bool) -> bool:
        """Whether the one command that got no answer is, with more time. ``again``: it had been already."""
        longer = min(self._longest, self.patience * 2)
        # What can be asked for in pieces is not given more time, nor the memory that it would take.
        if _is_divisible(command) or (again and longer == self.patience):
            return False
        self.patience = longer
        return True


def _is_divisible(command: Sequence[str]) -> bool:
    return command[0] == "ZRANGE" and command[-2] != "1"
