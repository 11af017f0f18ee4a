"""Who attaches is not held up for ever by a server, or a proxy, that goes mute in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import ffcompletion as ffc
from ffcompletion.attaching import attach, watched
from ffcompletion.attaching.watched import Watched
from tests.worlds.attaching import REPORTS, TABLE, clean, database
from tests.worlds.proxy import Proxy


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_ASK_AFTER_S", 0.5)
    monkeypatch.setattr(watched, "_ASK_AGAIN_S", 0.2)
    monkeypatch.setattr(watched, "_ANSWERS_WITHIN_S", 2.0)


@pytest.fixture
def server(postgres18_url: str) -> Iterator[str]:
    with database(postgres18_url, "attach_mute") as url:
        clean(url)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(TABLE.encode())
            conn.execute("INSERT INTO app.reports (status) SELECT 'done' FROM generate_series(1, 6000)")
        yield url


def through(url: str, *proxies: Proxy) -> str:
    ports = ",".join(str(proxy.port) for proxy in proxies)
    return make_conninfo(url, host=",".join("127.0.0.1" for _ in proxies), port=ports, target_session_attrs="any")


def socket_of(url: str) -> str:
    given: dict[str, Any] = conninfo_to_dict(url)
    return f"{given['host']}/.s.PGSQL.{given.get('port') or 5432}"


def test_one_that_answers_nobody_any_more(server: str) -> None:
    """Not even a second connection."""
    with Proxy(socket_of(server)) as proxy:
        began = time.monotonic()
        with pytest.raises(ffc.Transport, match=r"no answer for \d+ s, and nobody is at work"):
            attach(through(server, proxy), REPORTS, progress=lambda *_: proxy.freeze())
        assert time.monotonic() - began < 20
    assert attach(server, REPORTS).jobs == 6_000


def test_one_whose_answer_got_lost(server: str) -> None:
    """The server answers a second connection, over another proxy, and waits for us on the first."""

    def lose() -> None:
        frozen.freeze()
        frozen.refuse()

    with Proxy(socket_of(server)) as frozen, Proxy(socket_of(server)) as other:
        with pytest.raises(ffc.Transport, match="nobody is at work"):
            attach(through(server, frozen, other), REPORTS, progress=lambda *_: lose())


def test_one_that_takes_its_time(server: str) -> None:
    """It is at work: nobody interrupts it."""
    with Watched.to(server) as conn:
        assert conn.execute("SELECT pg_sleep(3), 7").fetchone() == ("", 7)
