"""Sets that are read a page at a time."""

from __future__ import annotations

from collections.abc import Sequence

from ffcompletion.backends.valkey.scanning import scan_set


async def test_a_set_is_read_a_page_at_a_time() -> None:
    """Until there are more than are wanted; and what is no set has no members."""

    async def scanned(most: int, *pages: object) -> tuple[set[bytes], bool]:
        left = iter(pages)

        async def execute(commands: Sequence[Sequence[str | bytes]]) -> list[object]:
            assert [command[0] for command in commands] == ["SSCAN"]
            return [next(left)]

        return await scan_set(execute, "lanes", most)

    first, last = [b"7", [b"a", b"b", 1]], [b"0", [b"b", b"c"]]
    assert await scanned(5, first, last) == ({b"a", b"b", b"c"}, True)
    assert await scanned(2, first, last) == ({b"a", b"b", b"c"}, False)
    assert await scanned(1, first) == ({b"a", b"b"}, False)
    for odd in (None, [], [b"0"], [b"-", []], [b"0", b"x"], {b"a"}):
        assert await scanned(5, odd) == (set(), True)
