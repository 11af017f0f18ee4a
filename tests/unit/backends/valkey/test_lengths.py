"""Fields that somebody has made very large: seen once, and measured before they are read for a while after that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ffcompletion.backends.valkey.lengths import TOO_LONG, Lengths

LONG = b"x" * 5_000
FIELDS = {("k", "a"): b"short", ("k", "b"): LONG, ("l", "a"): b"other"}


class Server:
    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.fails = False

    async def execute(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        if self.fails:
            raise TimeoutError
        self.asked += [tuple(command) for command in commands]
        return [self.reply(*command) for command in commands]

    def reply(self, name: str, key: str, *fields: str) -> object:
        found = [FIELDS.get((key, field)) for field in fields]
        if name == "HSTRLEN":
            return len(found[0] or b"")
        return found if name == "HMGET" else found[0]


COMMANDS = [("HGET", "k", "b"), ("HMGET", "k", "a", "b", "c"), ("HGET", "l", "a"), ("GET", "k", "b")]
REPLIES = [TOO_LONG, [b"short", TOO_LONG, None], b"other", LONG]


async def test_a_long_one_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is measured, as long as somebody's are long; the clock is moved."""
    now = 1_000.0
    monkeypatch.setattr("ffcompletion.backends.valkey.lengths.time.monotonic", lambda: now)
    server, known = Server(), Lengths()
    assert await known.execute(COMMANDS, server.execute) == REPLIES
    assert not [words for words in server.asked if words[0] == "HSTRLEN"]
    server.asked.clear()
    assert await known.execute(COMMANDS, server.execute) == REPLIES
    assert ("HGET", "k", "b") not in server.asked
    assert ("HMGET", "k", "a", "c") in server.asked
    now += 61
    server.asked.clear()
    assert await known.execute(COMMANDS[2:3], server.execute) == REPLIES[2:3]
    assert server.asked == COMMANDS[2:3]


async def test_a_question_that_fails_makes_it_wary() -> None:
    """Many long ones bring that about."""
    server, known = Server(), Lengths()
    server.fails = True
    with pytest.raises(TimeoutError):
        await known.execute(COMMANDS, server.execute)
    server.fails = False
    assert await known.execute([COMMANDS[0]], server.execute) == [TOO_LONG]
    assert server.asked == [("HSTRLEN", "k", "b")]
