"""The board: a page that shows completions as they happen, and the door it reads them through."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from importlib import resources
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ffcompletion.contract.protocols import CompletionBackend
from ffcompletion.web.app import CompletionsApp, completions_app
from ffcompletion.web.grants import Authorize

__all__ = ["board_app"]

_INLINE: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


def board_app(
    backend: CompletionBackend, *, authorize: Authorize, hosts: Collection[str] | None = None
) -> tuple[Starlette, CompletionsApp]:
    """The page at ``/``, its completions below ``/api``; and the latter alone, to be stopped.

    ``hosts``: the only names by which it may be called, without ports; None for any. A page on a private address would
    otherwise be open to every web site that its user visits (DNS rebinding).
    """
    door = completions_app(backend, authorize=authorize, namespaces=True)
    page = resources.files("ffcompletion.web").joinpath("board.html").read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": _policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    app = Starlette(routes=[Route("/", show), Mount("/api", door)])
    if hosts is not None:
        app.add_middleware(_KnownHosts, hosts=frozenset(hosts))
    return app, door


def _policy(page: str) -> str:
    """Nothing from elsewhere, and no script but the page's own."""
    allowed: dict[str, str] = {}
    for kind, text in _INLINE.findall(page):
        allowed[kind] = "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src '{allowed['script']}'; style-src '{allowed['style']}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class _KnownHosts:
    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = re.sub(r":\d+$", "", Request(scope).headers.get("host", ""))
            if host not in self._hosts:
                await PlainTextResponse("not by this name", 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)
