"""Reading a page after the other, whatever lies in which partition, and however much of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ffcompletion.backends.postgres.unread import Last, Mark, Pages, Unread

End = tuple[int, int, str]


def page(stored: set[End], piece: Sequence[Mark], limit: int) -> tuple[list[End], Last | None]:
    """As the server answers: partitions in the order they are named, each by time and id."""
    found: list[End] = []
    for mark in piece:
        behind = (mark.since_ms, mark.after or "", mark.partition if mark.key is None else mark.key)
        mine = sorted(
            ((at, bare, key) for at, key, bare in stored if mark.key in (None, key) and at >= mark.since_ms),
        )
        found += [(at, key, bare) for at, bare, key in mine if mark.after is None or (at, bare, key) > behind]
    rows = found[:limit]
    return rows, rows[-1] if len(rows) == limit else None


def test_everything_is_read_once_whatever_the_pages() -> None:
    """Partitions of any size, pages of any size, one table or many; what is added meanwhile is read as well."""
    for seed in range(200):
        dice = random.Random(seed)
        keys: Sequence[int | None] = [None] if seed % 4 == 0 else range(dice.randint(1, 6))
        stored = {
            (dice.randint(0, 9), dice.choice(keys) or dice.randint(0, 2), f"{dice.randint(0, 30):02}")
            for _ in range(dice.randint(0, 60))
        }
        stored = {end for end in stored if end[1] in keys or keys == [None]}
        unread, read, done = Unread(), list[End](), list[int | None]()
        for key in keys:
            unread.add(key, 0)
        for _ in range(500):
            if not unread:
                break
            piece = unread.piece(dice.randint(1, 4))
            rows, last = page(stored, piece, dice.randint(1, 9))
            read += rows
            done += unread.read(piece, last)
        assert not unread
        assert sorted(read) == sorted(stored), seed
        assert sorted(done, key=str) == sorted(keys, key=str)


def test_a_full_partition_keeps_nobody_waiting_for_longer_than_a_page() -> None:
    """It goes to the end of the line each time."""
    stored = {(at, 0, f"{at}") for at in range(100)} | {(5, key, "x") for key in (1, 2, 3)}
    unread = Unread()
    for key in range(4):
        unread.add(key, 0)
    rows, last = page(stored, unread.piece(4), 10)
    assert {key for _, key, _ in rows} == {0}
    assert unread.read(unread.piece(4), last) == []
    rows, last = page(stored, unread.piece(4), 10)
    assert {key for _, key, _ in rows} == {0, 1, 2, 3}
    assert unread.read(unread.piece(4), last) == [1, 2, 3]
    assert [mark.key for mark in unread.piece(4)] == [0]


def test_what_is_added_again_is_read_again_from_there() -> None:
    """Once it has been read; nothing where it was to be read anyway."""
    unread = Unread()
    unread.add(1, 50)
    unread.add(1, 70)
    assert unread.read(unread.piece(1), None) == [1]
    unread.add(1, 50)
    assert unread.read(unread.piece(1), (60, 1, "a")) == []
    unread.add(1, 55)
    unread.add(1, 52)
    assert unread.piece(1) == [Mark(1, 60, 1, "a")]
    assert unread.read(unread.piece(1), None) == []
    assert unread.piece(1) == [Mark(1, 52)]
    assert 1 in unread
    assert unread.read(unread.piece(1), None) == [1]
    assert len(unread) == 0


def test_pages_shrink_and_grow() -> None:
    """Heavy rows and failures make them small, never too small to get on; light ones large again."""
    pages = Pages()
    assert pages.rows == 2_000
    pages.came(70, cut=True)
    assert pages.rows == 140
    pages.came(3, cut=True)
    for _ in range(9):
        pages.failed()
    assert pages.rows == 32
    for _ in range(9):
        pages.came(0, cut=False)
    assert pages.rows == 2_000
