"""Questions to the real server, seen and if need be refused before they reach it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from ffcompletion.backends.valkey.commands import Commands
from ffcompletion.backends.valkey.options import Options


class Asked:
    """``execute`` of a connection of its own. ``before`` may raise, as one that gets no answer does."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self.commands: list[tuple[str, ...]] = []
        self.before: Callable[[Sequence[Sequence[str]]], None] = lambda _: None

    async def execute(self, commands: Sequence[Sequence[str]]) -> Sequence[object]:
        self.commands += [tuple(command) for command in commands]
        self.before(commands)
        return await self._commands.execute(commands)

    def named(self, *names: str) -> list[tuple[str, ...]]:
        """Those of these names that were asked since the last time."""
        found = [command for command in self.commands if command[0] in names]
        self.commands.clear()
        return found


@asynccontextmanager
async def asking(url: str, user: str | None = None) -> AsyncGenerator[Asked]:
    """On a connection of its own; ``user``: one whose password is ``pw``."""
    commands = Commands(Options.from_url(url, username=user, password=None if user is None else "pw"))
    try:
        yield Asked(commands)
    finally:
        await commands.aclose()
