"""What filters ask about executions, for many announcements at a time.

Namespaces of all in one pipeline, then tags of the survivors in one, then results of what is delivered in one. Each
field is asked for once per announcement, however many streams want it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import cast, final

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.delivery.hub import Facts

__all__ = ["Ask", "Gate", "raise_refusal", "text_of"]

Ask = Callable[[Sequence[Sequence[str]]], Awaitable[Sequence[object]]]


@final
class Gate:
    """Reads facts and results through ``ask``, which raises if the server cannot be asked."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def facts(
        self, payloads: Sequence[CompletionPayload], filters: Sequence[CompletionFilter]
    ) -> list[Facts | None]:
        """For each payload its namespace, and the tags that some filter still wants to see; in order."""
        records = [keys.execution(payload.execution_id) for payload in payloads]
        replies = await _answers(self._ask, [("HGET", f"{record}:core", "namespace") for record in records])
        namespaces = [text_of(reply) for reply in replies]
        tag_keys = sorted({key for wanted in filters if (key := wanted.tag_key) is not None})
        facts: list[Facts | None] = [(namespace, {}) for namespace in namespaces]
        if not tag_keys:
            return facts
        survivors = [index for index, namespace in enumerate(namespaces) if _may_pass(filters, namespace)]
        if survivors:
            command = "HGET" if len(tag_keys) == 1 else "HMGET"
            found = await _answers(self._ask, [(command, f"{records[index]}:tags", *tag_keys) for index in survivors])
            for index, values in zip(survivors, found, strict=True):
                facts[index] = (namespaces[index], _tags(tag_keys, values))
        return facts

    async def results(self, payloads: Sequence[CompletionPayload]) -> list[CompletionPayload]:
        """The payloads with their stored result and, from ``completed_at``, their time."""
        commands: list[tuple[str, ...]] = []
        for payload in payloads:
            commands.append(("GET", keys.result(payload.execution_id)))
            commands.append(("HGET", keys.core(payload.execution_id), "completed_at"))
        replies = await _answers(self._ask, commands)
        return [
            CompletionPayload(
                payload.execution_id,
                payload.outcome,
                value if isinstance(value, bytes) else None,
                _milliseconds(at) or payload.produced_at_ms,
                payload.flow_id,
                payload.cursor,
            )
            for payload, value, at in zip(payloads, replies[::2], replies[1::2], strict=True)
        ]


def _may_pass(filters: Sequence[CompletionFilter], namespace: str | None) -> bool:
    """Whether a tag could still decide: some filter looks at tags and is not settled by the namespace."""
    for wanted in filters:
        if wanted.tag_key is None:
            continue
        if not isinstance(wanted, ScannerFilter) or wanted.namespace is None or wanted.namespace == namespace:
            return True
    return False


async def _answers(ask: Ask, commands: Sequence[Sequence[str]]) -> Sequence[object]:
    replies = await ask(commands)
    raise_refusal(replies)
    return replies


def raise_refusal(replies: Sequence[object]) -> None:
    """Raise the first error among the replies (loading, no permission, …): then nothing is known, and it is asked again.

    A key of another type is an answer: there is no such record.
    """
    for reply in replies:
        if isinstance(reply, GlideError) and "WRONGTYPE" not in str(reply):
            raise reply


def text_of(reply: object) -> str | None:
    """The reply's text. Nil, an error such as WRONGTYPE, or no UTF-8 (which no filter can spell) is None."""
    if not isinstance(reply, bytes):
        return None
    try:
        return reply.decode()
    except UnicodeDecodeError:
        return None


def _tags(tag_keys: Sequence[str], values: object) -> dict[str, str]:
    """From the reply: one value for one key, a list for several."""
    if len(tag_keys) == 1:
        text = text_of(values)
        return {} if text is None else {tag_keys[0]: text}
    if not isinstance(values, list):
        return {}
    found = zip(tag_keys, map(text_of, cast("list[object]", values)), strict=False)
    return {key: text for key, text in found if text is not None}


def _milliseconds(reply: object) -> int:
    return int(reply) if isinstance(reply, bytes) and reply.isdigit() else 0
