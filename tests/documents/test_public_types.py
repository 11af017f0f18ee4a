"""What a public function returns, and what a public class tells, can be written in an annotation: each type has a public name."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args, get_overloads, get_type_hints

import ffcompletion
from ffcompletion.delivery.stream import Subscription
from tests.documents.test_house import IMPORTED_FROM

# Beside those whose callables have to tell what they raise.
MODULES = [
    *IMPORTED_FROM,
    "ffcompletion.attaching",
    "ffcompletion.contract.diagnosis",
    "ffcompletion.doctor",
    "ffcompletion.status",
    "ffcompletion.options",
    "ffcompletion.producers",
]


# By the name that users write for it, of the Protocol that it satisfies.
KNOWN_BY_ITS_PROTOCOL = (Subscription,)


def _names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name in module.__all__:
        yield name, getattr(module, name)


def _reported(thing: Any) -> Iterator[tuple[str, Any]]:
    """The annotations that somebody who has it reads: of what is returned, and of what stands in it."""
    if inspect.isfunction(thing):
        for each in (thing, *get_overloads(thing)):
            yield thing.__qualname__, _hints(each).get("return")
    elif inspect.isclass(thing):
        for name, hint in _hints(thing).items():
            if not name.startswith("_"):
                yield f"{thing.__qualname__}.{name}", hint
        for name, value in vars(thing).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if inspect.isfunction(function) and (not name.startswith("_") or name in ("__aenter__", "__enter__")):
                yield f"{thing.__qualname__}.{name}", _hints(function).get("return")


class _Elsewhere:
    """Stands for what no module of ours offers: a driver's class."""

    def __class_getitem__(cls, _: object) -> type[_Elsewhere]:
        return cls


def _hints(thing: Any) -> dict[str, Any]:
    # What is imported for type checkers alone has to be found as well.
    known = dict(vars(sys.modules[thing.__module__]))
    while True:
        try:
            return get_type_hints(thing, None, known)
        except NameError as exc:
            known[str(exc.name)] = _found(str(exc.name))


def _found(name: str) -> Any:
    for module in [importlib.import_module(each) for each in MODULES]:
        if name in getattr(module, "__all__", ()):
            return getattr(module, name)
    return _Elsewhere


def _classes(hint: Any) -> Iterator[type]:
    if isinstance(hint, list | tuple):
        for each in hint:
            yield from _classes(each)
    if isinstance(hint, type) and hint.__module__.startswith("ffcompletion"):
        yield hint
    for each in get_args(hint):
        yield from _classes(each)


def test_every_type_that_is_returned_has_a_public_name() -> None:
    """From the top, where the function is there; and from a module that users import from, for every other."""
    modules = [importlib.import_module(name) for name in MODULES]
    top = [thing for _, thing in _names(ffcompletion)]
    public = [thing for module in modules for _, thing in _names(module)]
    nameless: set[str] = set()
    seen = 0
    for module in modules:
        for name, thing in _names(module):
            for where, hint in _reported(thing):
                for found in _classes(hint):
                    seen += 1
                    reach = top if module is ffcompletion and inspect.isfunction(thing) else public
                    if not any(found is each for each in (*reach, *KNOWN_BY_ITS_PROTOCOL)):
                        nameless.add(
                            f"{module.__name__}.{name}: {where} tells of {found.__module__}.{found.__qualname__}"
                        )
    assert seen > 100
    assert not nameless
