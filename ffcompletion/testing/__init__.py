"""The contract as a kit: hold your own backend against every clause of ``CompletionBackend``.

::

    report = await check_backend(factory, announcer)
    report.raise_if_broken()

``factory`` makes a backend, ``announcer`` makes executions finish behind it; with ``Options`` come faults, and what the
backend promises beyond the contract. Under pytest, ``BackendContract`` is a test class with one test per clause.
Importing this imports no test runner; ``ffcompletion.testing.strategies`` needs hypothesis.
"""

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
