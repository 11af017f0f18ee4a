"""Sets are read a page at a time: SMEMBERS of a large one would hold up the server, and us."""

from __future__ import annotations

from typing import Final, cast

from ffcompletion.backends.valkey.replies import Execute, raise_refusal

__all__ = ["scan_set"]

# Members in one reply, by and large.
_SCANNED: Final = "1000"


async def scan_set(execute: Execute, name: str, most: int) -> tuple[set[bytes], bool]:
    """The members of a set, a page at a time, until there are more than ``most``; and whether these are all. A key that
    is missing, or holds something else, has none. Raises glide's errors.
    """
    found: set[bytes] = set()
    cursor = "0"
    while len(found) <= most:
        (reply,) = await execute([("SSCAN", name, cursor, "COUNT", _SCANNED)])
        raise_refusal((reply,))
        page = cast("list[object]", reply) if isinstance(reply, list) else []
        position, members = page if len(page) == 2 else (None, None)
        if not (isinstance(position, bytes) and position.isdigit() and isinstance(members, list)):
            break
        found.update(item for item in cast("list[object]", members) if isinstance(item, bytes))
        cursor = position.decode()
        if cursor == "0":
            break
    return found, len(found) <= most
