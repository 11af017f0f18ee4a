"""Valkey's announcement bytes: read as the engine writes them, and total on anything else."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.wire import decode, decode_batch
from ffcompletion.contract.ids import ExecutionId, FlowId

E = "{fp:223}:4a212215-5b9d-41a4-b0c7-49edc59bcccd"
F = "a76a8496-6e9c-457a-8727-b5169796f3cd"


def test_the_wire_s_own_example() -> None:
    """As seen on a server."""
    payload = decode(f'{{"flow_id":"{F}","outcome":"success","execution_id":"{E}"}}'.encode())
    assert payload is not None
    assert (payload.execution_id, payload.flow_id, payload.outcome) == (E, F, "success")
    assert (payload.produced_at_ms, payload.cursor, payload.payload_bytes) == (0, None, None)


def test_any_order_unknown_members_and_a_missing_outcome() -> None:
    """Key order is no contract; unknown members are ignored; no outcome reads as empty."""
    payload = decode(json.dumps({"x": [{}], "execution_id": E, "flow_id": F}).encode())
    assert payload is not None
    assert payload.outcome == ""


def test_cjson_s_escapes_and_bytes_that_are_no_utf8() -> None:
    """``\\/``, ``\\u0000`` and raw bytes ≥ 0x80: read, with replacement, never a crash."""
    payload = decode(
        b'{"execution_id":"' + E.encode() + b'","flow_id":"' + F.encode() + b'","outcome":"a\\/\\u0001\xff"}'
    )
    assert payload is not None
    assert payload.outcome == "a/\x01\ufffd"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"{" * 5000,
        b"[" * 5000 + b"]" * 5000,
        b'{"x":' * 5000 + b"1" + b"}" * 5000,
        json.dumps({"execution_id": E, "outcome": "success"}).encode(),
        json.dumps({"flow_id": F, "outcome": "success"}).encode(),
        json.dumps({"execution_id": E, "flow_id": "", "outcome": "success"}).encode(),
        json.dumps({"execution_id": E + " ", "flow_id": F}).encode(),
        json.dumps({"execution_id": 7, "flow_id": F}).encode(),
        json.dumps({"execution_id": E, "flow_id": F, "outcome": None}).encode(),
        json.dumps({"execution_id": E, "flow_id": F, "outcome": 1}).encode(),
        b'{"execution_id":"' + E.encode() + b'","flow_id":"' + F.encode() + b'"',
        b"\x80" * 100,
        b'{"outcome":"\xff",',
        json.dumps({"execution_id": E, "flow_id": F, "outcome": "x" * 257}).encode(),
        json.dumps({"execution_id": "{fp:" + "0" * 300 + "}:" + E[-36:], "flow_id": F}).encode(),
        json.dumps({"execution_id": E, "flow_id": F, "outcome": "x" * 1_000_000}).encode(),
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_poison_is_none_and_cheap(raw: bytes) -> None:
    """Malformed: None, within a millisecond (the best of three, on a noisy machine)."""
    best = 1.0
    for _ in range(3):
        started = time.perf_counter()
        assert decode(raw) is None
        best = min(best, time.perf_counter() - started)
    assert best < 0.001


@given(st.binary(max_size=300))
def test_decoding_any_bytes_is_total(raw: bytes) -> None:
    """A payload or None."""
    decode(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.sampled_from(["execution_id", "flow_id", "outcome", "x"]), c),
    )
)
def test_decoding_any_json_is_total(value: object) -> None:
    """A payload or None."""
    decode(json.dumps(value).encode())


@given(st.binary(max_size=40), st.integers(0, 200))
def test_a_damaged_announcement_is_total(noise: bytes, at: int) -> None:
    """Real bytes with noise in the middle."""
    raw = json.dumps({"execution_id": E, "flow_id": F, "outcome": "success"}).encode()
    decode(raw[:at] + noise + raw[at:])


AS_WRITTEN = f'{{"flow_id":"{F}","outcome":"success","execution_id":"{E}"}}'.encode()
WITHOUT_OUTCOME = json.dumps({"execution_id": E, "flow_id": F}).encode()
CUT = WITHOUT_OUTCOME.index(b', "flow_id"')
LINES = st.sampled_from(
    [
        AS_WRITTEN,
        AS_WRITTEN.replace(b"success", b""),
        AS_WRITTEN.replace(b"success", b"a\\/b"),
        AS_WRITTEN.replace(b"223", b"65536"),
        AS_WRITTEN.replace(b"223", b"9999"),
        AS_WRITTEN.replace(b"223", b"+7"),
        AS_WRITTEN.upper(),
        AS_WRITTEN + b"\n",
        AS_WRITTEN + b"\n" + AS_WRITTEN,
        b"\n" + AS_WRITTEN,
        b"x\n" + AS_WRITTEN,
        AS_WRITTEN + b" ",
        AS_WRITTEN[:-1] + b",",
        AS_WRITTEN + b"," + AS_WRITTEN[: AS_WRITTEN.index(b',"execution_id"')],
        AS_WRITTEN[: AS_WRITTEN.index(b',"execution_id"')],
        AS_WRITTEN[AS_WRITTEN.index(b'"execution_id"') :],
        b'{"x":[1,{}',
        b'{}],"execution_id":"' + E.encode() + b'","flow_id":"' + F.encode() + b'"}',
        json.dumps({"execution_id": E, "flow_id": F, "outcome": "failed"}).encode(),
        WITHOUT_OUTCOME,
        WITHOUT_OUTCOME + b',{"x":[1',
        b"2]," + WITHOUT_OUTCOME[1:] + b"," + WITHOUT_OUTCOME[:CUT],
        WITHOUT_OUTCOME[CUT + 1 :] + b"," + WITHOUT_OUTCOME,
        b"",
        b"1",
        b"\xff",
    ]
)


@given(st.lists(LINES | st.binary(max_size=20), max_size=10))
def test_a_batch_is_decoded_as_each_by_itself(messages: list[bytes]) -> None:
    """Whatever else is in the batch: nothing hides, joins or splits its neighbours."""
    assert decode_batch(messages) == [payload for raw in messages if (payload := decode(raw)) is not None]


def test_pieces_that_are_whole_together_take_in_nothing_between_them() -> None:
    """Four messages, of which three make four announcements; somebody else's is between them."""
    pieces = [
        WITHOUT_OUTCOME + b',{"x":[1',
        AS_WRITTEN,
        b"2]," + WITHOUT_OUTCOME[1:] + b"," + WITHOUT_OUTCOME[:CUT],
        WITHOUT_OUTCOME[CUT + 1 :] + b"," + WITHOUT_OUTCOME,
    ]
    assert json.loads(b"[" + b",".join(pieces) + b"]")
    assert decode_batch(pieces) == [decode(AS_WRITTEN)]


def test_ids_of_a_batch_are_ids() -> None:
    """With all that theirs offer."""
    for payload in [*decode_batch([AS_WRITTEN]), *decode_batch([AS_WRITTEN] * 9)]:
        assert type(payload.execution_id) is ExecutionId
        assert type(payload.flow_id) is FlowId
        assert (payload.execution_id.partition, str(payload.flow_id.uuid)) == (223, F)


def test_keys_are_double_tagged_and_the_tag_is_rebuilt() -> None:
    """``{fp:+007}`` lives under ``{fp:7}``, with its own text behind."""
    plain = ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
    odd = ExecutionId("{fp:+007}:550e8400-e29b-41d4-a716-446655440000")
    assert keys.core(plain) == f"ff:exec:{{fp:7}}:{plain}:core"
    assert keys.tags(odd) == f"ff:exec:{{fp:7}}:{odd}:tags"
    assert keys.result(ExecutionId("{fp:0}:550e8400-e29b-41d4-a716-446655440000")).startswith("ff:exec:{fp:0}:{fp:0}:")


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param([AS_WRITTEN.replace(b"success", b'a\\"b')], id="more quotes"),
        pytest.param([AS_WRITTEN[:-1]], id="no JSON"),
        pytest.param([b'{"x":[1,{}', b"{}]," + AS_WRITTEN[1:]], id="two that make one"),
        pytest.param([AS_WRITTEN.replace(F.encode(), F.replace("-", "").encode())], id="a shorter UUID"),
        pytest.param([AS_WRITTEN.replace(F.encode(), b"\\u00e9" + b"0" * 35)], id="no ASCII"),
        pytest.param([AS_WRITTEN.replace(F[8:9].encode(), b"0")], id="no hyphens"),
        pytest.param([AS_WRITTEN.replace(b"{fp:223}", b"{fp:+7}")], id="another spelling"),
        pytest.param([AS_WRITTEN.replace(b"{fp:223}", b"{fp:65536}")], id="no partition"),
        pytest.param([AS_WRITTEN.replace(F.encode(), b"00000000-0000-0000-0000-000000000000")], id="no flow"),
        pytest.param([AS_WRITTEN.replace(b"success", b"x" * 257)], id="a long outcome"),
    ],
)
def test_one_that_is_written_in_another_way_changes_nothing_for_the_rest(odd: list[bytes]) -> None:
    messages = [AS_WRITTEN, AS_WRITTEN, *odd, AS_WRITTEN, AS_WRITTEN]
    found = decode_batch(messages)
    assert found == [payload for raw in messages if (payload := decode(raw)) is not None]
    assert found[:2] == found[-2:] == [decode(AS_WRITTEN)] * 2


def test_few_and_many_are_decoded_alike() -> None:
    for count in range(6):
        assert decode_batch([AS_WRITTEN] * count) == [decode(AS_WRITTEN)] * count
    assert decode_batch([b"{}"] * 5) == []


def test_an_execution_without_a_flow() -> None:
    """Our own producers name the nil UUID, because an announcement has to name one."""
    payload = decode(AS_WRITTEN.replace(F.encode(), b"00000000-0000-0000-0000-000000000000"))
    assert payload is not None
    assert payload.flow_id is None
