"""A check: one clause of the contract, and what is done to find out whether it holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

from typing_extensions import override

from ffcompletion.testing.harness import Harness, opened
from ffcompletion.testing.subject import Announcer, Factory, Options
from ffcompletion.testing.violation import ContractViolation, NotChecked

__all__ = ["Check", "clause"]

_Body = Callable[[Harness], Awaitable[None]]


@final
class Check:
    """``await check(factory, announcer, options)``: returns if the clause holds.

    Raises ``ContractViolation`` where it does not, and ``NotChecked`` where it does not apply or cannot be checked.
    """

    def __init__(self, clause: str, title: str, body: _Body) -> None:
        self.clause = clause
        """Its number; the part before the dot is the clause of ``CompletionBackend``'s docstring."""
        self.title = title
        """What the clause asks for, in a line."""
        self.name: str = getattr(body, "__name__", "check").removeprefix("check_")
        self.__doc__ = body.__doc__
        self._body = body

    async def __call__(self, factory: Factory, announcer: Announcer, options: Options | None = None) -> None:
        """Hold a new backend against the clause."""
        try:
            async with opened(self.clause, factory, announcer, options) as harness:
                await self._body(harness)
        except NotImplementedError as exc:
            raise NotChecked(str(exc) or "the fault cannot be injected") from exc
        except BaseExceptionGroup as group:
            # Two tasks of a check found the same.
            found = [exc for exc in group.exceptions if isinstance(exc, ContractViolation)]
            if not found:
                raise
            raise found[0] from None

    @override
    def __repr__(self) -> str:
        return f"<check {self.clause} {self.name}>"


def clause(number: str, title: str) -> Callable[[_Body], Check]:
    """Make a check of a coroutine function that is given a harness."""

    def made(body: _Body) -> Check:
        return Check(number, title, body)

    return made
