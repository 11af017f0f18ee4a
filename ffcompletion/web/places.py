"""How many requests are answered at once, and that nobody takes the last places who has many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from ffcompletion.web.grants import Grant

__all__ = ["Places"]

# From here on they are for those who hold less than their share.
_SCARCE: Final = 0.75


@final
class Places:
    """So many. Of the last quarter those alone get one whose grant holds less than its share, or is of everything.

    A share is half of what there would be for each of the grants that are there. A tenant is one grant, however many
    clients it has, and whatever they ask for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[Grant] = Counter()
        self.taken: int = 0
        """Requests that are being answered now."""

    @contextmanager
    def place(self) -> Generator[bool]:
        """For a request, before it is known whose it is. False: there is none."""
        if self.taken >= self._most:
            yield False
            return
        self.taken += 1
        try:
            yield True
        finally:
            self.taken -= 1

    @contextmanager
    def of(self, grant: Grant) -> Generator[bool]:
        """The same request's, once that is known. False: it is not to have one."""
        if not self._fits(grant):
            yield False
            return
        self._held[grant] += 1
        try:
            yield True
        finally:
            self._held[grant] -= 1
            if not self._held[grant]:
                del self._held[grant]

    def _fits(self, grant: Grant) -> bool:
        if grant.is_everything or self.taken <= self._most * _SCARCE:
            return True
        others = len(self._held.keys() - {grant})
        return self._held[grant] < self._most // (2 * (others + 1))
