"""``called`` and ``asked``: a caller's coroutine raises an ``Exception`` or answers; it ends no task of ours."""

from __future__ import annotations

import asyncio

import pytest

import ffcompletion as ffc
from ffcompletion.foreign.awaiting import asked, called


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), GeneratorExit()])
async def test_what_would_end_the_task_is_an_error(error: BaseException) -> None:
    async def raises() -> None:
        raise error

    with pytest.raises(ffc.Unavailable, match=f"the store .* raised {type(error).__name__}") as caught:
        await called("the store", raises)
    assert caught.value.__cause__ is error


async def test_an_exception_is_raised_as_it_is() -> None:
    error = LookupError("x")

    async def raises() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        await called("the store", raises)
    assert caught.value is error


async def test_a_cancelling_of_ours_goes_on() -> None:
    """The task that called is cancelled, not the code that it called."""

    async def waits() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(called("the store", waits))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_plain_or_async() -> None:
    """What it answers, awaited where that can be."""

    async def later() -> int:
        return 3

    assert await asked("x", lambda: 3) == await asked("x", later) == 3
