"""Defects to seed the library with, each of a kind that it has had: a run that does not notice them proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from ffcompletion.backends.postgres import facts
from ffcompletion.backends.valkey import lookups
from ffcompletion.delivery import hub

__all__ = ["DEFECTS", "seeded"]


def _open(original: Callable[..., Any]) -> Callable[..., Any]:
    """What cannot be decided is delivered."""

    def verdict(wanted: Any, key: Any, known: Any) -> bool:
        return original(wanted, key, known) is not False

    return verdict


def _raising(original: Callable[..., Any]) -> Callable[..., Any]:
    """What cannot be read raises, and whatever is read with it suffers."""

    def read(given: Any) -> Any:
        answer = original(given)
        if answer is None and given is not None:
            raise RecursionError
        return answer

    return read


DEFECTS: dict[str, tuple[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]], ...]] = {
    "open": ((hub, "_verdict", _open),),
    "raising": ((facts, "tags_of", _raising), (lookups, "text_of", _raising)),
}


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Inside, the library has this defect."""
    patches = [mock.patch.object(place, what, made(getattr(place, what))) for place, what, made in DEFECTS[name]]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
