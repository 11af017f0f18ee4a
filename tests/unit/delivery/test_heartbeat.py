"""One echo at a time, and a deadline for it."""

from __future__ import annotations

from ffcompletion.delivery.heartbeat import Heartbeat


def test_heartbeat_sends_hears_and_expires() -> None:
    """One echo at a time; a late or foreign one proves nothing."""
    heart = Heartbeat(0.0, interval_s=3, deadline_s=1)
    assert heart.due(0.0) == "1"
    assert heart.due(0.5) is None
    assert not heart.received("7", 0.5)
    assert heart.received("1", 0.5)
    assert not heart.received("1", 0.6)
    assert heart.next_at == 3.5
    assert heart.due(3.4) is None
    assert heart.due(3.5) == "2"
    assert not heart.expired(4.4)
    assert heart.expired(4.5)
    heart.restart(5.0)
    assert not heart.waiting
    assert heart.next_at == 8.0
