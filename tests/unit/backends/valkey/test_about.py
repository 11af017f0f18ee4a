"""Which server it is, by what it says of itself."""

from __future__ import annotations

import pytest

from ffcompletion.backends.valkey.about import facts_of, is_too_old, valkey_version

VALKEY = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.3\r\nrun_id:abc\r\nos:a:b\r\n"


def test_the_fields_of_info() -> None:
    """As text or as bytes, of whatever encoding; none where it may not be asked."""
    facts = facts_of(VALKEY.encode())
    assert facts == facts_of(VALKEY)
    assert (len(facts), facts["run_id"], facts["os"]) == (5, "abc", "a:b")
    assert facts_of(b"os:\xff\n")["os"]
    assert facts_of(None) == facts_of(PermissionError()) == {}


def test_a_cluster_has_no_run_id() -> None:
    """Each node has its own, so the first to answer would look like another server each time."""
    facts = facts_of({b"10.0.0.1:6379": VALKEY.encode(), b"10.0.0.2:6379": VALKEY.encode()})
    assert valkey_version(facts) == "8.1.3"
    assert "run_id" not in facts
    assert facts_of({}) == {}


@pytest.mark.parametrize(
    ("facts", "version"),
    [
        pytest.param(facts_of(VALKEY), "8.1.3", id="Valkey, which says what it is compatible with as well"),
        pytest.param({"server_name": "valkey", "redis_version": "7.2.5"}, "7.2.5", id="the first of them"),
        pytest.param({"redis_version": "7.4.0"}, None, id="Redis"),
        pytest.param({"server_name": "dragonfly", "redis_version": "7.2.0"}, None, id="something else"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_redis_is_told_from_valkey(facts: dict[str, str], version: str | None) -> None:
    assert valkey_version(facts) == version


@pytest.mark.parametrize(
    ("version", "too_old"),
    [("7.2", False), ("7.2.0-rc1", False), ("7.2rc1", False), ("8.0.1", False), ("10.0", False),
     ("7.1.9", True), ("6.9", True), ("7", True), ("unstable", True)],
)  # fmt: skip
def test_versions_are_compared_by_number(version: str, too_old: bool) -> None:
    assert is_too_old(version) is too_old
