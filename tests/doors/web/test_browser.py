"""What ``docs/web.md`` tells pages to do, done by a browser."""

from __future__ import annotations

import re

import pytest
from selenium import webdriver
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.web import completions_app
from tests import ROOT
from tests.doors.cli.test_board import Page, browser, in_a_browser
from tests.doors.web.serving import anybody, serving
from tests.worlds import eventually

__all__ = ["browser"]

pytestmark = pytest.mark.timeout(180)
ID = "{fp:7}:550e8400-e29b-41d4-a716-44665544%04d"
SHOW = "<title>…</title><script>const seen = []; console.log = (what) => seen.push(what);</script>"


class Proxy:
    """In front of a service that is away for a while."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.status = 0
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.status:
            self.refused += 1
            await Response(status_code=self.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


@in_a_browser
async def test_a_page_comes_back_from_what_a_browser_gives_up_at(browser: webdriver.Chrome) -> None:
    """A proxy's 502 ends an ``EventSource`` for good; the page goes on where it was. A position that is gone is let go."""
    (script,) = re.findall(
        r"^```js\n(.*?)^```", (ROOT / "docs" / "web.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    page = Page(browser)

    async def seen(*outcomes: str) -> None:
        async def there() -> bool:
            return bool(await page.script("return seen") == list(outcomes))

        await eventually(there, 20)

    async with MemoryBackend() as backend:
        app = completions_app(backend, authorize=anybody)
        proxy = Proxy(app)

        async def index(_: object) -> Response:
            return HTMLResponse(f"{SHOW}<script>{script}</script>")

        async with serving(Starlette(routes=[Route("/", index), Mount("/completions", proxy)])) as (client, _):  # type: ignore[arg-type]  # any application
            await page.open(str(client.base_url))

            async def connected() -> bool:
                return app.clients == 1

            await eventually(connected, 20)
            backend.emit(ID % 1, "success", namespace="tenant-a")
            await seen("success")
            for number, status in ((2, 502), (3, 410)):
                proxy.status, proxy.refused = status, 0
                app.stop()

                async def refused() -> bool:
                    return proxy.refused >= 2

                await eventually(refused, 20)
                proxy.app, proxy.status = (app := completions_app(backend, authorize=anybody)), 0
                if status == 502:  # in its absence
                    backend.emit(ID % number, "failed", namespace="tenant-a")
                else:
                    await eventually(connected, 20)
                    backend.emit(ID % number, "skipped", namespace="tenant-a")
                await seen(*("success", "failed", "skipped")[:number])
