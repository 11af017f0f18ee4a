"""``Apart``: the context that a function finds is the one it was brought in, and our task is not to be had."""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar, copy_context

import pytest

from ffcompletion.foreign.apart import Apart

_tenant: ContextVar[str] = ContextVar("_tenant", default="nobody")


def _apart_of(tenant: str | None) -> Apart:
    def made() -> Apart:
        if tenant is not None:
            _tenant.set(tenant)
        return Apart()

    return Context().run(made)


def _changes() -> str:
    found = _tenant.get()
    _tenant.set("somebody else")
    return found


def test_it_finds_its_own_context_and_changes_nobodys() -> None:
    """Without a loop, too; and what it set is gone at its next call."""
    before = dict(copy_context())
    apart = _apart_of("a")
    assert [apart.run(_changes), apart.run(_changes)] == ["a", "a"]
    assert dict(copy_context()) == before


def test_it_may_lead_to_itself() -> None:
    apart = _apart_of("a")
    assert apart.run(lambda: apart.run(_changes)) == "a"


@pytest.mark.parametrize("raises", [False, True])
async def test_it_finds_no_task_which_is_there_again_afterwards(raises: bool) -> None:
    def looks() -> None:
        assert asyncio.current_task() is None
        assert asyncio.get_running_loop().is_running()
        if raises:
            raise KeyError

    mine = asyncio.current_task()
    if raises:
        with pytest.raises(KeyError):
            Apart().run(looks)
    else:
        Apart().run(looks)
    assert asyncio.current_task() is mine


async def test_a_callback_has_no_task_to_begin_with() -> None:
    called = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: called.set_result(_apart_of("a").run(_changes)))
    assert await called == "a"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("a", "a", True), ("a", "b", False), ("a", None, False), (None, "a", False), (None, None, True)],
)
def test_two_are_alike_where_the_same_is_found(one: str | None, other: str | None, same: bool) -> None:
    assert _apart_of(one).finds_what(_apart_of(other)) is same
