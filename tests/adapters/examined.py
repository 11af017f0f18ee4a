"""What the doctor finds, looked up by check."""

from __future__ import annotations

from typing import Any

import psycopg

from ffcompletion.contract.diagnosis import Finding, Verdict
from ffcompletion.doctor import examine

OK, NOTE, WARNING, FAILURE = Verdict.OK, Verdict.NOTE, Verdict.WARNING, Verdict.FAILURE


def sql(url: str, *texts: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as conn, conn.cursor() as cursor:
        for text in texts:
            cursor.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


async def found(url: str, check: str, schema: str | None = None) -> Finding:
    findings = await examine(url, schema=schema)
    (one,) = [it for it in findings if it.check == check]
    return one
