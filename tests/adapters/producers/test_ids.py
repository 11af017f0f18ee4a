"""Ids minted for people: the same partition in Python and SQL, one range on both servers, and spread evenly."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.contract.ids import flow_partition
from ffcompletion.producers import text
from tests import TESTS

VECTORS = {
    "550e8400-e29b-41d4-a716-446655440000": 24,
    "11111111-1111-1111-1111-111111111111": 6,
    "22222222-2222-4222-8222-222222222222": 242,
}


@pytest.fixture(scope="module")
def produced(postgres18_url: str) -> Iterator[psycopg.Connection]:
    """A database with our producers alone."""
    with psycopg.connect(postgres18_url, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS producers_ids")
        admin.execute("CREATE DATABASE producers_ids")
        with psycopg.connect(postgres18_url, dbname="producers_ids", autocommit=True) as conn:
            conn.execute(text("postgres").encode())
            yield conn
        admin.execute("DROP DATABASE producers_ids WITH (FORCE)")


def value(conn: psycopg.Connection, query: str, *values: object) -> object:
    row = conn.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]


def test_flows_have_one_partition_everywhere(produced: psycopg.Connection) -> None:
    """The engine's vectors, and any flow, in Python and in SQL."""
    for flow, partition in VECTORS.items():
        assert flow_partition(ffc.FlowId(flow), 256) == partition
        assert value(produced, "SELECT ff_flow_partition(%s)", flow) == partition
    flows = [uuid.uuid4() for _ in range(200)]
    rows = produced.execute("SELECT ff_flow_partition(f) FROM unnest(%s::uuid[]) f", (flows,)).fetchall()
    assert [row[0] for row in rows] == [flow_partition(ffc.FlowId(str(flow)), 256) for flow in flows]
    given = json.loads((TESTS / "data" / "ids.json").read_text())["flow_partition_of_256"]
    assert {flow: value(produced, "SELECT ff_flow_partition(%s)", flow) for flow in given} == given


def test_new_ids_are_valid_different_and_spread(produced: psycopg.Connection) -> None:
    """Over all 256 partitions; with a flow, in that flow's."""
    rows = produced.execute("SELECT ff_new_execution_id() FROM generate_series(1, 5000)").fetchall()
    for ids in ([ffc.ExecutionId.new() for _ in range(5000)], [ffc.ExecutionId(row[0]) for row in rows]):
        assert len(set(ids)) == 5000
        counts = Counter(each.partition for each in ids)
        assert set(counts) == set(range(256))
        assert max(counts.values()) < 60
        assert all(each.uuid.version == 4 for each in ids)
    for flow, partition in VECTORS.items():
        assert ffc.ExecutionId.new(flow).partition == partition
        made = value(produced, "SELECT ff_new_execution_id(%s)", flow)
        assert ffc.ExecutionId(str(made)).partition == partition
    with pytest.raises(ffc.Validation, match="flow id"):
        ffc.ExecutionId.new("nonsense")


@pytest.mark.parametrize(
    "bad",
    [
        "{fp:256}:550e8400-e29b-41d4-a716-446655440000",
        "{fp:65535}:550e8400-e29b-41d4-a716-446655440000",
        "{fp:99999}:550e8400-e29b-41d4-a716-446655440000",
        "550e8400-e29b-41d4-a716-446655440000",
        "{fp:7}:550e8400e29b41d4a716446655440000",
        "",
        None,
    ],
)
def test_ids_out_of_range_are_refused_by_name(produced: psycopg.Connection, bad: str | None) -> None:
    """By both functions, with the range and the way to mint one."""
    for function in ("ff_emit_completion(%s, 'success')", "ff_submit_execution(%s)"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="N from 0 to 255") as caught:
            produced.execute(f"SELECT {function}".encode(), (bad,))
        assert caught.value.diag.message_hint == "ff_new_execution_id() makes one"
