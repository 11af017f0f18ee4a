"""Clear away what our own producers recorded, a bounded piece at a time, each execution in one atomic call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, Protocol, cast

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.connection import Client, batch
from ffcompletion.backends.valkey.installing import connected
from ffcompletion.backends.valkey.options import Options
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.ids import PARTITIONS, is_execution_id

__all__ = ["Forget", "prune"]

_AT_ONCE: Final = 500


class Forget(Protocol):
    """Builds the call that clears one execution away, if it is older than that."""

    def __call__(self, execution_id: str, before_ms: int, *, unfinished: bool = ...) -> list[str | bytes]:
        """The words of the call."""
        ...


async def prune(url: str, older_than: timedelta, unfinished: timedelta | None, forget: Mapping[str, Forget]) -> int:
    """How many executions are gone, of these lanes. Raises ``EngineError``."""
    options = Options.from_url(url)
    removed = 0
    async with connected(options, "producers prune") as client:
        (now,) = await _query(client, [("TIME",)])
        now_ms = int(cast("list[bytes]", now)[0]) * 1000
        before_ms = now_ms - older_than // timedelta(milliseconds=1)
        for partition in range(PARTITIONS):
            for lane, call in forget.items():
                removed += await _lane(
                    client, keys.terminal(partition, lane), partial(call, before_ms=before_ms), before_ms
                )
            if unfinished is not None:
                stale_ms = now_ms - unfinished // timedelta(milliseconds=1)
                # One call for each lane would do the same: an unfinished execution is in no lane's index.
                call = next(iter(forget.values()))
                removed += await _unfinished(client, partition, partial(call, before_ms=stale_ms, unfinished=True))
    return removed


async def _lane(client: Client, index: str, call: Callable[[str], list[str | bytes]], before_ms: int) -> int:
    removed, offset = 0, 0
    while True:
        (found,) = await _query(
            client, [("ZRANGE", index, "-inf", f"({before_ms}", "BYSCORE", "LIMIT", str(offset), str(_AT_ONCE))]
        )
        ids = _ids(found)
        gone = await _forget(client, ids, call)
        removed += gone
        # What is still there has been replayed, or is not ours.
        offset += len(cast("list[object]", found)) - gone
        if len(cast("list[object]", found)) < _AT_ONCE:
            return removed


async def _unfinished(client: Client, partition: int, call: Callable[[str], list[str | bytes]]) -> int:
    removed, cursor = 0, b"0"
    while True:
        (page,) = await _query(client, [("SSCAN", keys.all_executions(partition), cursor, "COUNT", str(_AT_ONCE))])
        cursor, found = cast("tuple[bytes, list[object]]", page)
        removed += await _forget(client, _ids(found), call)
        if cursor == b"0":
            return removed


def _ids(found: object) -> list[str]:
    texts = [item.decode("ascii", "replace") for item in cast("list[bytes]", found)]
    return [text for text in texts if is_execution_id(text)]


async def _forget(client: Client, ids: Sequence[str], call: Callable[[str], list[str | bytes]]) -> int:
    return sum(reply == 1 for reply in await _query(client, [call(id_) for id_ in ids]))


async def _query(client: Client, commands: Sequence[Sequence[str | bytes]]) -> list[object]:
    replies = await batch(client, commands)
    for reply in replies:
        if isinstance(reply, GlideError):
            if "Function not found" in str(reply):
                raise Unavailable("producers prune", "run `ffcompletion producers install URL` first") from reply
            raise reply
    return replies
