"""One connection through which the demo's executions are finished, by the installed functions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from ffcompletion.producers.calls import completion_call
from ffcompletion.urls import scheme_of

__all__ = ["Finish", "finishing"]

Finish = Callable[[str, str, str | None, str], Awaitable[object]]
"""Takes the execution's id, its outcome, its flow's id and its namespace."""

_CONNECT_S: Final = 8.0
_EMIT: Final = "SELECT ff_emit_completion(%s, %s, flow_id => %s, namespace => %s)"


@asynccontextmanager
async def finishing(url: str) -> AsyncGenerator[Finish]:
    """To the server at ``url``, a transaction or call each. Raises ``EngineError``."""
    if scheme_of(url) == "postgres":
        from ffcompletion.backends.postgres.connection import Target  # noqa: PLC0415  # loads the driver
        from ffcompletion.backends.postgres.installing import connected  # noqa: PLC0415  # the same

        async with connected(Target(url, _CONNECT_S), "finish an execution") as conn:

            def emit(execution_id: str, outcome: str, flow_id: str | None, namespace: str) -> Awaitable[object]:
                return conn.execute(_EMIT, (execution_id, outcome, flow_id, namespace))

            yield emit
        return
    from ffcompletion.backends.valkey.installing import connected as reached  # noqa: PLC0415  # the same
    from ffcompletion.backends.valkey.options import Options  # noqa: PLC0415  # the same

    async with reached(Options.from_url(url), "finish an execution") as client:

        def finish(execution_id: str, outcome: str, flow_id: str | None, namespace: str) -> Awaitable[object]:
            return client.custom_command(completion_call(execution_id, outcome, flow_id=flow_id, namespace=namespace))

        yield finish
