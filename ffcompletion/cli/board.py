"""``board``: the page over a server, until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from typing_extensions import override

from ffcompletion.cli.running import opened, run
from ffcompletion.cli.tail import ends_on_interrupt
from ffcompletion.contract.errors import ResourceExhausted, Unavailable
from ffcompletion.contract.extras import missing
from ffcompletion.contract.protocols import CompletionBackend

if TYPE_CHECKING:
    from starlette.requests import Request

    from ffcompletion.web import Grant

__all__ = ["board", "serving_board"]

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def board(
    url: Annotated[str, typer.Argument(help="valkey://…, valkeys://…, postgresql://…, or a libpq connection string.")],
    host: Annotated[
        str, typer.Option(help="The address to listen on. Whoever reaches it sees everything.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 for any that is free.")] = 8_765,
    namespace: Annotated[
        list[str] | None, typer.Option(metavar="NS", help="Show only this tenant's; may be repeated.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="Postgres: the schema of the engine's tables.")] = None,
) -> None:
    """Serve a page that shows completions as they happen: rates, lag, failures. Ctrl-C ends it."""

    async def work() -> int:
        async with opened(url, schema) as backend:
            # What cannot work is said here, not on the page.
            await (await backend.subscribe_completions()).aclose()
            async with serving_board(backend, host, port, namespace) as at, ends_on_interrupt() as ended:
                Console(highlight=False, soft_wrap=True).print(f"{at}  (Ctrl-C ends)", markup=False)
                await ended.wait()
        return 0

    run(work())


@asynccontextmanager
async def serving_board(
    backend: CompletionBackend, host: str, port: int, namespaces: Sequence[str] | None = None
) -> AsyncGenerator[str]:
    """The page's address; it is there for the length of the block.

    Raises ``Unavailable`` without the extra, ``ResourceExhausted`` where the port is taken.
    """
    try:
        import uvicorn  # noqa: PLC0415  # an extra

        from ffcompletion.web import Grant  # noqa: PLC0415  # the same
        from ffcompletion.web.board import board_app  # noqa: PLC0415  # the same
    except ImportError as exc:
        raise Unavailable("the board", missing(exc, "web")) from exc
    grant = Grant.of(*namespaces) if namespaces else Grant.everything()

    async def authorize(_: Request) -> Grant:
        return grant

    app, door = board_app(backend, authorize=authorize, hosts=_LOOPBACK if host in _LOOPBACK else None)

    class Server(uvicorn.Server):
        @contextmanager
        @override
        def capture_signals(self) -> Generator[None]:
            # Ctrl-C belongs to the command, which ends this server with everything else.
            yield

    # Whoever takes nothing more is cut off after a second.
    server = Server(uvicorn.Config(app, lifespan="off", log_level="critical", timeout_graceful_shutdown=1))
    with _listening(host, port) as listener:
        task = asyncio.create_task(server.serve([listener]), name="ffcompletion-board")
        try:
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{listener.getsockname()[1]}/"
        finally:
            door.stop()
            server.should_exit = True
            await asyncio.wait([task])
    task.result()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except OSError as exc:
        raise ResourceExhausted(f"port {port} on {host}", exc.strerror or str(exc)) from exc
