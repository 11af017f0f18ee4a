"""The demo's workload: flows and solo executions of two tenants, finished by the server-side producers."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from binascii import crc_hqx
from collections import Counter
from typing import Final, final

import msgspec

from ffcompletion.producers.finishing import Finish

__all__ = ["TENANTS", "Job", "Workload"]

TENANTS: Final = ("acme", "globex")
_PARTITIONS: Final = 256
_LANE: Final = "default"
_OUTCOMES: Final = ("success",) * 17 + ("failed", "cancelled", "expired", "skipped")


@final
class Job(msgspec.Struct, frozen=True):
    """One execution that is about to finish."""

    execution_id: str
    flow_id: str | None
    tenant: str
    outcome: str


@final
class Workload:
    """Finishes jobs at a steady pace and remembers when, so that latency can be told."""

    def __init__(self, finish: Finish, per_second: float, dice: random.Random) -> None:
        self._finish = finish
        self._pause_s = 1 / per_second
        self._dice = dice
        self.sent_at: dict[str, float] = {}
        self.sent: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Until the time is up."""
        end = time.monotonic() + seconds
        due = time.monotonic()
        while time.monotonic() < end:
            for job in self._flow():
                self.sent_at[job.execution_id] = time.monotonic()
                await self._finish(job.execution_id, job.outcome, job.flow_id, job.tenant)
                self.sent[job.tenant] += 1
                due += self._pause_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _flow(self) -> list[Job]:
        """The members of one flow, or now and then an execution that belongs to none."""
        dice = self._dice
        tenant = dice.choice(TENANTS)
        solo = dice.random() < 0.1
        flow = uuid.UUID(int=dice.getrandbits(128), version=4)
        # A flow's members share its partition, a solo execution has its lane's: that is how the engine places them.
        partition = crc_hqx(_LANE.encode() if solo else flow.bytes, 0) % _PARTITIONS
        return [
            Job(
                f"{{fp:{partition}}}:{uuid.UUID(int=dice.getrandbits(128), version=4)}",
                None if solo else str(flow),
                tenant,
                dice.choice(_OUTCOMES),
            )
            for _ in range(1 if solo else dice.randint(1, 6))
        ]
