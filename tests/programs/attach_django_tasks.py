"""The functions that the worker of ``attach_django`` runs; importable by their path."""

from __future__ import annotations

import importlib
import time
from typing import Any

tasks: Any = importlib.import_module("django_tasks")


def _succeed(text: str) -> dict[str, str]:
    return {"said": text}


def _fail() -> None:
    raise ValueError("as it should")


def _hang() -> None:
    print("hanging", flush=True)
    time.sleep(60)


_succeed.__name__ = _succeed.__qualname__ = "succeed"
_fail.__name__ = _fail.__qualname__ = "fail"
_hang.__name__ = _hang.__qualname__ = "hang"
succeed: Any = tasks.task()(_succeed)
fail: Any = tasks.task()(_fail)
hang: Any = tasks.task()(_hang)
