"""Ids: exactly as the wire has them, in every spelling that the engine takes."""

from __future__ import annotations

import json
import uuid
from binascii import crc_hqx

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ffcompletion as ffc
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
