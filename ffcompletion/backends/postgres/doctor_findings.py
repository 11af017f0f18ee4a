"""From what a Postgres answered to what that means, and what to do about it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ffcompletion.backends.postgres.doctor_commands import Commands, quoted
from ffcompletion.backends.postgres.holders import Holder
from ffcompletion.contract.diagnosis import Finding, Verdict

__all__ = [
    "FREE_QUEUE",
    "MORE_LOCKS",
    "MORE_SESSIONS",
    "OLDEST",
    "attachments",
    "filling",
    "rights",
    "role",
    "sequence",
    "statistics",
    "timeouts",
    "trigger",
    "version_of",
    "watermark",
]

OLDEST: Final = 150_000
FREE_QUEUE: Final = (
    "a session that listens sits in an old transaction; find it: SELECT pid, xact_start, query FROM pg_stat_activity"
    " WHERE state LIKE 'idle in%' ORDER BY xact_start;"
)
MORE_LOCKS: Final = "ALTER SYSTEM SET max_locks_per_transaction = 256;  -- then restart the server"
MORE_SESSIONS: Final = "ALTER SYSTEM SET max_connections = 200;  -- then restart the server; or close sessions"

_MAKER: Final = "  # as a role that may CREATE there; not where FlowFabric's own migrations are still to run"
# Past this a transaction is no longer one that is about to end.
_LONG_S: Final = 60.0
OK, NOTE, WARNING, FAILURE = Verdict.OK, Verdict.NOTE, Verdict.WARNING, Verdict.FAILURE


def version_of(number: int, shown: tuple[Any, ...]) -> tuple[Verdict, str, str]:
    text = f"PostgreSQL {shown[0]}"
    if number < OLDEST:
        return FAILURE, text, "PostgreSQL 15 or later is needed"
    return OK, text, ""


def role(replica: bool, lag_s: float | None) -> Finding:
    if not replica:
        return Finding("role", OK, "primary")
    behind = "" if lag_s is None else f", {lag_s:.1f} s behind"
    return Finding(
        "role", WARNING, f"replica{behind}: LISTEN is not possible on it, so completions are polled",
        "name the primary, or all hosts with target_session_attrs=primary",
    )  # fmt: skip


def rights(
    tables: list[tuple[Any, ...]], schema: str | None, user: str, commands: Commands
) -> tuple[list[Finding], int | None]:
    findings: list[Finding] = []
    outbox: int | None = None
    role = quoted(user)
    for name in ("ff_completion_event", "ff_exec_core"):
        found = [row for row in tables if row[1] == name]
        near = [row for row in found if row[6] or schema is not None or not row[3]]
        if not near:
            elsewhere = found[0][2] if found else None
            remedy = (
                commands.ours("doctor", schema=elsewhere) if elsewhere
                else commands.ours("producers install") + _MAKER
            )  # fmt: skip
            where = f"schema {schema}" if schema is not None else "the search path"
            more = f"; there is one in schema {elsewhere}" if elsewhere else ""
            findings.append(Finding(f"table {name}", FAILURE, f"not in {where}{more}", remedy))
            continue
        oid, _, space, usage, select, secured, _ = near[0]
        table = quoted(space, name)
        if not usage:
            findings.append(
                Finding(
                    f"table {name}",
                    FAILURE,
                    f"{user} may not use schema {space}",
                    f"GRANT USAGE ON SCHEMA {quoted(space)} TO {role};",
                )
            )
        elif not select:
            findings.append(
                Finding(f"table {name}", FAILURE, f"{user} may not read {table}", f"GRANT SELECT ON {table} TO {role};")
            )
        else:
            findings.append(Finding(f"table {name}", OK, f"{table} can be read"))
            outbox = oid if name == "ff_completion_event" else outbox
        if usage and secured:
            findings.append(
                Finding(
                    "row-level security",
                    WARNING,
                    f"policies of {table} apply to {user}: rows they hide are lost without a word",
                    f"ALTER ROLE {role} BYPASSRLS;",
                )
            )
    if not any(finding.check == "row-level security" for finding in findings):
        findings.append(Finding("row-level security", OK, f"none applies to {user}"))
    return findings, outbox


def filling(check: str, share: float, remedy: str, warn_at: float) -> Finding:
    text = f"{share:.0%} used"
    if share < warn_at:
        return Finding(check, OK, text)
    return Finding(check, FAILURE if share > 0.95 else WARNING, text, remedy)


def timeouts(settings: Mapping[str, int], user: str, database: str) -> Finding:
    """In ms, by name; 0 is none. What is said of a role in a database comes before whatever else was said of either."""
    role = f"{quoted(user)} IN DATABASE {quoted(database)}"
    idle, statement, lock = (settings[name] for name in ("idle_session_timeout", "statement_timeout", "lock_timeout"))
    if idle:
        found = f"idle_session_timeout={idle} ms ends the listening session again and again"
        return Finding("time-outs", WARNING, found, f"ALTER ROLE {role} SET idle_session_timeout = 0;")
    if 0 < statement < 5_000:
        found = f"statement_timeout={statement} ms may end the reading of a long backlog"
        return Finding("time-outs", WARNING, found, f"ALTER ROLE {role} SET statement_timeout = '30s';")
    return Finding("time-outs", OK, f"statement_timeout={statement}, lock_timeout={lock}, idle_session_timeout=0")


def sequence(rows: Sequence[tuple[Any, ...]]) -> Finding:
    """Rows: how many ids a session takes at once, the sequence's name."""
    if rows and rows[0][0] != 1:
        found = f"CACHE {rows[0][0]}: each session sets ids aside; who resumes misses one that is used late"
        return Finding("sequence", WARNING, found, f"ALTER SEQUENCE {rows[0][1]} CACHE 1;")
    return Finding("sequence", OK, "CACHE 1")


def statistics(never: int, tables: int, schema: str) -> Finding:
    """Of so many tables, so many were never analyzed."""
    if never:
        both = ", ".join(quoted(schema, name) for name in ("ff_completion_event", "ff_exec_core"))
        found = f"{never} of {tables} tables were never analyzed; reading does not depend on it"
        return Finding("statistics", NOTE, found, f"ANALYZE {both};")
    return Finding("statistics", OK, "analyzed")


def trigger(rows: list[tuple[Any, ...]], commands: Commands) -> Finding:
    """One row a table that rows can be inserted into: its name, its announcing trigger's name and state, or what makes one."""
    missing = [row[0] for row in rows if row[1] is None]
    disabled = [row for row in rows if row[1] is not None and row[2] in ("D", "R")]
    if not rows or len(missing) == len(rows):
        return Finding(
            "trigger",
            WARNING,
            "none announces: completions come by polling alone",
            commands.ours("producers install") + _MAKER,
        )
    if disabled:
        table, trigger, *_ = disabled[0]
        more = f" and {len(disabled) - 1} more" if len(disabled) > 1 else ""
        return Finding(
            "trigger",
            WARNING,
            f"disabled on {table}{more}: their completions come by polling alone",
            f"ALTER TABLE {table} ENABLE TRIGGER {trigger};",
        )
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        made = next((row[3] for row in rows if row[1] is None), None)
        found = f"missing on {missing[0]}{more}: their completions come by polling alone"
        return Finding("trigger", WARNING, found, f"{made};" if made else "")
    return Finding("trigger", OK, f"enabled on {len(rows)} table{'s' if len(rows) > 1 else ''}")


def attachments(rows: Sequence[tuple[Any, ...]] | None, schema: str, user: str, commands: Commands) -> Finding:
    """Of tables of jobs: name, table, whether it is there, whether its triggers work."""
    check = "attached tables"
    if rows is None:
        registry = quoted(schema, "ff_attachment")
        return Finding(check, NOTE, f"{user} may not read {registry}", f"GRANT SELECT ON {registry} TO {quoted(user)};")
    for name, table, there, working, *_ in rows:
        if not there:
            return Finding(check, NOTE, f"{table} is gone", commands.ours("detach", f" {shlex.quote(name)}", schema))
        if not working:
            found = f"triggers on {table} are missing, disabled or at fault: ends are missed until it is attached again"
            return Finding(check, WARNING, found, commands.ours("attach", f" --name {shlex.quote(name)}", schema))
    return Finding(check, OK, ", ".join(str(row[0]) for row in rows) or "none")


def watermark(holders: Sequence[Holder], user: str) -> Finding:
    """Of those who may hold it, the oldest first."""
    check = "watermark"
    for each in holders:
        if each.prepared is not None:
            return Finding(check, WARNING, f"held back by {each}", each.remedy)
        if each.age_s is not None and each.age_s >= _LONG_S:
            return Finding(check, WARNING, f"held back for {each.age_s:.0f} s by {each}", each.remedy)
    unseen = [each.pid for each in holders if each.age_s is None]
    if unseen:
        text = f"pid {unseen[0]} may hold it back; {user} may not see since when"
        return Finding(check, NOTE, text, f"GRANT pg_read_all_stats TO {quoted(user)};")
    return Finding(
        check, OK, f"transactions that write: {len(holders)}, none for long" if holders else "nothing holds it back"
    )
