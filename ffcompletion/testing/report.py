"""All checks, run one after the other, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, final

import msgspec
from typing_extensions import override

from ffcompletion.foreign.awaiting import called
from ffcompletion.testing import buffers, filters, live, positions, resuming, streams
from ffcompletion.testing.check import Check
from ffcompletion.testing.subject import Announcer, Factory, Options
from ffcompletion.testing.violation import ContractViolation, NotChecked

__all__ = ["CHECKS", "Report", "Result", "check_backend"]


def _number(check: Check) -> tuple[int, ...]:
    return tuple(map(int, check.clause.split(".")))


CHECKS: Final[Sequence[Check]] = tuple(
    sorted(
        (
            thing
            for module in (live, streams, buffers, filters, resuming, positions)
            for thing in vars(module).values()
            if isinstance(thing, Check)
        ),
        key=_number,
    )
)
"""Every check, by clause."""


@final
class Result(msgspec.Struct, frozen=True):
    """What came of one check."""

    clause: str
    title: str
    outcome: Literal["holds", "broken", "not checked"]
    detail: str = ""
    """What was expected and what happened, or why it was not checked."""


@final
class Report(msgspec.Struct, frozen=True):
    """What came of all of them. ``str(report)`` is a table with the details of what is broken below."""

    results: Sequence[Result]

    @property
    def sound(self) -> bool:
        """Whether no clause is broken."""
        return not self.broken

    @property
    def broken(self) -> list[str]:
        """The clauses that are."""
        return [result.clause for result in self.results if result.outcome == "broken"]

    @override
    def __str__(self) -> str:
        lines = [f"{result.clause:<5} {result.outcome:<12} {result.title}" for result in self.results]
        for result in self.results:
            if result.outcome == "broken":
                lines += ["", f"{result.clause} {result.title}", *(f"  {line}" for line in result.detail.splitlines())]
        return "\n".join(lines)

    def raise_if_broken(self) -> None:
        """Raise ``AssertionError`` with the whole report if a clause is broken."""
        if not self.sound:
            raise AssertionError(f"the contract is broken\n{self}")


async def check_backend(factory: Factory, announcer: Announcer, options: Options | None = None) -> Report:
    """Hold a backend against every clause, each time a new one, and report by clause.

    Raises nothing for what it finds: what the factory, the announcer or the backend raises is a broken clause, too.
    """
    return Report([await _result(check, factory, announcer, options) for check in CHECKS])


async def _result(check: Check, factory: Factory, announcer: Announcer, options: Options | None) -> Result:
    try:
        # Also what would end the task in silence, of itself: the other clauses are to be looked at all the same.
        await called("the check", lambda: check(factory, announcer, options))
    except ContractViolation as exc:
        return Result(check.clause, check.title, "broken", f"expected: {exc.expected}\nhappened: {exc.happened}")
    except NotChecked as exc:
        return Result(check.clause, check.title, "not checked", str(exc))
    except Exception as exc:  # noqa: BLE001  # somebody else's code
        happened = f"{type(exc).__name__}: {exc}"
        return Result(check.clause, check.title, "broken", f"expected: nothing is raised\nhappened: {happened}")
    return Result(check.clause, check.title, "holds")
