"""Clauses 1 and 2: set-up and what comes afterwards, in good times and in bad."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from ffcompletion.contract.assertion import assert_completion_backend
from ffcompletion.contract.errors import EngineError
from ffcompletion.testing.check import clause
from ffcompletion.testing.harness import Harness, closed, heartbeat
from ffcompletion.testing.subject import fresh
from ffcompletion.testing.violation import NotChecked

__all__ = [
    "check_cancelled_wait",
    "check_every_one",
    "check_live_on_return",
    "check_loop_is_free",
    "check_nothing_lost_by_disconnect",
    "check_once",
    "check_order",
    "check_payload",
    "check_setup_failure",
    "check_shape",
    "check_survives_disconnect",
    "check_survives_mute",
    "check_survives_restart",
]

_TRIES = 5
_STALL_S = 0.5
_MUTE_S = 20.0


@clause("0.1", "the class has the two methods, and no way to publish is part of them")
async def check_shape(harness: Harness) -> None:
    """``assert_completion_backend`` finds no fault."""
    try:
        assert_completion_backend(harness.backend)
    except TypeError as exc:
        raise harness.broken("both methods are coroutine functions with a callable signature", str(exc)) from exc


@clause("1.1", "what is announced after subscribing has returned is delivered")
async def check_live_on_return(harness: Harness) -> None:
    """Announced at once after the call returned, several times over: no moment of deafness in between."""
    # Others stay open, so that it is not the backend's whole source that starts and stops.
    await harness.stream()
    for _ in range(_TRIES):
        item = fresh()
        stream = await harness.stream(warm=False)
        await harness.announce(item)
        await harness.all(stream, [item], "what is announced after subscribe_completions() has returned is delivered")
        await stream.aclose()


@clause("1.2", "a set-up that fails raises EngineError, in time")
async def check_setup_failure(harness: Harness) -> None:
    """A backend whose server is not there."""
    if harness.options.unreachable is None:
        raise NotChecked("no factory for an unreachable backend was supplied")
    backend = harness.options.unreachable()
    try:
        stream = await harness.within(backend.subscribe_completions(), "subscribe_completions() returns")
    except EngineError:
        return
    finally:
        await closed(backend)
    harness.kept(stream)
    raise harness.broken("subscribe_completions() raises an EngineError where no server is", "it returned a stream")


@clause("1.3", "the event loop is never blocked")
async def check_loop_is_free(harness: Harness) -> None:
    """While a stream is opened, read and closed; a machine that is busy gets three tries."""
    worst = 0.0
    for _ in range(3):
        stalls: list[float] = [0.0]
        with heartbeat(stalls):
            await asyncio.sleep(0.02)
            item = fresh()
            stream = await harness.stream()
            await asyncio.sleep(0.02)
            await harness.announce(item)
            await harness.all(stream, [item], "what is announced is delivered")
            await stream.aclose()
            await asyncio.sleep(0.02)
        worst = max(stalls)
        if worst < _STALL_S:
            return
    raise harness.broken(
        f"the event loop stands still for less than {_STALL_S:g} s", f"it stood still for {worst:.2f} s"
    )


@clause("2.1", "every completion of a burst is delivered")
async def check_every_one(harness: Harness) -> None:
    """None is left out, in many at once and in several at a time."""
    stream = await harness.stream()
    items = [
        fresh(outcome=("success", "failed", "cancelled", "expired", "skipped")[n % 5])
        for n in range(harness.options.burst)
    ]
    reading = asyncio.ensure_future(harness.all(stream, items, "every completion of a burst is delivered"))
    try:
        for at in range(0, len(items), 50):
            await harness.announce(*items[at : at + 50])
        await reading
    finally:
        reading.cancel()


@clause("2.2", "as long as nothing is broken, each is delivered once")
async def check_once(harness: Harness) -> None:
    """None is repeated, where the backend promises that."""
    if not harness.options.once:
        raise NotChecked("the backend does not promise it")
    stream = await harness.stream()
    items = [fresh() for _ in range(harness.options.burst)]
    await harness.announce(*items)
    came = await harness.until_now(stream, "the stream goes on")
    came += await harness.until_now(stream, "the stream goes on")
    repeated = len(came) - len(set(came))
    if repeated:
        raise harness.broken("each completion is delivered once", f"{repeated} of {len(items)} came again")


@clause("2.3", "completions arrive in the order they were announced in")
async def check_order(harness: Harness) -> None:
    """Where the backend promises that."""
    if not harness.options.ordered:
        raise NotChecked("the backend does not promise it")
    stream = await harness.stream()
    items = [fresh() for _ in range(harness.options.burst)]
    await harness.announce(*items)
    came = list(dict.fromkeys(await harness.until_now(stream, "the stream goes on")))
    order: dict[str, int] = {item.execution_id: n for n, item in enumerate(items)}
    turns = [order[id_] for id_ in came if id_ in order]
    at = next((n for n, (turn, then) in enumerate(pairwise(turns)) if turn > then), None)
    if at is not None:
        raise harness.broken(
            "completions arrive in the order they were announced in", f"number {at + 1} came out of turn"
        )


@clause("2.4", "a payload tells what happened")
async def check_payload(harness: Harness) -> None:
    """Id, outcome and flow, verbatim."""
    stream = await harness.stream()
    items = [fresh(outcome=outcome) for outcome in ("success", "failed", "cancelled", "expired", "skipped")]
    await harness.announce(*items)
    by_id = {item.execution_id: item for item in items}
    while by_id:
        got = await harness.next(stream, "every outcome is delivered")
        item = by_id.pop(got.execution_id, None)
        if item is None:
            continue
        expected = (item.outcome, item.flow_id)
        if (got.outcome, got.flow_id) != expected:
            raise harness.broken(f"outcome and flow are {expected}", f"they are {(got.outcome, got.flow_id)}")
        if type(got.execution_id) is not type(item.execution_id):
            raise harness.broken("execution_id is an ExecutionId", f"it is a {type(got.execution_id).__name__}")


@clause("2.5", "cancelling the wait for the next completion loses nothing")
async def check_cancelled_wait(harness: Harness) -> None:
    """In time-outs, as a consumer would have them."""
    stream = await harness.stream()
    items = [fresh() for _ in range(10)]
    came: list[str] = []
    for item in items:
        waiting = asyncio.ensure_future(anext(aiter(stream)))
        await asyncio.sleep(0)
        if len(came) % 2:
            await asyncio.sleep(0.005)
        waiting.cancel()
        try:
            came.append((await waiting).execution_id)
        except asyncio.CancelledError:
            pass
        except StopAsyncIteration:
            raise harness.broken("the stream goes on after a cancelled wait", "it ended") from None
        await harness.announce(item)
    missing = [item for item in items if item.execution_id not in came]
    if missing:
        await harness.all(stream, missing, "cancelling the wait loses nothing")


@clause("2.6", "the stream does not end, and raises nothing, when its connection is cut")
async def check_survives_disconnect(harness: Harness) -> None:
    """Cut twice; what is announced afterwards arrives sooner or later."""
    stream = await harness.stream()
    for _ in range(2):
        await harness.faults.disconnect()
        await harness.goes_on(stream, "after a disconnect the stream goes on")


@clause("2.7", "what is announced around a disconnect is delivered")
async def check_nothing_lost_by_disconnect(harness: Harness) -> None:
    """Before, meanwhile and afterwards."""
    if not harness.options.lossless:
        raise NotChecked("the backend does not promise it")
    stream = await harness.stream()
    for _ in range(2):
        items = [fresh() for _ in range(30)]
        await harness.announce(*items[:10])
        await harness.faults.disconnect()
        await harness.announce(*items[10:20])
        await asyncio.sleep(0.05)
        await harness.announce(*items[20:])
        await harness.all(stream, items, "what is announced around a disconnect is delivered")


@clause("2.8", "the stream survives a restart of the server")
async def check_survives_restart(harness: Harness) -> None:
    """It is there again, and goes on telling."""
    stream = await harness.stream()
    await harness.faults.restart()
    await harness.goes_on(stream, "after a restart of the server the stream goes on")


@clause("2.9", "a half-open connection is noticed and mended")
async def check_survives_mute(harness: Harness) -> None:
    """Nothing passes for a while and nobody says so; then the way is clear for new connections."""
    stream = await harness.stream()
    await harness.faults.mute()
    try:
        await asyncio.sleep(min(_MUTE_S, harness.options.patience_s / 2))
    finally:
        await harness.faults.unmute()
    await harness.goes_on(stream, "after a half-open connection the stream goes on")
