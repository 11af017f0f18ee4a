"""Who waits for what: each waiter is answered once, and what several wait for is asked for once."""

from __future__ import annotations

import pytest

import ffcompletion as ffc
from ffcompletion.consumers.waitlist import Wait, Waitlist, completion_of

A, B, C = (ffc.ExecutionId(f"{{fp:7}}:550e8400-e29b-41d4-a716-44665544000{n}") for n in range(3))


def announced(id_: ffc.ExecutionId, result: bytes | None = None) -> ffc.CompletionPayload:
    return ffc.CompletionPayload(id_, "success", result)


def stored(id_: ffc.ExecutionId, outcome: str | None = "failed", result: bytes | None = None) -> ffc.ExecutionSnapshot:
    return ffc.ExecutionSnapshot(execution_id=id_, terminal_outcome=outcome, completed_at_ms=5, result=result)


def waiting(waits: Waitlist, *ids: ffc.ExecutionId, result: bool = False, missing_fails: bool = True) -> Wait:
    wait = Wait(ids, result=result, missing_fails=missing_fails)
    waits.add(wait)
    return wait


def test_what_several_wait_for_is_asked_for_once() -> None:
    """And the answer is everybody's."""
    waits = Waitlist()
    both = [waiting(waits, A, B), waiting(waits, B, C)]
    assert waits.take_unread(2) == [A, B]
    assert waits.take_unread(9) == [C]
    assert waits.take_unread(9) == []
    waits.read([B], [stored(B)])
    for wait in both:
        assert [answer.execution_id for answer in wait.answers] == [B]
        assert B not in wait.pending
        assert wait.changed.is_set()


@pytest.mark.parametrize("result", [False, True])
def test_who_waits_for_many_holds_up_nobody(result: bool) -> None:
    """Whoever waited for one was asked for when all the others had been: after 200,000, that took 20 seconds."""
    waits = Waitlist()
    many = [ffc.ExecutionId(f"{{fp:9}}:550e8400-e29b-41d4-a716-4466554{n:05}") for n in range(100)]

    def wants(*ids: ffc.ExecutionId) -> Wait:
        wait = waiting(waits, *ids, result=result)
        if result:
            waits.take_unread(len(ids))
            waits.read(ids, [stored(id_) for id_ in ids])
        return wait

    take = waits.take_unread_results if result else waits.take_unread
    wants()
    wants(*many)
    taken = take(10)
    assert taken == many[:10]
    # And whoever goes is asked for no longer.
    waits.remove(wants(C))
    wants(A)
    both = [wants(B), wants(B, many[50])]
    more = take(10)
    assert (set(more) >= {A, B}, len(more)) == (True, 10)
    taken += more
    waits.remove(both[1])
    while more := take(1):
        taken += more
    assert sorted(taken) == sorted({A, B, *many})


def test_each_wait_is_answered_once() -> None:
    """Announced and read, in whatever order, and announced again."""
    waits = Waitlist()
    wait = waiting(waits, A)
    assert not waits.announced(announced(A))
    waits.read([A], [stored(A)])
    waits.announced(announced(A))
    assert [answer.outcome for answer in wait.answers] == ["success"]
    assert not wait.pending
    # Nobody waits for it any more, so nobody asks.
    assert waits.take_unread(9) == []


def test_an_announcement_without_the_result_has_it_read() -> None:
    """By who wants it; others are answered at once, and get no result that they did not ask for."""
    waits = Waitlist()
    plain, rich = waiting(waits, A), waiting(waits, A, result=True)
    waits.take_unread(9)
    assert not waits.has_unread_results
    assert waits.announced(announced(A))
    assert (len(plain.answers), len(rich.answers)) == (1, 0)
    assert (waits.take_unread(9), waits.has_unread_results) == ([], True)
    assert (waits.take_unread_results(9), waits.has_unread_results) == ([A], False)
    waits.read([A], [stored(A, "success", b"r")], results=True)
    assert rich.answers[0].payload_bytes == b"r"
    again, with_it = waiting(waits, B), waiting(waits, B, result=True)
    assert not waits.announced(announced(B, b"r")) or waits.take_unread(9) == [B]
    assert (again.answers[0].payload_bytes, with_it.answers[0].payload_bytes) == (None, b"r")


def test_a_state_without_the_result_has_it_read() -> None:
    """Once it says that there is one; and it is not asked for once nobody waits, or it was replayed meanwhile."""
    waits = Waitlist()
    rich, other, gone = waiting(waits, A, result=True), waiting(waits, B, result=True), waiting(waits, C, result=True)
    waits.read([A, B, C], [stored(A), stored(B, None), stored(C)])
    waits.remove(gone)
    assert not rich.answers and not other.answers
    assert waits.take_unread_results(9) == [A]
    waits.read([A], [stored(A, None)], results=True)
    assert not rich.answers
    waits.read([A], [stored(A)])
    waits.read([A], [stored(A, "success", b"r")], results=True)
    assert rich.answers[0].payload_bytes == b"r"


def test_what_was_announced_and_is_stored_no_more_has_no_result() -> None:
    waits = Waitlist()
    wait = waiting(waits, A, result=True)
    waits.announced(announced(A))
    waits.read([A], [None])
    assert (wait.answers[0].outcome, wait.answers[0].payload_bytes, wait.failed) == ("success", None, None)


def test_unknown_fails_who_did_not_say_otherwise() -> None:
    """And an execution that has not finished is waited for."""
    waits = Waitlist()
    strict, patient = waiting(waits, A), waiting(waits, A, missing_fails=False)
    waits.read([A], [None])
    with pytest.raises(ffc.NotFound):
        waits.raise_failure(strict)
    waits.raise_failure(patient)
    waits.read([A], [stored(A, None)])
    assert list(patient.pending) == [A]
    assert not patient.answers


def test_a_tick_reads_what_is_waited_for_at_its_interval() -> None:
    waits = Waitlist()
    often, seldom = Wait([A], interval_s=1.0), Wait([B], interval_s=9.0)
    waits.add(often)
    waits.add(seldom)
    assert waits.intervals() == {1.0, 9.0}
    waits.take_unread(9)
    waits.unread_again(1.0)
    assert waits.take_unread(9) == [A]
    for gone in (often, often, Wait([C])):
        waits.remove(gone)
    waits.unread_again(1.0)
    assert waits.take_unread(9) == []
    assert waits.intervals() == {9.0}
    waits.read([B], [stored(B)])
    assert waits.intervals() == set()


def test_what_ends_all_waits_ends_those_to_come() -> None:
    """The first failure counts."""
    waits = Waitlist()
    wait = waiting(waits, A)
    waits.fail(ffc.Unavailable("wait", "closed"))
    wait.fail(ffc.NotFound("later"))
    late = waiting(waits, B)
    for each in (wait, late, None):
        with pytest.raises(ffc.Unavailable, match="closed"):
            waits.raise_failure(each)


def test_a_stored_end_as_a_completion() -> None:
    found = completion_of(stored(A, "cancelled", b"r"))
    assert (found.execution_id, found.outcome, found.payload_bytes, found.produced_at_ms) == (A, "cancelled", b"r", 5)
