"""The contract as a kit: hold your own backend against every clause of ``CompletionBackend``.

::

    report = await check_backend(factory, announcer)
    report.raise_if_broken()

``factory`` makes a backend, ``announcer`` makes executions finish behind it; with ``Options`` come faults, and what the
backend promises beyond the contract. Under pytest, ``BackendContract`` is a test class with one test per clause.
Importing this imports no test runner; ``ffcompletion.testing.strategies`` needs hypothesis.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffcompletion.testing.case import BackendContract, Subject
    from ffcompletion.testing.check import Check
    from ffcompletion.testing.report import CHECKS, Report, Result, check_backend
    from ffcompletion.testing.subject import FLOW, Announcer, Execution, Factory, FaultInjector, Options, fresh
    from ffcompletion.testing.violation import ContractViolation, NotChecked

__all__ = [
    "CHECKS",
    "FLOW",
    "Announcer",
    "BackendContract",
    "Check",
    "ContractViolation",
    "Execution",
    "Factory",
    "FaultInjector",
    "NotChecked",
    "Options",
    "Report",
    "Result",
    "Subject",
    "check_backend",
    "fresh",
]

# Loaded when first used: the plugin lies beside it, and pytest loads that in every test run of everybody who has installed us.
_LATER = {
    "CHECKS": "report",
    "FLOW": "subject",
    "Announcer": "subject",
    "BackendContract": "case",
    "Check": "check",
    "ContractViolation": "violation",
    "Execution": "subject",
    "Factory": "subject",
    "FaultInjector": "subject",
    "NotChecked": "violation",
    "Options": "subject",
    "Report": "report",
    "Result": "report",
    "Subject": "case",
    "check_backend": "report",
    "fresh": "subject",
}


if not TYPE_CHECKING:
    # Type checkers know the names from above, and no other.
    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # only here

        found = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
