"""A filter that does all that a filter must not, for tests of what happens to everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal, cast, final

from typing_extensions import override

from ffcompletion.contract.protocols import CompletionFilter

__all__ = ["Conduct", "HostileFilter"]

Conduct = Literal["yes", "no", "raise", "exit", "cancel", "truthy", "awkward", "later", "slow", "change"]
"""What it does when it is asked: answers, raises (an error, an exit, a cancellation), answers what is no bool (something
true, something whose truth raises, a coroutine), takes its time, or becomes another filter."""

_SLOW_S: Final = 0.002


@final
class _Awkward:
    """Nothing can be asked of it."""

    def __bool__(self) -> bool:
        raise RuntimeError("no truth in it")

    @override
    def __repr__(self) -> str:
        raise RuntimeError("no text of it")


async def _yes() -> bool:
    return True


_RAISED: Final[dict[Conduct, type[BaseException]]] = {
    "raise": RecursionError,
    "exit": SystemExit,
    "cancel": asyncio.CancelledError,
}
_ANSWERS: Final[dict[Conduct, Callable[[], object]]] = {
    "yes": lambda: True,
    "no": lambda: False,
    "slow": lambda: False,
    "change": lambda: False,
    "truthy": lambda: "yes",
    "awkward": _Awkward,
    "later": _yes,
}


@final
class HostileFilter:
    """Goes through ``conducts`` in turn, once for each completion it is asked about, and then from the beginning.

    It is equal to everything, and has everybody's hash or none. ``tag_keys``: what ``tag_key`` answers, in turn.
    ``admitted``: how often it said yes and meant it, which is how many completions its own stream may get at the most.
    """

    def __init__(
        self, conducts: Sequence[Conduct], *, tag_keys: Sequence[str | None] = (None,), hashable: bool = True
    ) -> None:
        self._conducts = tuple(conducts)
        self._tag_keys = tuple(tag_keys)
        self._hashable = hashable
        self._asked = 0
        self._read = 0
        self.admitted: int = 0

    @property
    def tag_key(self) -> str | None:
        """Another one each time, if it has several."""
        self._read += 1
        return self._tag_keys[(self._read - 1) % len(self._tag_keys)]

    def is_noop(self, /) -> bool:
        """It is asked something, always."""
        return False

    def matches(self, _core_namespace: str | None, _tag_value: str | None, /) -> bool:
        """The next conduct."""
        conduct = self._conducts[self._asked % len(self._conducts)]
        self._asked += 1
        if conduct in _RAISED:
            raise _RAISED[conduct]
        if conduct == "yes":
            self.admitted += 1
        elif conduct == "slow":
            time.sleep(_SLOW_S)
        elif conduct == "change":
            self._conducts = self._conducts[::-1]
        return cast("bool", _ANSWERS[conduct]())

    @override
    def __eq__(self, other: object) -> bool:
        return True

    @override
    def __hash__(self) -> int:
        if not self._hashable:
            raise TypeError("unhashable")
        return 0

    @override
    def __repr__(self) -> str:
        return f"HostileFilter({self._conducts!r}, tag_keys={self._tag_keys!r}, hashable={self._hashable!r})"


if TYPE_CHECKING:
    _: type[CompletionFilter] = HostileFilter
