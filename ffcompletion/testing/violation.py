"""How a check says that a clause is broken, or that it cannot be checked."""

from __future__ import annotations

from unittest import SkipTest

from typing_extensions import override

__all__ = ["ContractViolation", "NotChecked"]


class ContractViolation(AssertionError):
    """A clause of the contract is broken: which, what it asks for, and what happened instead."""

    def __init__(self, clause: str, expected: str, happened: str) -> None:
        super().__init__(clause, expected, happened)
        self.clause = clause
        self.expected = expected
        self.happened = happened

    @override
    def __str__(self) -> str:
        return f"clause {self.clause}\n  expected: {self.expected}\n  happened: {self.happened}"


class NotChecked(SkipTest):
    """The clause does not apply to this backend, or the author supplied nothing to check it with.

    A ``unittest.SkipTest``, which every test runner knows.
    """
