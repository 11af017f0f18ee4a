"""A password that is asked for: whatever the callable does is a fault of the connection, and costs one thread at most."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.delivery.credentials import ask_password, check_password, check_url


async def test_each_kind_of_callable() -> None:
    """A string, plain, async, wrapped, an object."""

    async def later() -> str:
        return "secret"

    class Object:
        async def __call__(self) -> str:
            return "secret"

    for password in ("secret", lambda: "secret", later, partial(later), Object()):
        assert await ask_password(password, "a server") == "secret"


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret"), asyncio.CancelledError("secret")])
async def test_what_it_raises_is_a_fault_and_quotes_nothing(error: BaseException) -> None:
    async def later() -> str:
        raise error

    def now() -> str:
        raise error

    for password in (now, later):
        with pytest.raises(ffc.Transport, match=type(error).__name__) as caught:
            await ask_password(password, "a server")
        assert "secret" not in str(caught.value)


async def test_what_is_no_text_is_said_by_its_type() -> None:
    wrong: Any = lambda: b"secret"  # noqa: E731
    with pytest.raises(ffc.Transport, match="returned bytes, not str"):
        await ask_password(wrong, "a server")


async def test_one_that_does_not_answer_is_under_way_once() -> None:
    """However many ask meanwhile; each gets the answer."""
    go_on, calls = threading.Event(), list[int]()

    def slow() -> str:
        calls.append(1)
        go_on.wait(60)
        return "secret"

    asking = [asyncio.create_task(ask_password(slow, "a server")) for _ in range(5)]
    asking[0].cancel()
    await asyncio.wait({asking[0]})
    go_on.set()
    assert await asyncio.gather(*asking[1:]) == ["secret"] * 4
    assert calls == [1]


@pytest.mark.parametrize("password", [7, b"secret", ["secret"]])
def test_what_is_no_password_is_refused(password: object) -> None:
    with pytest.raises(ffc.Validation) as caught:
        check_password(password)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["valkey://u:p/w@h", "postgresql://u:p?w@h", "valkey://u:\udc80@h", "valkey://u:%ff@h"])
def test_a_url_whose_password_may_be_taken_for_something_else(url: str) -> None:
    with pytest.raises(ffc.Validation):
        check_url(url)
    check_url("valkey://u:p%2Fw@h/0?x=1")
