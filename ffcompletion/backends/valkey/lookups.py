"""What filters ask about executions, for many announcements at a time.

Namespaces of all in one pipeline, then tags of the survivors in one, then results of what is delivered. Each field is
asked for once per execution, however many streams want it (and once more where some of them want results, some none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast, final

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.errors import is_refused
from ffcompletion.backends.valkey.replies import Execute, milliseconds, raise_refusal, text_of
from ffcompletion.contract.combining import namespaces_of
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import Facts
from ffcompletion.foreign.filters import Wanted

__all__ = ["Lookups", "fit"]

# Results in one pipeline, by number and by bytes: it is the server and our memory that hold them all at once.
_RESULTS: Final = 128
_RESULT_BYTES: Final = 4 << 20
_UNKNOWN_SIZE: Final = _RESULT_BYTES // 16


@final
class Lookups:
    """Reads facts and results through ``execute``, which raises if the server cannot be asked."""

    def __init__(self, execute: Execute, patiently: Execute | None = None) -> None:
        """``patiently``: runs what may take long, so that nobody else waits for it."""
        self._execute = execute
        self._patiently = patiently or execute

    async def facts(self, payloads: Sequence[CompletionPayload], filters: Sequence[Wanted]) -> list[Facts | None]:
        """For each payload its namespace, and the tags that some filter still wants to see; in order.

        None where there is nothing to decide by: no core record, one of another type, or text that is no UTF-8.
        """
        # One that is announced many times over is asked about once.
        ids = dict.fromkeys(payload.execution_id for payload in payloads)
        facts = await self._facts([keys.execution(id_) for id_ in ids], filters)
        if len(ids) == len(payloads):
            return facts
        known = dict(zip(ids, facts, strict=True))
        return [known[payload.execution_id] for payload in payloads]

    async def _facts(self, records: Sequence[str], filters: Sequence[Wanted]) -> list[Facts | None]:
        facts = await self._namespaces(records)
        tag_keys = sorted({key for wanted in filters if (key := wanted.tag_key) is not None})
        if not tag_keys:
            return facts
        survivors = [index for index, known in enumerate(facts) if known is not None and _may_pass(filters, known[0])]
        if survivors:
            command = "HGET" if len(tag_keys) == 1 else "HMGET"
            replies = await self._answers([(command, f"{records[index]}:tags", *tag_keys) for index in survivors])
            for index, reply in zip(survivors, replies, strict=True):
                known = facts[index]
                facts[index] = None if known is None else (known[0], _tags(tag_keys, reply))
        return facts

    async def _namespaces(self, records: Sequence[str]) -> list[Facts | None]:
        replies = await self._answers([("HGET", f"{record}:core", "namespace") for record in records])
        facts: list[Facts | None] = [
            None if (namespace := text_of(reply)) is None else (namespace, {}) for reply in replies
        ]
        # A record without a namespace, or none at all? Every record has a phase.
        bare = [index for index, reply in enumerate(replies) if reply is None]
        if bare:
            phases = await self._answers([("HGET", f"{records[index]}:core", "lifecycle_phase") for index in bare])
            for index, phase in zip(bare, phases, strict=True):
                if isinstance(phase, bytes):
                    facts[index] = (None, {})
        return facts

    async def sizes(self, execution_ids: Sequence[ExecutionId]) -> list[int]:
        """How many bytes the stored results have; 0 where there is none."""
        replies = await self._execute([("STRLEN", keys.result(id_)) for id_ in execution_ids])
        if any(isinstance(reply, GlideError) and is_refused(reply) for reply in replies):
            # Reading does without that right: then few are asked for at a time, whatever they weigh.
            return [_UNKNOWN_SIZE] * len(execution_ids)
        raise_refusal(replies)
        # Nothing of another type is a result.
        return [reply if isinstance(reply, int) else 0 for reply in replies]

    async def results(self, payloads: Sequence[CompletionPayload]) -> list[CompletionPayload]:
        """The payloads with their stored result and, from ``completed_at``, their time. Few at a time: see ``fit``."""
        commands: list[tuple[str, ...]] = []
        for payload in payloads:
            commands.append(("GET", keys.result(payload.execution_id)))
            commands.append(("HGET", keys.core(payload.execution_id), "completed_at"))
        replies = await self._patiently(commands)
        raise_refusal(replies)
        return [
            CompletionPayload(
                payload.execution_id,
                payload.outcome,
                value if isinstance(value, bytes) else None,
                milliseconds(text_of(at)) or payload.produced_at_ms,
                payload.flow_id,
                payload.cursor,
            )
            for payload, value, at in zip(payloads, replies[::2], replies[1::2], strict=True)
        ]

    async def _answers(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        replies = await self._execute(commands)
        raise_refusal(replies)
        return replies


def fit(sizes: Sequence[int]) -> int:
    """How many results of these sizes, from the first on, are asked for at once; one at the least, if there is any.
    What has none takes no room.
    """
    total = results = 0
    for count, size in enumerate(sizes):
        total += size
        results += size > 0
        if count and (results > _RESULTS or total > _RESULT_BYTES):
            return count
    return len(sizes)


def _may_pass(filters: Sequence[Wanted], namespace: str | None) -> bool:
    """Whether a tag could still decide: some filter looks at tags and is not settled by the namespace."""
    for wanted in filters:
        if wanted.tag_key is None:
            continue
        names = namespaces_of(wanted)
        if names is None or namespace in names:
            return True
    return False


def _tags(tag_keys: Sequence[str], reply: object) -> Mapping[str, str | None]:
    """From the reply: one value for one key, a list for several. A tag that cannot be read is there, and None."""
    if len(tag_keys) == 1:
        return {} if reply is None else {tag_keys[0]: text_of(reply)}
    if not isinstance(reply, list):
        return dict.fromkeys(tag_keys)
    values = zip(tag_keys, cast("list[object]", reply), strict=False)
    return {key: text_of(value) for key, value in values if value is not None}
