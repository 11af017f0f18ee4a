"""Ids of jobs in attached tables: the same in Python and in SQL (``ff_attached_uuid``), held together by shared vectors.

The key's text decides, so it does not matter whether it is a number here and text there:

- a UUID in its usual spelling (hyphenated, lower case) is taken as it is;
- a whole number of 64 bits is carried, readable, in a UUID of version 8 beside a hash of the attachment's name;
- anything else is hashed, together with the name.

The partition of an execution is the last byte of its UUID.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.ids import ExecutionId, FlowId

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["attached_flow_id", "attached_id", "attached_key"]

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_LOWEST: Final = -(1 << 63)
_HIGHEST: Final = (1 << 63) - 1
_MASK: Final = (1 << 64) - 1
# Two hexadecimal digits that tell the kinds apart: a number and a hashed text, of a job and of a flow.
_MARKS: Final = {False: ("ff", "fd"), True: ("fe", "fc")}


def attached_id(name: str, key: int | str | UUID) -> ExecutionId:
    """The id of the job with this key in the table that is attached under ``name``. Raises ``Validation``."""
    text = _uuid(name, key, flow=False)
    return ExecutionId(f"{{fp:{int(text[-2:], 16)}}}:{text}")


def attached_flow_id(name: str, value: int | str | UUID) -> FlowId:
    """The id of the flow that this value of the attachment's flow column stands for. Raises ``Validation``."""
    return FlowId(_uuid(name, value, flow=True))


def attached_key(execution_id: str, name: str | None = None) -> int | UUID | None:
    """The job's key, where it is a number or a UUID; None where it was hashed: then the tag ``key`` has it.

    With ``name``, a number is believed only if it belongs to the table attached under that name; an id of another
    attachment's gives None. Raises ``Validation`` for what is no id.
    """
    found = ExecutionId(execution_id).uuid
    digits = found.hex
    kind = digits[12:15] if digits[16] == "8" else ""
    if kind in ("8fd", "8fc"):
        return None
    if kind == "8ff":
        if name is not None and digits[:12] != _digest(name)[:12]:
            return None
        number = int(digits[15] + digits[17:], 16)
        return number - (1 << 64) if number > _HIGHEST else number
    return found


def _uuid(name: str, key: object, *, flow: bool) -> str:
    if not name or "\0" in name:
        raise Validation("attachment", "a name must not be empty, and have no NUL in it")
    text = _text(key)
    if isinstance(key, int) and not _LOWEST <= key <= _HIGHEST:
        raise Validation("key", "the number does not fit into 64 bits")
    if not text or "\0" in text:
        raise Validation("key", "must not be empty, and have no NUL in it")
    if _UUID.fullmatch(text):
        return text
    number, hashed = _MARKS[flow]
    if _NUMBER.fullmatch(text) and _LOWEST <= (value := int(text)) <= _HIGHEST:
        tail = f"{value & _MASK:016x}"
        return _hyphenated(f"{_digest(name)[:12]}8{number}{tail[0]}8{tail[1:]}")
    digest = _digest(f"{name}\0{text}")
    return _hyphenated(f"{digest[:12]}8{hashed}{digest[12]}8{digest[13:28]}")


def _text(key: object) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return int.__repr__(key)
    from uuid import UUID  # noqa: PLC0415  # for those who have one, who have loaded it

    if not isinstance(key, UUID):
        # The text of anything else (None, bytes, a Decimal) need not be the server's.
        raise Validation("key", f"a whole number, a UUID or a text is needed, not a {type(key).__name__}")
    return str(key)


def _hyphenated(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _digest(text: str) -> str:
    from hashlib import sha256  # noqa: PLC0415  # for the few who ask

    try:
        return sha256(text.encode()).hexdigest()
    except UnicodeEncodeError:
        raise Validation("key", "a name or key must be text that UTF-8 can spell") from None
