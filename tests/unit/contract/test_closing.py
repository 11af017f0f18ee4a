"""What is closed at the end of its block, by either kind of it, and never copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing, Closing


class _Door(Closing):
    closed = 0

    @override
    def close(self) -> None:
        self.closed += 1


class _AsyncDoor(AsyncClosing):
    closed = 0

    @override
    async def aclose(self) -> None:
        self.closed += 1


async def test_closed_at_the_end_of_its_block() -> None:
    with _Door() as door:
        assert door.closed == 0
    async with _AsyncDoor() as other:
        assert other.closed == 0
    assert (door.closed, other.closed) == (1, 1)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", [_Door, _AsyncDoor])
def test_a_copy_would_hold_what_the_original_holds(kind: type, copied: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=f"a {kind.__name__} cannot be copied or pickled"):
        copied(kind())
