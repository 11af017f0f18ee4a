"""Put the producer's function library on a server, or on every primary of a cluster, and take it away."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from glide import AllPrimaries, GlideClusterClient, RequestError

from ffcompletion.backends.valkey.connection import Client, make_client
from ffcompletion.backends.valkey.errors import driver_errors
from ffcompletion.backends.valkey.options import Options

__all__ = ["connected", "install_producer", "uninstall_producer"]

_LIBRARY: Final = "ffcompletion"


async def install_producer(url: str, script: str) -> str:
    """Load the library, replacing an older one; what was done, in one line. Raises ``EngineError``."""
    options = Options.from_url(url)
    async with connected(options, "producers install") as client:
        if isinstance(client, GlideClusterClient):
            await client.function_load(script, replace=True, route=AllPrimaries())
        else:
            await client.function_load(script, replace=True)
    return f"{options.shown}: the function ffcompletion_complete is ready"


async def uninstall_producer(url: str) -> str:
    """Delete the library, if it is there; what was done, in one line. Raises ``EngineError``."""
    options = Options.from_url(url)
    async with connected(options, "producers uninstall") as client:
        try:
            if isinstance(client, GlideClusterClient):
                await client.function_delete(_LIBRARY, route=AllPrimaries())
            else:
                await client.function_delete(_LIBRARY)
        except RequestError as exc:
            if "Library not found" not in str(exc):
                raise
            return f"{options.shown}: nothing is installed here: nothing was changed"
    return f"{options.shown}: the function ffcompletion_complete is gone"


@asynccontextmanager
async def connected(options: Options, op: str) -> AsyncGenerator[Client]:
    """A client for a few commands. The driver's errors come out as ours."""
    async with driver_errors(options.shown, op):
        client = await make_client(options)
        try:
            yield client
        finally:
            await client.close()
