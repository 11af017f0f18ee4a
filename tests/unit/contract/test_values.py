"""Ids, cursors, filters, payloads: exactly as the wire has them."""

from __future__ import annotations

import json
import uuid
from binascii import crc_hqx
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.contract.payload import kind_of
from tests import TESTS

VECTORS = json.loads((TESTS / "data" / "ids.json").read_text())
UUIDS = st.uuids().map(str)


@pytest.mark.parametrize("text", VECTORS["accepted"])
def test_accepted_ids_keep_their_text(text: str) -> None:
    """Every accepted vector parses, as it is."""
    parsed = ffc.ExecutionId.parse(text)
    assert parsed == text
    assert 0 <= parsed.partition <= 65535
    assert isinstance(parsed.uuid, uuid.UUID)


@pytest.mark.parametrize("text", VECTORS["rejected"])
def test_rejected_ids(text: str) -> None:
    """Every rejected vector raises, and the message says what is wrong."""
    with pytest.raises(ffc.Validation, match="execution id"):
        ffc.ExecutionId.parse(text)


@pytest.mark.parametrize("bad", [None, 7, b"{fp:7}:550e8400-e29b-41d4-a716-446655440000"])
def test_ids_of_a_wrong_type(bad: object) -> None:
    """No str, no id."""
    with pytest.raises(ffc.Validation):
        ffc.ExecutionId(bad)  # type: ignore[arg-type]  # the point
    with pytest.raises(ffc.Validation):
        ffc.FlowId(bad)  # type: ignore[arg-type]  # the point


@given(st.integers(0, 65535), UUIDS, st.sampled_from(["", "+", "000", "+00"]))
def test_ids_round_trip(partition: int, bare: str, prefix: str) -> None:
    """Partition and UUID are read back from every spelling."""
    parsed = ffc.ExecutionId(f"{{fp:{prefix}{partition}}}:{bare}")
    assert (parsed.partition, str(parsed.uuid)) == (partition, bare)


@given(st.text(max_size=60))
@example("{fp:" + "0" * 5000 + "}:550e8400-e29b-41d4-a716-446655440000")
@example("{fp:" + "9" * 5000 + "}:550e8400-e29b-41d4-a716-446655440000")
def test_parsing_any_text_is_total(text: str) -> None:
    """An id or ``Validation``, whatever comes."""
    try:
        assert ffc.ExecutionId(text) == text
    except ffc.Validation:
        pass


def test_minting_vectors_agree_with_crc16() -> None:
    """The vectors of the engine's placement hold for the function that the demo uses."""
    assert crc_hqx(b"123456789", 0) == int(VECTORS["crc16_xmodem"]["123456789"], 16)
    for flow, partition in VECTORS["flow_partition_of_256"].items():
        assert crc_hqx(uuid.UUID(flow).bytes, 0) % 256 == partition
    for lane, partition in VECTORS["lane_partition_of_256"].items():
        assert crc_hqx(lane.encode(), 0) % 256 == partition


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


NAMES = st.one_of(st.none(), st.sampled_from(["a", "b", "", "A"]))
TAGS = st.one_of(st.none(), st.tuples(st.sampled_from(["k", "l"]), st.sampled_from(["x", "y", ""])))
FILTERS = st.builds(ffc.ScannerFilter, NAMES, TAGS)


@given(FILTERS, NAMES, NAMES)
@example(ffc.ScannerFilter(""), "b", None)
def test_filter_algebra(wanted: ffc.ScannerFilter, namespace: str | None, value: str | None) -> None:
    """The no-op is neutral; adding a dimension never admits more; unknown never matches."""
    admitted = wanted.matches(namespace, value)
    assert ffc.ScannerFilter.NOOP.matches(namespace, value)
    assert wanted.is_noop() == (wanted.namespace is None and wanted.instance_tag is None)
    if wanted.is_noop():
        assert admitted
    if not admitted:
        assert not (wanted if wanted.namespace is not None else wanted.with_namespace("a")).matches(namespace, value)
        assert not (wanted if wanted.instance_tag is not None else wanted.with_instance_tag("k", "x")).matches(
            namespace, value
        )
    if wanted.namespace is not None:
        assert not wanted.matches(None, value)
    if wanted.instance_tag is not None:
        assert not wanted.matches(namespace, None)


@given(FILTERS)
def test_filters_are_values(wanted: ffc.ScannerFilter) -> None:
    """Equal, hashable, immutable."""
    twin = ffc.ScannerFilter(wanted.namespace, wanted.instance_tag)
    assert wanted == twin
    assert hash(wanted) == hash(twin)
    with pytest.raises(AttributeError):
        wanted.namespace = "other"  # type: ignore[misc]  # the point


@pytest.mark.parametrize(
    ("namespace", "tag"),
    [(7, None), (b"a", None), (None, "k"), (None, ("k",)), (None, ("k", 7)), (None, ["k", "v"]), (None, ("", "v"))],
)
def test_bad_filters_are_refused_at_construction(namespace: object, tag: object) -> None:
    """A wrong type or an empty tag key."""
    with pytest.raises(ffc.Validation, match="filter"):
        ffc.ScannerFilter(namespace, tag)  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        ("success", ffc.Outcome.SUCCESS),
        ("failed", ffc.Outcome.FAILED),
        ("failure", ffc.Outcome.FAILED),
        ("cancelled", ffc.Outcome.CANCELLED),
        ("expired", ffc.Outcome.EXPIRED),
        ("skipped", ffc.Outcome.SKIPPED),
        ("", ffc.Outcome.OTHER),
        ("Success", ffc.Outcome.OTHER),
        ("resumable", ffc.Outcome.OTHER),
    ],
)
def test_outcome_is_verbatim_and_kind_an_enum(wire: str, kind: ffc.Outcome) -> None:
    """The wire's string stays; the enum knows the five and both spellings of failed."""
    payload = ffc.CompletionPayload(ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000"), wire)
    assert payload.outcome == wire
    assert payload.kind is kind_of(wire) is kind


def test_errors_form_a_tree_and_tell() -> None:
    """One base; each message names what and why."""
    leaves = [
        ffc.Unavailable("op", "why"),
        ffc.Transport("backend", "why"),
        ffc.Validation("kind", "why"),
        ffc.CursorExpired("why"),
        ffc.NotFound("why"),
        ffc.ResourceExhausted("pool", "why"),
    ]
    for error in leaves:
        assert isinstance(error, ffc.EngineError)
        assert "why" in str(error)
    assert isinstance(leaves[3], ffc.Validation)


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


def test_new_ids_lie_where_their_flow_does() -> None:
    """As the engine would place it; without a flow they spread."""
    for flow, partition in VECTORS["flow_partition_of_256"].items():
        assert ffc.ExecutionId.new(flow).partition == partition
    made = [ffc.ExecutionId.new() for _ in range(64)]
    assert len(set(made)) == 64
    assert len({each.partition for each in made}) > 8
    with pytest.raises(ffc.Validation, match="flow id: 'no flow' is not a UUID"):
        ffc.ExecutionId.new("no flow")


def test_a_flow_s_id_is_a_uuid_in_any_of_its_spellings() -> None:
    bare = "550e8400-e29b-41d4-a716-446655440000"
    for text in (bare, bare.replace("-", ""), f"{{{bare}}}", f"urn:uuid:{bare}"):
        flow = ffc.FlowId.parse(text)
        assert (flow, str(flow.uuid)) == (text, bare)


@pytest.mark.parametrize(("digits", "partition"), [("+00000000065535", 65_535), ("00000", 0), ("7", 7)])
def test_a_partition_s_zeros_count_for_nothing(digits: str, partition: int) -> None:
    assert ffc.ExecutionId(f"{{fp:{digits}}}:550e8400-e29b-41d4-a716-446655440000").partition == partition


def test_an_id_that_is_refused_is_not_repeated_at_length() -> None:
    with pytest.raises(ffc.Validation) as caught:
        ffc.ExecutionId("x" * 10_000)
    assert len(str(caught.value)) < 200
