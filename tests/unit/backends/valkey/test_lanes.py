"""Which lanes the index is read by, whoever writes the set of them."""

from __future__ import annotations

import logging

import pytest

from ffcompletion.backends.valkey.lanes import MOST_LANES, Lanes


def test_which_lanes_are_read(caplog: pytest.LogCaptureFixture) -> None:
    """Named ones always, then those that were read before; a thousand at the most."""
    caplog.set_level(logging.WARNING, "ffcompletion")
    mine = Lanes(["named"])
    mine.registered([], whole=True)
    assert mine.names == ["named"]
    mine.registered([b"b", b"a", b"\xff", b"", b"named", b"x" * 65], whole=True)
    assert mine.names == ["a", "b", "named"]
    mine.registered([b"%d" % number for number in range(2_000)], whole=False)
    assert len(mine.names) == MOST_LANES + 1
    assert {"a", "b", "named"} <= set(mine.names)
    before = mine.names
    # A page of them that holds others is no reason to read others.
    mine.registered([b"%d" % number for number in range(2_000, 4_000)], whole=False)
    assert mine.names == before
    mine.registered([b"a"], whole=True)
    assert mine.names == ["a", "named"]
    assert len(caplog.messages) == 1
    nobody = Lanes([])
    nobody.registered([], whole=True)
    assert nobody.names == ("default",)


def test_what_was_registered_is_read_on_where_that_costs_little() -> None:
    """Few are kept when nobody registers them any more."""
    for count, left in (64, 64), (65, 0):
        mine = Lanes([])
        mine.registered([b"%d" % number for number in range(count)], whole=True)
        mine.registered([b"new"], whole=True)
        assert len(mine.names) == left + 1
        assert "new" in mine.names
