"""glide's errors in our words: by class and by the server's code, wherever glide puts it."""

from __future__ import annotations

import pytest
from glide import ClosingError, GlideError, RequestError
from glide import TimeoutError as GlideTimeoutError

import ffcompletion as ffc
from ffcompletion.backends.valkey.errors import code_of, driver_errors, is_refused, is_unserved, named, translated


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("NOPERM: User app has no permissions to run the 'hget' command", "NOPERM"),
        ("An error was signalled by the server: - PermissionDenied: no permissions", "NOPERM"),
        ("Password authentication failed- AuthenticationFailed: invalid username-password pair", "WRONGPASS"),
        ("WRONGPASS: invalid username-password pair", "WRONGPASS"),
        ("NOAUTH: Authentication required.", "NOAUTH"),
        ("WRONGTYPE: Operation against a key", "WRONGTYPE"),
        ("An error was signalled by the server: - ClusterDown: Hash slot not served", "CLUSTERDOWN"),
        ("the key NOPERMISSION: x", ""),
        ("connection closed", ""),
    ],
)
def test_the_servers_code(text: str, code: str) -> None:
    """A user's own words are none."""
    assert code_of(RequestError(text)) == code
    assert is_refused(RequestError(text)) is (code == "NOPERM")
    assert is_unserved(RequestError(text)) is (code == "CLUSTERDOWN")
    assert not is_unserved(text.encode())


@pytest.mark.parametrize(
    ("error", "ours", "said"),
    [
        (RequestError("WRONGPASS: x"), ffc.Unavailable, "refused the credentials"),
        (RequestError("NOAUTH: x"), ffc.Unavailable, "refused the credentials"),
        (RequestError("NOPERM: x"), ffc.Unavailable, "ACL"),
        (RequestError("ResponseError: max number of clients reached"), ffc.ResourceExhausted, "clients"),
        (RequestError("ResponseError: DB index is out of range"), ffc.Unavailable, "no such database"),
        (RequestError("ResponseError: cluster support disabled"), ffc.Unavailable, "cluster=true"),
        (ClosingError("connection closed"), ffc.Transport, "connection closed"),
        (GlideTimeoutError("timed\nout"), ffc.Transport, "timed out"),
    ],
)
def test_each_error_in_our_words(error: GlideError, ours: type[ffc.EngineError], said: str) -> None:
    found = translated(error, "valkey at here", "subscribe")
    assert type(found) is ours
    assert said in str(found)


@pytest.mark.parametrize("error", [RequestError("x"), OSError("x"), TimeoutError()])
async def test_no_drivers_error_comes_out(error: Exception) -> None:
    """It is the cause."""
    with pytest.raises(ffc.EngineError) as caught:
        async with driver_errors("valkey at here", "subscribe"):
            raise error
    assert caught.value.__cause__ is error


def test_a_line_for_the_log_is_one_line_and_short() -> None:
    text = named(RequestError("a\nb" * 1_000))
    assert text.startswith("RequestError: a b")
    assert len(text) == 200
