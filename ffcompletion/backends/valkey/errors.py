"""glide's errors in our words, told apart by their class and by the server's own codes, never by its prose."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, TypeGuard

from glide import GlideError

from ffcompletion.contract.errors import EngineError, ResourceExhausted, Transport, Unavailable

__all__ = ["code_of", "driver_errors", "is_refused", "is_unserved", "named", "translated"]

# glide hands a server's error on as text: its code, a colon, the rest; for some codes a name of its own instead.
_CODE: Final = re.compile(
    r"(?:^|[\s-])(WRONGPASS|NOAUTH|NOPERM|PermissionDenied|WRONGTYPE|AuthenticationFailed|ClusterDown):"
)
_OURS: Final = {"PermissionDenied": "NOPERM", "AuthenticationFailed": "WRONGPASS", "ClusterDown": "CLUSTERDOWN"}
# Of the server's errors without a code of their own. Its texts are in English whatever its locale.
_FULL: Final = "max number of clients reached"
_NO_DATABASE: Final = ("DB index is out of range", "refused to switch database")
# What glide says of a server that is none of a cluster; it has no class and no code for that.
_NO_CLUSTER: Final = ("cluster support disabled", "No topology views found")


def code_of(error: BaseException) -> str:
    """The server's code for the refusals that are told apart here; empty for everything else."""
    found = _CODE.search(str(error))
    return "" if found is None else _OURS.get(found[1], found[1])


def is_refused(error: BaseException) -> bool:
    """Whether the user may not do this, as its ACL stands. Refused credentials are another thing: a fault that passes."""
    return code_of(error) == "NOPERM"


def is_unserved(reply: object) -> TypeGuard[GlideError]:
    """Whether a node of a cluster says that it serves no such slot: the cluster is down, or the node belongs to none any more."""
    return isinstance(reply, GlideError) and code_of(reply) == "CLUSTERDOWN"


def named(error: BaseException) -> str:
    """An error for a log line: its class and the beginning of its text, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def translated(error: Exception, shown: str, op: str) -> EngineError:
    """Glide's error in our words. Its text carries addresses and the server's reply, never a password."""
    text = " ".join(str(error).split()) or type(error).__name__
    code = code_of(error)
    if code in ("WRONGPASS", "NOAUTH"):
        return Unavailable(op, f"{shown} refused the credentials (user or password is wrong or missing)")
    if code == "NOPERM":
        return Unavailable(op, f"{shown}: the user's ACL does not allow this: {text}")
    if _FULL in text:
        return ResourceExhausted(shown, text)
    if any(words in text for words in _NO_DATABASE):
        return Unavailable(op, f"{shown}: there is no such database: {text}")
    if any(words in text for words in _NO_CLUSTER):
        return Unavailable(op, f"{shown} is not a cluster; leave ?cluster=true out")
    return Transport(shown, text)


@asynccontextmanager
async def driver_errors(shown: str, op: str) -> AsyncGenerator[None]:
    """Whatever the driver raises inside comes out as one of our errors, with the driver's as its cause."""
    try:
        yield
    except GlideError as exc:
        raise translated(exc, shown, op) from exc
    except (OSError, TimeoutError) as exc:
        raise Transport(shown, str(exc) or "timed out") from exc
