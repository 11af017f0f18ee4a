"""Put the producer's function library on a server, or on every primary of a cluster."""

from __future__ import annotations

from glide import AllPrimaries, GlideClusterClient

from ffcompletion.backends.valkey.connection import make_client
from ffcompletion.backends.valkey.errors import driver_errors
from ffcompletion.backends.valkey.options import Options

__all__ = ["install_producer"]


async def install_producer(url: str, script: str) -> str:
    """Load the library, replacing an older one; what was done, in one line. Raises ``EngineError``."""
    options = Options.from_url(url)
    async with driver_errors(options.shown, "producers install"):
        client = await make_client(options)
        try:
            if isinstance(client, GlideClusterClient):
                await client.function_load(script, replace=True, route=AllPrimaries())
            else:
                await client.function_load(script, replace=True)
        finally:
            await client.close()
    return f"{options.shown}: the function ffcompletion_complete is ready"
