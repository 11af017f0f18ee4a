"""The runtime stand-in for Rust's object-safety assertion: hold an object against the Protocol before using it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ffcompletion.contract.protocols import Backend, CompletionBackend

__all__ = ["assert_completion_backend"]

# Method -> how many positional arguments a caller passes.
_METHODS: Final = {"subscribe_completions": 0, "subscribe_completions_filtered": 1}
# What a class that inherits a Protocol has where it wrote nothing: they do nothing, and return None.
_UNWRITTEN: Final = (
    CompletionBackend.subscribe_completions,
    Backend.subscribe_completions,
    Backend.subscribe_completions_filtered,
)


def _is_coroutine_function(method: object) -> bool:
    import inspect  # noqa: PLC0415  # costs a sixth of importing this package

    # functools.partial and callable objects are looked through; a plain `def` that returns an awaitable is refused,
    # because then nothing says before the call that the result must be awaited.
    call: object = getattr(method, "__call__", None)  # noqa: B004  # the bound __call__ itself is wanted
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(call)


def _fault(name: str, method: object, positional: int) -> str | None:
    import inspect  # noqa: PLC0415  # the same

    if not callable(method):
        return f"{name} is a {type(method).__name__}, not a method"
    if inspect.isasyncgenfunction(method):
        return f"{name} is an async generator; it must be `async def` and return a stream"
    if not _is_coroutine_function(method):
        return f"{name} must be `async def`, so that set-up errors are raised by the call"
    call: Callable[..., object] = method
    try:
        inspect.signature(call).bind(*([None] * positional))
    except TypeError as exc:
        wanted = "exactly one positional argument, the filter" if positional else "no arguments"
        return f"{name} must be callable with {wanted}: {exc}"
    except ValueError:
        return None  # no introspectable signature (a C function): nothing to object to
    return None


def assert_completion_backend(obj: object) -> None:
    """Raise ``TypeError``, listing every fault, unless ``obj`` can be used as a ``CompletionBackend``.

    ``isinstance(obj, CompletionBackend)`` compares names only. This goes on to check that both methods are coroutine
    functions and can be called the way consumers call them. Give it an instance, not a class. It calls nothing.
    """
    if isinstance(obj, type):
        raise TypeError(f"expected a backend, got the class {obj.__name__}: make an instance first")
    faults: list[str] = []
    for name, positional in _METHODS.items():
        method: object = getattr(obj, name, None)
        if method is None or getattr(method, "__func__", None) in _UNWRITTEN:
            fault: str | None = f"{name} is missing"
        else:
            fault = _fault(name, method, positional)
        if fault is not None:
            faults.append(fault)
    if not faults and not isinstance(obj, CompletionBackend):
        faults.append("isinstance(…, CompletionBackend) is false")
    if faults:
        raise TypeError(f"{type(obj).__name__} is no CompletionBackend: " + "; ".join(faults))
