"""How this server is looked at for what ended without a row: by lanes or not, which partitions, and what is missing for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast, final

from ffcompletion.backends.postgres.changes import Changes, Plan
from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.queries import LANES, Queries
from ffcompletion.backends.postgres.silent_queries import ENGINE_PARTITIONS, SilentQueries
from ffcompletion.foreign.logs import logger

__all__ = ["Planning"]

_log: Final = logger("ffcompletion.postgres")

_MOST_LANES: Final = 1_000


@final
class Planning:
    """Asks once, and again after a fault. Raises driver errors."""

    def __init__(self, queries: Queries, silent_queries: SilentQueries, interval_s: float) -> None:
        self._queries = queries
        self._silent_queries = silent_queries
        self.changes: Changes = Changes(interval_s)
        self._plan: Plan | None = None
        self._planned = False
        self._has_lanes = False
        # Partition keys with their tables, once they are asked for.
        self._tables: dict[int, int] = {}
        self._said: set[str] = set()

    def forget(self) -> None:
        """The server may be another by now."""
        self._planned = False
        self.changes.forget()

    async def plan(self, conn: Connection) -> Plan | None:
        """None: there is nothing to look for here, or no right to."""
        if self._planned:
            return self._plan
        text, values = self._silent_queries.reconcilable()
        (row,) = await (await conn.execute(text, values, prepare=False)).fetchall()
        has_lanes, readable, indexed, own, counted = cast("tuple[bool, bool, bool, bool, bool]", row)
        self._plan, self._has_lanes = None, False
        if own:
            self._planned = True
            return None
        if has_lanes and readable:
            self._has_lanes = True
        elif has_lanes:
            self._say(
                f"no right to read {LANES}: what ends without a row is looked for in whole partitions;"
                f" GRANT SELECT ON {self._queries.lanes_text}"
            )
        if not indexed:
            self._say("no index on the records' (partition_key, lane_id, lifecycle_phase): whole partitions are read")
        text, core = self._silent_queries.partitions(), self._queries.core_text
        ((count,),) = await (await conn.execute(text, (core,), prepare=False)).fetchall()
        # The engine's keys are as many as its partitions; a table that was made with fewer of those has as many keys.
        self._plan, self._tables = Plan(range(count and max(count, ENGINE_PARTITIONS)), None), {}
        self.changes.available = counted and bool(count)
        self._planned = True
        return self._plan

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("%s", what)

    async def with_lanes(self, conn: Connection, plan: Plan) -> Plan:
        """The plan, with the lanes that there are by now."""
        if not self._has_lanes:
            return plan
        text = self._silent_queries.lanes()
        rows = await (await conn.execute(text, (_MOST_LANES + 1,), prepare=False)).fetchall()
        lanes = [cast("str", lane) for (lane,) in rows]
        # By so many, and by none, nothing is found more quickly.
        return Plan(plan.keys, lanes if 0 < len(lanes) <= _MOST_LANES else None)

    async def keys(self, conn: Connection, plan: Plan, now: float) -> Sequence[int]:
        """The partitions that are worth a look now; ``now`` in seconds, monotonic."""
        if not self.changes.counts_wanted:
            return plan.keys
        if not self._tables:
            text, core = self._silent_queries.record_keys(), self._queries.core_text
            rows = await (await conn.execute(text, (core, core), prepare=False)).fetchall()
            self._tables = dict(cast("list[tuple[int, int]]", rows))
        tables = list(self._tables.values())
        rows = await (await conn.execute(self._silent_queries.written(), (tables,), prepare=False)).fetchall()
        counts = dict(cast("list[tuple[int, int]]", rows))
        return self.changes.to_look_at({key: counts.get(oid, 0) for key, oid in self._tables.items()}, now)
