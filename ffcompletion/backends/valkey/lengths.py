"""Fields of records that somebody has made very large: bounded, and not read again and again.

A field is read without asking how long it is, because that would make two questions of one. Once a long one has come, or
a question has failed, which many of them bring about, lengths are asked first for a while.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, cast, final

from ffcompletion.backends.valkey.replies import Execute

__all__ = ["TOO_LONG", "Lengths"]

# Bytes that a field may have; the engine's have some ten.
_MOST: Final = 4_096
_WARY_S: Final = 60.0
_READS: Final = ("HGET", "HMGET")


@final
class _TooLong:
    """The value of a field that is too long: no text, and not missing either."""


TOO_LONG: Final = _TooLong()


@final
class Lengths:
    """What is known of one server's fields."""

    __slots__ = ("_wary_until",)

    def __init__(self) -> None:
        self._wary_until = 0.0

    async def execute(self, commands: Sequence[Sequence[str]], execute: Execute) -> Sequence[object]:
        """The replies, with ``TOO_LONG`` in the place of each field that is."""
        if time.monotonic() < self._wary_until:
            return await self._measured(commands, execute)
        try:
            replies = await execute(commands)
        except Exception:
            self._beware()
            raise
        return self._checked(commands, replies)

    def _beware(self) -> None:
        self._wary_until = time.monotonic() + _WARY_S

    def _checked(self, commands: Sequence[Sequence[str]], replies: Sequence[object]) -> Sequence[object]:
        long = [at for at, reply in enumerate(replies) if _is_long(reply) and commands[at][0] in _READS]
        if not long:
            return replies
        self._beware()
        checked = list(replies)
        for at in long:
            reply = replies[at]
            if isinstance(reply, list):
                checked[at] = [TOO_LONG if _is_long(item) else item for item in cast("list[object]", reply)]
            else:
                checked[at] = TOO_LONG
        return checked

    async def _measured(self, commands: Sequence[Sequence[str]], execute: Execute) -> Sequence[object]:
        fields = [
            (at, command[1], field)
            for at, command in enumerate(commands)
            if command[0] in _READS
            for field in command[2:]
        ]
        lengths = await execute([("HSTRLEN", key, field) for _, key, field in fields])
        long: dict[int, set[str]] = {}
        for (at, _, field), length in zip(fields, lengths, strict=True):
            # Whoever may not ask gets an error, and what it reads is looked at as before.
            if isinstance(length, int) and length > _MOST:
                long.setdefault(at, set()).add(field)
        if not long:
            return self._checked(commands, await execute(commands))
        self._beware()
        short = {
            at: [field for field in command[2:] if field not in long.get(at, ())] for at, command in enumerate(commands)
        }
        asked = [at for at in range(len(commands)) if at not in long or short[at]]
        replies = await execute([
            [*commands[at][:2], *short[at]] if at in long else commands[at] for at in asked
        ])  # fmt: skip
        found = dict(zip(asked, self._checked([commands[at] for at in asked], replies), strict=True))
        return [
            _put_back(command, long[at], found.get(at)) if at in long else found[at]
            for at, command in enumerate(commands)
        ]


def _is_long(reply: object) -> bool:
    if isinstance(reply, bytes):
        return len(reply) > _MOST
    return isinstance(reply, list) and any(
        isinstance(item, bytes) and len(item) > _MOST for item in cast("list[object]", reply)
    )


def _put_back(command: Sequence[str], long: set[str], reply: object) -> object:
    """The reply to a command of which only the fields that are not long were asked for."""
    if command[0] == "HGET":
        return TOO_LONG
    if reply is not None and not isinstance(reply, list):
        return reply
    rest = iter(cast("list[object]", reply or []))
    return [TOO_LONG if field in long else next(rest, None) for field in command[2:]]
