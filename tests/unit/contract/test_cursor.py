"""Cursors: the engine's bytes, and those of other backends' families."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ffcompletion as ffc

CURSORS = st.one_of(
    st.just(ffc.StreamCursor.empty()),
    st.integers(0, 2**63 - 1).map(ffc.StreamCursor.outbox),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)).map(lambda p: ffc.StreamCursor.stream(*p)),
)


@given(CURSORS)
def test_cursors_round_trip(cursor: ffc.StreamCursor) -> None:
    """Through bytes and through text."""
    assert ffc.StreamCursor.from_bytes(cursor.to_bytes()) == cursor
    assert ffc.StreamCursor.from_text(f" {cursor}\n") == cursor
    assert len(cursor.to_bytes()) in (0, 9, 17)


def test_cursor_layout_is_the_engine_s() -> None:
    """Byte for byte, so that stored cursors of the Rust reader stay valid."""
    assert ffc.StreamCursor.outbox(258).to_bytes() == b"\x02" + bytes([0, 0, 0, 0, 0, 0, 1, 2])
    assert ffc.StreamCursor.stream(1, 2).to_bytes() == b"\x01" + bytes(7) + b"\x01" + bytes(7) + b"\x02"
    assert ffc.StreamCursor.empty().to_bytes() == b""
    assert ffc.StreamCursor.from_bytes(b"\x02" + bytes(7) + b"\x07").event_id == 7
    assert ffc.StreamCursor.beginning().is_beginning
    assert ffc.StreamCursor.empty().is_empty


@given(st.binary(max_size=20))
def test_other_bytes_are_refused(data: bytes) -> None:
    """Another prefix or length, or a negative row: ``Validation``; all else round-trips."""
    try:
        assert ffc.StreamCursor.from_bytes(data).to_bytes() == data
    except ffc.Validation:
        assert not (data == b"" or (len(data) == 9 and data[0] == 2 and data[1] < 128))
        assert not (len(data) == 17 and (data[0] == 1 or data[0] >= 0x80))


@pytest.mark.parametrize("text", ["", "  ", "zz", "0", "03ff"])
def test_other_text_is_refused(text: str) -> None:
    """Blank, not hexadecimal, or no known layout."""
    with pytest.raises(ffc.Validation):
        ffc.StreamCursor.from_text(text)


def test_what_is_no_position_is_refused() -> None:
    makers: list[Callable[[], object]] = [
        lambda: ffc.StreamCursor.outbox(-1),
        lambda: ffc.StreamCursor.outbox(2**63),
        lambda: ffc.StreamCursor.stream(-1, 0),
        lambda: ffc.StreamCursor.stream(0, 2**64),
        lambda: ffc.StreamCursor.from_bytes(b"\x02" + b"\xff" * 8),
        lambda: ffc.StreamCursor.from_bytes(b"\x03" + bytes(16)),
    ]
    for make in makers:
        with pytest.raises(ffc.Validation, match="cursor"):
            make()


@pytest.mark.parametrize(
    ("cursor", "text", "event_id", "stream_position"),
    [
        (ffc.StreamCursor.empty(), "-", None, None),
        (ffc.StreamCursor.outbox(258), "020000000000000102", 258, None),
        (ffc.StreamCursor.stream(1, 2), "0100000000000000010000000000000002", None, (1, 2)),
        (ffc.CursorFamily(0xA7).at(5), "a700000000000000000000000000000005", None, None),
    ],
)
def test_each_layout_s_text(
    cursor: ffc.StreamCursor, text: str, event_id: int | None, stream_position: tuple[int, int] | None
) -> None:
    assert str(cursor) == text
    assert ffc.StreamCursor.from_text(f" {text.upper()}\n") == cursor
    assert (cursor.event_id, cursor.stream_position) == (event_id, stream_position)


@given(st.integers(0x80, 0xFF), st.integers(1, 2**128 - 1))
@example(0xA7, 5)
def test_cursors_of_a_family_survive_being_stored(prefix: int, position: int) -> None:
    """And are taken for nobody else's."""
    family = ffc.CursorFamily(prefix)
    cursor = family.at(position)
    for restored in ffc.StreamCursor.from_bytes(cursor.to_bytes()), ffc.StreamCursor.from_text(str(cursor)):
        assert restored == cursor
        assert family.position(restored) == position
    assert cursor.event_id is None
    assert cursor.stream_position is None
    other = ffc.CursorFamily(0x80 + (prefix - 0x7F) % 0x80)
    for foreign in other.at(position), ffc.StreamCursor.outbox(1), ffc.StreamCursor.stream(1, 1):
        with pytest.raises(ffc.Validation, match="another backend"):
            family.position(foreign)
    assert family.position(ffc.StreamCursor.empty()) is None
    assert family.position(ffc.StreamCursor.beginning()) == family.position(family.at(0)) == 0


@pytest.mark.parametrize("prefix", [0, 1, 2, 0x7F, 0x100, -1, 160.0])
def test_the_wire_s_prefixes_are_nobody_s(prefix: int) -> None:
    """Nor what is no byte."""
    with pytest.raises(ffc.Validation, match="0x80 to 0xff"):
        ffc.CursorFamily(prefix)


@pytest.mark.parametrize("position", [-1, 2**128, 1.5, 2.0, "3"])
def test_a_position_has_bounds(position: int) -> None:
    """Those of its 16 bytes."""
    with pytest.raises(ffc.Validation, match="outside"):
        ffc.CursorFamily(0xA7).at(position)
