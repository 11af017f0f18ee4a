"""Answers that are over at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException

import ffcompletion as ffc
from ffcompletion.foreign.logs import RateLog, logger
from ffcompletion.web.answers import Refused, as_answer, in_pieces, json_answer, raised, seconds_of, tag_of, trouble

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")


@pytest.mark.parametrize(
    ("exc", "status", "text"),
    [
        (HTTPException(401, "who?", {"WWW-Authenticate": "Bearer"}), 401, "who?"),
        (HTTPException(307, headers={"Location": "/login"}), 307, "Temporary Redirect"),
        (HTTPException(422, {"why": ["x"]}), 422, {"why": ["x"]}),  # type: ignore[arg-type]  # FastAPI's may be anything
        (HTTPException(400, object()), 403, "not allowed"),  # type: ignore[arg-type]  # that JSON has no words for
        (HTTPException(400, "\ud800"), 403, "not allowed"),
        (HTTPException(401, "who?", {"X-Who": "\u2028"}), 403, "not allowed"),
        (HTTPException(200, "come in"), 403, "not allowed"),
        (HTTPException("401", "who?"), 403, "not allowed"),  # type: ignore[arg-type]  # callers may be untyped
    ],
)
def test_what_authorize_raises_is_an_answer_or_a_refusal(exc: HTTPException, status: int, text: Any) -> None:
    answer = raised(exc)
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, {"error": text})
    assert answer.headers["cache-control"] == "no-store"


def test_trouble_is_told_without_its_place_and_once(caplog: pytest.LogCaptureFixture) -> None:
    """A client may ask as often as it likes, and each time meet the same."""
    rate = RateLog(logger("ffcompletion.test.web"))
    for error, status in (
        (ffc.CursorExpired("trimmed"), 410),
        (ffc.Validation("id", "is none"), 400),
        (ffc.Transport("valkey at secret-host", "gone"), 503),
        (ffc.Transport("valkey at secret-host", "gone"), 503),
    ):
        answer = trouble(error, rate)
        assert answer.status_code == status
        assert b"secret-host" not in bytes(answer.body)
    assert [record.getMessage() for record in caplog.records] == [
        "web: valkey at secret-host: gone (1 since the last line)"
    ]


def test_a_result_is_text_or_bytes() -> None:
    assert "result" not in as_answer(ffc.CompletionPayload(ID, "success", b"x"), result=False)
    assert as_answer(ffc.CompletionPayload(ID, "success", b"x"), result=True)["result"] == "x"
    assert as_answer(ffc.CompletionPayload(ID, "success"), result=True)["result"] is None
    told = as_answer(ffc.CompletionPayload(ID, "success", b"\xff"), result=True)
    assert (told["result_base64"], "result" in told) == (b"\xff", False)


def test_what_a_query_says() -> None:
    assert (tag_of(None), tag_of("k=v=w"), tag_of("k=")) == (None, ("k", "v=w"), ("k", ""))
    assert (seconds_of(None, 60), seconds_of(None, 5), seconds_of("0", 5), seconds_of("5", 5)) == (30, 5, 0, 5)
    for wrong in ("", "-1", "6", "nan", "inf", "1e400", "x", "9" * 5_000):
        with pytest.raises(Refused):
            seconds_of(wrong, 5)
    for wrong in ("", "k", "=v"):
        with pytest.raises(Refused):
            tag_of(wrong)


@pytest.mark.parametrize("length", [0, 300_000, 600_000])
async def test_a_long_answer_is_sent_in_pieces(length: int) -> None:
    """So that the server holds no more of it than its client is about to take."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    answer = json_answer({"result": "x" * length})
    await in_pieces(answer, send)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"content-length"]) == (200, str(length + 13).encode())
    assert b"".join(message["body"] for message in sent[1:]) == bytes(answer.body)
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    assert max(len(message["body"]) for message in sent[1:]) < 300_000
