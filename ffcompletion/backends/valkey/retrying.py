"""What streams ask of the server, until it has answered: without an answer nothing is let through and nothing dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar, final

from glide import GlideError

from ffcompletion.backends.valkey.errors import named
from ffcompletion.backends.valkey.lookups import Lookups, fit
from ffcompletion.contract.errors import EngineError
from ffcompletion.contract.ids import is_execution_id, trusted_execution_id
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.batch import Facts
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.filters import Wanted
from ffcompletion.foreign.logs import logger

__all__ = ["Retrying"]

_T = TypeVar("_T")
_log: Final = logger("ffcompletion.valkey")

# Results of which the sizes are asked at once: most of what somebody has made up has none.
_SIZES: Final = 1_024


@final
class Retrying:
    """Each question is put again until it is answered."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._held_log = RateLog(_log)

    async def facts(self, payloads: Sequence[CompletionPayload], filters: Sequence[Wanted]) -> Sequence[Facts | None]:
        """See ``Lookups``."""
        return await self._until_answered(lambda: self._lookups.facts(payloads, filters))

    async def results(self, payloads: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
        """See ``Lookups``."""
        return await self._until_answered(lambda: self._lookups.results(payloads))

    async def fitting(self, names: Sequence[str]) -> int:
        """Of how many of these, from the first on, the results fit one question. What is no id has none."""
        names = names[:_SIZES]
        ids = [trusted_execution_id(name) for name in names if is_execution_id(name)]
        if not ids:
            return len(names)
        sizes = dict(zip(map(str, ids), await self._until_answered(lambda: self._lookups.sizes(ids)), strict=True))
        return fit([sizes.get(name, 0) for name in names])

    async def with_results(
        self, payloads: Sequence[CompletionPayload], wanted: AbstractSet[str]
    ) -> tuple[int, Sequence[CompletionPayload]]:
        """As many of them as one question about results is good for, and these with the results that are wanted."""
        asked = [payload for payload in payloads if payload.execution_id in wanted]
        if not asked:
            return len(payloads), payloads
        asked = asked[: await self.fitting([payload.execution_id for payload in asked])]
        found = await self.results(asked)
        by_id = {payload.execution_id: payload for payload in found}
        count = 0
        while count < len(payloads) and not (
            payloads[count].execution_id in wanted and payloads[count].execution_id not in by_id
        ):
            count += 1
        return count, [by_id.get(payload.execution_id, payload) for payload in payloads[:count]]

    async def _until_answered(self, question: Callable[[], Awaitable[_T]]) -> _T:
        backoff = Backoff(0.02, 1.0)
        while True:
            try:
                return await question()
            except (GlideError, OSError, TimeoutError, EngineError) as exc:
                self._held_log.warning(f"the server did not answer what a filter asks ({named(exc)}); holding")
                await asyncio.sleep(backoff.next_delay())
