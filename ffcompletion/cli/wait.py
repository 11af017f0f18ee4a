"""``wait``: until executions have finished; the exit status says how."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import Final, final

import msgspec
from rich.console import Console

from ffcompletion.cli.running import check_attached, opened
from ffcompletion.cli.showing import as_json, as_text
from ffcompletion.consumers.options import Missing
from ffcompletion.consumers.waiting import as_completed
from ffcompletion.contract.attached import attached_id
from ffcompletion.contract.errors import NotFound, StateUnknown, Transport
from ffcompletion.contract.payload import CompletionPayload, Outcome

__all__ = ["TIMED_OUT", "WaitOptions", "run_wait"]

TIMED_OUT: Final = 124
"""As ``timeout(1)`` has it."""
_NOT_SUCCESS: Final = 1


@final
class WaitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to wait for, and what to show of it."""

    any: bool = False
    timeout: float | None = None
    result: bool = False
    missing: Missing = "error"
    schema: str | None = None
    json: bool = False
    attached: str | None = None
    """The ids are keys of jobs that are attached under this name, and they are called by them."""


async def run_wait(url: str, ids: list[str], options: WaitOptions) -> int:
    """Show each completion as it comes; 0 if all were successes, 1 if one was not, 124 after the time-out."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    status = 0
    called = {} if options.attached is None else {attached_id(options.attached, key): key for key in ids}
    async with opened(url, options.schema) as backend:
        if options.attached is not None and options.missing == "wait":
            await _check_in_time(url, options.attached, options, repr(backend))
        answers = as_completed(
            backend, list(called) or ids, timeout=options.timeout, result=options.result, missing=options.missing
        )
        try:
            async with aclosing(answers):
                async for completion in answers:
                    _show(completion, options)
                    if completion.kind is not Outcome.SUCCESS:
                        status = _NOT_SUCCESS
                    if options.any:
                        break
        except StateUnknown:
            # Not "not yet": trouble.
            raise
        except NotFound as exc:
            key = next((key for id_, key in called.items() if id_ in str(exc)), None)
            if key is None or options.attached is None:
                raise
            await check_attached(url, options.attached, options.schema)
            hint = f"job {key} of {options.attached} (`ffcompletion attached` lists what is attached)"
            raise NotFound(hint) from exc
        except TimeoutError as exc:
            text = str(exc)
            for id_, key in called.items():
                text = text.replace(id_, f"{options.attached} {key}")
            console.print(f"ffcompletion: {text}", markup=False, style="yellow")
            return TIMED_OUT
    return status


async def _check_in_time(url: str, name: str, options: WaitOptions, shown: str) -> None:
    try:
        async with asyncio.timeout(options.timeout or None):
            await check_attached(url, name, options.schema)
    except TimeoutError:
        raise Transport(shown, f"no answer within {options.timeout:g} s") from None


def _show(completion: CompletionPayload, options: WaitOptions) -> None:
    if options.json:
        sys.stdout.write(as_json(completion, result=options.result, attached=options.attached) + "\n")
    elif options.result:
        # The bytes alone on stdout, so that a shell can catch them.
        Console(stderr=True, highlight=False, soft_wrap=True).print(as_text(completion, attached=options.attached))
        sys.stdout.buffer.write(completion.payload_bytes or b"")
    else:
        Console(highlight=False, soft_wrap=True).print(as_text(completion, attached=options.attached))
    sys.stdout.flush()
