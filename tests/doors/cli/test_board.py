"""The board, in a real browser: what happens arrives, filters filter, a restart loses nothing, everybody can use it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.web import Grant
from ffcompletion.web.board import board_app
from tests import ROOT
from tests.doors.web.serving import anybody
from tests.worlds import PostgresWorld, ValkeyWorld, done, eventually
from tests.worlds.forking import Interpreter
from tests.worlds.servers import free_ports

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
# A browser takes its time to start where others are at work.
pytestmark = pytest.mark.timeout(180)
in_a_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver here: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(30)
    yield driver
    driver.quit()


@asynccontextmanager
async def command(*words: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """``ffcompletion …``, and the address that it prints."""
    process = await asyncio.create_subprocess_exec(
        *Interpreter("-m", "ffcompletion"), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}, limit=1 << 20,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        text = ""
        async with asyncio.timeout(60):
            while (found := re.search(r"http://\S+", text)) is None:
                line = (await process.stdout.readline()).decode()
                assert line, text
                text += line
        draining = asyncio.create_task(process.stdout.read())
        yield process, found[0]
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        text += (await asyncio.wait_for(draining, 20)).decode()
        assert "Traceback" not in text, text
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Page:
    """What a user sees and does; every wait has a deadline."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self.driver.get, url)

    async def text(self, id_: str) -> str:
        return await asyncio.to_thread(lambda: str(self.driver.find_element(By.ID, id_).text))

    async def shows(self, id_: str, what: Callable[[str], bool], seconds: float = 20) -> str:
        text = ""

        async def there() -> bool:
            nonlocal text
            text = await self.text(id_)
            return what(text)

        try:
            await eventually(there, seconds)
        except AssertionError:
            raise AssertionError(f"#{id_} shows {text!r}") from None
        return text

    async def script(self, text: str, *values: Any) -> Any:
        return await asyncio.to_thread(self.driver.execute_script, text, *values)

    async def cdp(self, name: str, **values: Any) -> None:
        await asyncio.to_thread(self.driver.execute_cdp_cmd, name, values)

    async def press(self, *keys: str) -> None:
        def work() -> None:
            self.driver.switch_to.active_element.send_keys(*keys)

        await asyncio.to_thread(work)


@in_a_browser
async def test_a_workload_is_seen_filtered_and_followed_through_a_restart(
    postgres: PostgresWorld, browser: webdriver.Chrome
) -> None:
    """Completions arrive by tenant, failures stand out, one tenant alone on a click; the service restarts, none is missed."""
    page, (port,) = Page(browser), free_ports(1)
    words = ("board", postgres.url, "--port", str(port))
    failed = done(namespace="globex", outcome="failed")
    with contextlib.suppress(Exception):
        browser.get_log("performance")  # type: ignore[no-untyped-call]  # selenium's
    async with command(*words) as (process, url):
        await page.open(url)
        await page.shows("state", lambda text: text == "live")
        assert await page.text("resume") == ""
        first = [done(namespace="acme") for _ in range(5)] + [failed]
        await postgres.announce(*first)
        await page.shows("rows", lambda text: all(item.execution_id in text for item in first))
        await page.shows("failed", lambda text: failed.execution_id in text)
        assert "globex" in await page.text("failed")
        assert await page.text("failures") == "1"
        assert {"acme", "globex"} <= set((await page.shows("tenants", lambda text: "acme" in text)).split())
        assert re.fullmatch(r"\d+ (m?s)", await page.text("p50"))
        only = await asyncio.to_thread(browser.find_element, By.CSS_SELECTOR, "#tenants tr[data-tenant=acme] button")
        await asyncio.to_thread(only.click)
        await page.shows("total", lambda text: text == "0")
        await page.shows("state", lambda text: text == "live")
        assert "namespace=acme" in browser.current_url
        second = [done(namespace="acme"), done(namespace="globex"), done(namespace="acme")]

        async def again() -> bool:
            return (await page.text("total")) != "0"

        # The stream for the tenant is live a moment after the click: its own status says so.
        await eventually(lambda: _streams(postgres, process), 10)
        await postgres.announce(*second)
        await page.shows("rows", lambda text: second[2].execution_id in text)
        assert await again()
        assert second[1].execution_id not in await page.text("rows")
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await page.shows("state", lambda text: "disconnected" in text)
    third = [done(namespace="acme") for _ in range(3)]
    await postgres.announce(*third)
    async with command(*words):
        text = await page.shows("rows", lambda text: all(item.execution_id in text for item in third))
        assert "nothing is missing" in text
        await page.shows("state", lambda text: text == "live")
    logged = await asyncio.to_thread(browser.get_log, "performance")
    asked = [json.loads(entry["message"])["message"] for entry in logged]
    urls = [it["params"]["request"]["url"] for it in asked if it["method"] == "Network.requestWillBeSent"]
    assert urls
    assert {urlsplit(url).netloc for url in urls if not url.startswith("data:")} == {f"127.0.0.1:{port}"}


async def _streams(postgres: PostgresWorld, process: asyncio.subprocess.Process) -> bool:
    assert process.returncode is None
    return await postgres.connections() > 0


@in_a_browser
async def test_everybody_can_use_it(browser: webdriver.Chrome, valkey: ValkeyWorld) -> None:
    """By keyboard, by screen reader, on a phone, in the dark; and it says where nothing can be resumed."""
    page = Page(browser)
    async with command("board", valkey.url, "--port", "0") as (_, url):
        await page.open(url)
        await page.shows("state", lambda text: text == "live")
        assert "keeps no log" in await page.shows("resume", bool)
        item = done(outcome="failed", namespace="a-tenant-with-quite-a-long-name")
        await valkey.announce(item)
        await page.shows("rows", lambda text: item.execution_id in text)
        await page.press(Keys.TAB)
        assert await page.script("return document.activeElement.className") == "skip"
        order = []
        for _ in range(4):
            await page.press(Keys.TAB)
            order.append(await page.script("return document.activeElement.id || document.activeElement.type"))
        assert order == ["namespace", "outcome", "submit", "pause"]
        outline = await page.script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus is seen"
        await page.press(Keys.ENTER)
        assert await page.script("return document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        await page.script("document.activeElement.blur()")
        await page.press("p")
        assert await page.script("return document.getElementById('pause').getAttribute('aria-pressed')") == "false"

        def names() -> list[tuple[str, str]]:
            found = browser.find_elements(By.CSS_SELECTOR, "input, select, button, svg, section, table, [role]")
            return [(it.tag_name, it.accessible_name) for it in found if it.is_displayed()]

        named = await asyncio.to_thread(names)
        assert all(name for kind, name in named if kind != "table" and kind != "span"), named
        assert await page.script("return document.documentElement.lang") == "en"
        assert await page.script("return document.getElementById('state').getAttribute('role')") == "status"
        # An outcome is told by a word and a sign, not by its colour alone.
        assert "✗ failed" in await page.text("rows")
        for width in (360, 768):
            await page.cdp(
                "Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=2, mobile=True
            )
            assert await page.script("return document.documentElement.scrollWidth") <= width
        await page.cdp("Emulation.clearDeviceMetricsOverride")
        grounds = set()
        for scheme in ("light", "dark"):
            await page.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            grounds.add(await page.script("return getComputedStyle(document.body).backgroundColor"))
            for name in ("text", "soft", "success", "failed", "cancelled", "expired", "skipped", "other", "accent"):
                for ground in ("card", "ground", *(["alarm"] if name in ("text", "failed") else [])):
                    pair = [await page.script(_COLOUR, it) for it in (name, ground)]
                    assert _contrast(*pair) >= 4.5, (scheme, name, ground)
        await page.cdp("Emulation.setEmulatedMedia", features=[])
        assert len(grounds) == 2
        severe = [it for it in await asyncio.to_thread(browser.get_log, "browser") if it["level"] == "SEVERE"]
        assert not [it for it in severe if url in it["message"] and "ERR_" not in it["message"]], severe


_COLOUR = "return getComputedStyle(document.documentElement).getPropertyValue('--' + arguments[0]).trim()"


def _contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@in_a_browser
async def test_what_arrives_cannot_write_the_page(browser: webdriver.Chrome) -> None:
    """Markup in a tenant's name and in an outcome is text; the policy lets no other script run."""
    from ffcompletion.cli.board import serving_board

    page = Page(browser)
    evil = "<img src=x onerror=document.title='owned'>"
    async with MemoryBackend() as backend, serving_board(backend, "127.0.0.1", 0) as url:
        await page.open(url)
        await page.shows("state", lambda text: text == "live")
        backend.emit("{fp:7}:550e8400-e29b-41d4-a716-446655440000", evil, namespace=evil)
        await page.shows("rows", lambda text: evil in text)
        await page.shows("tenants", lambda text: evil in text)
        assert await page.script("return document.title") == "Completions"
        assert await page.script("return document.querySelectorAll('img, script').length") == 1
        await asyncio.to_thread(browser.get, "about:blank")


async def test_the_page_is_one_file_with_a_policy_and_answers_to_its_own_names_only() -> None:
    """No address of anything else in it; another host's name is refused, as a rebinding site would use it."""
    app, _ = board_app(MemoryBackend(), authorize=anybody, hosts=["localhost"])
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8765")
    answer = await client.get("/")
    assert answer.status_code == 200
    assert "'unsafe" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", answer.text.split("<script>")[0])
    assert set(re.findall(r"https?://[^\s\"']+", answer.text)) == {"http://www.w3.org/2000/svg"}
    for host in ("evil.example", "127.0.0.1.evil.example:8765", ""):
        assert (await client.get("/", headers={"host": host})).status_code == 421
        assert (await client.get("/api/events", headers={"host": host})).status_code == 421
    await client.aclose()


async def test_a_board_for_some_tenants_shows_no_other() -> None:
    """What is not granted is not to be asked for."""
    from ffcompletion.cli.board import serving_board

    async with MemoryBackend() as backend, serving_board(backend, "127.0.0.1", 0, ["acme"]) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("api/events?namespace=globex")).status_code == 403
    assert Grant.of("acme") != Grant.everything()


async def test_trouble_is_one_line() -> None:
    """A port that is taken, a server that is not there."""
    from tests.doors.cli.commands import FFC

    async with MemoryBackend() as backend:
        from ffcompletion.cli.board import serving_board

        async with serving_board(backend, "127.0.0.1", 0) as url:
            port = str(urlsplit(url).port)
            for words in (["board", "memory://", "--port", port], ["board", "valkey://127.0.0.1:1", "--port", "0"]):
                process = await asyncio.create_subprocess_exec(
                    *FFC, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT
                )
                out, _ = await asyncio.wait_for(process.communicate(), 30)
                assert process.returncode == 2
                assert len(out.decode().strip().splitlines()) == 1, out.decode()
