"""Notifications as hints: anybody may send anything."""

from __future__ import annotations

from ffcompletion.backends.postgres.announced import Announced


def test_payloads_that_are_no_ids_are_wake_ups_and_memory_is_bounded() -> None:
    """Whatever is sent: no error, and never more than so many ids."""
    announced = Announced()
    assert not announced
    assert not announced.take()
    for payload in ("", "-5", "nonsense", "\u0663", "1" * 5000, "0", "9" * 19, " 7", "7.0"):
        announced.add(payload)
        assert announced
        hints = announced.take()
        assert (hints.ids, hints.look) == ((), True)
    for number in range(3_000):
        announced.add(str(number + 1))
    hints = announced.take()
    assert hints.look
    assert len(hints.ids) == 2_000


def test_ids_are_hints_each_once_ascending() -> None:
    announced = Announced()
    for payload in ("8", "7", "8", str((1 << 63) - 1)):
        announced.add(payload)
    hints = announced.take()
    assert (hints.ids, hints.look, bool(hints)) == ((7, 8, (1 << 63) - 1), False, True)
    announced.add("9")
    announced.clear()
    assert not announced.take(), "everything was looked at meanwhile"
