"""A person's interrupt goes on; one that somebody's code raises elsewhere is an error like any other."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from ffcompletion.foreign.keyboard import from_the_keyboard


def test_on_the_main_thread_with_pythons_own_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    assert from_the_keyboard(KeyboardInterrupt())
    assert not from_the_keyboard(SystemExit())


def test_not_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(from_the_keyboard(KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert answers == [False]


def test_not_where_asyncio_cancels_instead() -> None:
    async def main() -> bool:
        return from_the_keyboard(KeyboardInterrupt())

    assert not asyncio.run(main())
