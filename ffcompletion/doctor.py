"""``examine``: everything about a server that decides whether completions can be had from it. Changes nothing on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from ffcompletion.contract.diagnosis import Finding, Verdict
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.extras import missing
from ffcompletion.contract.loops import running_loop
from ffcompletion.urls import scheme_of

__all__ = ["examine"]

_LIMIT_S: Final = 9.0


async def examine(url: str, *, schema: str | None = None) -> list[Finding]:
    """What every check found, within ten seconds, also where the server does not answer.

    Raises ``Validation`` for a URL that cannot be, ``Unavailable`` if the driver is not installed; everything else is a
    finding.
    """
    running_loop("doctor")
    findings: list[Finding] = []
    checks = _checks(url, schema)
    try:
        async with asyncio.timeout(_LIMIT_S), aclosing(checks):
            async for finding in checks:
                findings.append(finding)  # noqa: PERF401  # what was found before the time was up counts
    except TimeoutError:
        findings.append(
            Finding("time", Verdict.FAILURE, f"the server did not answer everything within {_LIMIT_S:g} s", "")
        )
    return findings


def _checks(url: str, schema: str | None) -> AsyncGenerator[Finding]:
    kind = scheme_of(url)
    if kind == "memory":
        return _nothing_to_check()
    try:
        if kind == "postgres":
            from ffcompletion.backends.postgres import doctor as postgres  # noqa: PLC0415  # loads the driver

            return postgres.checks(url, schema)
        from ffcompletion.backends.valkey import doctor as valkey  # noqa: PLC0415  # the same

        return valkey.checks(url)
    except ImportError as exc:
        raise Unavailable("doctor", missing(exc, kind)) from exc


async def _nothing_to_check() -> AsyncGenerator[Finding]:
    yield Finding("server", Verdict.OK, "memory:// lives in this process; there is none")
