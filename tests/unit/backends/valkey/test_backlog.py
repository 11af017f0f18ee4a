"""What an overflowing stream has still to get: all since a score, less what it was given."""

from __future__ import annotations

import ffcompletion as ffc
from ffcompletion.backends.valkey.backlog import Backlog
from ffcompletion.backends.valkey.reconciliation import SLACK_MS, Announced

IDS = [ffc.ExecutionId(f"{{fp:7}}:550e8400-e29b-41d4-a716-44665544000{n}") for n in range(4)]


def announced(at_ms: int, *ids: ffc.ExecutionId) -> Announced:
    return Announced.of(at_ms, [ffc.CompletionPayload(id_, "success") for id_ in ids])


def test_what_it_was_given_is_not_pending() -> None:
    """Unless it has finished once more since."""
    backlog = Backlog(100, [announced(110, IDS[0], IDS[1])])
    entries = [(IDS[2], 120), (IDS[0], 110), (IDS[1], 110 + SLACK_MS + 1)]
    assert backlog.pending(entries) == [(IDS[2], 120), (IDS[1], 110 + SLACK_MS + 1)]
    backlog.received([announced(121, IDS[2])])
    assert backlog.pending(entries) == [(IDS[1], 110 + SLACK_MS + 1)]


def test_what_was_delivered_is_not_pending_again() -> None:
    """With that score; it is forgotten once the pages have passed it."""
    backlog = Backlog(100, [])
    backlog.delivered([(IDS[0], 105)], 105)
    assert backlog.since_ms == 105
    assert backlog.pending([(IDS[0], 105), (IDS[0], 106)]) == [(IDS[0], 106)]
    backlog.delivered([], 200)
    assert backlog.pending([(IDS[0], 105)]) == [(IDS[0], 105)]


def test_it_goes_back_for_what_was_missed() -> None:
    """Where its time is known; and where the server's clock went back. What was skipped at the old score is no more."""
    backlog = Backlog(100, [])
    backlog.skip = {"key": 3}
    backlog.missed([ffc.CompletionPayload(IDS[0], "success")])
    assert (backlog.since_ms, backlog.skip) == (100, {"key": 3})
    backlog.missed([ffc.CompletionPayload(IDS[0], "success", produced_at_ms=90)])
    assert (backlog.since_ms, backlog.skip) == (90, {})
    backlog.lower(95)
    assert backlog.since_ms == 90
    backlog.lower(50)
    assert backlog.since_ms == 50


def test_more_is_looked_into_where_little_is_found() -> None:
    """Up to a bound, and no longer than that lasts."""
    backlog = Backlog(100, [])
    backlog.looked(10, 5)
    assert backlog.look_into == 20
    backlog.looked(20_000, 0)
    assert backlog.look_into == 20_480
    backlog.looked(10, 6)
    assert backlog.look_into == 0
