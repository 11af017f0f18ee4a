"""Answers that are over at once: JSON, and refusals; and what a query asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Send

from ffcompletion.contract.errors import CursorExpired, EngineError, Validation
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.text import result_fields
from ffcompletion.delivery.ratelog import RateLog

__all__ = [
    "Refused",
    "as_answer",
    "in_pieces",
    "json_answer",
    "raised",
    "seconds_of",
    "tag_of",
    "trouble",
    "unavailable",
]

_REFUSAL: Final = range(300, 600)
_NOT_ALLOWED: Final = "not allowed"
# Beyond this much the server waits until the client has taken what came before.
_PIECE: Final = 256 << 10


@final
class Refused(Exception):
    """What the client is told instead of an answer."""

    def __init__(self, status: int = 403, text: str = _NOT_ALLOWED) -> None:
        super().__init__(status, text)
        self.response: Response = json_answer({"error": text}, status)


def json_answer(data: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An object, not to be kept by anybody on its way."""
    return Response(
        msgspec.json.encode(data),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


async def in_pieces(answer: Response, send: Send) -> None:
    """Send it as fast as its client takes it; nearly all of it is taken when this returns."""
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    body = bytes(answer.body)
    for at in range(0, len(body), _PIECE):
        more = at + _PIECE < len(body)
        await send({"type": "http.response.body", "body": body[at : at + _PIECE], "more_body": more})


def raised(exc: HTTPException) -> Response:
    """What ``authorize`` answers by itself. What is no answer is a refusal, as all that goes wrong in it."""
    try:
        if exc.status_code in _REFUSAL:
            return json_answer({"error": exc.detail}, exc.status_code, exc.headers)
    except Exception:  # noqa: BLE001, S110  # what JSON has no words for, headers that are none: it is the application's
        pass
    return json_answer({"error": _NOT_ALLOWED}, 403)


def trouble(exc: EngineError, rate: RateLog) -> Response:
    """What a client is told of an error of ours."""
    if isinstance(exc, CursorExpired):
        return json_answer({"error": f"cannot be resumed: {exc.detail}"}, 410)
    if isinstance(exc, Validation):
        return json_answer({"error": str(exc)}, 400)
    # It names servers, which are no client's business.
    rate.warning(f"web: {exc}")
    return unavailable("the completions cannot be had just now")


def unavailable(text: str) -> Response:
    """To come again later."""
    return json_answer({"error": text}, 503, {"Retry-After": "1"})


def as_answer(done: CompletionPayload, *, result: bool) -> dict[str, object]:
    """An execution that has finished."""
    answer: dict[str, object] = {
        "execution_id": str(done.execution_id),
        "finished": True,
        "outcome": done.outcome,
        "kind": done.kind.value,
        "flow_id": None if done.flow_id is None else str(done.flow_id),
        "produced_at_ms": done.produced_at_ms,
    }
    if result:
        answer |= result_fields(done.payload_bytes)
    return answer


def tag_of(text: str | None) -> tuple[str, str] | None:
    """``key=value``. Raises ``Refused``."""
    if text is None:
        return None
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise Refused(400, "tag is key=value")
    return key, value


def seconds_of(text: str | None, most: float) -> float:
    """A time to wait. Raises ``Refused``."""
    try:
        seconds = min(30.0, most) if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise Refused(400, f"timeout is a number of seconds, 0 to {most:g}")
    return seconds
